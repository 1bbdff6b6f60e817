"""Without a plan: tensors brought together by their names."""

from __future__ import annotations

from collections.abc import Iterator

from hf_init._checkpoint import TensorEntry, dtype_bits
from hf_init._drift.frozen_globs import KEPT
from hf_init._drift.parts import ALL, NEW, DriftInputs, TensorPart, is_apart, pair_part, stranger
from hf_init._tensors import Box, num_elements, subtract_boxes


def by_name(scene: DriftInputs) -> Iterator[TensorPart]:
    for name, before in scene.base.entries.items():
        after = scene.trained.entries.get(name)
        if after is not None:
            yield from _named(scene, before, after)
        else:
            frozen, size = scene.frozen.holds((name,), KEPT), num_elements(before.shape)
            yield TensorPart(name, KEPT, frozen, before.shape, before.dtype, size, stored=False, ignored=True)
    strangers = (entry for name, entry in scene.trained.entries.items() if name not in scene.base.entries)
    yield from (stranger(scene, entry) for entry in strangers)


def _named(scene: DriftInputs, before: TensorEntry, after: TensorEntry) -> Iterator[TensorPart]:
    """A tensor that both have: as a whole, or its common leading rows."""
    common = _common(before, after)
    fault = is_apart(before, after) if common else f"its shape was {list(before.shape)}, is {list(after.shape)}"
    box = common or Box.whole(after.shape)
    region = box.to_json()
    whole = box.shape == after.shape
    remark = "" if before.shape == after.shape or fault else f"{box.shape[0]} common rows, taken to be the same ones"
    yield TensorPart(
        after.name,
        KEPT,
        scene.frozen.holds((after.name,), KEPT),
        after.shape,
        after.dtype,
        num_elements(box.shape),
        ALL if whole else KEPT,
        before.dtype,
        () if fault else (pair_part(scene, after, region, before.name, region),),
        fault=fault,
        remark=remark,
    )
    if not whole:
        rest = sum(num_elements(piece.shape) for piece in subtract_boxes(after.shape, [box]))
        frozen = scene.frozen.holds((after.name,), NEW)
        yield TensorPart(after.name, NEW, frozen, after.shape, after.dtype, rest, NEW)


def _common(before: TensorEntry, after: TensorEntry) -> Box | None:
    """What two tensors of one name have in common: all of it, or leading rows."""
    if before.shape == after.shape:
        return Box.whole(after.shape)
    if not before.shape or not after.shape or before.shape[1:] != after.shape[1:] or dtype_bits(after.dtype) < 8:
        return None
    return Box((0,) * len(after.shape), (min(before.shape[0], after.shape[0]), *after.shape[1:]))
