"""What there is to say of an option, and how to read it off a group of them."""

from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args

if TYPE_CHECKING:
    from collections.abc import Mapping

Form = Literal[
    "text", "flag", "number", "decimal", "names", "texts", "numbers", "repeated", "listed", "values", "pairs", "lists",
    "counts", "kinds", "places", "stacks", "or no", "either",
]  # fmt: skip
"""How the command line says a value; see ``cli/_values.py``."""


class Option(NamedTuple):
    """What there is to say of an option besides its name and type.

    Attributes:
        help: one line, for the command line and the docstrings.
        form: how a value is written on the command line. metavar: its stand-in there.
        default: what leaving it out means; None says that the help does.
        choices: the only values. short: a letter for the command line.
    """

    help: str
    form: Form = "text"
    metavar: str = ""
    default: object = None
    choices: tuple[str, ...] = ()
    short: str = ""


def options_of(*groups: type) -> dict[str, Option]:
    """Return the options of some groups by name, in their order."""
    return {
        name: extra
        for group in groups
        for name, hint in group.__annotations__.items()
        for extra in get_args(hint)
        if isinstance(extra, Option)
    }


def chosen_options(given: "Mapping[str, object]", group: type) -> dict[str, Any]:
    """Return those of the given options that are of a group."""
    return {name: value for name, value in given.items() if name in options_of(group)}
