"""Where the logical matrices of a slot lie, and what their fans are: pure arithmetic on shapes, no torch.

A stored tensor is ``(*stack, out, in, *kernel)`` or, with ``order="in_out"``, ``(*stack, in, out, *kernel)``; the
matrices fused along ``out`` and the groups of a convolution cut it further. A slot may hold only some rows of a tensor:
then fans and sizes are still those of the whole.
"""

from __future__ import annotations

import bisect
import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from hf_init._tensors import Geometry, Rows, Slot


@dataclass(frozen=True)
class MatrixCut:
    """What a slot holds of one axis of one matrix.

    Attributes:
        at: where it is in the slot: for indexing.
        inside: where it is in the matrix, one coordinate a position.
        size: how long the whole matrix is along this axis.
    """

    at: slice | list[int]
    inside: Sequence[int]
    size: int


@dataclass(frozen=True)
class MatrixBlock:
    """What a slot holds of one matrix: its place in the stack, its rows and its columns."""

    stack: tuple[int, ...]
    out: MatrixCut
    into: MatrixCut


@dataclass(frozen=True)
class Fans:
    """The fans of one matrix, and which rows of the slot's output axis are its own."""

    fan_in: int
    fan_out: int
    rows: MatrixCut


def geometry_of(slot: Slot) -> Geometry:
    """Return the slot's geometry; where it has none, what torch.nn.init reads from its shape."""
    if slot.geometry is not None:
        return slot.geometry
    field = math.prod(slot.whole[2:])
    return Geometry(slot.whole[1] * field, slot.whole[0] * field)


def rank_of(slot: Slot) -> int:
    """Return how many dimensions one matrix of the slot has, its kernel included."""
    return len(slot.whole) - (slot.geometry.stack if slot.geometry else 0)


def out_axis(slot: Slot, geometry: Geometry) -> int:
    """Return the stored dimension along which outputs lie; a vector's only one."""
    return geometry.stack + (geometry.order == "in_out" and rank_of(slot) > 1)


def into_axis(geometry: Geometry) -> int:
    """Return the stored dimension along which inputs lie."""
    return geometry.stack + (geometry.order == "out_in")


def misfit(slot: Slot) -> str:
    """Return why the slot's geometry can't be that of a tensor of its shape; empty when it can."""
    geometry = slot.geometry
    if geometry is None:
        return ""
    if geometry.order not in ("out_in", "in_out"):
        return f"its geometry has the order {geometry.order!r}, expected 'out_in' or 'in_out'"
    if rank_of(slot) < 1:
        return f"its geometry stacks {geometry.stack} dimensions and leaves none for a matrix"
    if geometry.parts and geometry.groups > 1:
        return "its geometry is fused and grouped at once, which is not defined"
    rows = slot.whole[out_axis(slot, geometry)]
    if geometry.parts and sum(geometry.parts) != rows:
        return f"its parts {geometry.parts} add up to {sum(geometry.parts)}, expected the {rows} outputs"
    first = slot.whole[geometry.stack]
    if first % geometry.groups:
        return f"its dimension of {first} is not divided by {geometry.groups} groups"
    if geometry.fan_out is None and not geometry.parts:
        return "its geometry has neither a fan_out nor parts"
    return ""


def coordinates(slot: Slot, dim: int) -> Sequence[int]:
    """Return where the slot's positions along a dimension are in the whole tensor."""
    region = slot.region
    if isinstance(region, Rows):
        return region.index if dim == region.dim else range(slot.whole[dim])
    return range(region.start[dim], region.stop[dim])


