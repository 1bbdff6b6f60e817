"""Whether regions cover a tensor once, decided from their corners; no element is ever counted one by one."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby, pairwise

from hf_init._tensors import Box, Region, Shape, num_elements
from hf_init._verify.differences import Difference


def tiling_fault(shape: Shape, regions: list[Region]) -> Difference | None:
    """Return why regions, each inside the tensor, don't cover it exactly once; None when they do.

    Example:
        >>> tiling_fault((4, 2), [Box((0, 0), (3, 2))])
        {'reason': 'hole: its regions cover 6 of 8 elements'}
    """
    boxes = [box for region in regions for box in _boxes_of(region) if num_elements(box.shape)]
    if clash := next(_overlapping_boxes(boxes), None):
        return {"reason": "overlap: two of its regions share elements", "regions": [box.to_json() for box in clash]}
    covered, total = sum(num_elements(box.shape) for box in boxes), num_elements(shape)
    # disjoint, inside and as many elements as the tensor has: then they are the tensor
    return None if covered == total else {"reason": f"hole: its regions cover {covered} of {total} elements"}


def _boxes_of(region: Region) -> Iterator[Box]:
    """Yield the region as boxes: indexed rows as their runs of neighbours (a row named twice starts another run)."""
    if isinstance(region, Box):
        yield region
        return
    whole, dim = Box.whole(region.of), region.dim
    for _, run in groupby(enumerate(sorted(region.index)), key=lambda numbered: numbered[1] - numbered[0]):
        rows = [row for _, row in run]
        yield Box(
            (*whole.start[:dim], rows[0], *whole.start[dim + 1 :]),
            (*whole.stop[:dim], rows[-1] + 1, *whole.stop[dim + 1 :]),
        )


def _overlapping_boxes(boxes: list[Box]) -> Iterator[tuple[Box, Box]]:
    """Yield pairs of boxes, none empty, that share an element: one pass along the dimension that best splits them."""
    ndim = len(boxes[0].start) if boxes else 0
    if ndim == 0:
        yield from pairwise(boxes)
        return
    axis = max(range(ndim), key=lambda dim: len({box.start[dim] for box in boxes}))
    near: list[Box] = []
    for box in sorted(boxes, key=lambda box: box.start[axis]):
        near = [other for other in near if other.stop[axis] > box.start[axis]]
        for other in near:
            corners = zip(other.start, other.stop, box.start, box.stop, strict=True)
            if all(a < d and c < b for a, b, c, d in corners):
                yield other, box
        near.append(box)
