"""Packed weights of a base: which of the model's tensors they stand for, and what their quantizer leaves alone."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D
from transformers.quantizers.quantizers_utils import should_convert_module

from hf_init._checkpoint import BaseCheckpoint, packed_weights
from hf_init._tensors import Layout, SourceTensor, TensorSpec


@dataclass(frozen=True)
class PackedPlaces:
    """Where the packed weights of a base belong.

    Attributes:
        part_of: by the name of each tensor of packed weights, the name of the model's tensor that it is part of.
        held: the model's tensors that the base holds packed.
    """

    part_of: Mapping[str, str] = field(default_factory=dict[str, str])
    held: tuple[TensorSpec, ...] = ()

    @classmethod
    def find(cls, layout: Layout, base: BaseCheckpoint, gone: Collection[str]) -> PackedPlaces:
        """Return the places in a model's layout; ``gone`` are the names of what the user gives up."""
        if base.packed is None:
            return cls()
        entries = base.source.entries
        mine = {spec.name: spec.shape for spec in layout.tensors if spec.name in entries}
        whole = [entries[name] for name, shape in mine.items() if entries[name].shape == shape]
        plain = {entry.name for entry in whole} - {*packed_weights(whole)}
        part_of = stand_for(layout.tensors, [name for name in base.packed.names if name not in plain | {*gone}])
        names = {*part_of.values()} - plain
        return cls(part_of, tuple(spec for spec in layout.tensors if spec.name in names))

    def put_into(self, layout: Layout, source: Sequence[SourceTensor]) -> Layout:
        """Return the layout with the tensors of packed weights, as the base has them, in the place of those held."""
        if not self.part_of:
            return layout
        held = {spec.name for spec in self.held}
        packed = (each for each in source if each.name in self.part_of)
        stored = (TensorSpec(each.name, each.shape, each.dtype, each.name, address=each.address) for each in packed)
        plain = (spec for spec in layout.tensors if spec.name not in held)
        return replace(layout, tensors=(*plain, *stored), ties=tuple(tie for tie in layout.ties if tie.of not in held))


def stand_for(specs: Iterable[TensorSpec], packed: Iterable[str]) -> dict[str, str]:
    """Return, by the names of packed tensors and of what stands beside them, the name of the one that each is part of.

    Example:
        >>> spec = TensorSpec("h.0.up.weight", (8, 8), "float32")
        >>> stand_for([spec], ["h.0.up.weight.absmax", "h.0.up.qweight", "h.0.upper.qweight"])
        {'h.0.up.weight.absmax': 'h.0.up.weight', 'h.0.up.qweight': 'h.0.up.weight'}
    """
    stems = {spec.name.removesuffix(".weight"): spec.name for spec in specs}
    found: dict[str, str] = {}
    for name in packed:  # by what its name begins with, up to each of its words, the longest first
        ends = (len(name), *(at for at in range(len(name) - 1, 0, -1) if name[at] in "._"))
        if of := next((stems[name[:at]] for at in ends if name[:at] in stems), ""):
            found[name] = of
    return found


def unpacked_layers(model: PreTrainedModel, packed: Iterable[str]) -> list[str]:
    """Return the layers that a quantizer could pack and that the files hold unpacked.

    Args:
        packed: the names in memory of what they hold packed.
    """
    held = set(packed)
    layers = (name for name, module in model.named_modules() if isinstance(module, nn.Linear | Conv1D))
    return [name for name in layers if f"{name}.weight" not in held]


def with_left_alone(config: Mapping[str, Any], key: str, layers: Sequence[str]) -> dict[str, Any]:
    """Return a quantization config by whose list these layers are left alone.

    Args:
        key: the name of the list in it.
    """
    listed: list[str] = list(config.get(key) or ())
    # Whether a name is in a list by the library's own rule: a beginning, an end or a pattern.
    return {**config, key: [*listed, *(name for name in layers if should_convert_module(name, listed))]}
