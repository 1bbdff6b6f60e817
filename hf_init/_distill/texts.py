"""Plain texts as a user gives them, and their fingerprint."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from hf_init._errors import PlanError
from hf_init._paths import user_path


@dataclass(frozen=True)
class GivenTexts:
    """GivenTexts to train rows on."""

    texts: tuple[str, ...]

    @classmethod
    def of(cls, given: object) -> GivenTexts:
        """Read the texts that a user gives: the name of a file with an empty line between two, or the texts.

        Raises:
            PlanError: they are none; it says what is expected.
        """
        if isinstance(given, GivenTexts):
            return given
        items = paragraphs_of(given) if isinstance(given, (str, Path)) else given
        many: tuple[object, ...] = tuple(items) if isinstance(items, Iterable) else (items,)
        texts = tuple(text for text in many if isinstance(text, str))
        if wrong := [type(text).__name__ for text in many if not isinstance(text, str)]:
            raise PlanError(f"texts: expected the name of a file, or a list of texts, not {wrong[0]}")
        if not any(text.strip() for text in texts):
            raise PlanError("texts: there is nothing to read in them; give some, with the new tokens in them")
        return cls(texts)

    @cached_property
    def fingerprint(self) -> str:
        """Return the SHA-256, in hex, of all of them in their order."""
        return hashlib.sha256(json.dumps(self.texts).encode()).hexdigest()


def paragraphs_of(path: str | Path) -> list[str]:
    """Return the texts of a file: its paragraphs, with an empty line between two.

    Raises:
        PlanError: it can't be read.
    """
    try:
        return [part.strip() for part in user_path(path).read_text(encoding="utf-8").split("\n\n") if part.strip()]
    except (OSError, ValueError) as error:
        raise PlanError(f"{path}: texts can't be read from it: {error}; give a text file in UTF-8") from error
