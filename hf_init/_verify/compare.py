"""Comparing and digesting regions of tensors by their bytes, a piece at a time."""

from __future__ import annotations

import ctypes
import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice

import numpy as np

from hf_init._progress import Progress, no_progress
from hf_init._tensors import Region
from hf_init._verify.differences import TensorDiff
from hf_init._verify.regions import Piece, ReadBuffer, RegionPart, region_pieces
from hf_init._verify.threads import VerifyJob, VerifyMeter, WorkerBuffers

PIECES_PER_JOB = 4

# the C library's: it compares as many bytes at once as the processor can, and lets other threads run
_MEMCMP = (ctypes.cdll.msvcrt if os.name == "nt" else ctypes.CDLL(None)).memcmp
_MEMCMP.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)


@dataclass(frozen=True)
class ByteComparison:
    """Two regions that should hold the same bytes.

    Attributes:
        seen, expected: the two, of the same shape and width.
        region: that of ``seen`` in its tensor, for the differences.
        diff: where they are noted.
        number: of the region, among those that are noted there.
        meter: counts the bytes that are done; None where nobody counts.
        everything: or up to the first difference of each job.
    """

    seen: RegionPart
    expected: RegionPart
    region: Region
    diff: TensorDiff
    number: int = 0
    meter: VerifyMeter | None = None
    everything: bool = True

    def jobs(self) -> Iterator[VerifyJob]:
        """Yield the comparison in jobs for threads."""
        left, right = self.seen.flat(), self.expected.flat()
        if left is None or right is None:
            left, right = self.seen, self.expected
        cuts = region_pieces(left.shape, tuple(map(max, left.spans, right.spans)))
        while batch := list(islice(cuts, PIECES_PER_JOB)):
            yield partial(self._compare, left, right, batch)

    def _compare(self, left: RegionPart, right: RegionPart, batch: list[Piece], buffers: WorkerBuffers) -> bool:
        differs, nbytes = False, 0
        for piece in batch:
            seen, expected = left.read(buffers.seen, piece), right.read(buffers.expected, piece)
            nbytes += seen.nbytes
            if not same_bytes(seen, expected):
                differs = True
                self.diff.add_piece(self.region, left.shape, piece, seen, expected, self.number)
                if not self.everything:
                    break
        if self.meter is not None:
            self.meter.add("compared", nbytes)
        return differs


def same_bytes(left: np.ndarray, right: np.ndarray) -> bool:
    """Return whether two arrays of one shape hold the same bytes."""
    if not (left.flags.c_contiguous and right.flags.c_contiguous):
        return np.array_equal(left, right)
    return left.nbytes == right.nbytes and _MEMCMP(left.ctypes.data, right.ctypes.data, left.nbytes) == 0


def bytes_digest(part: RegionPart, buffer: ReadBuffer, progress: Progress = no_progress) -> str:
    """Return the SHA-256, in hex, of a region's bytes in row-major order."""
    sha256, part = hashlib.sha256(), part.flat() or part
    for piece in region_pieces(part.shape, part.spans):
        read = np.ascontiguousarray(part.read(buffer, piece))
        sha256.update(read.reshape(-1).view(np.uint8).data)
        progress(read.nbytes)
    return sha256.hexdigest()
