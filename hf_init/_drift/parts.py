"""What there is to compare, as nouns: a part of a trained tensor, and everything that parts are made from."""

from __future__ import annotations

import math
from dataclasses import dataclass

from hf_init._checkpoint import Checkpoint, TensorEntry, dtype_bits
from hf_init._drift.folders import PlanSource
from hf_init._drift.frozen_globs import FrozenGlobs
from hf_init._drift.measure import TensorPair
from hf_init._tensors import Region, num_elements
from hf_init._verify import StoredTensor, castable, stored_tensor

NEW, ALL = "new", "all"


@dataclass(frozen=True)
class TensorPart:
    """The kept or the new elements of a tensor.

    Attributes:
        name: in the trained checkpoint.
        origin: ``kept`` or ``new``.
        portion: ``all`` of the tensor, or its ``kept`` or ``new`` elements.
        frozen: meant to stay.
        shape: of the tensor.
        dtype, dtype_before: now, and of what it was.
        elements: in the part.
        pairs: what to compare; empty where what it was isn't known.
        made: new regions, each with the digest that it had when it was made; empty where that isn't known.
        fault: why it can't be compared, where that is a failure if it is frozen.
        ignored: the library drops it on purpose.
        remark: worth saying.
        also: its other names.
    """

    name: str
    origin: str
    frozen: bool
    shape: tuple[int, ...]
    dtype: str
    elements: int
    portion: str = ALL
    dtype_before: str | None = None
    pairs: tuple[TensorPair, ...] = ()
    made: tuple[tuple[StoredTensor, str], ...] = ()
    fault: str = ""
    stored: bool = True
    ignored: bool = False
    remark: str = ""
    also: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        return self.name, *self.also


@dataclass(frozen=True)
class DriftInputs:
    """Everything that the parts are made from.

    Attributes:
        source: the plan, where there is one.
        extended: whether the base is the plan's result before training, and not its source.
    """

    base: Checkpoint
    trained: Checkpoint
    source: PlanSource
    extended: bool
    frozen: FrozenGlobs


def unplanned_part(inputs: DriftInputs, entry: TensorEntry) -> TensorPart:
    """Return the part that is a trained tensor of which nothing is known."""
    frozen = inputs.frozen.holds((entry.name,), NEW)
    remark = "not in the base" if inputs.source.plan is None else "not in the plan"
    return TensorPart(entry.name, NEW, frozen, entry.shape, entry.dtype, num_elements(entry.shape), remark=remark)


def pair_part(inputs: DriftInputs, entry: TensorEntry, region: Region, name: str, before: Region) -> TensorPair:
    """Return a region of a trained tensor with the region ``before`` of the base's tensor ``name``, which it was."""
    return TensorPair(
        stored_tensor(inputs.trained, entry.name, region),
        lambda: stored_tensor(inputs.base, name, before),
        inputs.base.entries[name].dtype,
    )


def uncastable(before: TensorEntry, after: TensorEntry) -> str:
    """Return why a trained tensor can't be compared with what it was; empty where it can."""
    if before.dtype != after.dtype and not castable(before.dtype, after.dtype):
        return f"was {before.dtype}, is {after.dtype}: between these there is no exact cast to compare by"
    if dtype_bits(before.dtype) < 8 and before.shape != after.shape:
        return f"its elements share bytes, and its shape was {list(before.shape)}"
    return ""


def part_bytes(part: TensorPart) -> int:
    """Return the number of bytes of a part's elements."""
    return math.ceil(part.elements * dtype_bits(part.dtype) / 8)
