"""Where a tensor differs from what is expected: gathered by several threads, the same whoever was first."""

from __future__ import annotations

from dataclasses import dataclass, field
from threading import Lock
from typing import Any, TypeAlias

import numpy as np

from hf_init._checkpoint import NUMPY
from hf_init._tensors import Box, Region, Shape, num_elements
from hf_init._verify.regions import Piece

Difference: TypeAlias = dict[str, Any]
"""One difference: the tensor's ``name`` and a ``reason``; of bytes, where they differ and both values, too."""


@dataclass
class TensorDiff:
    """The differences in the bytes of one tensor.

    Attributes:
        dtype: of the tensor, to show values as numbers.
        length: how many slices it has along its first dimension.
        rows: of each of them, whether something in it differs; empty while nothing does.
        elements: how many differ.
        first: the first difference: index, row, both values and their bits, region; empty while nothing differs.
    """

    dtype: str
    length: int = 1
    rows: np.ndarray = field(default_factory=lambda: np.zeros(0, bool))
    elements: int = 0
    first: Difference = field(default_factory=dict)
    _first_offset: tuple[int, int] = (0, 0)
    _lock: Lock = field(default_factory=Lock, repr=False, compare=False)

    @classmethod
    def of(cls, shape: Shape, dtype: str) -> TensorDiff:
        """Return one without a difference, of a tensor that lies in an array of this shape."""
        return cls(dtype, (*shape, 1)[0])

    def add(self, region: Region, offsets: np.ndarray, seen: np.ndarray, expected: np.ndarray, number: int = 0) -> None:
        """Note elements that differ.

        Args:
            region: of the tensor, in which they lie.
            offsets: where, counted in the region's row-major order; ascending.
            seen, expected: their values, as unsigned integers, one an offset.
            number: of the region, among several; the first difference is that of the lowest.
        """
        with self._lock:
            if not self.first:
                self.rows = np.zeros(self.length, bool)
            self.elements += len(offsets)
            self.rows[_rows_at(region, offsets)] = True
            if not self.first or (number, int(offsets[0])) < self._first_offset:
                self._first_offset = (number, int(offsets[0]))
                index = _index_at(region, int(offsets[0]))
                self.first = {
                    "index": index,
                    "row": (*index, 0)[0],
                    "seen": decode_element(seen[0], self.dtype),
                    "expected": decode_element(expected[0], self.dtype),
                    "seen_bits": _hex_bits(seen[0]),
                    "expected_bits": _hex_bits(expected[0]),
                    "region": region.to_json(),
                }

    def add_piece(
        self, region: Region, shape: Shape, piece: Piece, seen: np.ndarray, expected: np.ndarray, number: int = 0
    ) -> None:
        """Note the elements that differ in a piece of a region; ``shape`` is that by which the piece is cut out."""
        at = np.nonzero(np.atleast_1d(seen != expected))
        inner = [indices + cut.start for indices, cut in zip(at, piece, strict=False)]
        offsets = np.asarray(np.ravel_multi_index(inner, shape)) if shape else at[0]
        self.add(region, offsets, np.atleast_1d(seen)[at], np.atleast_1d(expected)[at], number)

    def to_json(self, everything: bool = True) -> Difference:
        """Return the first difference and, where ``everything`` was compared, how much differs."""
        amount = {"changed_rows": int(self.rows.sum()), "changed_elements": self.elements}
        return {**self.first, **(amount if everything else {})}


def _rows_at(region: Region, offsets: np.ndarray) -> np.ndarray:
    """Return the tensor's rows (indices along its first dimension) in which elements of a region lie."""
    if not region.shape:
        return np.zeros(1, int)
    rows = np.unique(offsets // num_elements(region.shape[1:]))
    if isinstance(region, Box):
        return rows + region.start[0]
    return np.asarray(region.index)[rows] if region.dim == 0 else rows


def _index_at(region: Region, offset: int) -> list[int]:
    """Return the index, in the tensor, of an element of a region."""
    inner = [int(i) for i in np.unravel_index(offset, region.shape)]
    if isinstance(region, Box):
        return [start + i for start, i in zip(region.start, inner, strict=True)]
    return [region.index[i] if dim == region.dim else i for dim, i in enumerate(inner)]


def decode_element(element: np.unsignedinteger[Any], dtype: str) -> float | int | bool | str:
    """Return the number that an element's bits stand for; the bits in hex where Python has no such number.

    Example:
        >>> decode_element(np.uint16(0x3F80), "bfloat16"), decode_element(np.uint32(0x80000000), "float32")
        (1.0, -0.0)
    """
    if dtype == "bfloat16":
        return decode_element(np.uint32(int(element) << 16), "float32")
    if dtype in NUMPY:
        return np.asarray(element)[None].view(dtype)[0].item()
    return _hex_bits(element)


def _hex_bits(element: np.unsignedinteger[Any]) -> str:
    return f"0x{int(element):0{element.itemsize * 2}x}"
