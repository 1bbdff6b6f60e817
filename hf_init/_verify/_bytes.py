"""Comparing and digesting regions of tensors by their bytes, a piece at a time."""

from __future__ import annotations

import ctypes
import hashlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice

import numpy as np

from hf_init._spec import Region
from hf_init._verify._parts import Hand, Part, Piece, pieces
from hf_init._verify._tally import Tally
from hf_init._verify._work import Desk, Job, Meter

TOGETHER = 4  # pieces of one job

Done = Callable[[int], object]


def nothing(nbytes: int) -> None:
    """Nobody counts."""


@dataclass(frozen=True)
class Comparison:
    """Two regions that should hold the same bytes.

    Attributes:
        seen, expected: the two, of the same shape and width.
        region: the place of ``seen`` in its tensor, for the differences.
        tally: where they are noted.
        number: of the region, among those of the tally's tensor.
        meter: counts the bytes that are done; None where nobody counts.
        everything: or up to the first difference of each job.
    """

    seen: Part
    expected: Part
    region: Region
    tally: Tally
    number: int = 0
    meter: Meter | None = None
    everything: bool = True

    def jobs(self) -> Iterator[Job]:
        """The comparison in jobs for threads."""
        left, right = self.seen.flat(), self.expected.flat()
        if left is None or right is None:
            left, right = self.seen, self.expected
        cuts = pieces(left.shape, tuple(map(max, left.spans, right.spans)))
        while batch := list(islice(cuts, TOGETHER)):
            yield partial(self._compare, left, right, batch)

    def _compare(self, left: Part, right: Part, batch: list[Piece], desk: Desk) -> bool:
        found, done = False, 0
        for piece in batch:
            seen, expected = left.read(desk.seen, piece), right.read(desk.expected, piece)
            done += seen.nbytes
            if not same(seen, expected):
                found = True
                self._note(left.shape, piece, seen, expected)
                if not self.everything:
                    break
        if self.meter is not None:
            self.meter.compare(done)
        return found

    def _note(self, shape: tuple[int, ...], piece: Piece, seen: np.ndarray, expected: np.ndarray) -> None:
        at = np.nonzero(np.atleast_1d(seen != expected))
        inner = [places + cut.start for places, cut in zip(at, piece, strict=False)]
        places = np.asarray(np.ravel_multi_index(inner, shape)) if shape else at[0]
        self.tally.add(self.region, places, np.atleast_1d(seen)[at], np.atleast_1d(expected)[at], self.number)


def same(left: np.ndarray, right: np.ndarray) -> bool:
    """Whether two arrays of one shape hold the same bytes."""
    if not (left.flags.c_contiguous and right.flags.c_contiguous):
        return np.array_equal(left, right)
    return left.nbytes == right.nbytes and _MEMCMP(left.ctypes.data, right.ctypes.data, left.nbytes) == 0


def _memcmp() -> Callable[[int, int, int], int]:
    """The C library's own, which compares as many bytes at once as the processor can, and lets other threads run."""
    function = (ctypes.cdll.msvcrt if os.name == "nt" else ctypes.CDLL(None)).memcmp
    function.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)
    return function


_MEMCMP = _memcmp()


def digest(part: Part, hand: Hand, done: Done = nothing) -> str:
    """SHA-256, in hex, of a region's bytes in row-major order."""
    sha256, part = hashlib.sha256(), part.flat() or part
    for piece in pieces(part.shape, part.spans):
        read = np.ascontiguousarray(part.read(hand, piece))
        sha256.update(read.reshape(-1).view(np.uint8).data)
        done(read.nbytes)
    return sha256.hexdigest()
