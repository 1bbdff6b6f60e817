"""Without a plan: tensors brought together by their names."""

from __future__ import annotations

from collections.abc import Iterator

from hf_init._checkpoint import TensorEntry, dtype_bits
from hf_init._drift.frozen_globs import KEPT
from hf_init._drift.parts import ALL, NEW, DriftInputs, TensorPart, pair_part, uncastable, unplanned_part
from hf_init._tensors import Box, num_elements, subtract_boxes


def parts_by_name(inputs: DriftInputs) -> Iterator[TensorPart]:
    """Yield the parts of every tensor that base or trained files have."""
    for name, before in inputs.base.entries.items():
        after = inputs.trained.entries.get(name)
        if after is not None:
            yield from _common_parts(inputs, before, after)
        else:
            frozen, size = inputs.frozen.holds((name,), KEPT), num_elements(before.shape)
            yield TensorPart(name, KEPT, frozen, before.shape, before.dtype, size, stored=False, ignored=True)
    for name, entry in inputs.trained.entries.items():
        if name not in inputs.base.entries:
            yield unplanned_part(inputs, entry)


def _common_parts(inputs: DriftInputs, before: TensorEntry, after: TensorEntry) -> Iterator[TensorPart]:
    """Yield the parts of a tensor that both have: all of it, or its common leading rows and the rest."""
    common = _common_box(before, after)
    fault = uncastable(before, after) if common else f"its shape was {list(before.shape)}, is {list(after.shape)}"
    box = common or Box.whole(after.shape)
    whole = box.shape == after.shape
    remark = "" if before.shape == after.shape or fault else f"{box.shape[0]} common rows, taken to be the same ones"
    yield TensorPart(
        after.name,
        KEPT,
        inputs.frozen.holds((after.name,), KEPT),
        after.shape,
        after.dtype,
        num_elements(box.shape),
        ALL if whole else KEPT,
        before.dtype,
        () if fault else (pair_part(inputs, after, box, before.name, box),),
        fault=fault,
        remark=remark,
    )
    if not whole:
        rest = sum(num_elements(piece.shape) for piece in subtract_boxes(after.shape, [box]))
        frozen = inputs.frozen.holds((after.name,), NEW)
        yield TensorPart(after.name, NEW, frozen, after.shape, after.dtype, rest, NEW)


def _common_box(before: TensorEntry, after: TensorEntry) -> Box | None:
    """Return what two tensors of one name have in common, all of it or leading rows; None where nothing is."""
    if before.shape == after.shape:
        return Box.whole(after.shape)
    if not before.shape or not after.shape or before.shape[1:] != after.shape[1:] or dtype_bits(after.dtype) < 8:
        return None
    return Box((0,) * len(after.shape), (min(before.shape[0], after.shape[0]), *after.shape[1:]))
