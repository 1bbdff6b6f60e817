"""Schemes for a matrix with one row a class: equally far apart, or solved from labelled examples."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from hf_init._tensors import Slot, num_elements
from hf_init.schemes._base import Scheme
from hf_init.schemes._settings import Above0, OneOf

if TYPE_CHECKING:
    import torch

METHODS = ("class_means", "lda", "ridge", "logistic")


def _digest(value: Any) -> str:
    if not isinstance(value, str) or not re.fullmatch(r"[0-9a-f]{64}", value):
        raise ValueError("a SHA-256 in hex")
    return value


@dataclass(frozen=True)
class Etf(Scheme):
    """Rows of one length whose angles are all the largest that so many rows can have between them: a simplex.

    Every row has the norm ``gain``; every two have the cosine -1 / (K - 1) with K rows.

    Raises:
        RecipeError: the tensor isn't a whole matrix with at least two rows, and at least as many columns.

    Example:
        >>> from hf_init import schemes
        >>> values = schemes.Etf()(schemes.whole_slot("classifier.weight", (3, 8)))
        >>> [round(float(cosine), 4) for cosine in (values @ values.T)[0]]
        [1.0, -0.5, -0.5]

    Source: Papyan, Han and Donoho, "Prevalence of Neural Collapse", 2020; Yang et al., "Inducing Neural Collapse in
    Imbalanced Learning", 2022, for a classifier that starts so.
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

    def moments(self, slot: Slot) -> tuple[float, float] | None:
        return (0.0, self.gain / math.sqrt(slot.shape[1])) if num_elements(slot.shape) else None


@dataclass(frozen=True)
class Fitted(Scheme):
    """A last layer solved from labelled examples whose features went through the frozen model.

    Args:
        method: ``class_means``, ``lda``, ``ridge`` or ``logistic``.
        data: SHA-256, in hex, of the examples.

    Raises:
        RecipeError: when called without the examples at hand.

    Example:
        >>> from hf_init import schemes
        >>> str(schemes.Fitted(method="ridge", data="ab" * 32))[:19]
        'fitted(method=ridge'
    """

    name: ClassVar[str] = "fitted"
    needs_model: ClassVar[bool] = True
    method: Annotated[str, OneOf(METHODS)]
    data: Annotated[str, _digest]

    def draw(self, slot: Slot) -> torch.Tensor:
        given = None if slot.context is None else slot.context.given(slot)
        if given is None:
            raise self.refusal(slot, "the examples that it was solved from aren't at hand: give them (examples=...)")
        return given
