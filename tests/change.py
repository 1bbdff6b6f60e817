"""One row of the table that the laws are held over: a base, a change, and where every tensor must be, by hand."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

Bases = Callable[[str], Path]

Origins = np.ndarray  # for each element of a tensor the flat place that it has in its source, or -1: it is new


@dataclass(frozen=True)
class Along:
    """For each row of the result along a dimension, the row of the source or None."""

    rows: Sequence[int | None]
    dims: tuple[int, ...] = (0,)

    def __call__(self, source: Origins) -> Origins:
        for dim in self.dims:
            taken = np.take(source, [0 if row is None else row for row in self.rows], dim)
            new = np.array([row is None for row in self.rows])
            source = np.where(new.reshape(-1, *[1] * (taken.ndim - dim - 1)), -1, taken)
        return source


@dataclass(frozen=True)
class Boxes:
    """A shape, and pairs of boxes: those of the result with those of the source that they are."""

    shape: tuple[int, ...]
    pairs: Sequence[tuple[tuple[slice, ...], tuple[slice, ...]]]

    def __call__(self, source: Origins) -> Origins:
        result = np.full(self.shape, -1)
        for place, origin in self.pairs:
            result[place] = source[origin]
        return result


def grown(rows: int, more: int, dim: int = 0) -> Along:
    """Rows that stay, and new ones after them."""
    return Along([*range(rows), *[None] * more], (dim,))


@dataclass(frozen=True)
class Change:
    """One row of the table.

    Attributes:
        base: a name of ``bases.BASES``, or several by their prefixes.
        target: the class asked for; None: the base's own.
        options: of ``plan``, ``extend`` and ``from_pretrained``.
        names: the name in the result of a tensor of the base.
        new: globs of what is new as a whole: names in the result.
        moved: glob -> where each element comes from, of what is kept in part: names in the result.
        gone: globs of what has no place: names in the base.
        taken: a base, perhaps another -> the name in the result of what is taken of it besides, or None.
        places: gives the options that are folders, of other bases or made in a place for it.
        skipped: globs of what is left to the library: in the model, and in no file.
        ignored: globs of what the class doesn't load and the files keep: names in the result.
        by_class_name: the library converts names of this class alone, and of no class made of it.
        slow: whether the base is a real checkpoint.
    """

    base: str | Mapping[str, str]
    target: Any = None
    options: Mapping[str, Any] = field(default_factory=dict)
    names: Callable[[str], str] = str
    new: tuple[str, ...] = ()
    moved: Mapping[str, Callable[[Origins], Origins]] = field(default_factory=dict)
    gone: tuple[str, ...] = ()
    taken: Mapping[str, Callable[[str], str | None]] = field(default_factory=dict)
    places: Callable[[Bases, Path], Mapping[str, Any]] | None = None
    skipped: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()
    by_class_name: bool = False
    slow: bool = False

    @property
    def heads(self) -> bool:
        """Whether the result has several heads, or is one of several."""
        return self.base == "several heads" or "add_heads" in self.options


def below(prefix: str) -> Callable[[str], str]:
    """Every name gets this prefix."""
    return lambda name: prefix + name


def instead(*pairs: tuple[str, str]) -> Callable[[str], str]:
    """The first beginning that a name has is replaced."""

    def renamed(name: str) -> str:
        for old, new in pairs:
            if name.startswith(old):
                return new + name[len(old) :]
        return name

    return renamed


CLASSIFIER = ("classifier.weight", "classifier.bias")
