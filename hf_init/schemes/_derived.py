"""Schemes that compute what is new from named tensors of the source."""

# torch.linalg has no types.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar

from hf_init._tensors import Slot, num_elements
from hf_init.schemes._base import Scheme
from hf_init.schemes._settings import Number, OneOf, RowList, Text, WholeNumber

if TYPE_CHECKING:
    import torch

__all__ = ["MeanOfGroups", "MixChannels", "NearIdentity", "PiResize", "Repeat", "Resample"]


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

    def draw(self, slot: Slot) -> torch.Tensor:
        from hf_init.schemes import _sample

        return self.derive(slot) if num_elements(slot.shape) else _sample.empty_values(slot.shape)

    def derive(self, slot: Slot) -> torch.Tensor:
        """Return the values of a slot that has any."""
        raise NotImplementedError(f"{type(self).__name__} has no derive()")


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

    def derive(self, slot: Slot) -> torch.Tensor:
        import torch

        shifts = self.read(slot, self.bias).double() if self.bias else torch.zeros(1, dtype=torch.float64, device="cpu")
        if self.part == "shift":
            value = shifts.mean()
        else:
            gains = self.read(slot, self.weight).double()
            value = (gains.square().mean() + shifts.var(unbiased=False)).sqrt()
        return torch.full(slot.shape, float(value), dtype=torch.float32, device="cpu")


@dataclass(frozen=True)
class Resample(DerivedScheme):
    """Rows of a grid, stretched from another grid.

    Formula: torch.nn.functional.interpolate(grid, size=after, mode=mode, align_corners=False)
    Use: Positions of a larger image or window (bicubic, as most vision models interpolate theirs; BEiT's distances
        bilinear), or of longer texts (linear).
    Source: Dosovitskiy et al., An Image is Worth 16x16 Words, 2020; Zhang et al., Long-CLIP, 2024.

    Args:
        mode: bicubic or bilinear for two dimensions, linear for one.
        keep: how many rows stand before the grid.
        last: how many rows stand after it.
        before: the sides of the grid that is read; bound by the plan.
        after: the sides of the grid that is made; bound by the plan.
        table: the tensor of the source that holds it; bound by the plan.

    Example:
        >>> from hf_init import schemes
        >>> str(schemes.Resample("linear", 20))
        'resample(mode=linear, keep=20)'
    """

    name: ClassVar[str] = "resample"
    bound: ClassVar[tuple[str, ...]] = ("before", "after", "table")
    mode: Annotated[str, OneOf(("bicubic", "bilinear", "linear"))] = "bicubic"
    keep: Annotated[int, WholeNumber(0)] = 0
    last: Annotated[int, WholeNumber(0)] = 0
    before: RowList = ()
    after: RowList = ()
    table: Text = ""

    def unsupported_reason(self, slot: Slot) -> str:
        return "" if self.table else "the grid isn't known: it is for image_size=... and positions=..."

    def derive(self, slot: Slot) -> torch.Tensor:
        import torch

        table = self.read(slot, self.table)
        rows = table.reshape(-1, table.shape[-1])
        rows = rows[self.keep : len(rows) - self.last]
        grid = rows.T.reshape(1, -1, *self.before)
        made = torch.nn.functional.interpolate(grid, size=self.after, mode=self.mode, align_corners=False)
        return made.flatten(2)[0].T.reshape(slot.shape).contiguous()


@dataclass(frozen=True)
class PiResize(DerivedScheme):
    """A stretched patch or spectrogram gives what it gave before.

    Formula: w' = pinv(R^T) w, R the matrix that stretches a patch (bicubic)
    Use: Another patch size of a vision model, another number of bins of one that hears.
    Source: Beyer et al., FlexiViT, 2023.

    Args:
        before: the sides of a patch; bound by the plan.
        after: its new sides; bound by the plan.
        table: the tensor of the source that is read; bound by the plan.

    Example:
        >>> from hf_init import schemes
        >>> schemes.PiResize.name
        'pi_resize'
    """

    name: ClassVar[str] = "pi_resize"
    bound: ClassVar[tuple[str, ...]] = ("before", "after", "table")
    before: RowList = ()
    after: RowList = ()
    table: Text = ""

    def unsupported_reason(self, slot: Slot) -> str:
        return "" if self.table else "the old patch isn't known: it is for patch_size=... and num_mel_bins=..."

    def derive(self, slot: Slot) -> torch.Tensor:
        import torch

        size = self.before[0] * self.before[1]
        basis = torch.eye(size, dtype=torch.float64, device="cpu").reshape(size, 1, *self.before)
        stretched = torch.nn.functional.interpolate(basis, size=self.after, mode="bicubic", align_corners=False)
        inverse = torch.linalg.pinv(stretched.reshape(size, -1))
        weights = self.read(slot, self.table).double().flatten(-2)
        return (weights @ inverse.T).to(torch.float32).reshape(slot.shape).contiguous()


