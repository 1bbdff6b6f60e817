"""Compare what lies one after another in both files as one range of bytes; only where it differs, tensor by tensor."""

from __future__ import annotations

import os
from bisect import bisect_left, bisect_right
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain, islice
from typing import Literal, TypeAlias

from hf_init._errors import CheckpointError
from hf_init._tensors import Box
from hf_init._verify.compare import PIECES_PER_JOB, ByteComparison, same_bytes
from hf_init._verify.regions import StoredTensor, region_cuts
from hf_init._verify.threads import VerifyJob, WorkerBuffers, run_jobs

FileState: TypeAlias = tuple[int, int, int, int, int]
"""Device, inode, bytes, time of the last write and of the last change (ns): another one after any change."""

Clones: TypeAlias = Collection[tuple[FileState, FileState]]
"""Files that the system cloned whole: the state of the source before, and of the copy after that."""


def file_state(status: os.stat_result) -> FileState:
    """Return the state of a file."""
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


@dataclass(frozen=True)
class _FlatComparison:
    """A comparison of elements that lie one after another in both files."""

    comparison: ByteComparison
    seen: StoredTensor
    expected: StoredTensor

    @property
    def starts(self) -> tuple[int, int]:
        return _start(self.seen), _start(self.expected)

    @property
    def nbytes(self) -> int:
        return self.seen.shape[0] * self.seen.width

    def follows(self, other: _FlatComparison) -> bool:
        """Return whether it begins where the other one ends, in the same two files."""
        same = all(
            a.checkpoint is b.checkpoint and a.entry.shard == b.entry.shard
            for a, b in ((self.seen, other.seen), (self.expected, other.expected))
        )
        same = same and self.comparison.meter is other.comparison.meter
        return same and self.starts == tuple(start + other.nbytes for start in other.starts)


@dataclass(frozen=True)
class _ByteRange:
    """Comparisons that follow each other in both files, and the numbers of those in which a byte differs."""

    parts: tuple[_FlatComparison, ...]
    differing: set[int] = field(default_factory=set)

    def jobs(self, clones: Clones, everything: bool) -> Iterator[VerifyJob]:
        first = self.parts[0]
        ends = [part.starts[0] - first.starts[0] + part.nbytes for part in self.parts]
        if how := same_file_bytes(first.seen, first.expected, clones):
            yield partial(self._count, how, ends[-1])
            return
        cuts = region_cuts(first.starts[0], ends[-1])
        while batch := list(islice(cuts, PIECES_PER_JOB)):
            yield partial(self._compare, batch, ends, everything)

    def _count(self, how: Literal["linked", "cloned"], nbytes: int, buffers: WorkerBuffers) -> bool:
        """Check that both files are there, and as long as they were: no reading could find a difference."""
        self._choose_files(buffers)
        self._report(how, nbytes)
        return False

    def _compare(self, batch: list[tuple[int, int]], ends: list[int], everything: bool, buffers: WorkerBuffers) -> bool:
        (here, there), differs, nbytes = self.parts[0].starts, False, 0
        self._choose_files(buffers)
        for start, stop in batch:
            seen = buffers.seen.take(here + start, stop - start)
            expected = buffers.expected.take(there + start, stop - start)
            nbytes += stop - start
            if not same_bytes(seen, expected):
                differs = True
                self.differing.update(range(bisect_right(ends, start), bisect_left(ends, stop) + 1))
                if not everything:
                    break
        self._report("compared", nbytes)
        return differs

    def _choose_files(self, buffers: WorkerBuffers) -> None:
        first = self.parts[0]
        buffers.seen.files.choose(first.seen.checkpoint, first.seen.entry.shard)
        buffers.expected.files.choose(first.expected.checkpoint, first.expected.entry.shard)

    def _report(self, how: Literal["compared", "linked", "cloned"], nbytes: int) -> None:
        if (meter := self.parts[0].comparison.meter) is not None:
            meter.add(how, nbytes)


def same_file_bytes(
    seen: StoredTensor, expected: StoredTensor, clones: Clones = ()
) -> Literal["linked", "cloned"] | None:
    """Return why both are the same bytes without being read: one file by a link, or an untouched clone; else None."""
    left, right = seen.flat(), expected.flat()
    if left is None or right is None or _start(left) != _start(right):
        return None
    if left.checkpoint.in_pieces or right.checkpoint.in_pieces:
        return None
    try:
        result, base = (os.stat(part.checkpoint.local(part.entry.shard)) for part in (left, right))
    except OSError:  # reading it will tell why
        return None
    if os.path.samestat(result, base):
        return "linked"
    return "cloned" if (file_state(base), file_state(result)) in clones else None


def compare_all(
    comparisons: Iterable[ByteComparison],
    then: Iterable[VerifyJob] = (),
    everything: bool = True,
    clones: Clones = (),
) -> None:
    """Make comparisons, in the order of the files of what is seen, then other jobs; each notes its differences.

    What both sides have of one file, by a link, isn't read, and is counted apart; nor are ``clones`` that nobody has
    written to.

    Raises:
        CheckpointError: a file can't be read, or changes while it is.
    """
    ranges, scattered = _divided(comparisons)
    jobs = (each.jobs(clones, everything) for each in ranges)
    run_jobs(chain(*jobs, *(comparison.jobs() for comparison in scattered), then), everything)
    differing = [replace(each.parts[k].comparison, meter=None) for each in ranges for k in sorted(each.differing)]
    run_jobs(chain.from_iterable(comparison.jobs() for comparison in differing), everything)
    if differing and not any(comparison.diff.first for comparison in differing):
        tensors = [comparison.seen for comparison in differing if isinstance(comparison.seen, StoredTensor)]
        named = ", ".join(f"{part.checkpoint.root / part.entry.shard}: {part.entry.name}" for part in tensors)
        raise CheckpointError(
            f"{named}: the bytes differed when they were read first, and no longer when they were read "
            "again. Something writes to the files, or the disk or the memory can't be trusted."
        )


def _divided(comparisons: Iterable[ByteComparison]) -> tuple[list[_ByteRange], list[ByteComparison]]:
    """Return what lies one after another in both files, in the order of what is seen, and the other comparisons."""
    flat: list[_FlatComparison] = []
    scattered: list[ByteComparison] = []
    for comparison in comparisons:
        seen, expected = comparison.seen.flat(), comparison.expected.flat()
        if isinstance(seen, StoredTensor) and isinstance(expected, StoredTensor):
            flat.append(_FlatComparison(comparison, seen, expected))
        else:
            scattered.append(comparison)
    turns: dict[int, int] = {}
    for each in flat:
        turns.setdefault(id(each.seen.checkpoint), len(turns))
    flat.sort(key=lambda each: (turns[id(each.seen.checkpoint)], each.seen.entry.shard, each.starts[0]))
    groups: list[list[_FlatComparison]] = []
    for each in flat:
        if groups and each.follows(groups[-1][-1]):
            groups[-1].append(each)
        else:
            groups.append([each])
    return [_ByteRange(tuple(parts)) for parts in groups], scattered


def _start(part: StoredTensor) -> int:
    assert isinstance(part.region, Box)
    return part.entry.start + part.region.start[0] * part.width
