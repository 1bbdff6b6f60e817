"""Plain text for a terminal: tables and numbers."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase


def text_table(head: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Format a headline and rows in aligned columns, without trailing spaces.

    Example:
        >>> print(text_table("new (1)", ("tensor", "shape"), [("w", "2x3")]))
        new (1)
          tensor  shape
          w       2x3
    """
    widths = [max(len(cell) for cell in column) for column in zip(columns, *rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in (columns, *rows)]
    return "\n".join((head, *(f"  {line}".rstrip() for line in lines)))


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
