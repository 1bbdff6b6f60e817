"""Whether regions cover a tensor once, decided from their corners; no element is ever counted one by one."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

from hf_init._tensors import Box, Region, Shape, num_elements


def tiling_fault(shape: Shape, regions: list[Region]) -> dict[str, object] | None:
    """Why regions, each inside the tensor, don't cover it exactly once; None when they do.

    Example:
        >>> tiling_fault((4, 2), [Box((0, 0), (3, 2))])
        {'reason': 'hole: its regions cover 6 of 8 elements'}
    """
    boxes = [box for region in regions for box in _boxes(region) if num_elements(box.shape)]
    clash = next(_overlaps(boxes), None)
    if clash:
        return {"reason": "overlap: two of its regions share elements", "regions": [box.to_json() for box in clash]}
    covered, total = sum(num_elements(box.shape) for box in boxes), num_elements(shape)
    # disjoint, inside and as many elements as the tensor has: then they are the tensor
    return None if covered == total else {"reason": f"hole: its regions cover {covered} of {total} elements"}


def _boxes(region: Region) -> Iterator[Box]:
    """The region as boxes: indexed rows as their runs of neighbours (a row named twice starts a run of its own)."""
    if isinstance(region, Box):
        yield region
        return
    whole, dim = Box.whole(region.of), region.dim
    for start, stop in _runs(sorted(region.index)):
        yield Box(
            (*whole.start[:dim], start, *whole.start[dim + 1 :]),
            (*whole.stop[:dim], stop, *whole.stop[dim + 1 :]),
        )


def _runs(index: list[int]) -> Iterator[tuple[int, int]]:
    if not index:
        return
    first = last = index[0]
    for i in index[1:]:
        if i != last + 1:
            yield first, last + 1
            first = i
        last = i
    yield first, last + 1


def _overlaps(boxes: list[Box]) -> Iterator[tuple[Box, Box]]:
    """Pairs of boxes, none empty, that share an element: one pass along the dimension that separates them best."""
    ndim = len(boxes[0].start) if boxes else 0
    if ndim == 0:
        yield from pairwise(boxes)
        return
    axis = max(range(ndim), key=lambda dim: len({box.start[dim] for box in boxes}))
    near: list[Box] = []
    for box in sorted(boxes, key=lambda box: box.start[axis]):
        near = [other for other in near if other.stop[axis] > box.start[axis]]
        yield from ((other, box) for other in near if _meet(other, box))
        near.append(box)


def _meet(one: Box, other: Box) -> bool:
    corners = zip(one.start, one.stop, other.start, other.stop, strict=True)
    return all(a < d and c < b for a, b, c, d in corners)