def matrix_cuts(inside: Sequence[int], sizes: Sequence[int]) -> list[MatrixCut]:
    """Divide coordinates along an axis among the matrices of these sizes that follow each other there.

    Example:
        >>> [(cut.at, list(cut.inside)) for cut in matrix_cuts(range(1, 5), (3, 3))]
        [(slice(0, 2, None), [1, 2]), (slice(2, 4, None), [0, 1])]
    """
    if len(sizes) == 1:
        return [MatrixCut(slice(None), inside, sizes[0])]
    ends = list(itertools.accumulate(sizes))
    owned: dict[int, list[int]] = {}
    for position, coordinate in enumerate(inside):
        owned.setdefault(bisect.bisect_right(ends, coordinate), []).append(position)
    starts = [end - size for end, size in zip(ends, sizes, strict=True)]
    cuts: list[MatrixCut] = []
    for owner, at in sorted(owned.items()):
        is_run = at[-1] - at[0] == len(at) - 1 and at == sorted(at)  # a slice indexes without a copy
        mine = [inside[position] - starts[owner] for position in at]
        cuts.append(MatrixCut(slice(at[0], at[-1] + 1) if is_run else at, mine, sizes[owner]))
    return cuts


def fans_of(slot: Slot) -> tuple[Fans, ...]:
    """Return the fans of each matrix along the slot's output axis; those of one fused with others are its own.

    Example:
        >>> from hf_init.schemes import whole_slot
        >>> fused = Geometry(fan_in=4, fan_out=None, parts=(4, 2, 2))
        >>> [(fans.fan_in, fans.fan_out) for fans in fans_of(whole_slot("qkv", (8, 4), geometry=fused))]
        [(4, 4), (4, 2), (4, 2)]
    """
    geometry = geometry_of(slot)
    axis = out_axis(slot, geometry)
    if not geometry.parts:
        # misfit() has refused a geometry without parts and without a fan_out.
        return (
            Fans(
                geometry.fan_in,
                geometry.fan_out or 0,
                MatrixCut(slice(None), coordinates(slot, axis), slot.whole[axis]),
            ),
        )
    field = math.prod(slot.whole[geometry.stack + 2 :])
    rows = matrix_cuts(coordinates(slot, axis), geometry.parts)
    return tuple(Fans(geometry.fan_in, cut.size * field, cut) for cut in rows)


def matrix_blocks(slot: Slot, geometry: Geometry) -> Iterator[MatrixBlock]:
    """Yield every matrix of which the slot holds something: a stack's, fused ones and a group's are apart."""
    out, into = out_axis(slot, geometry), into_axis(geometry)
    # A grouped convolution keeps only one group's channels in its second dimension, whichever that is.
    split = [slot.whole[geometry.stack] // geometry.groups] * geometry.groups
    by_in = geometry.order == "in_out"
    outs = matrix_cuts(coordinates(slot, out), geometry.parts or ([slot.whole[out]] if by_in else split))
    intos = matrix_cuts(coordinates(slot, into), split if by_in else [slot.whole[into]])
    for index in itertools.product(*map(range, slot.shape[: geometry.stack])):
        for row, column in itertools.product(outs, intos):
            yield MatrixBlock(index, row, column)


def block_shape(slot: Slot, block: MatrixBlock, geometry: Geometry) -> tuple[int, ...]:
    """Return the shape ``(rows, columns, *kernel)`` of what the slot holds of a matrix."""
    return (len(block.out.inside), len(block.into.inside), *slot.shape[geometry.stack + 2 :])


def diagonal(block: MatrixBlock) -> tuple[list[int], list[int]]:
    """Return the positions in the slot, rows and columns, of a matrix's diagonal."""
    import numpy as np

    sides = (block.out, block.into)
    inside = (np.array(side.inside, dtype=np.int64) for side in sides)
    _, *hits = np.intersect1d(*inside, assume_unique=True, return_indices=True)
    rows, columns = (
        (hit + (side.at.start or 0) if isinstance(side.at, slice) else np.array(side.at)[hit]).tolist()
        for side, hit in zip(sides, hits, strict=True)
    )
    return rows, columns


def centre(slot: Slot, geometry: Geometry) -> tuple[int, ...] | None:
    """Return the kernel's central element, as positions in the slot; None when the slot doesn't hold it."""
    dims = range(geometry.stack + 2, len(slot.whole))
    middles = [(coordinates(slot, dim), slot.whole[dim] // 2) for dim in dims]
    if any(middle not in along for along, middle in middles):
        return None
    return tuple(along.index(middle) for along, middle in middles)
