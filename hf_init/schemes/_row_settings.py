"""What the settings of row schemes may be: names, texts, lists of row numbers. JSON's lists become tuples. No torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from numbers import Integral
from typing import Annotated, Any, TypeAlias

from hf_init.schemes._settings import OneOf


@dataclass(frozen=True)
class TextSetting:
    """Any text; empty where it isn't known yet."""

    def __call__(self, value: Any) -> str:
        if not isinstance(value, str):
            raise ValueError("a text")
        return value


@dataclass(frozen=True)
class WordSetting(OneOf):
    """One of a few words, or None."""

    def __call__(self, value: Any) -> str | None:  # type: ignore[override]  # wider on purpose: None is one of them
        return None if value is None else super().__call__(value)


@dataclass(frozen=True)
class ManySetting:
    """A list of such things, however it is spelled."""

    each: Callable[[Any], Any]
    expected: str

    def __call__(self, value: Any) -> tuple[Any, ...]:
        if isinstance(value, str) or not isinstance(value, Sequence):
            raise ValueError(self.expected)
        try:
            return tuple(self.each(one) for one in value)
        except (ValueError, TypeError):
            raise ValueError(self.expected) from None


def _text(value: Any) -> str:
    return TextSetting()(value)


def _row(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, Integral) or value < 0:
        raise ValueError("a row")
    return int(value)


def _pieces(value: Any) -> tuple[int, ...]:
    rows = ManySetting(_row, "rows")(value)
    if not rows:
        raise ValueError("at least one row")
    return rows


def _lengths(value: Any) -> tuple[int, ...]:
    return ManySetting(_row, "lengths")(value)


def _pair(value: Any) -> tuple[int, int]:
    first, second = ManySetting(_row, "two rows")(value)
    return first, second


def _range(value: Any) -> tuple[int, int]:
    start, stop = _pair(value)
    if start >= stop:
        raise ValueError("start below stop")
    return start, stop


def _ranges(value: Any) -> tuple[tuple[int, int], ...]:
    ranges = ManySetting(_range, "ranges")(value)
    if any(before[1] > after[0] for before, after in pairwise(ranges)):
        raise ValueError("ranges in order")
    return ranges


def _in_order(value: Any) -> tuple[tuple[int, int], ...]:
    try:
        return _ranges(value)
    except (ValueError, TypeError):
        raise ValueError("pairs (start, stop) of rows, in order and apart") from None


NameSetting: TypeAlias = Annotated[str, TextSetting()]
TextsSetting: TypeAlias = Annotated[tuple[str, ...], ManySetting(_text, "a list of texts")]
RowList: TypeAlias = Annotated[tuple[int, ...], ManySetting(_row, "a list of row numbers, 0 or more")]
PieceLists: TypeAlias = Annotated[
    tuple[tuple[int, ...], ...], ManySetting(_pieces, "a list of lists of row numbers, none of them empty")
]
LengthLists: TypeAlias = Annotated[
    tuple[tuple[int, ...], ...], ManySetting(_lengths, "a list of lists of lengths, 0 or more")
]
PairsSetting: TypeAlias = Annotated[tuple[tuple[int, int], ...], ManySetting(_pair, "a list of pairs of row numbers")]
RangesSetting: TypeAlias = Annotated[tuple[tuple[int, int], ...], _in_order]
WeightsSetting: TypeAlias = Annotated[
    str, OneOf(("uniform", "characters", "characters_first", "exp_first", "exp_last", "first", "last"))
]
NormSetting: TypeAlias = Annotated[str | None, WordSetting(("median", "mean", "centred"))]
WaySetting: TypeAlias = Annotated[str, OneOf(("linear", "slerp"))]
