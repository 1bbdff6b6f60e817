"""What a scheme's settings may be: one small check each, attached to a field with ``Annotated``.

A check takes what the caller gave and returns it in its canonical form (a float, a tuple), or raises ``ValueError``
with what it expected; ``Scheme`` adds which scheme, which setting and what was seen, for all wrong ones together. No
torch. ``huggingface_hub.dataclasses`` can't do this: its checks don't see what a frozen dataclass's constructor sets,
convert nothing (1 isn't a float there, a JSON list no tuple), and stop at the first mistake.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from numbers import Integral, Real
from typing import Annotated, Any, Generic, TypeAlias, TypeVar, cast

Item = TypeVar("Item")

FLOAT32_MAX = (2 - 2**-23) * 2.0**127

RELU = math.sqrt(2.0)

# What undoes an activation's shrinking of its input: torch.nn.init.calculate_gain's names and values, and below them
# the names that transformers' configurations use. For GELU, SiLU (swish) and Mish the gain that keeps the second moment
# of a standard normal is 1.53, 1.68 and 1.49; practice, and this table, give them relu's. For another, pass a number.
_CONVOLUTION_NAMES = ("conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d")
_GELUS = ("gelu_10", "gelu_fast", "gelu_new", "gelu_accurate", "gelu_python", "gelu_python_tanh", "gelu_pytorch_tanh")
GAINS: dict[str, float] = {
    **dict.fromkeys(("linear", "identity", *_CONVOLUTION_NAMES, "sigmoid"), 1.0),
    "tanh": 5.0 / 3.0,
    "relu": RELU,
    "leaky_relu": math.sqrt(2.0 / (1 + 0.01**2)),
    "selu": 3.0 / 4.0,
    **dict.fromkeys(("relu6", "gelu", *_GELUS, "quick_gelu", "silu", "swish", "mish"), RELU),
}


def closest_name(word: object, words: Iterable[str]) -> str:
    """Return ``" (did you mean 'std'?)"``, or nothing when no word is near."""
    near = difflib.get_close_matches(str(word), list(words), 1, 0.5)
    return f" (did you mean {near[0]!r}?)" if near else ""


def gain_of(gain: float | str) -> float:
    """Return a gain, given as a number or as an activation's name, as a number.

    Example:
        >>> gain_of("relu") ** 2, gain_of(0.5)
        (2.0000000000000004, 0.5)
    """
    return GAINS[gain] if isinstance(gain, str) else gain


@dataclass(frozen=True)
class Number:
    """Accept a finite number within float32's range; with bounds, within them. A bool is not a number."""

    least: float = -math.inf
    most: float = math.inf
    positive: bool = False

    def __call__(self, value: object) -> float:
        try:
            number = float(value) if not isinstance(value, bool) and isinstance(value, Real) else math.nan
        except OverflowError:
            number = math.inf
        # Written so that NaN fails it.
        if not (abs(number) <= FLOAT32_MAX and self.least <= number <= self.most) or (self.positive and number <= 0):
            raise ValueError(self.expected)
        return number

    @property
    def expected(self) -> str:
        if self.positive:
            return "a finite number above 0"
        if self.most < math.inf:
            return f"a number from {self.least:g} to {self.most:g}"
        return f"a finite number of at least {self.least:g}" if self.least > -math.inf else "a finite number"


@dataclass(frozen=True)
class WholeNumber:
    """Accept a whole number of at least ``least``."""

    least: int = 1

    def __call__(self, value: object) -> int:
        if isinstance(value, bool) or not isinstance(value, Integral) or int(value) < self.least:
            raise ValueError(f"a whole number of at least {self.least}")
        return int(value)


@dataclass(frozen=True)
class OneOf:
    """Accept one of a few words; with ``optional``, or None."""

    words: tuple[str, ...]
    optional: bool = False

    def __call__(self, value: object) -> str | None:
        if value is None and self.optional:
            return None
        if not isinstance(value, str) or value not in self.words:
            raise ValueError(f"one of {', '.join(self.words)}{closest_name(value, self.words)}")
        return value


@dataclass(frozen=True)
class ListOf(Generic[Item]):
    """Accept a list of such things, however it is spelled, of a length from ``least`` to ``most``, as a tuple."""

    each: Callable[[object], Item]
    expected: str
    least: int = 0
    most: float = math.inf

    def __call__(self, value: object) -> tuple[Item, ...]:
        if isinstance(value, str) or not isinstance(value, Sequence):
            raise ValueError(self.expected)
        items = cast("Sequence[object]", value)
        if not self.least <= len(items) <= self.most:
            raise ValueError(self.expected)
        try:
            return tuple(self.each(item) for item in items)
        except ValueError:
            raise ValueError(self.expected) from None


