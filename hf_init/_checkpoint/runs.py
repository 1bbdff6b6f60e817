"""Regions as runs of consecutive bytes in a file, and how such runs are read and written. No torch."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from hf_init._errors import CheckpointError
from hf_init._tensors import Box, Region, Rows, Shape

BLOCK = 4 << 20
"""The bytes that are in memory at a time where elements are moved."""

_SHORT = 4096  # runs that are shorter on average are moved together with what lies between them...
_SPAN = 4 * BLOCK  # ... where that isn't too much
_MOST_RUNS = 1 << 16  # at a time, however short


@dataclass(frozen=True, eq=False)
class Runs:
    """A region of a stored tensor: runs of equally many consecutive bytes, in the region's row-major order.

    Attributes:
        size: the bytes of one run.
        base: where the run with index 0 in every outer dimension would begin in the file.
        steps: for each outer dimension of the region, the bytes from there to each of its indices.
    """

    size: int
    base: int
    steps: tuple[np.ndarray, ...] = ()

    @property
    def num_runs(self) -> int:
        return prod(map(len, self.steps)) if self.size else 0

    def starts(self, first: int, last: int) -> np.ndarray:
        """Return where the runs from ``first`` to ``last`` begin in the file."""
        indices = np.unravel_index(np.arange(first, last), tuple(map(len, self.steps))) if self.steps else ()
        offsets = (step[index] for step, index in zip(self.steps, indices, strict=True))
        return sum(offsets, np.full(last - first, self.base, np.int64))


def outer(region: Region, shape: Shape) -> int:
    """Return how many leading dimensions have to be walked through: what is behind them lies in one piece.

    Example:
        >>> [outer(region, (4, 8)) for region in (Box((0, 0), (2, 8)), Box((0, 0), (4, 7)), Rows(0, (2, 0), (4, 8)))]
        [0, 1, 1]
    """
    if isinstance(region, Rows):
        return region.dim + 1
    partial = (dim for dim in reversed(range(len(shape))) if region.shape[dim] != shape[dim])
    return next(partial, 0)


def byte_runs(region: Region, shape: Shape, bits: int, start: int, dims: int) -> Runs:
    """Return the runs of a region of a tensor of this shape, whose first byte is at ``start`` of its file.

    Args:
        bits: of one element; fewer than 8 only where the region is the whole tensor.
        dims: how many leading dimensions are walked through, at least ``outer(region, shape)``.

    Example:
        >>> byte_runs(Box((1, 0), (3, 2)), (4, 8), 16, 100, 1).starts(0, 2).tolist()
        [116, 132]
    """
    if isinstance(region, Rows):
        region = replace(region, of=shape)
    strides = [prod(shape[dim + 1 :]) * bits // 8 for dim in range(len(shape))]
    steps = tuple(_region_indices(region, dim) * strides[dim] for dim in range(dims))
    first = 0 if isinstance(region, Rows) else sum(region.start[d] * strides[d] for d in range(dims, len(shape)))
    return Runs(prod(region.shape[dims:]) * bits // 8, start + first, steps)


def _region_indices(region: Region, dim: int) -> np.ndarray:
    if isinstance(region, Box):
        return np.arange(region.start[dim], region.stop[dim], dtype=np.int64)
    return np.asarray(region.index if dim == region.dim else range(region.of[dim]), dtype=np.int64)


def join_runs(size: int, *starts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Join neighbours where no list has a gap; return the position of the first run of each, and their bytes.

    Example:
        >>> join_runs(2, np.array([0, 2, 4, 9]), np.array([10, 12, 20, 22]))
        (array([0, 2, 3]), array([4, 2, 2]))
    """
    gaps = np.zeros(len(starts[0]) - 1, bool)
    for start in starts:
        gaps |= np.diff(start) != size
    heads = np.concatenate(([0], np.flatnonzero(gaps) + 1))
    return heads, np.diff(np.append(heads, len(starts[0]))) * size


