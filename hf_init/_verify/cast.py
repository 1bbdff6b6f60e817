"""The one exact cast between two floating dtypes, on bits and with numpy: to nearest, ties to even, as torch rounds."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from hf_init._checkpoint import decode_values, is_decoded, is_floating
from hf_init._verify.compare import ByteComparison
from hf_init._verify.regions import Piece, RegionPart, region_pieces
from hf_init._verify.threads import VerifyJob, WorkerBuffers

_TARGETS = ("float64", "float32", "float16", "bfloat16")


def castable(before: str, after: str) -> bool:
    """Return whether what a tensor of one dtype becomes in another one is known."""
    return is_floating(before) and is_decoded(before) and after in _TARGETS


def cast_values(codes: np.ndarray, before: str, after: str) -> np.ndarray:
    """Return elements of one dtype in another one; both as unsigned integers of their width.

    Example:
        >>> hex(cast_values(np.array([0x3F80], "uint16"), "bfloat16", "float32")[0])
        '0x3f800000'
    """
    values = _floats(codes, before)
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        if after in ("float16", "bfloat16"):  # torch goes there by float32, from float64, too
            values = values.astype(np.float32, copy=False)
        if after == "bfloat16":
            bits = values.view(np.uint32)
            rounded = (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
            return np.where(np.isnan(values), np.uint32(0x7FC0), rounded).astype(np.uint16).reshape(codes.shape)
        cast = values.astype(after)
    return cast.view(f"<u{cast.itemsize}").reshape(codes.shape)


def _floats(codes: np.ndarray, dtype: str) -> np.ndarray:
    """Return numbers in the narrowest of numpy's types that holds them all: much faster than all in float64."""
    if dtype == "bfloat16":
        return (codes.astype(np.uint32) << np.uint32(16)).view(np.float32)
    return codes.view(dtype) if dtype in _TARGETS else decode_values(codes, dtype)


def with_nans_of(seen: np.ndarray, expected: np.ndarray, dtype: str) -> np.ndarray:
    """Return ``expected``, with each NaN that is one in ``seen``, too, taken from there: no cast carries its bits."""
    both = np.isnan(_floats(seen, dtype)) & np.isnan(_floats(expected, dtype))
    return np.where(both.reshape(seen.shape), seen, expected)


@dataclass(frozen=True)
class CastComparison:
    """Two tensors of one shape and of two floating dtypes: is one the exact cast of the other?

    Attributes:
        pair: the two; its ``diff`` notes where the cast of what was isn't what is.
        backward: a note for each piece in which the cast of what is isn't what was.
    """

    pair: ByteComparison
    before: str
    after: str
    backward: list[Piece] = field(default_factory=list[Piece])

    @property
    def meaning(self) -> str:
        """Return what became of the values, in words; empty where neither is the cast of the other."""
        if self.pair.diff.first:
            return "" if self.backward else "what was there is the rounding of each value"
        return "each value rounded" if self.backward else "the same values"

    def jobs(self) -> Iterator[VerifyJob]:
        """Yield the comparison in jobs for threads."""
        seen, expected = self.pair.seen.flat(), self.pair.expected.flat()
        if seen is not None and expected is not None:  # else there is nothing in them
            pieces = region_pieces(seen.shape, tuple(map(max, seen.spans, expected.spans)))
            yield from (partial(self._compare, seen, expected, piece) for piece in pieces)

    def _compare(self, left: RegionPart, right: RegionPart, piece: Piece, buffers: WorkerBuffers) -> bool:
        seen, expected = left.read(buffers.seen, piece), right.read(buffers.expected, piece)
        cast = cast_values(expected, self.before, self.after)
        if not np.array_equal(seen, cast) and not np.array_equal(seen, cast := with_nans_of(seen, cast, self.after)):
            self.pair.diff.add_piece(self.pair.region, left.shape, piece, seen, cast)
        if not self._casts_back(seen, expected):
            self.backward.append(piece)
        if self.pair.meter is not None:
            self.pair.meter.add("compared", seen.nbytes)
        return False

    def _casts_back(self, seen: np.ndarray, expected: np.ndarray) -> bool:
        if castable(self.after, self.before):
            back = cast_values(seen, self.after, self.before)
            return np.array_equal(expected, back) or np.array_equal(expected, with_nans_of(expected, back, self.before))
        numbers = decode_values(seen, self.after), decode_values(expected, self.before)
        return np.array_equal(*numbers, equal_nan=True)
