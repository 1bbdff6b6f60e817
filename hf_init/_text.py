"""Plain text for a terminal: tables and numbers."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Sequence
from fnmatch import fnmatchcase

# Control characters, and those that turn the direction of what follows: they would make a terminal show another text.
_UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_MARKUP = re.compile(r"[\\`*_<|]")
_UNSEEN_OR_BREAK = re.compile(f"{_UNSEEN.pattern}|[\t\n]")


def printable(text: str, lines: bool = True) -> str:
    """Escape the characters of a text that a terminal would obey instead of showing them.

    Args:
        lines: leave tabs and the ends of lines as they are.

    Example:
        >>> print(printable("a" + chr(27) + "[31mb"))
        a\\x1b[31mb
    """
    return (_UNSEEN if lines else _UNSEEN_OR_BREAK).sub(
        lambda found: found[0].encode("unicode_escape", "surrogatepass").decode(), text
    )


def text_table(head: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Format a headline and rows in aligned columns, without trailing spaces.

    Example:
        >>> print(text_table("new (1)", ("tensor", "shape"), [("w", "2x3")]))
        new (1)
          tensor  shape
          w       2x3
    """
    cells = [[printable(cell, lines=False) for cell in row] for row in (columns, *rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in cells]
    return "\n".join((*([head] if head else []), *(f"  {line}".rstrip() for line in lines)))


def markdown_table(head: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Format a headline and rows as a table in Markdown.

    Example:
        >>> print(markdown_table("new (1)", ("tensor", "shape"), [("w|v", "2x3")]))
        **new (1)**
        <BLANKLINE>
        | tensor | shape |
        |---|---|
        | w\\|v | 2x3 |
    """
    cells = [[_MARKUP.sub(r"\\\g<0>", printable(cell, lines=False)) for cell in row] for row in (columns, *rows)]
    first, *rest = (f"| {' | '.join(row)} |" for row in cells)
    return "\n".join((*([f"**{head}**", ""] if head else []), first, "|" + "---|" * len(columns), *rest))


def format_count(value: int) -> str:
    """Format a whole number with its thousands set apart.

    Example:
        >>> format_count(22713216)
        '22,713,216'
    """
    return f"{value:,}"


def format_bytes(count: int) -> str:
    """Format a number of bytes in the unit that suits it.

    Example:
        >>> format_bytes(90852864)
        '86.6 MiB'
    """
    value, units = float(count), ["B", "KiB", "MiB", "GiB", "TiB"]
    while value >= 1024 and len(units) > 1:
        value, units = value / 1024, units[1:]
    return f"{value:.0f} {units[0]}" if units[0] == "B" else f"{value:.1f} {units[0]}"


def join_names(names: Sequence[str], most: int = 5) -> str:
    """Join the first few names, and say how many more there are.

    Example:
        >>> join_names(["a", "b", "c"], most=2)
        'a, b and 1 more'
    """
    rest = len(names) - most
    return ", ".join(names[:most]) + (f" and {rest} more" if rest > 0 else "")


def one_line(error: Exception) -> str:
    """Return the message of an error on one line; its class's name where it has none.

    Example:
        >>> one_line(ValueError("a bad\\n    value"))
        'a bad value'
    """
    return " ".join(str(error).split()) or type(error).__name__


def fits_glob(name: str, glob: str) -> bool:
    """Return whether a name fits a glob, or is the very text: ``task[a].weight`` is a name, too.

    Example:
        >>> fits_glob("heads.task[a].weight", "heads.*"), fits_glob("task[a].weight", "task[a].weight")
        (True, True)
    """
    return name == glob or fnmatchcase(name, glob)


def closest(name: str, known: Iterable[str]) -> str:
    """Return `` (did you mean 'labels'?)``, or nothing where no known name is close.

    Example:
        >>> closest("labls", ["labels", "seed"])
        " (did you mean 'labels'?)"
    """
    near = difflib.get_close_matches(name, list(known), n=1)
    return f" (did you mean {near[0]!r}?)" if near else ""


def qualified_name(function: Callable[..., object]) -> str:
    """Return a function's name with its module's.

    Example:
        >>> qualified_name(one_line)
        'hf_init._text.one_line'
    """
    return f"{function.__module__}.{getattr(function, '__qualname__', type(function).__name__)}"
