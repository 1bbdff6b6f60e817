"""Without a plan: tensors brought together by their names, as ``diff`` does it."""

from __future__ import annotations

from collections.abc import Iterator

from hf_init._checkpoint import TensorEntry, dtype_bits
from hf_init._drift.frozen_globs import KEPT
from hf_init._drift.parts import ALL, NEW, DriftInputs, TensorPart, pair_part, uncastable, unplanned_part
from hf_init._tensors import Box, num_elements, subtract_boxes
from hf_init._verify import pair_names


def parts_by_name(inputs: DriftInputs) -> Iterator[TensorPart]:
    """Yield the parts of every tensor that base or trained files have."""
    names = pair_names(inputs.base, inputs.trained)
    now = {was: name for name, was in names.items()}
    for name, before in inputs.base.entries.items():
        if name in now:
            yield from _common_parts(inputs, before, inputs.trained.entries[now[name]])
        else:
            frozen, size = inputs.frozen.holds((name,), KEPT), num_elements(before.shape)
            yield TensorPart(name, KEPT, frozen, before.shape, before.dtype, size, stored=False, ignored=True)
    for name, entry in inputs.trained.entries.items():
        if name not in names:
            yield unplanned_part(inputs, entry)


def _common_parts(inputs: DriftInputs, before: TensorEntry, after: TensorEntry) -> Iterator[TensorPart]:
    """Yield the parts of a tensor that both have: all of it, or its common leading rows and the rest."""
    box, fault, remark = Box.whole(after.shape), "", ""
    if before.shape == after.shape:
        fault = uncastable(before, after)
    elif not before.shape or not after.shape or before.shape[1:] != after.shape[1:] or dtype_bits(after.dtype) < 8:
        fault = f"its shape was {list(before.shape)}, is {list(after.shape)}"
    else:
        box = Box((0,) * len(after.shape), (min(before.shape[0], after.shape[0]), *after.shape[1:]))
        fault = uncastable(before, after)
        remark = "" if fault else f"{box.shape[0]} common rows, taken to be the same ones"
    whole, names = box.shape == after.shape, tuple(dict.fromkeys((after.name, before.name)))
    yield TensorPart(
        after.name,
        KEPT,
        inputs.frozen.holds(names, KEPT),
        after.shape,
        after.dtype,
        num_elements(box.shape),
        ALL if whole else KEPT,
        before.dtype,
        () if fault else (pair_part(inputs, after, box, before.name, box),),
        fault=fault,
        remark=remark,
        also=names[1:],
    )
    if not whole:
        rest = sum(num_elements(piece.shape) for piece in subtract_boxes(after.shape, [box]))
        frozen = inputs.frozen.holds(names, NEW)
        yield TensorPart(after.name, NEW, frozen, after.shape, after.dtype, rest, NEW, also=names[1:])