def run_blocks(*regions: Runs) -> Iterator[tuple[int, list[np.ndarray]]]:
    """Yield regions of one shape side by side, a block at a time: the bytes of a run, and its starts in each region."""
    size, num_runs = regions[0].size, regions[0].num_runs
    step = min(max(BLOCK // max(size, 1), 1), _MOST_RUNS)
    for first in range(0, num_runs, step):
        starts = [region.starts(first, min(first + step, num_runs)) for region in regions]
        for cut in range(0, size, BLOCK):
            yield min(BLOCK, size - cut), [start + cut for start in starts]


@dataclass(frozen=True)
class RunFile:
    """An open file and its name for messages."""

    number: int
    path: Path

    def read_into(self, view: memoryview, offset: int) -> None:
        """Fill the view.

        Raises:
            CheckpointError: the file ends before, or can't be read.
        """
        done = 0
        while done < len(view):
            try:
                nbytes = os.preadv(self.number, [view[done:]], offset + done)
            except OSError as error:
                raise CheckpointError(f"{self.path} can't be read at byte {offset + done}: {error.strerror}") from error
            if not nbytes:
                raise CheckpointError(f"{self.path} ends at byte {offset + done}: it was changed while it was read")
            done += nbytes

    def read(self, offset: int, size: int) -> np.ndarray:
        data = np.empty(size, np.uint8)
        self.read_into(data.data, offset)
        return data

    def write(self, data: bytes | memoryview | np.ndarray, offset: int) -> None:
        """Write all of a buffer.

        Raises:
            OSError: with the file's name.
        """
        view, done = memoryview(data.data if isinstance(data, np.ndarray) else data).cast("B"), 0
        try:
            while done < len(view):
                done += os.pwrite(self.number, view[done:], offset + done)
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self.path)) from error


@contextmanager
def opened(path: Path, flags: int = os.O_RDONLY) -> Iterator[RunFile]:
    """Open a file for as long as the block lasts.

    Raises:
        CheckpointError: it is not there: headers were read of it before, so somebody has removed it.
    """
    try:
        number = os.open(path, flags | os.O_CLOEXEC, 0o666)
    except FileNotFoundError as error:
        if flags & os.O_CREAT:
            raise
        raise CheckpointError(f"{path} is not there: it was removed while it was needed") from error
    try:
        yield RunFile(number, path)
    finally:
        os.close(number)


def gather(file: RunFile, starts: np.ndarray, size: int) -> np.ndarray:
    """Read some runs, one a row."""
    heads, sizes, low, high = _span(starts, size)
    if _is_dense(heads, sizes, high - low):
        return np.ascontiguousarray(sliding_window_view(file.read(low, high - low), size)[starts - low])
    values = np.empty((len(starts), size), np.uint8)
    flat, offset = values.reshape(-1).data, 0
    for head, nbytes in zip(heads.tolist(), sizes.tolist(), strict=True):
        file.read_into(flat[offset : offset + nbytes], int(starts[head]))
        offset += nbytes
    return values


def scatter(file: RunFile, starts: np.ndarray, values: np.ndarray) -> None:
    """Write the rows of ``values`` as runs; what lies between short ones is read and written again."""
    size = values.shape[1]
    heads, sizes, low, high = _span(starts, size)
    if _is_dense(heads, sizes, high - low):
        span = file.read(low, high - low)
        sliding_window_view(span, size, writeable=True)[starts - low] = values
        file.write(span, low)
        return
    flat, offset = values.reshape(-1).data, 0
    for head, nbytes in zip(heads.tolist(), sizes.tolist(), strict=True):
        file.write(flat[offset : offset + nbytes], int(starts[head]))
        offset += nbytes


def _span(starts: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray, int, int]:
    """Return the joined runs, and where the first of all begins and the last ends."""
    return *join_runs(size, starts), int(starts.min()), int(starts.max()) + size


def _is_dense(heads: np.ndarray, sizes: np.ndarray, span: int) -> bool:
    return len(heads) > 1 and sizes.sum() < _SHORT * len(heads) and span <= _SPAN
