"""Neighbours in both files compared as one stretch of bytes; only where it differs, tensor by tensor."""

from __future__ import annotations

import os
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain, islice

from hf_init._errors import CheckpointError
from hf_init._tensors import Box
from hf_init._verify.compare import TOGETHER, ByteComparison, same_bytes
from hf_init._verify.regions import StoredTensor, region_cuts
from hf_init._verify.shared_blocks import Blocks
from hf_init._verify.threads import VerifyJob, VerifyMeter, WorkerBuffers, run_jobs


@dataclass(frozen=True)
class _Run:
    """A comparison of elements that lie one after another in both files: in which, from which bytes on, how many."""

    comparison: ByteComparison
    seen: StoredTensor
    expected: StoredTensor
    files: tuple[object, ...]
    starts: tuple[int, int]
    nbytes: int

    @classmethod
    def of(cls, comparison: ByteComparison, seen: StoredTensor, expected: StoredTensor) -> _Run:
        files = (id(seen.checkpoint), seen.entry.shard, id(expected.checkpoint), expected.entry.shard)
        starts = (_start(seen), _start(expected))
        return cls(comparison, seen, expected, (*files, id(comparison.meter)), starts, seen.shape[0] * seen.width)


@dataclass(frozen=True)
class _Stretch:
    """Runs that follow each other in both files, and those of them in which a byte was found to differ."""

    runs: tuple[_Run, ...]
    doubted: set[int] = field(default_factory=set)

    def jobs(self, blocks: Blocks | None, everything: bool) -> Iterator[VerifyJob]:
        run = self.runs[0]
        ends = [each.starts[0] - run.starts[0] + each.nbytes for each in self.runs]
        seen, expected = (side.checkpoint.local(side.entry.shard) for side in (run.seen, run.expected))
        if are_one(run.seen, run.expected):
            yield partial(self._pass, ends[-1], VerifyMeter.link)
            return
        done = 0
        shared = [] if blocks is None else blocks.common((seen, expected), run.starts, ends[-1])
        for start, stop in (*shared, (ends[-1], ends[-1])):
            stretch = region_cuts(run.starts[0] + done, start - done) if start > done else iter(())
            while batch := [(done + first, done + last) for first, last in islice(stretch, TOGETHER)]:
                yield partial(self._compare, batch, ends, everything)
            if start < stop:
                yield partial(self._pass, stop - start, VerifyMeter.share)
            done = stop

    def _pass(self, nbytes: int, count: Callable[[VerifyMeter, int], None], desk: WorkerBuffers) -> bool:
        """That both files are there, and as long as they were: no reading could find a difference."""
        run = self.runs[0]
        desk.seen.files.choose(run.seen.checkpoint, run.seen.entry.shard)
        desk.expected.files.choose(run.expected.checkpoint, run.expected.entry.shard)
        if run.comparison.meter is not None:
            count(run.comparison.meter, nbytes)
        return False

    def _compare(self, batch: list[tuple[int, int]], ends: list[int], everything: bool, desk: WorkerBuffers) -> bool:
        run, found, done = self.runs[0], False, 0
        (seen, here), (expected, there) = zip((desk.seen, desk.expected), run.starts, strict=True)
        seen.files.choose(run.seen.checkpoint, run.seen.entry.shard)
        expected.files.choose(run.expected.checkpoint, run.expected.entry.shard)
        for start, stop in batch:
            done += stop - start
            if not same_bytes(seen.take(here + start, stop - start), expected.take(there + start, stop - start)):
                found = True
                self.doubted.update(range(bisect_right(ends, start), bisect_left(ends, stop) + 1))
                if not everything:
                    break
        if run.comparison.meter is not None:
            run.comparison.meter.compare(done)
        return found


def are_one(seen: StoredTensor, expected: StoredTensor) -> bool:
    """Whether both are the same bytes of one file, by a link: no reading could find a difference."""
    left, right = seen.flat(), expected.flat()
    if left is None or right is None or _start(left) != _start(right):
        return False
    a, b = (part.checkpoint.local(part.entry.shard) for part in (left, right))
    return a.exists() and b.exists() and os.path.samefile(a, b)


def compare_all(
    comparisons: Iterable[ByteComparison],
    then: Iterable[VerifyJob] = (),
    everything: bool = True,
    blocks: Blocks | None = None,
) -> None:
    """Make comparisons, in the order of the files of what is seen, then other jobs; differences go to the tallies.

    What both sides have of one file, by a link, isn't read, and is counted apart; with ``blocks``, what lies in the
    same blocks of the disk isn't either.

    Raises:
        CheckpointError: a file can't be read, or changes while it is.
    """
    runs, loose = _runs(comparisons)
    stretches = [_Stretch(tuple(group)) for group in _neighbours(_in_order(runs))]
    jobs = (stretch.jobs(blocks, everything) for stretch in stretches)
    run_jobs(chain(*jobs, *(comparison.jobs() for comparison in loose), then), everything)
    doubted = [replace(s.runs[k].comparison, meter=None) for s in stretches for k in sorted(s.doubted)]
    run_jobs(chain.from_iterable(comparison.jobs() for comparison in doubted), everything)
    if doubted and not any(comparison.tally.first for comparison in doubted):
        raise CheckpointError(
            f"{_names(doubted)}: the bytes differed when they were read first, and no longer when they were read "
            "again. Something writes to the files, or the disk or the memory can't be trusted."
        )


def _names(comparisons: Sequence[ByteComparison]) -> str:
    parts = [comparison.seen for comparison in comparisons if isinstance(comparison.seen, StoredTensor)]
    return ", ".join(f"{part.checkpoint.root / part.entry.shard}: {part.entry.name}" for part in parts)


def _runs(comparisons: Iterable[ByteComparison]) -> tuple[list[_Run], list[ByteComparison]]:
    """Those that are runs in both files, and the rest."""
    runs: list[_Run] = []
    loose: list[ByteComparison] = []
    for comparison in comparisons:
        seen, expected = comparison.seen.flat(), comparison.expected.flat()
        if isinstance(seen, StoredTensor) and isinstance(expected, StoredTensor):
            runs.append(_Run.of(comparison, seen, expected))
        else:
            loose.append(comparison)
    return runs, loose


def _in_order(runs: Iterable[_Run]) -> list[_Run]:
    """As they lie in the files of what is seen, checkpoint by checkpoint."""
    turns: dict[int, int] = {}
    keyed = [
        (turns.setdefault(id(run.seen.checkpoint), len(turns)), run.seen.entry.shard, run.starts[0], number, run)
        for number, run in enumerate(runs)
    ]
    return [run for *_, run in sorted(keyed)]


def _neighbours(runs: Iterable[_Run]) -> Iterator[list[_Run]]:
    group: list[_Run] = []
    for run in runs:
        if group and not _follows(run, group[-1]):
            yield group
            group = []
        group.append(run)
    if group:
        yield group


def _follows(run: _Run, before: _Run) -> bool:
    return run.files == before.files and run.starts == tuple(start + before.nbytes for start in before.starts)


def _start(part: StoredTensor) -> int:
    box = part.region
    assert isinstance(box, Box)
    return part.entry.start + box.start[0] * part.width
