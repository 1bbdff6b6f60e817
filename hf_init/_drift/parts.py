"""What there is to compare, as nouns: a part of a trained tensor, and everything that parts are made from."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from hf_init._checkpoint import Checkpoint, TensorEntry, dtype_bits
from hf_init._drift.cast import castable
from hf_init._drift.folders import PlanSource
from hf_init._drift.frozen_globs import FrozenGlobs
from hf_init._drift.measure import TensorPair
from hf_init._tensors import num_elements
from hf_init._verify import StoredTensor
from hf_init._verify import stored_tensor as region_of

Recompute: TypeAlias = Callable[[dict[str, Any], dict[str, Any]], np.ndarray]

NEW, ALL = "new", "all"


@dataclass(frozen=True)
class TensorPart:
    """The kept or the new elements of a tensor.

    Attributes:
        name: in the trained checkpoint.
        origin: ``kept`` or ``new``.
        portion: ``all`` of the tensor, or its ``kept`` or ``new`` elements.
        frozen: meant to stay.
        dtype, dtype_before: now, and of what it was.
        elements: in the part.
        rows: of the tensor.
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
    """Everything that the parts are made from."""

    base: Checkpoint
    trained: Checkpoint
    guide: PlanSource
    extended: bool
    frozen: FrozenGlobs
    recompute: Recompute | None = None


def stranger(scene: DriftInputs, entry: TensorEntry) -> TensorPart:
    """A trained tensor that nothing is known of."""
    frozen = scene.frozen.holds((entry.name,), NEW)
    known = "in the plan" if scene.guide.manifest else "in the base"
    return TensorPart(
        entry.name, NEW, frozen, entry.shape, entry.dtype, num_elements(entry.shape), remark=f"not {known}"
    )


def pair_part(
    scene: DriftInputs, found: TensorEntry, region: dict[str, Any], name: str, before: dict[str, Any]
) -> TensorPair:
    return TensorPair(
        region_of(scene.trained, found.name, region),
        lambda: region_of(scene.base, name, before),
        scene.base.entries[name].dtype,
    )


def is_apart(before: TensorEntry, after: TensorEntry) -> str:
    if before.dtype != after.dtype and not castable(before.dtype, after.dtype):
        return f"was {before.dtype}, is {after.dtype}: between these there is no exact cast to compare by"
    if dtype_bits(before.dtype) < 8 and before.shape != after.shape:
        return f"its elements share bytes, and its shape was {list(before.shape)}"
    return ""


def part_bytes(subject: TensorPart) -> int:
    """The bytes of its elements."""
    return math.ceil(subject.elements * dtype_bits(subject.dtype) / 8)
