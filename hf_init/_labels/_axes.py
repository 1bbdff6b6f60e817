"""Dimensions of tensors that have a slice for each label, found by asking how shapes grow with the labels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, product

from hf_init._keep import Boxes, How, Nothing, RowMap, spelled
from hf_init._labels._rows import Index
from hf_init._spec import Box, Shape


@dataclass(frozen=True)
class Axis:
    """A dimension that grows with the labels.

    Attributes:
        each: how many slices a label has.
        extra: slices beyond the labels' own, which come last: DETR's row for no object.
    """

    dim: int
    each: int = 1
    extra: int = 0

    def size(self, labels: int) -> int:
        return self.each * labels + self.extra


def axes(shape: Shape, grown: Shape, labels: int) -> tuple[Axis, ...]:
    """The dimensions in which a tensor grows with its labels.

    Args:
        shape: with this many labels.
        grown: with one more.

    Example:
        >>> axes((4, 256), (5, 256), 3)
        (Axis(dim=0, each=1, extra=1),)
        >>> axes((2, 3), (2, 3), 3)
        ()
    """
    if len(shape) != len(grown):
        return ()
    steps = ((dim, more - many, many) for dim, (many, more) in enumerate(zip(shape, grown, strict=True)))
    return tuple(Axis(dim, each, many - each * labels) for dim, each, many in steps if each)


def correspondence(index: Index, found: Sequence[Axis], before: Shape, after: Shape, labels: int) -> How | None:
    """How a trained tensor's slices follow their labels; None where all of them stay where they are.

    Args:
        index: for each label its row in the source.
        before: the source tensor's shape. labels: how many the source has.

    Raises:
        ValueError: the tensors don't have one slice for each label, or not in the same way.
    """
    if all(at is None for at in index):
        return Nothing()
    if before == after and index == tuple(range(labels)):
        return None
    if any(axis.each != 1 or axis.extra < 0 for axis in found):
        raise ValueError(f"{spelled(after)} has not one slice for each of {len(index)} labels; give its map with keep")
    expected = _with_labels(after, found, labels)
    if before != expected:
        raise ValueError(f"{spelled(before)} in the checkpoint, {spelled(expected)} expected for its {labels} labels")
    maps = [(*index, *(labels + k for k in range(axis.extra))) for axis in found]
    drop = any(at not in index for at in range(labels))
    if len(found) == 1:
        return RowMap(maps[0], found[0].dim, drop)
    return Boxes(tuple(_boxes(maps, found, before)), drop)


def _with_labels(shape: Shape, found: Sequence[Axis], labels: int) -> Shape:
    sizes = {axis.dim: axis.size(labels) for axis in found}
    return tuple(sizes.get(dim, size) for dim, size in enumerate(shape))


def _boxes(maps: Sequence[Index], found: Sequence[Axis], shape: Shape) -> Iterator[tuple[Box, Box]]:
    """Every pair of runs of neighbours, of a matrix whose rows and columns are labels."""
    whole = [[(0, 0, size)] for size in shape]
    for axis, index in zip(found, maps, strict=True):
        whole[axis.dim] = list(_runs(index))
    for runs in product(*whole):
        rows, places, lengths = zip(*runs, strict=True)
        yield _box(rows, lengths), _box(places, lengths)


def _box(start: Shape, lengths: Shape) -> Box:
    return Box(tuple(start), tuple(a + n for a, n in zip(start, lengths, strict=True)))


def _runs(index: Index) -> Iterator[tuple[int, int, int]]:
    """Neighbours that stay neighbours: the first target row, the first source row, how many."""
    for offset, run in groupby(enumerate(index), key=lambda pair: None if pair[1] is None else pair[1] - pair[0]):
        rows = [row for row, _ in run]
        if offset is not None:
            yield rows[0], rows[0] + offset, len(rows)
