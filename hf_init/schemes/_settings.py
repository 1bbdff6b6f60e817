"""What a scheme's settings may be: one small check each, attached to a field with ``Annotated``.

A check takes what the caller gave and returns it in its canonical form, or raises ``ValueError`` with what it expected;
``Scheme`` adds which scheme, which setting and what was seen. No torch.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Annotated, Any, TypeAlias

FLOAT32_MAX = (2 - 2**-23) * 2.0**127

RELU = math.sqrt(2.0)

# What undoes an activation's shrinking of its input: torch.nn.init.calculate_gain's names and values, and below them
# the names that transformers' configurations use. For GELU, SiLU (swish) and Mish the gain that keeps the second moment
# of a standard normal is 1.53, 1.68 and 1.49; practice, and this table, give them relu's. For another, pass a number.
GAINS: dict[str, float] = {
    "linear": 1.0,
    "identity": 1.0,
    "conv1d": 1.0,
    "conv2d": 1.0,
    "conv3d": 1.0,
    "conv_transpose1d": 1.0,
    "conv_transpose2d": 1.0,
    "conv_transpose3d": 1.0,
    "sigmoid": 1.0,
    "tanh": 5.0 / 3.0,
    "relu": RELU,
    "leaky_relu": math.sqrt(2.0 / (1 + 0.01**2)),
    "selu": 3.0 / 4.0,
    "relu6": RELU,
    "gelu": RELU,
    "gelu_10": RELU,
    "gelu_fast": RELU,
    "gelu_new": RELU,
    "gelu_accurate": RELU,
    "gelu_python": RELU,
    "gelu_python_tanh": RELU,
    "gelu_pytorch_tanh": RELU,
    "quick_gelu": RELU,
    "silu": RELU,
    "swish": RELU,
    "mish": RELU,
}


def closest_name(word: object, words: Iterable[str]) -> str:
    """``"; did you mean 'std'?"``, or nothing when no word is near."""
    near = difflib.get_close_matches(str(word), list(words), 1, 0.5)
    return f"; did you mean {near[0]!r}?" if near else ""


def gain_of(gain: float | str) -> float:
    """A gain given as a number or as an activation's name, as a number.

    Example:
        >>> gain_of("relu") ** 2, gain_of(0.5)
        (2.0000000000000004, 0.5)
    """
    return GAINS[gain] if isinstance(gain, str) else gain


@dataclass(frozen=True)
class Number:
    """A finite number within float32's range; with bounds, within them. A bool is not a number."""

    least: float = -math.inf
    most: float = math.inf
    positive: bool = False

    def __call__(self, value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, Real):
            raise ValueError(self.expected)
        try:
            number = float(value)
        except OverflowError:
            raise ValueError(self.expected) from None
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
class Count:
    """A whole number of at least ``least``; with ``optional``, or None."""

    optional: bool = False
    least: int = 1

    def __call__(self, value: Any) -> int | None:
        if value is None and self.optional:
            return None
        if isinstance(value, bool) or not isinstance(value, Integral) or value < self.least:
            raise ValueError(f"a whole number of at least {self.least}" + (", or None" if self.optional else ""))
        return int(value)


@dataclass(frozen=True)
class Flag:
    """True or False."""

    def __call__(self, value: Any) -> bool:
        if not isinstance(value, bool):
            raise ValueError("True or False")
        return value


@dataclass(frozen=True)
class OneOf:
    """One of a few words."""

    words: tuple[str, ...]

    def __call__(self, value: Any) -> str:
        if not isinstance(value, str) or value not in self.words:
            raise ValueError(f"one of {', '.join(self.words)}{closest_name(value, self.words)}")
        return value


@dataclass(frozen=True)
class NumberOrActivation:
    """A gain: a number of at least 0, or the name of an activation."""

    def __call__(self, value: Any) -> float | str:
        if isinstance(value, str):
            if value in GAINS:
                return value
            raise ValueError(
                f"a number of at least 0 or an activation ({', '.join(GAINS)}){closest_name(value, GAINS)}"
            )
        try:
            return Number(least=0.0)(value)
        except ValueError:
            raise ValueError(f"a number of at least 0 or an activation ({', '.join(GAINS)})") from None


Plain: TypeAlias = Annotated[float, Number()]
AtLeast0: TypeAlias = Annotated[float, Number(least=0.0)]
Above0: TypeAlias = Annotated[float, Number(positive=True)]
Share: TypeAlias = Annotated[float, Number(least=0.0, most=1.0)]
Gain: TypeAlias = Annotated[float | str, NumberOrActivation()]
Layers: TypeAlias = Annotated[int, Count()]
Place: TypeAlias = Annotated[int, Count(least=0)]
Groups: TypeAlias = Annotated[int | None, Count(optional=True)]
YesNo: TypeAlias = Annotated[bool, Flag()]
Activation: TypeAlias = Annotated[str, OneOf(tuple(GAINS))]
FanInOrOut: TypeAlias = Annotated[str, OneOf(("fan_in", "fan_out"))]
FanMode: TypeAlias = Annotated[str, OneOf(("fan_in", "fan_out", "fan_avg"))]
Distribution: TypeAlias = Annotated[str, OneOf(("truncated_normal", "normal", "uniform"))]
