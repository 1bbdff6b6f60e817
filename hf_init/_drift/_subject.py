"""What there is to compare, as nouns: a part of a trained tensor, and everything that parts are made from."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from hf_init._checkpoint import Checkpoint, Entry, bits
from hf_init._drift._cast import castable
from hf_init._drift._frozen import Frozen
from hf_init._drift._measure import Pair
from hf_init._drift._places import Guide
from hf_init._spec import count
from hf_init._verify._parts import Stored
from hf_init._verify._parts import stored as region_of

Recompute: TypeAlias = Callable[[dict[str, Any], dict[str, Any]], np.ndarray]

NEW, ALL = "new", "all"


@dataclass(frozen=True)
class Subject:
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
    pairs: tuple[Pair, ...] = ()
    made: tuple[tuple[Stored, str], ...] = ()
    fault: str = ""
    stored: bool = True
    ignored: bool = False
    remark: str = ""
    also: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        return self.name, *self.also


@dataclass(frozen=True)
class Scene:
    """Everything that the parts are made from."""

    base: Checkpoint
    trained: Checkpoint
    guide: Guide
    extended: bool
    frozen: Frozen
    recompute: Recompute | None = None


def stranger(scene: Scene, entry: Entry) -> Subject:
    """A trained tensor that nothing is known of."""
    frozen = scene.frozen.holds((entry.name,), NEW)
    known = "in the plan" if scene.guide.manifest else "in the base"
    return Subject(entry.name, NEW, frozen, entry.shape, entry.dtype, count(entry.shape), remark=f"not {known}")


def pair(scene: Scene, found: Entry, region: dict[str, Any], name: str, before: dict[str, Any]) -> Pair:
    return Pair(
        region_of(scene.trained, found.name, region),
        lambda: region_of(scene.base, name, before),
        scene.base.entries[name].dtype,
    )


def apart(before: Entry, after: Entry) -> str:
    if before.dtype != after.dtype and not castable(before.dtype, after.dtype):
        return f"was {before.dtype}, is {after.dtype}: between these there is no exact cast to compare by"
    if bits(before.dtype) < 8 and before.shape != after.shape:
        return f"its elements share bytes, and its shape was {list(before.shape)}"
    return ""


def nbytes(subject: Subject) -> int:
    """The bytes of its elements."""
    return math.ceil(subject.elements * bits(subject.dtype) / 8)
