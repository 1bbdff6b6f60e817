"""Schemes that compute what is new from named tensors of the source."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar

from hf_init._tensors import Slot
from hf_init.schemes._base import Scheme
from hf_init.schemes._settings import OneOf, Text

if TYPE_CHECKING:
    import torch

__all__ = ["NearIdentity"]


@dataclass(frozen=True)
class DerivedScheme(Scheme):
    """What the schemes share that read tensors of the source; their names are bound by the plan."""

    group: ClassVar[str] = "derived"

    def read(self, slot: Slot, name: str) -> torch.Tensor:
        """Return a tensor of the source in float32: a copy.

        Raises:
            RecipeError: it isn't at hand.
        """
        import torch

        if slot.source is None:
            raise self.refusal(slot, f"the source, whose {name!r} it reads, isn't at hand: plan an extension")
        try:
            return slot.source(name).to(torch.float32, copy=True)
        except KeyError:
            raise self.refusal(slot, f"the source has no {name!r}: plan again") from None


@dataclass(frozen=True)
class NearIdentity(DerivedScheme):
    """A norm that gives back nearly what the norm before gave.

    Formula: gain = sqrt(mean(g^2) + var(b)), shift = mean(b), of the gains g and shifts b of the norm before
    Use: The norms of a new block that ends each branch with a norm of the sum (BERT): no value of them is the identity,
        and this one keeps mean and spread.
    Source: The least squares over a standardized input with independent elements.

    Args:
        part: gain or shift.
        weight: the gains of the norm before; bound by the plan.
        bias: its shifts, if it has any; bound by the plan.

    Example:
        >>> from hf_init import schemes
        >>> str(schemes.NearIdentity("shift"))
        'near_identity(part=shift)'
    """

    name: ClassVar[str] = "near_identity"
    bound: ClassVar[tuple[str, ...]] = ("weight", "bias")
    part: Annotated[str, OneOf(("gain", "shift"))] = "gain"
    weight: Text = ""
    bias: Text = ""

    def unsupported_reason(self, slot: Slot) -> str:
        return "" if self.weight else "the norm before isn't known: it is for the new blocks of layers=..."

    def draw(self, slot: Slot) -> torch.Tensor:
        import torch

        shifts = self.read(slot, self.bias).double() if self.bias else torch.zeros(1, dtype=torch.float64, device="cpu")
        if self.part == "shift":
            value = shifts.mean()
        else:
            gains = self.read(slot, self.weight).double()
            value = (gains.square().mean() + shifts.var(unbiased=False)).sqrt()
        return torch.full(slot.shape, float(value), dtype=torch.float32, device="cpu")
