"""Regions of tensors in files, read piece by piece into memory that is used again and again."""

from __future__ import annotations

import math
import mmap
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Protocol, TypeAlias

import numpy as np

from hf_init._checkpoint import Checkpoint, OpenFiles, TensorEntry, dtype_bits
from hf_init._tensors import Box, Region, Rows, Shape, num_elements

CHUNK = 2 << 20
"""Bytes read at once: enough to amortise the call, few enough to find both sides in the cache when compared."""

Piece: TypeAlias = tuple[slice, ...]
_Corners: TypeAlias = list[tuple[int, int]]


class ReadBuffer:
    """Memory that one side of a comparison is read into, from one file at a time. For one thread."""

    def __init__(self) -> None:
        self.files = OpenFiles()
        self._buffer = np.empty(0, np.uint8)

    def room(self, nbytes: int) -> np.ndarray:
        """Return the buffer's first bytes; what it held is lost."""
        if len(self._buffer) < nbytes:  # memory of whole pages: the system copies to it half as fast again
            self._buffer = np.frombuffer(mmap.mmap(-1, 1 << (nbytes - 1).bit_length()), np.uint8)
        return self._buffer[:nbytes]

    def take(self, start: int, nbytes: int) -> np.ndarray:
        """Read bytes of the chosen file, and return them in the buffer."""
        room = self.room(nbytes)
        self.files.fill(start, room)
        return room


class RegionPart(Protocol):
    """A region of a tensor, wherever its values are."""

    @property
    def shape(self) -> Shape:
        """Return the region's shape."""
        ...

    @property
    def width(self) -> int:
        """Return the bytes of an element."""
        ...

    @property
    def spans(self) -> Shape:
        """Return, for each dimension, the bytes in the file from one element to its neighbour along it."""
        ...

    def flat(self) -> RegionPart | None:
        """Return the same with one dimension, where its elements lie one after another; else None."""
        ...

    def read(self, buffer: ReadBuffer, piece: Piece) -> np.ndarray:
        """Return a piece of it, as unsigned integers; good until something else is read into the buffer."""
        ...


@dataclass(frozen=True)
class StoredTensor:
    """A region of a tensor in a checkpoint's files.

    Attributes:
        whole: the tensor's shape; of elements that share bytes, the number of their bytes.
    """

    checkpoint: Checkpoint
    entry: TensorEntry
    whole: Shape
    width: int
    region: Region

    @property
    def shape(self) -> Shape:
        return self.region.shape

    @property
    def spans(self) -> Shape:
        return contiguous_spans(self.whole, self.width)

    def flat(self) -> StoredTensor | None:
        if 0 in self.whole:
            return None
        box = self.region
        if isinstance(box, Rows):
            dim, index = box.dim, box.index
            if not index or index != tuple(range(index[0], index[0] + len(index))):
                return None
            whole = Box.whole(self.whole)
            box = Box(
                (*whole.start[:dim], index[0], *whole.start[dim + 1 :]),
                (*whole.stop[:dim], index[-1] + 1, *whole.stop[dim + 1 :]),
            )
        cut = [dim for dim, length in enumerate(box.shape) if length != self.whole[dim]]
        if 0 in box.shape or (cut and any(length != 1 for length in box.shape[: cut[-1]])):
            return None
        spans = contiguous_spans(self.whole, 1)
        start = sum(start * span for start, span in zip(box.start, spans, strict=True))
        region = Box((start,), (start + num_elements(self.shape),))
        return replace(self, whole=(num_elements(self.whole),), region=region)

    def read(self, buffer: ReadBuffer, piece: Piece) -> np.ndarray:
        buffer.files.choose(self.checkpoint, self.entry.shard)
        if isinstance(self.region, Box):
            starts = zip(self.region.start, piece, strict=True)
            return self._read_box(buffer, [(start + cut.start, start + cut.stop) for start, cut in starts])
        return self._read_rows(buffer, self.region, piece)

    def _read_box(self, buffer: ReadBuffer, corners: _Corners) -> np.ndarray:
        """Read the elements between two corners with what lies between them in the file, and return a view of them."""
        first, last = self._byte_ends(corners)
        room = buffer.take(self.entry.start + first, last - first)
        return np.ndarray([stop - start for start, stop in corners], f"<u{self.width}", room.data, 0, self.spans)

    def _byte_ends(self, corners: _Corners) -> tuple[int, int]:
        """Return the offsets in the tensor of the first element between two corners and of the end of the last."""
        spans = self.spans
        first = sum(start * span for (start, _), span in zip(corners, spans, strict=True))
        last = sum((stop - 1) * span for (_, stop), span in zip(corners, spans, strict=True))
        return first, last + self.width

    def _read_rows(self, buffer: ReadBuffer, region: Rows, piece: Piece) -> np.ndarray:
        """Read indexed rows: all at once where they lie close together, else each run of them."""
        dim, index = region.dim, np.asarray(region.index[piece[region.dim]])
        corners = [(cut.start, cut.stop) for cut in piece]
        low, high = int(index.min()), int(index.max()) + 1
        corners[dim] = (low, high)
        first, last = self._byte_ends(corners)
        if last - first <= 2 * CHUNK:
            return self._read_box(buffer, corners).take(index - low, axis=dim)
        rows = np.empty([cut.stop - cut.start for cut in piece], f"<u{self.width}")
        ends = [0, *(np.flatnonzero(np.diff(index) != 1) + 1).tolist(), len(index)]
        for start, stop in pairwise(ends):
            corners[dim] = (int(index[start]), int(index[stop - 1]) + 1)
            rows[(slice(None),) * dim + (slice(start, stop),)] = self._read_box(buffer, corners)
        return rows


