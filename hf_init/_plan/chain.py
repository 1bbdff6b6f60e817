"""Extensions in a row: what a result is to the checkpoint that its base was made from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import product

import numpy as np

from hf_init._checkpoint import Checkpoint
from hf_init._plan.match import Unused
from hf_init._plan.plan import Plan
from hf_init._plan.tensor_plan import TensorPlan
from hf_init._tensors import Box, Copy, Region, Rows, Shape, Status


def is_plan_of(plan: Plan, checkpoint: Checkpoint) -> bool:
    """Return whether a checkpoint's files hold the tensors of a plan, by name, shape and dtype, and no others."""
    planned = {tensor.name: (tensor.shape, tensor.dtype) for tensor in plan.stored}
    return planned == {name: (entry.shape, entry.dtype) for name, entry in checkpoint.entries.items()}


def through(later: Plan, earlier: Plan) -> Plan:
    """Return the plan from the source of the earlier plan to the result of the later one, whose source is its result.

    What the later one keeps of the earlier one's new values is new in it.

    Example:
        >>> whole = Box.whole((2,))
        >>> first = Plan("T", 0, (TensorPlan("b", Status.KEPT, (2,), "uint8", (Copy(whole, "a", whole),), source="a"),))
        >>> then = Plan("T", 0, (TensorPlan("c", Status.KEPT, (2,), "uint8", (Copy(whole, "b", whole),), source="b"),))
        >>> through(then, first).tensors[0].source
        'a'
    """
    before = {tensor.name: tensor for tensor in earlier.tensors}
    tensors = tuple(_through_tensor(tensor, before) for tensor in later.tensors)
    known = {name: None for tensor in earlier.tensors for name in _sources(tensor)}
    used = {name for tensor in tensors for name in _sources(tensor)}
    dropped = tuple(Unused(name, "an extension in between has no place for it") for name in known if name not in used)
    return replace(later, tensors=tensors, unused=(*earlier.unused, *dropped), notes=(), record={})


def _sources(tensor: TensorPlan) -> Iterator[str]:
    yield from (copy.source for copy in tensor.kept)
    if tensor.source is not None:
        yield tensor.source


def _through_tensor(tensor: TensorPlan, before: Mapping[str, TensorPlan]) -> TensorPlan:
    if tensor.status is Status.TIED:
        return replace(tensor, source=None if tensor.source is None else before[tensor.source].source)
    bases = [before[copy.source] for copy in tensor.kept]
    if tensor.status is Status.KEPT and bases[0].status is Status.KEPT:
        source = bases[0].kept[0].source
        return replace(tensor, source=source, kept=(Copy.whole(source, tensor.shape),))
    kept: list[Copy] = []
    new = list(tensor.new)
    for copy, base in zip(tensor.kept, bases, strict=True):
        for first in base.kept:
            pairs = _overlap(copy, first, tensor.shape, _source_shape(first, base))
            kept += [Copy(region, first.source, source) for region, source in pairs]
        for fill in base.new:
            same = Copy(fill.region, "", fill.region)
            new += [replace(fill, region=region) for region, _ in _overlap(copy, same, tensor.shape, base.shape)]
    status = Status.RESIZED if kept else Status.NEW
    return replace(tensor, status=status, kept=tuple(kept), new=tuple(new), source=None)


def _source_shape(copy: Copy, tensor: TensorPlan) -> Shape | None:
    """Return the shape of a copy's source, as far as indexed rows need it; None where the plan doesn't tell."""
    if tensor.status is Status.KEPT:
        return tensor.shape
    if not isinstance(rows := copy.source_region, Rows):
        return None
    shape = copy.region.shape
    return (*shape[: rows.dim], max(rows.index, default=-1) + 1, *shape[rows.dim + 1 :])


def _overlap(later: Copy, earlier: Copy, shape: Shape, source: Shape | None) -> Iterator[tuple[Region, Region]]:
    """Yield what two copies in a row bring: regions of the last tensor, of this shape, with those of the first."""
    target, middle = (_axes(region, later.region.shape) for region in (later.region, later.source_region))
    there, first = (_axes(region, earlier.region.shape) for region in (earlier.region, earlier.source_region))
    found = [_positions(wanted, known) for wanted, known in zip(middle, there, strict=True)]
    to = [axis[at] for axis, (at, _) in zip(target, found, strict=True)]
    of = [axis[at] for axis, (_, at) in zip(first, found, strict=True)]
    if any(len(axis) == 0 for axis in to):
        return
    runs = [
        np.split(np.arange(len(a)), np.flatnonzero((np.diff(a) != 1) | (np.diff(b) != 1)) + 1)
        for a, b in zip(to, of, strict=True)
    ]
    scattered = [dim for dim, each in enumerate(runs) if len(each) > 1]
    if len(scattered) == 1 and source is not None:
        (dim,) = scattered
        if _covers(to, shape, dim) and _covers(of, source, dim):
            yield Rows(dim, tuple(to[dim].tolist()), shape), Rows(dim, tuple(of[dim].tolist()), source)
            return
    for cut in product(*runs):
        yield _box(to, cut), _box(of, cut)


def _axes(region: Region, shape: Shape) -> list[np.ndarray]:
    """Return the indices that a region of this shape has along each dimension."""
    if isinstance(region, Rows):
        return [np.array(region.index) if dim == region.dim else np.arange(size) for dim, size in enumerate(shape)]
    return [np.arange(start, stop) for start, stop in zip(region.start, region.stop, strict=True)]


def _positions(wanted: np.ndarray, known: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the positions of those wanted that are known, and their positions among the known."""
    if not len(known):
        return np.arange(0), np.arange(0)
    order = np.argsort(known, kind="stable")
    places = order[np.minimum(np.searchsorted(known, wanted, sorter=order), len(known) - 1)]
    at = np.flatnonzero(known[places] == wanted)
    return at, places[at]


def _covers(axes: Sequence[np.ndarray], shape: Shape, besides: int) -> bool:
    """Return whether the indices are all of a tensor's, in every dimension but one."""
    return all(dim == besides or np.array_equal(axes[dim], np.arange(size)) for dim, size in enumerate(shape))


def _box(axes: Sequence[np.ndarray], cut: Sequence[np.ndarray]) -> Box:
    start = tuple(int(axis[run[0]]) for axis, run in zip(axes, cut, strict=True))
    return Box(start, tuple(first + len(run) for first, run in zip(start, cut, strict=True)))
