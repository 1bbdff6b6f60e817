"""The errors of hf_init, as a tree:

HfInitError                 anything that hf_init refuses; the command line exits with 2
    CheckpointError         a checkpoint folder or file that can't be read, or isn't what it says
    RecipeError             a rule, a scheme or a setting that can't be used
    PlanError               source and target can't be brought together
    ProofError              bytes that should be equal are not

Every message says what was refused, which thing it was, what was seen and expected, and what to do. It names an
option by ``option("keep", {"GLOB": "leading"})``: to Python that is ``keep={GLOB: 'leading'}``, and the command line
says ``--keep GLOB=leading`` instead.
"""

from __future__ import annotations

import re
from collections.abc import Callable

_OPEN, _BETWEEN, _CLOSE = "\ue000", "\ue001", "\ue002"  # private use: no text of a user has them
_OPTION = re.compile(f"{_OPEN}(.*?){_BETWEEN}(.*?){_CLOSE}", re.DOTALL)


def option(name: str, value: object = ...) -> str:
    """Return the mark of an option in a message.

    Args:
        value: what to give it, with words in capitals for what the user fills in; left out, the option is named alone.

    Example:
        >>> print(PlanError(f"say {option('keep', {'GLOB': 'none'})}"))
        say keep={GLOB: 'none'}
    """
    text = "" if value is ... else re.sub(r"'([A-Z]+)'", r"\1", repr(value))
    return f"{_OPEN}{name}{_BETWEEN}{text}{_CLOSE}"


def spell_options(text: str, spell: Callable[[str, str], str]) -> str:
    """Return a message with each mark of an option written by ``spell(name, value)``."""
    return _OPTION.sub(lambda mark: spell(mark[1], mark[2]), text)


def python_spelling(name: str, value: str) -> str:
    """Return an option as an argument in Python."""
    return f"{name}={value}" if value else name


class HfInitError(Exception):
    """The root of every error that hf_init raises on purpose."""

    def __str__(self) -> str:
        return self.spelled(python_spelling)

    def spelled(self, spell: Callable[[str, str], str]) -> str:
        """Return the message with its options written by ``spell(name, value)``."""
        return spell_options(super().__str__(), spell)


class CheckpointError(HfInitError):
    """A checkpoint can't be read, or isn't what its headers say."""


class RecipeError(HfInitError):
    """A recipe, a rule, a scheme or one of its settings can't be used."""


class PlanError(HfInitError):
    """Source and target can't be brought together as asked."""


class ProofError(HfInitError):
    """Bytes that should have been equal are not."""