@dataclass(frozen=True)
class ArrayRegion:
    """All of an array in memory, of unsigned integers and contiguous."""

    array: np.ndarray

    @property
    def shape(self) -> Shape:
        return self.array.shape

    @property
    def width(self) -> int:
        return self.array.itemsize

    @property
    def spans(self) -> Shape:
        return contiguous_spans(self.shape, self.width)

    def flat(self) -> ArrayRegion:
        return ArrayRegion(self.array.reshape(-1))

    def read(self, buffer: ReadBuffer, piece: Piece) -> np.ndarray:
        return self.array[(*piece, ...)]


def stored_tensor(checkpoint: Checkpoint, name: str, region: Region | None = None) -> StoredTensor:
    """Return a region (by default all) of a tensor; where elements share bytes, all of the tensor's bytes."""
    entry = checkpoint.entries[name]
    if dtype_bits(entry.dtype) < 8:
        return StoredTensor(checkpoint, entry, (entry.nbytes,), 1, Box.whole((entry.nbytes,)))
    region = Box.whole(entry.shape) if region is None else region.within(entry.shape)
    return StoredTensor(checkpoint, entry, entry.shape, dtype_bits(entry.dtype) // 8, region)


def contiguous_spans(shape: Shape, width: int) -> Shape:
    """Return the bytes from one element to its neighbour along each dimension of a tensor in row-major order."""
    return tuple(width * math.prod(shape[dim + 1 :]) for dim in range(len(shape)))


def region_pieces(shape: Shape, spans: Shape) -> Iterator[Piece]:
    """Cut a shape into pieces that span at most ``CHUNK`` bytes in the file (or are one element), in row-major order.

    Example:
        >>> list(region_pieces((3, 4), (CHUNK, 8)))[:1]
        [(slice(0, 1, None), slice(0, 4, None))]
    """
    if 0 in shape:
        return
    if not shape:
        yield ()
        return
    step = max(CHUNK // spans[0], 1)
    tails = list(region_pieces(shape[1:], spans[1:])) if spans[0] > CHUNK else [tuple(slice(0, n) for n in shape[1:])]
    for start in range(0, shape[0], step):
        yield from ((slice(start, min(start + step, shape[0])), *tail) for tail in tails)


def region_cuts(start: int, nbytes: int) -> Iterator[tuple[int, int]]:
    """Cut bytes of a file into pieces of at most ``CHUNK`` that end where its pages do, which are copied faster.

    Args:
        start: where they start in the file; the pieces are counted from there.

    Example:
        >>> list(region_cuts(CHUNK - 8, CHUNK)) == [(0, 8), (8, CHUNK)]
        True
    """
    at = 0
    for stop in (*range(CHUNK - start % CHUNK, nbytes, CHUNK), nbytes):
        yield at, stop
        at = stop
