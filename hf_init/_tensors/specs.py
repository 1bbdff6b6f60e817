"""What tensors are, before any value is touched: those of a target, those of a checkpoint, and slots to fill."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any, Protocol, TypedDict

from hf_init._tensors.regions import Box, Region, Shape, region_key

if TYPE_CHECKING:
    import torch


class Status(str, Enum):
    """What a target tensor is, seen from the source: one status each."""

    KEPT = "kept"
    RESIZED = "resized"
    NEW = "new"
    TIED = "tied"
    CARRIED = "carried"

    @property
    def is_whole(self) -> bool:
        """Return whether all bytes are the source's: kept in the model, or carried along in files that it ignores."""
        return self in (Status.KEPT, Status.CARRIED)


class GeometryJson(TypedDict):
    """A geometry in a manifest."""

    fan_in: int
    fan_out: int | None
    order: str
    stack: int
    parts: list[int]
    groups: int


@dataclass(frozen=True)
class Geometry:
    """How a stored tensor is read as logical matrices ``(out, in, *kernel)``.

    Fans are those of the computation, not of the storage: GPT-2's Conv1D is stored ``(in, out)``, a fused
    query-key-value weight holds three matrices, an expert weight holds one matrix an expert.

    Attributes:
        fan_in: inputs that one output sums over.
        fan_out: outputs that one input reaches. None when ``parts`` differ: then each part has its own.
        order: ``"out_in"`` as torch stores a Linear and a convolution, ``"in_out"`` as Conv1D, a transposed
            convolution and some experts are stored.
        stack: how many leading dimensions index independent matrices (1 for experts, else 0).
        parts: sizes along the stored output dimension of the matrices fused there (query, key, value; gate, up;
            the gates of an LSTM); empty when there is one.
        groups: of a grouped convolution.
    """

    fan_in: int
    fan_out: int | None
    order: str = "out_in"
    stack: int = 0
    parts: tuple[int, ...] = ()
    groups: int = 1

    def to_json(self) -> GeometryJson:
        return {
            "fan_in": self.fan_in,
            "fan_out": self.fan_out,
            "order": self.order,
            "stack": self.stack,
            "parts": list(self.parts),
            "groups": self.groups,
        }

    @classmethod
    def from_json(cls, data: GeometryJson) -> Geometry:
        return cls(
            fan_in=data["fan_in"],
            fan_out=data["fan_out"],
            order=data["order"],
            stack=data["stack"],
            parts=tuple(data["parts"]),
            groups=data["groups"],
        )


@dataclass(frozen=True)
class TensorSpec:
    """One tensor of a target architecture, known from its shape alone.

    Attributes:
        name: its name on disk, the one that every plan, report and proof uses.
        shape: its shape on disk.
        dtype: ``"float32"``, ``"bfloat16"``...: torch's names without the ``torch.``.
        parameter: its name in the model's state dict (the same as ``name`` but for converted families).
        module: class names of the module that owns it, its own class first, then the bases.
        role: what the tensor does (``"linear.weight"``, ``"embedding"``, ``"norm.bias"``...).
        geometry: its logical matrices, or None where fans have no meaning.
        address: where the library's loader puts a tensor of that name; two names with one address are one tensor.
        activation: the name of the activation that the layer's output goes into, where it is known.
        padding: of an embedding, the row that stands for padding.
    """

    name: str
    shape: Shape
    dtype: str
    parameter: str = ""
    module: tuple[str, ...] = ()
    role: str = "parameter"
    geometry: Geometry | None = None
    address: tuple[Any, ...] = ()
    activation: str | None = None
    padding: int | None = None


@dataclass(frozen=True)
class Tie:
    """A target tensor that is another one under a second name: the model holds it, the files don't.

    Attributes:
        name: the second name.
        of: the name on disk of the tensor that it is.
        addresses: where the library's loader would look for it; a source may hold it under either name.
    """

    name: str
    of: str
    addresses: tuple[tuple[Any, ...], ...] = ()


@dataclass(frozen=True)
class Layout:
    """The target architecture: what its files hold, and what is tied to it.

    Attributes:
        std: the standard deviation that its config starts weights with (``initializer_range``).
        depth: how many blocks its residual stream passes, of the extended model; None where the config has no number.
    """

    architecture: str
    tensors: tuple[TensorSpec, ...]
    ties: tuple[Tie, ...] = ()
    std: float = 0.02
    depth: int | None = None


@dataclass(frozen=True)
class SourceTensor:
    """One tensor of a checkpoint, known from its header.

    Attributes:
        address: where the target's loader would put it.
        ignored: the target's class drops it on purpose and without a word when it loads.
        second: the address is that of a second name, which the tensor has in the source's own architecture only.
    """

    name: str
    shape: Shape
    dtype: str
    address: tuple[Any, ...] = ()
    ignored: bool = False
    second: bool = False


@dataclass(frozen=True)
class Copy:
    """A kept region: these elements of the source tensor are those of the target tensor, byte for byte."""

    region: Region
    source: str
    source_region: Region

    @classmethod
    def whole(cls, source: str, shape: Shape) -> Copy:
        """Return that of all elements of a tensor."""
        whole = Box.whole(shape)
        return cls(whole, source, whole)


class Context(Protocol):
    """What a scheme may ask about its surroundings. Schemes read the source, never another new tensor."""

    def architecture(self, slot: Slot) -> torch.Tensor:
        """Return the values that the slot has in a freshly built model: in their own dtype, of ``slot.shape``."""
        ...

    def declared(self, slot: Slot) -> torch.Tensor:
        """Return the values that the class's constructor gives the slot: in their own dtype, of ``slot.shape``."""
        ...

    def given(self, slot: Slot) -> torch.Tensor | None:
        """Return the values made for the slot from data: float32, of ``slot.shape``; None where there are none."""
        ...


@dataclass(frozen=True)
class Slot:
    """A region to fill: everything that a scheme may know about it.

    Attributes:
        name: the tensor's full name on disk.
        shape: of the region to fill.
        region: its place in the tensor.
        whole: the shape of the whole tensor.
        dtype: what the values will be rounded to, once, after the scheme.
        seed: of the recipe.
        parameter, role, geometry: as in ``TensorSpec``.
        context: the architecture, for the schemes that ask it.
        trained: gives the pretrained elements of the same tensor, region by region; None where all of it is new.
        source: gives a whole tensor of the source by its name there, mapped, not to be written to; None where no source
            is at hand.
    """

    name: str
    region: Region
    whole: Shape
    dtype: str = "float32"
    seed: int = 0
    parameter: str = ""
    role: str = "parameter"
    geometry: Geometry | None = None
    context: Context | None = field(default=None, compare=False, repr=False)
    trained: Callable[[], Iterator[torch.Tensor]] | None = field(default=None, compare=False, repr=False)
    source: Callable[[str], torch.Tensor] | None = field(default=None, compare=False, repr=False)

    @property
    def shape(self) -> Shape:
        return self.region.shape

    @property
    def key(self) -> int:
        """Return 63 bits made of (seed, name, region) alone: the seed of this slot's own generator.

        No other tensor, no order, no device and no number of processes enters it.
        """
        return key_of(self.seed, self.name, region_key(self.region))

    def generator(self) -> torch.Generator:
        """Return a fresh CPU generator, seeded by ``key``."""
        import torch

        return torch.Generator().manual_seed(self.key)


def key_of(seed: int, *words: str) -> int:
    """Return 63 bits of BLAKE2b over the seed and the words."""
    text = "\0".join((str(seed), *words)).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little") >> 1
