"""Comparing regions of mapped tensors by their bytes, a few megabytes at a time, and saying where they differ."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from hf_init._checkpoint import NUMPY
from hf_init._spec import Box, Region, Shape

CHUNK = 1 << 21
"""Bytes compared at once: enough to amortise the call, few enough to keep what the comparison allocates in cache."""

Piece: TypeAlias = tuple[slice, ...]


@dataclass
class Meter:
    """Counts the bytes that are done, and tells ``progress`` each step."""

    progress: Callable[[int], object] | None = None
    compared: int = 0
    digested: int = 0

    def compare(self, nbytes: int) -> None:
        self.compared += nbytes
        self._tell(nbytes)

    def digest(self, nbytes: int) -> None:
        self.digested += nbytes
        self._tell(nbytes)

    def _tell(self, nbytes: int) -> None:
        if self.progress is not None:
            self.progress(nbytes)


@dataclass
class Tally:
    """Where a tensor differs from what is expected, gathered piece by piece.

    Attributes:
        dtype: of the tensor, to show values as numbers.
        rows: for each of its slices along the first dimension, whether something in it differs.
        elements: how many differ.
        first: the first difference met: index, row, both values and their bits, region; empty while nothing differs.
    """

    dtype: str
    rows: np.ndarray
    elements: int
    first: dict[str, Any]

    @classmethod
    def of(cls, array: np.ndarray, dtype: str) -> Tally:
        return cls(dtype, np.zeros(array.shape[:1] or (1,), bool), 0, {})

    def add(self, seen: np.ndarray, expected: np.ndarray, region: Region, piece: Piece) -> None:
        """Note two pieces, not equal, of the same place."""
        differs = np.asarray(seen != expected)
        self.elements += int(np.count_nonzero(differs))
        rows = differs.reshape(len(differs), -1).any(axis=1) if differs.ndim else differs.reshape(1)
        self.rows[_rows(region, piece)[rows]] = True
        if not self.first:
            at = np.unravel_index(int(np.argmax(differs)), differs.shape)
            index = _locate(region, piece, tuple(map(int, at)))
            values = {"seen": decode(seen[at], self.dtype), "expected": decode(expected[at], self.dtype)}
            hexes = {"seen_bits": _hex(seen[at]), "expected_bits": _hex(expected[at])}
            self.first = {"index": index, "row": (*index, 0)[0], **values, **hexes, "region": region.to_json()}

    def to_json(self) -> dict[str, Any]:
        return {**self.first, "changed_rows": int(self.rows.sum()), "changed_elements": self.elements}


def compare(
    seen: np.ndarray,
    region: Region,
    expected: np.ndarray,
    expected_region: Region,
    tally: Tally,
    done: Callable[[int], None] = lambda nbytes: None,
) -> None:
    """Compare a region of one array with a region, of the same shape, of another; the differences go to ``tally``."""
    for piece in pieces(region.shape, seen.itemsize):
        left, right = cut(seen, region, piece), cut(expected, expected_region, piece)
        if not _same(left, right):
            tally.add(left, right, region, piece)
        done(left.nbytes)


def digest(array: np.ndarray, region: Region, done: Callable[[int], None]) -> str:
    """SHA-256, in hex, of a region's bytes in row-major order."""
    sha256 = hashlib.sha256()
    for piece in pieces(region.shape, array.itemsize):
        part = np.ascontiguousarray(cut(array, region, piece))
        sha256.update(part.reshape(-1).view(np.uint8).data)
        done(part.nbytes)
    return sha256.hexdigest()


def pieces(shape: Shape, width: int) -> Iterator[Piece]:
    """Cut a shape, of elements of ``width`` bytes, into pieces of at most ``CHUNK`` bytes, in row-major order."""
    if 0 in shape:
        return
    if not shape:
        yield ()
        return
    row = width * math.prod(shape[1:])
    step = max(CHUNK // row, 1)
    tails = list(pieces(shape[1:], width)) if row > CHUNK else [tuple(slice(0, length) for length in shape[1:])]
    for start in range(0, shape[0], step):
        yield from ((slice(start, min(start + step, shape[0])), *tail) for tail in tails)


def cut(array: np.ndarray, region: Region, piece: Piece) -> np.ndarray:
    """A piece of a region of an array: a view of a box, a copy of indexed rows."""
    if isinstance(region, Box):
        return array[(*region.slices, ...)][(*piece, ...)]
    others = tuple(slice(None) if dim == region.dim else part for dim, part in enumerate(piece))
    return array[others].take(region.index[piece[region.dim]], axis=region.dim)


def _same(left: np.ndarray, right: np.ndarray) -> bool:
    if not (left.flags.c_contiguous and right.flags.c_contiguous):
        return np.array_equal(left, right)
    left, right = left.reshape(-1).view(np.uint8), right.reshape(-1).view(np.uint8)
    words = len(left) // 8 * 8
    return np.array_equal(left[words:], right[words:]) and np.array_equal(
        left[:words].view(np.uint64), right[:words].view(np.uint64)
    )


def _rows(region: Region, piece: Piece) -> np.ndarray:
    """The tensor's rows (places along its first dimension) that a piece of a region holds."""
    if not piece:
        return np.zeros(1, int)
    if isinstance(region, Box):
        return np.arange(piece[0].start, piece[0].stop) + region.start[0]
    return np.asarray(region.index)[piece[0]] if region.dim == 0 else np.arange(piece[0].start, piece[0].stop)


def _locate(region: Region, piece: Piece, at: Shape) -> list[int]:
    """The index, in the tensor, of a place in a piece of a region."""
    inner = [part.start + i for part, i in zip(piece, at, strict=True)]
    if isinstance(region, Box):
        return [start + i for start, i in zip(region.start, inner, strict=True)]
    return [region.index[i] if dim == region.dim else i for dim, i in enumerate(inner)]


def decode(element: np.unsignedinteger[Any], dtype: str) -> float | int | bool | str:
    """The number that an element's bits stand for; the bits in hex where Python has no such number.

    Example:
        >>> decode(np.uint16(0x3F80), "bfloat16"), decode(np.uint32(0x80000000), "float32")
        (1.0, -0.0)
    """
    if dtype == "bfloat16":
        return decode(np.uint32(int(element) << 16), "float32")
    if dtype in NUMPY:
        return np.asarray(element)[None].view(dtype)[0].item()
    return _hex(element)


def _hex(element: np.unsignedinteger[Any]) -> str:
    return f"0x{int(element):0{element.itemsize * 2}x}"
