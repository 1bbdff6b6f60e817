"""Schemes for the last layer of a head: a bias from what is known of the labels, a weight with one row a class."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar, TypeAlias, cast

from hf_init._errors import RecipeError
from hf_init._tensors import Slot, num_elements
from hf_init.schemes._base import Scheme, format_setting
from hf_init.schemes._distribution import Distribution, Part
from hf_init.schemes._matrices import coordinates
from hf_init.schemes._settings import Above0, ListOf, Number, OneOf, Sha256

if TYPE_CHECKING:
    import torch

__all__ = ["Etf", "Fitted", "LogPrior"]

SHOWN = 16  # numbers that are spelled out


def check_label_counts(value: object) -> tuple[float, ...] | None:
    """Accept one count or frequency a row; rows that the scheme doesn't fill may have none."""
    expected = "a list of numbers of at least 0, not all of them 0, or None"
    numbers = None if value is None else ListOf(Number(least=0.0), expected)(value)
    if numbers is not None and not any(numbers):
        raise ValueError(expected)
    return numbers


@dataclass(frozen=True)
class OneOrEach:
    """Accept one number that fits, or one a row."""

    fits: Callable[[float], bool]
    expected: str

    def __call__(self, value: object) -> float | tuple[float, ...] | None:
        if value is None:
            return None
        each = isinstance(value, Sequence) and not isinstance(value, str)
        try:
            numbers = tuple(map(Number(), cast("Sequence[object]", value if each else (value,))))
        except ValueError:
            numbers = ()
        if not numbers or not all(map(self.fits, numbers)):
            raise ValueError(f"{self.expected}, a list of such numbers, or None")
        return numbers if each else numbers[0]


Counts: TypeAlias = Annotated[tuple[float, ...] | None, check_label_counts]
Shares: TypeAlias = Annotated[
    float | tuple[float, ...] | None, OneOrEach(lambda number: 0 < number < 1, "a number between 0 and 1")
]
Means: TypeAlias = Annotated[float | tuple[float, ...] | None, OneOrEach(lambda number: True, "a finite number")]


@dataclass(frozen=True)
class HeadScheme(Scheme):
    """What the schemes share that are for the last layer of a head."""

    group: ClassVar[str] = "the last layer of a head"


