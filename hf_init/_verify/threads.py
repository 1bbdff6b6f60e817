"""Jobs done by all cores, handed out in order, so that what is found first doesn't depend on who was quickest."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import chain, islice
from threading import Lock
from typing import TypeAlias

from hf_init._verify.regions import ReadBuffer

_MOST_THREADS = 16  # more wait for each other's memory bandwidth, and each has buffers of its own


class WorkerBuffers:
    """What one thread works with: a hand for what is seen, one for what is expected."""

    def __init__(self) -> None:
        self.seen, self.expected = ReadBuffer(), ReadBuffer()

    def __enter__(self) -> WorkerBuffers:
        return self

    def __exit__(self, *_: object) -> None:
        self.seen.files.close()
        self.expected.files.close()


VerifyJob: TypeAlias = Callable[[WorkerBuffers], bool]
"""Does some work; returns whether it found a difference."""


@dataclass
class VerifyMeter:
    """Counts the bytes that are done, and tells ``progress`` each step, one thread at a time.

    Attributes:
        linked: those that were not read, as both sides are one file.
        shared: those that were not read, as both sides lie in the same blocks of the disk.
    """

    progress: Callable[[int], object] | None = None
    compared: int = 0
    digested: int = 0
    linked: int = 0
    shared: int = 0
    _lock: Lock = field(default_factory=Lock, repr=False, compare=False)

    def compare(self, nbytes: int) -> None:
        with self._lock:
            self.compared += nbytes
            self._tell(nbytes)

    def digest(self, nbytes: int) -> None:
        with self._lock:
            self.digested += nbytes
            self._tell(nbytes)

    def link(self, nbytes: int) -> None:
        with self._lock:
            self.linked += nbytes
            self._tell(nbytes)

    def share(self, nbytes: int) -> None:
        with self._lock:
            self.shared += nbytes
            self._tell(nbytes)

    def _tell(self, nbytes: int) -> None:
        if self.progress is not None:
            self.progress(nbytes)


class _Queue:
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
    queue, many = _Queue(chain(first, jobs)), threads or min(_cores(), _MOST_THREADS)
    if len(first) < 2 or many == 1:  # nothing to share: no thread is worth its start
        _worker(queue, everything)
        return
    with ThreadPoolExecutor(many) as pool:
        try:
            for done in [pool.submit(_worker, queue, everything) for _ in range(many)]:
                done.result()
        finally:  # an interrupt, too, must not wait for all that is left
            queue.close()


def _worker(queue: _Queue, everything: bool) -> None:
    try:
        with WorkerBuffers() as desk:
            for job in queue:
                if job(desk) and not everything:
                    break
            else:
                return
    finally:
        queue.close()


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
