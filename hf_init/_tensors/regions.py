"""Regions of a tensor: boxes and indexed rows, how a manifest holds them, and what boxes leave."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TypeAlias, TypedDict

Shape: TypeAlias = tuple[int, ...]


class BoxJson(TypedDict):
    """A box in a manifest."""

    start: list[int]
    stop: list[int]


class RowsJson(TypedDict):
    """Indexed rows in a manifest."""

    dim: int
    index: list[int]


RegionJson: TypeAlias = BoxJson | RowsJson


@dataclass(frozen=True)
class Box:
    """The elements of a tensor between two corners: ``start[d] <= index[d] < stop[d]`` in every dimension.

    Example:
        >>> Box((0, 0), (2, 3)).shape
        (2, 3)
    """

    start: Shape
    stop: Shape

    @classmethod
    def whole(cls, shape: Shape) -> Box:
        """Return the box that covers a tensor of this shape."""
        return cls((0,) * len(shape), tuple(shape))

    @property
    def shape(self) -> Shape:
        return tuple(stop - start for start, stop in zip(self.start, self.stop, strict=True))

    @property
    def slices(self) -> tuple[slice, ...]:
        """Return slices for indexing an array or a tensor; the empty tuple for a scalar."""
        return tuple(slice(start, stop) for start, stop in zip(self.start, self.stop, strict=True))

    def within(self, shape: Shape) -> Box:
        """Return the same region, of a tensor of this shape."""
        return self

    def to_json(self) -> BoxJson:
        return {"start": list(self.start), "stop": list(self.stop)}


@dataclass(frozen=True)
class Rows:
    """An indexed set of slices of a tensor along one dimension, in the order of ``index``.

    ``shape`` is that of the slices taken together: the tensor's shape with ``shape[dim] = len(index)``.
    """

    dim: int
    index: tuple[int, ...]
    of: Shape = field(compare=False, default=())

    @property
    def shape(self) -> Shape:
        return (*self.of[: self.dim], len(self.index), *self.of[self.dim + 1 :])

    def within(self, shape: Shape) -> Rows:
        """Return the same region, of a tensor of this shape."""
        return Rows(self.dim, self.index, shape)

    def to_json(self) -> RowsJson:
        return {"dim": self.dim, "index": list(self.index)}


Region: TypeAlias = Box | Rows


def region_from_json(data: RegionJson, shape: Shape) -> Region:
    """Return the region that ``to_json`` wrote, of a tensor of this shape."""
    if "index" in data:
        return Rows(data["dim"], tuple(data["index"]), tuple(shape))
    return Box(tuple(data["start"]), tuple(data["stop"]))


def region_key(region: Region) -> str:
    """Return the text by which a region enters the seed of its slot."""
    if isinstance(region, Rows):
        return f"rows {region.dim}: {','.join(map(str, region.index))}"
    return "x".join(f"{start}:{stop}" for start, stop in zip(region.start, region.stop, strict=True))


def num_elements(shape: Shape) -> int:
    """Count the elements of a tensor of this shape."""
    return math.prod(shape)


def subtract_boxes(shape: Shape, boxes: list[Box]) -> Iterator[Box]:
    """Yield disjoint boxes that cover what ``boxes`` leave of a tensor of this shape."""
    rest = [Box.whole(shape)]
    for hole in boxes:
        rest = [piece for box in rest for piece in _box_without(box, hole)]
    yield from rest


def _box_without(box: Box, hole: Box) -> Iterator[Box]:
    """Yield ``box`` without ``hole``, cut one dimension at a time."""
    start, stop = list(box.start), list(box.stop)
    if any(b <= c or d <= a for a, b, c, d in zip(start, stop, hole.start, hole.stop, strict=True)):
        yield box
        return
    for dim in range(len(start)):
        if start[dim] < hole.start[dim]:
            yield Box(tuple(start), (*stop[:dim], hole.start[dim], *stop[dim + 1 :]))
            start[dim] = hole.start[dim]
        if hole.stop[dim] < stop[dim]:
            yield Box((*start[:dim], hole.stop[dim], *start[dim + 1 :]), tuple(stop))
            stop[dim] = hole.stop[dim]
