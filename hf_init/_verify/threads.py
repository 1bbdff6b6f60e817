"""Jobs done by all cores, handed out in order, so that what is found first doesn't depend on who was quickest."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import chain, islice
from threading import Lock
from typing import Literal, TypeAlias

from hf_init._progress import Progress, no_progress
from hf_init._verify.regions import ReadBuffer

_MOST_THREADS = 16  # more wait for each other's memory bandwidth, and each has buffers of its own

ProofKind: TypeAlias = Literal["compared", "digested", "linked", "cloned"]


class WorkerBuffers:
    """What one thread reads into: a buffer for what is seen, one for what is expected."""

    def __init__(self) -> None:
        self.seen, self.expected = ReadBuffer(), ReadBuffer()

    def __enter__(self) -> WorkerBuffers:
        return self

    def __exit__(self, *_: object) -> None:
        self.seen.files.close()
        self.expected.files.close()


VerifyJob: TypeAlias = Callable[[WorkerBuffers], bool]
"""Does some work; returns whether it found a difference."""


class VerifyMeter:
    """Counts the bytes that are done, by how they were proved, and reports each step, one thread at a time.

    Attributes:
        nbytes: bytes ``compared`` or ``digested``, and not read because they are ``linked`` or ``cloned``.
    """

    def __init__(self, progress: Progress | None = None) -> None:
        self.nbytes: Counter[ProofKind] = Counter()
        self._progress = progress or no_progress
        self._lock = Lock()

    def add(self, kind: ProofKind, nbytes: int) -> None:
        with self._lock:
            self.nbytes[kind] += nbytes
            self._progress(nbytes)

    def counting(self, kind: ProofKind) -> Progress:
        """Return a callback that adds to one kind."""
        return partial(self.add, kind)


class _JobQueue:
    """Hands jobs to threads, in order, until one says that it is enough."""

    def __init__(self, jobs: Iterable[VerifyJob]) -> None:
        self._jobs, self._lock = iter(jobs), Lock()
        self._closed = False

    def __iter__(self) -> Iterator[VerifyJob]:
        while (job := self._next()) is not None:
            yield job

    def close(self) -> None:
        self._closed = True

    def _next(self) -> VerifyJob | None:
        with self._lock:
            return None if self._closed else next(self._jobs, None)


def run_jobs(jobs: Iterable[VerifyJob], everything: bool = True, threads: int | None = None) -> None:
    """Do jobs on all cores.

    Args:
        jobs: made when their turn comes.
        everything: else no further one is begun when one has found a difference; those before it are finished.
        threads: by default as many as the process may use cores.

    Raises:
        Whatever a job raises; the others are not begun.
    """
    jobs = iter(jobs)
    first = list(islice(jobs, 2))
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    queue, num_threads = _JobQueue(chain(first, jobs)), threads or min(cores, _MOST_THREADS)
    if len(first) < 2 or num_threads == 1:  # nothing to share: no thread is worth its start
        _work_off(queue, everything)
        return
    with ThreadPoolExecutor(num_threads) as pool:
        try:
            for done in [pool.submit(_work_off, queue, everything) for _ in range(num_threads)]:
                done.result()
        finally:  # an interrupt, too, must not wait for all that is left
            queue.close()


def _work_off(queue: _JobQueue, everything: bool) -> None:
    try:
        with WorkerBuffers() as buffers:
            for job in queue:
                if job(buffers) and not everything:
                    break
            else:
                return
    finally:
        queue.close()