@dataclass(frozen=True)
class LogPrior(HeadScheme):
    """A head's bias: how often each label occurs.

    The best bias without a weight. Where some rows of a bias are kept, ``counts`` are still those of all rows, so are
    the shares, and the kept biases stay as they are.

    Formula: softmax: b_c = log(counts_c / sum counts); sigmoid: b_c = log(pi_c / (1 - pi_c)); regression: b_c = mean_c
    Use: The bias of a head whose weight starts at zeros: the first loss is the entropy of the labels, or the variance
        of the targets. counts for one label of many, pi (0.01, say) for detection and multi-label, mean to regress.
    Source: Lin et al., Focal Loss for Dense Object Detection (RetinaNet), 2017, for the sigmoid.

    Args:
        counts: examples of each row's label, or its frequency, for a softmax over all rows.
        pi: share of positives, one number or one a row, for a sigmoid on each.
        mean: of the targets, one number or one a row, for a regression.

    Raises:
        RecipeError: not exactly one of the three is given; the tensor isn't a vector with one number a row; a row to
            fill has a count of 0, whose logarithm is infinite.

    Example:
        >>> from hf_init import schemes
        >>> schemes.LogPrior(counts=(3, 1))(schemes.whole_slot("head.bias", (2,)))
        tensor([-0.2877, -1.3863])
        >>> schemes.LogPrior(pi=0.01)(schemes.whole_slot("head.bias", (2,)))
        tensor([-4.5951, -4.5951])
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
        """Return the one setting that is given, and its value."""
        settings = {"counts": self.counts, "pi": self.pi, "mean": self.mean}
        return next((name, value) for name, value in settings.items() if value is not None)

    def unsupported_reason(self, slot: Slot) -> str:
        if len(slot.whole) != 1:
            return "it needs a bias, one number a label: use zeros for a weight"
        _, given = self._given
        numbers = len(given) if isinstance(given, tuple) else slot.whole[0]
        if numbers != slot.whole[0] and slot.whole[0]:
            return f"it has {slot.whole[0]} rows, and {numbers} numbers are given: give one for each row"
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
        if not isinstance(value, tuple):
            return f"{self.name}({setting}={format_setting(value)})"
        listed = f"[{', '.join(map(format_setting, value))}]" if len(value) <= SHOWN else f"{len(value)} numbers"
        return f"{self.name}({setting}={listed})"


@dataclass(frozen=True)
class Etf(HeadScheme):
    """One row a class, every two equally far apart.

    A simplex: every row has the norm ``gain``, and every two have the cosine -1 / (K - 1) with K rows.

    Formula: W = gain sqrt(K / (K-1)) (I - 1 1' / K) U, U orthonormal rows
    Use: The last layer of a classifier, often frozen: classes start with the largest angles that they can have.
    Source: Papyan, Han and Donoho, Prevalence of Neural Collapse, 2020; Yang et al., Inducing Neural Collapse in
        Imbalanced Learning, 2022.

    Args:
        gain: the norm of every row.

    Example:
        >>> from hf_init import schemes
        >>> values = schemes.Etf()(schemes.whole_slot("classifier.weight", (3, 8)))
        >>> [round(float(cosine), 4) for cosine in (values @ values.T)[0]]
        [1.0, -0.5, -0.5]
    """

    name: ClassVar[str] = "etf"
    gain: Above0 = 1.0

    def unsupported_reason(self, slot: Slot) -> str:
        fits = len(slot.whole) == 2 and slot.shape == slot.whole and 2 <= slot.whole[0] <= slot.whole[1]
        if not fits and num_elements(slot.whole):
            return "it needs a whole matrix of at least two rows and as many columns: use orthogonal or zeros"
        return ""

    def draw(self, slot: Slot) -> torch.Tensor:
        import torch

        from hf_init.schemes import _sample

        if not num_elements(slot.shape):
            return _sample.empty_values(slot.shape)
        rows, columns = slot.shape
        frame = _sample.orthonormal(rows, columns, slot.generator()).double()
        centred = torch.eye(rows, dtype=torch.float64, device=frame.device) - 1 / rows
        return (centred @ frame * (self.gain * math.sqrt(rows / (rows - 1)))).float()

    def distribution_of(self, slot: Slot) -> Distribution | None:
        """Return that of the elements: each row is drawn evenly from a sphere, though together they are rigid."""
        return Distribution.of(Part.sphere(self.gain, slot.shape[1])) if num_elements(slot.shape) else None


@dataclass(frozen=True)
class Fitted(HeadScheme):
    """Solved from labelled examples.

    Formula: class_means: w_c = M^-1 m_c, b_c = -m_c' M^-1 m_c/2, M = (1-a) S/s + a I with the a that fits unseen
        examples; lda: w_c = S^-1 m_c, b_c = -m_c' S^-1 m_c/2 + log p_c; ridge: (X'X + a I)^-1 X'Y; logistic; then
        scaled by the temperature that fits unseen examples
    Use: The last layer of a head when a few labelled examples are at hand; written as head='ridge', examples=FILE.
    Source: Kumar et al., Fine-Tuning can Distort Pretrained Features, 2022, for why; Snell et al., Prototypical
        Networks, 2017; Friedman, Regularized Discriminant Analysis, 1989; Hoerl and Kennard, Ridge Regression, 1970;
        Ledoit and Wolf, 2004; Guo et al., On Calibration of Modern Neural Networks, 2017.

    Args:
        method: class_means, lda, ridge or logistic.
        data: SHA-256 of the examples.

    Raises:
        RecipeError: when called without the examples at hand.

    Example:
        >>> from hf_init import schemes
        >>> str(schemes.Fitted(method="ridge", data="ab" * 32))[:19]
        'fitted(method=ridge'
    """

    name: ClassVar[str] = "fitted"
    needs_model: ClassVar[bool] = True
    method: Annotated[str, OneOf(("class_means", "lda", "ridge", "logistic"))]
    data: Sha256

    def draw(self, slot: Slot) -> torch.Tensor:
        given = None if slot.context is None else slot.context.given(slot)
        if given is None:
            raise self.refusal(slot, "the examples that it was solved from aren't at hand: give them (examples=...)")
        return given

    def __str__(self) -> str:
        return f"{self.name}(method={self.method}, data={self.data})"  # a digest needs no quotes
