"""Parts of tensors gathered by the layer that they are in."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from hf_init._block_names import layer_of
from hf_init._drift.judge import TensorDrift


@dataclass(frozen=True)
class LayerDrift:
    """The pretrained parts of one layer, or of one module outside of the layers.

    Attributes:
        name: such as ``encoder.layer.3``.
        stack, index: the stack of layers and the layer's index in it; None outside.
        compared: parts that were compared with what they were.
        stayed: those of them that are bit for bit what they were.
        before, change: norms over all parts that moved and have numbers.
        largest: the greatest absolute change.
        most: the part with the greatest relative change, without the layer's name.
    """

    name: str
    stack: str
    index: int | None
    compared: int
    stayed: int
    before: float
    change: float
    largest: float
    most: str

    @property
    def relative(self) -> float:
        """Return ``||after - before|| / ||before||`` over the parts that changed."""
        if not self.change:
            return self.change
        return self.change / self.before if self.before else math.inf

    def to_json(self) -> dict[str, object]:
        return {
            "name": self.name,
            "compared": self.compared,
            "stayed": self.stayed,
            "relative_change": self.relative,
            "largest_change": self.largest,
            "most_changed": self.most,
        }


def by_layer(tensors: Iterable[TensorDrift]) -> tuple[LayerDrift, ...]:
    """Return pretrained parts by layer, in the order of their numbers; outside of layers by module, modules first."""
    layers: dict[tuple[str, int | None], list[TensorDrift]] = {}
    for tensor in tensors:
        if tensor.origin == "kept":
            stack, index, _ = tensor.layer
            key = (layer_of(tensor.name), None) if index is None else (stack, index)
            layers.setdefault(key, []).append(tensor)
    first = {stack: number for number, (stack, _) in reversed([*enumerate(layers)])}
    found = []
    for stack, index in sorted(layers, key=lambda key: (first[key[0]], -1 if key[1] is None else key[1])):
        changes = [(tensor, tensor.change) for tensor in layers[stack, index] if tensor.change is not None]
        moved = [(tensor, change) for tensor, change in changes if change.elements]
        numbers = [change for _, change in moved if not math.isnan(change.change)]
        most = max(moved, key=lambda pair: -1.0 if math.isnan(pair[1].relative) else pair[1].relative, default=None)
        found.append(
            LayerDrift(
                name=stack if index is None else f"{stack}.{index}".lstrip("."),
                stack=stack,
                index=index,
                compared=len(changes),
                stayed=len(changes) - len(moved),
                before=math.hypot(*(change.before for change in numbers)),
                change=math.hypot(*(change.change for change in numbers)),
                largest=max((change.largest for change in numbers), default=0.0),
                most="" if most is None else most[0].name if index is None else most[0].layer[2],
            )
        )
    return tuple(found)