def accept_any(value: object) -> object:
    """Accept a tensor, which is looked at when its fingerprint is taken."""
    return value


def check_text(value: object) -> str:
    """Accept any text; empty where it isn't known yet."""
    if not isinstance(value, str):
        raise ValueError("a text")
    return value


def check_flag(value: object) -> bool:
    if not isinstance(value, bool):
        raise ValueError("True or False")
    return value


def check_sha256(value: object) -> str:
    if not isinstance(value, str) or not re.fullmatch(r"[0-9a-f]{64}", value):
        raise ValueError("a SHA-256 in hex")
    return value


def check_groups(value: object) -> int | None:
    try:
        return None if value is None else WholeNumber()(value)
    except ValueError as expected:
        raise ValueError(f"{expected}, or None") from None


def check_gain(value: object) -> float | str:
    near = closest_name(value, GAINS) if isinstance(value, str) else ""
    try:
        return value if isinstance(value, str) and value in GAINS else Number(least=0.0)(value)
    except ValueError:
        raise ValueError(f"a number of at least 0 or an activation ({', '.join(GAINS)}){near}") from None


check_row = WholeNumber(0)
check_pair = ListOf(check_row, "two rows", 2, 2)


def check_range(value: object) -> tuple[int, int]:
    start, stop = check_pair(value)
    if start >= stop:
        raise ValueError("start below stop")
    return start, stop


def check_ranges(value: object) -> tuple[tuple[int, int], ...]:
    expected = "pairs (start, stop) of rows, in order and apart"
    ranges = ListOf(check_range, expected)(value)
    if any(before[1] > after[0] for before, after in pairwise(ranges)):
        raise ValueError(expected)
    return ranges


Finite: TypeAlias = Annotated[float, Number()]
AtLeast0: TypeAlias = Annotated[float, Number(least=0.0)]
Above0: TypeAlias = Annotated[float, Number(positive=True)]
Share: TypeAlias = Annotated[float, Number(least=0.0, most=1.0)]
Gain: TypeAlias = Annotated[float | str, check_gain]
AtLeast1: TypeAlias = Annotated[int, WholeNumber()]
RowNumber: TypeAlias = Annotated[int, check_row]
Groups: TypeAlias = Annotated[int | None, check_groups]
YesNo: TypeAlias = Annotated[bool, check_flag]
Activation: TypeAlias = Annotated[str, OneOf(tuple(GAINS))]
FusedMatrices: TypeAlias = Annotated[str, OneOf(("each", "whole"))]
FanInOrOut: TypeAlias = Annotated[str, OneOf(("fan_in", "fan_out"))]
FanMode: TypeAlias = Annotated[str, OneOf(("fan_in", "fan_out", "fan_avg"))]
Spread: TypeAlias = Annotated[str, OneOf(("truncated_normal", "normal", "uniform"))]
Text: TypeAlias = Annotated[str, check_text]
Anything: TypeAlias = Annotated[Any, accept_any]
Sha256: TypeAlias = Annotated[str, check_sha256]
Texts: TypeAlias = Annotated[tuple[str, ...], ListOf(check_text, "a list of texts")]
RowList: TypeAlias = Annotated[tuple[int, ...], ListOf(check_row, "a list of row numbers, 0 or more")]
PieceLists: TypeAlias = Annotated[
    tuple[tuple[int, ...], ...],
    ListOf(ListOf(check_row, "rows", 1), "a list of lists of row numbers, none of them empty"),
]
LengthLists: TypeAlias = Annotated[
    tuple[tuple[int, ...], ...], ListOf(ListOf(check_row, "lengths"), "a list of lists of lengths, 0 or more")
]
RowPairs: TypeAlias = Annotated[tuple[tuple[int, int], ...], ListOf(check_pair, "a list of pairs of row numbers")]
RowRanges: TypeAlias = Annotated[tuple[tuple[int, int], ...], check_ranges]
PieceWeights: TypeAlias = Annotated[
    str, OneOf(("uniform", "characters", "characters_first", "exp_first", "exp_last", "first", "last"))
]
Norm: TypeAlias = Annotated[str | None, OneOf(("median", "mean", "centred"), optional=True)]
Way: TypeAlias = Annotated[str, OneOf(("linear", "slerp"))]
TableSide: TypeAlias = Annotated[str, OneOf(("input", "output", "tied"))]
