"""The bias of a head that starts by predicting what is known of its labels: how often each occurs, or their mean."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, TypeAlias

from hf_init._errors import RecipeError
from hf_init._tensors import Slot
from hf_init.schemes._base import Scheme, format_scheme
from hf_init.schemes._matrices import coordinates
from hf_init.schemes._settings import Number

if TYPE_CHECKING:
    import torch

SHOWN = 16  # numbers that are spelled out


def _counts(value: Any) -> tuple[float, ...] | None:
    """One count or frequency a row; rows that the scheme doesn't fill may have none."""
    expected = ValueError("a list of numbers of at least 0, not all of them 0, or None")
    if value is None:
        return None
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise expected
    try:
        numbers = tuple(Number(least=0.0)(each) for each in value)
    except ValueError:
        raise expected from None
    if not any(numbers):
        raise expected
    return numbers


def _shares(value: Any) -> float | tuple[float, ...] | None:
    """A share strictly between 0 and 1, or one a row."""
    return _one_or_each(value, lambda number: 0 < number < 1, "a number between 0 and 1")


def _means(value: Any) -> float | tuple[float, ...] | None:
    """A number, or one a row."""
    return _one_or_each(value, lambda number: True, "a finite number")


def _one_or_each(value: Any, fits: Callable[[float], bool], expected: str) -> float | tuple[float, ...] | None:
    if value is None:
        return None
    many = not isinstance(value, str) and isinstance(value, Sequence)
    try:
        numbers = tuple(Number()(each) for each in (value if many else (value,)))
    except ValueError:
        numbers = ()
    if not numbers or not all(map(fits, numbers)):
        raise ValueError(f"{expected}, a list of such numbers, or None")
    return numbers if many else numbers[0]


Counts: TypeAlias = Annotated[tuple[float, ...] | None, _counts]
Shares: TypeAlias = Annotated[float | tuple[float, ...] | None, _shares]
Means: TypeAlias = Annotated[float | tuple[float, ...] | None, _means]


@dataclass(frozen=True)
class LogPrior(Scheme):
    """The best bias without a weight: the logits of how often each label occurs, or the mean of a regression's targets.

    Args:
        counts: how many examples each row's label has, or how often it occurs, for a softmax over all rows: the
            logarithm of each row's share of the sum. One number for each row of the whole tensor; where some rows are
            kept, the shares are still those among all rows, and the kept biases stay as they are.
        pi: the share of positives, for a sigmoid on each row: log(pi / (1 - pi)). One number, or one for each row.
        mean: of the targets, for a regression. One number, or one for each row.

    Raises:
        RecipeError: not exactly one of the three is given; the tensor isn't a vector with one number a row; a row to
            fill has a count of 0, whose logarithm is infinite.

    Example:
        >>> from hf_init import schemes
        >>> schemes.LogPrior(counts=(3, 1))(schemes.whole_slot("head.bias", (2,)))
        tensor([-0.2877, -1.3863])
        >>> schemes.LogPrior(pi=0.01)(schemes.whole_slot("head.bias", (2,)))
        tensor([-4.5951, -4.5951])

    Source: Lin et al., "Focal Loss for Dense Object Detection" (RetinaNet), 2017, for the sigmoid.
    """

    name: ClassVar[str] = "log_prior"
    counts: Counts = None
    pi: Shares = None
    mean: Means = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if sum(setting is not None for setting in (self.counts, self.pi, self.mean)) != 1:
            raise RecipeError(
                f"{self.name}: give counts (for a softmax over the labels), pi (for a sigmoid on each) or mean (for a "
                "regression)"
            )

    @property
    def _given(self) -> tuple[str, float | tuple[float, ...]]:
        """The setting that is given."""
        return next((name, value) for name in ("counts", "pi", "mean") if (value := getattr(self, name)) is not None)

    def unsupported_reason(self, slot: Slot) -> str:
        if len(slot.whole) != 1:
            return "it needs a bias, one number a label: use zeros for a weight"
        _, given = self._given
        many = len(given) if isinstance(given, tuple) else slot.whole[0]
        if many != slot.whole[0] and slot.whole[0]:
            return f"it has {slot.whole[0]} rows, and {many} numbers are given: give one for each row"
        empty = [row for row in coordinates(slot, 0) if self.counts is not None and not self.counts[row]]
        if empty:
            return f"row {empty[0]} has a count of 0, whose logarithm is infinite: leave it out, or count it once"
        return ""

    def draw(self, slot: Slot) -> torch.Tensor:
        import torch

        values = [self._value(row) for row in coordinates(slot, 0)]
        return torch.tensor(values, dtype=torch.float32, device="cpu")

    def _value(self, row: int) -> float:
        name, given = self._given
        value = given[row] if isinstance(given, tuple) else given
        if name == "mean":
            return value
        return math.log(value / math.fsum(self.counts)) if self.counts else math.log(value) - math.log1p(-value)

    def __str__(self) -> str:
        setting, value = self._given
        return f"{self.name}({setting}={_spelled(value)})"


def _spelled(value: float | tuple[float, ...]) -> str:
    if not isinstance(value, tuple):
        return format_scheme(value)
    return f"[{', '.join(map(format_scheme, value))}]" if len(value) <= SHOWN else f"{len(value)} numbers"
