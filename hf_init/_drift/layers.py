"""Parts of tensors gathered by the layer that they are in."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from hf_init._drift.judge import TensorDrift


@dataclass(frozen=True)
class Group:
    """The pretrained parts of one layer, or of one module outside of the layers.

    Attributes:
        name: such as ``encoder.layer.3``.
        stack, index: the stack of layers and the place in it; None outside.
        compared: parts that were compared with what they were.
        stayed: those of them that are bit for bit what they were.
        before, change: norms over all that moved or stayed and has numbers; ``before`` over what moved.
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
        """``||after - before|| / ||before||`` over the parts that changed."""
        if not self.change:
            return self.change
        return self.change / self.before if self.before else math.inf

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "compared": self.compared,
            "stayed": self.stayed,
            "relative_change": self.relative,
            "largest_change": self.largest,
            "most_changed": self.most,
        }


def by_layer(tensors: Iterable[TensorDrift]) -> tuple[Group, ...]:
    """Pretrained parts by layer, in the order of their numbers; outside of layers by module, where they come first."""
    found: dict[tuple[str, int | None], list[TensorDrift]] = {}
    for tensor in tensors:
        if tensor.origin == "kept":
            found.setdefault(_key(tensor), []).append(tensor)
    first = {stack: at for at, (stack, _) in reversed([*enumerate(found)])}
    order = sorted(found, key=lambda key: (first[key[0]], -1 if key[1] is None else key[1]))
    return tuple(group(*key, found[key]) for key in order)


def _key(tensor: TensorDrift) -> tuple[str, int | None]:
    stack, index, _ = tensor.place
    return (stack, index) if index is not None else (outside(tensor.name), None)


def outside(name: str) -> str:
    """The module that a tensor outside of the layers is counted under.

    Example:
        >>> outside("bert.embeddings.LayerNorm.bias"), outside("lm_head.weight"), outside("bert.pooler.dense.weight")
        ('bert.embeddings', 'lm_head', 'bert.pooler')
    """
    parts = name.split(".")
    return ".".join(parts[: max(min(len(parts) - 1, 2), 1)])


def group(stack: str, index: int | None, tensors: list[TensorDrift]) -> Group:
    """Parts taken together."""
    changes = [(tensor, tensor.change) for tensor in tensors if tensor.change is not None]
    moved = [(tensor, change) for tensor, change in changes if change.elements]
    numbers = [change for _, change in moved if not math.isnan(change.change)]
    most = max(moved, key=lambda pair: _rank(pair[1].relative), default=None)
    return Group(
        f"{stack}.{index}".lstrip(".") if index is not None else stack,
        stack,
        index,
        len(changes),
        len(changes) - len(moved),
        math.hypot(*(change.before for change in numbers)),
        math.hypot(*(change.change for change in numbers)),
        max((change.largest for change in numbers), default=0.0),
        (most[0].place[2] if index is not None else most[0].name) if most else "",
    )


def _rank(relative: float) -> float:
    return -1.0 if math.isnan(relative) else relative