@dataclass(frozen=True)
class MixChannels(DerivedScheme):
    """Input channels made of the old ones.

    Formula: sum: w' = the sum over channels; repeat: w'_k = w_(k mod C) C / C'
    Use: Grey images for a model of colours (sum: exact where all channels are equal), or more channels alike.
    Source: timm, adapt_input_conv.

    Args:
        how: sum or repeat.
        table: the tensor of the source that is read; bound by the plan.

    Example:
        >>> from hf_init import schemes
        >>> str(schemes.MixChannels("repeat"))
        'mix_channels(how=repeat)'
    """

    name: ClassVar[str] = "mix_channels"
    bound: ClassVar[tuple[str, ...]] = ("table",)
    how: Annotated[str, OneOf(("sum", "repeat"))] = "sum"
    table: Text = ""

    def unsupported_reason(self, slot: Slot) -> str:
        return "" if self.table else "the old channels aren't known: it is for num_channels=..."

    def derive(self, slot: Slot) -> torch.Tensor:
        import torch

        weights = self.read(slot, self.table)
        if self.how == "sum":
            return weights.sum(1, keepdim=True)
        before, after = weights.shape[1], slot.shape[1]
        index = torch.arange(after, device="cpu") % before
        return weights[:, index] * (before / after)


@dataclass(frozen=True)
class MeanOfGroups(DerivedScheme):
    """Each head is the mean of those that become it.

    Formula: w'_g = mean of w_h over the heads h of group g
    Use: Fewer heads of keys and values (grouped queries from many heads).
    Source: Ainslie et al., GQA, 2023.

    Args:
        groups: how many heads there are to be.
        dim: of the tensor, along which the heads lie.
        size: rows of a head.
        table: the tensor of the source that is read; bound by the plan.

    Example:
        >>> from hf_init import schemes
        >>> str(schemes.MeanOfGroups(2, 0, 8))
        'mean_of_groups(groups=2, size=8)'
    """

    name: ClassVar[str] = "mean_of_groups"
    bound: ClassVar[tuple[str, ...]] = ("table",)
    groups: Annotated[int, WholeNumber()] = 1
    dim: Annotated[int, WholeNumber(0)] = 0
    size: Annotated[int, WholeNumber()] = 1
    table: Text = ""

    def unsupported_reason(self, slot: Slot) -> str:
        return "" if self.table else "the old heads aren't known: it is for kv_heads=..."

    def derive(self, slot: Slot) -> torch.Tensor:
        heads = self.read(slot, self.table).movedim(self.dim, 0)
        grouped = heads.reshape(self.groups, -1, self.size, *heads.shape[1:])
        return grouped.double().mean(1).float().flatten(0, 1).movedim(0, self.dim).contiguous()


@dataclass(frozen=True)
class Repeat(DerivedScheme):
    """The base's values several times, shared by their readers.

    Formula: w' = scale * w, as often along each dimension as times says
    Use: A multiple of the hidden size (a reader of k copies gets w / k of each), and new blocks that are copies.
    Source: Chen et al., Net2Net, 2016; Samragh et al., Scaling Smart, 2024.

    Args:
        times: how often along each dimension; empty: once.
        parts: sizes of the matrices that stand side by side along dim, each repeated by itself; empty: it is one.
        dim: of the tensor, along which the parts stand.
        scale: of every value.
        table: the tensor of the source that is read; bound by the plan.

    Example:
        >>> from hf_init import schemes
        >>> str(schemes.Repeat((2, 2), scale=0.5))
        'repeat(times=(2, 2), scale=0.5)'
    """

    name: ClassVar[str] = "repeat"
    bound: ClassVar[tuple[str, ...]] = ("table",)
    times: RowList = ()
    parts: RowList = ()
    dim: Annotated[int, WholeNumber(0)] = 0
    scale: Annotated[float, Number()] = 1.0
    table: Text = ""

    def unsupported_reason(self, slot: Slot) -> str:
        return "" if self.table else "what is repeated isn't known: it is for widen=... and new_layers='copy'"

    def derive(self, slot: Slot) -> torch.Tensor:
        import torch

        values = self.read(slot, self.table)
        for dim, times in enumerate(self.times):
            pieces = values.split(list(self.parts) if self.parts and dim == self.dim else values.shape[dim], dim)
            values = torch.cat([piece for piece in pieces for _ in range(times)], dim)
        return (values * self.scale).contiguous()
