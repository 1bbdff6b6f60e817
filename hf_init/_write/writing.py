"""The files of a plan, written by all cores: what is kept by some threads, what is new by others, in bounded memory."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from threading import Condition, Lock
from typing import TypeAlias

from hf_init._checkpoint import INDEX, Checkpoint, Reader
from hf_init._fill import prove_duplicates
from hf_init._plan import Plan, TensorPlan
from hf_init._progress import Progress, no_progress
from hf_init._tensors import Context, num_elements
from hf_init._verify import FileState
from hf_init._write.copying import can_clone, copy_file, link_file, same_file
from hf_init._write.files import Link, OutputFile, bytes_written, index_text, plan_files
from hf_init._write.filling import Digests, OutputTarget, fill_kept, fill_new, is_filled
from hf_init._write.journal import Journal, job_of, open_journal
from hf_init._write.source_watch import check_changed, source_state
from hf_init._write.stage import StagingDir, nearest_folder

_COPY_THREADS = 4  # more than a disk needs
_FILL_BYTES = 256 << 20  # of new regions, in float32, that are made side by side; a larger one is made alone


@dataclass(frozen=True)
class WrittenFiles:
    """What is known of files that were just written.

    Attributes:
        digests: tensor -> SHA-256 of each of its new regions.
        clones: the states of each file that the system cloned whole: of the source before, of the copy after that.
    """

    digests: dict[str, list[str]]
    clones: frozenset[tuple[FileState, FileState]]


def write(
    plan: Plan,
    source: Checkpoint,
    stage: StagingDir,
    context: Context | None = None,
    *,
    link: Link = "copy",
    max_bytes: int | None = None,
    total_parameters: int | None = None,
    identity: str = "",
    progress: Progress = no_progress,
    log: Callable[[str], object] = lambda message: None,
) -> WrittenFiles:
    """Write the tensors of a plan into a staged folder.

    Memory holds the largest new region, or several that are smaller than 256 MiB together; what is kept passes through
    it in blocks.

    Args:
        link: how a file that stays as it is gets there: ``copy``, ``hard``, ``symbolic``.
        max_bytes: of one file; None keeps the source's own division.
        identity: what decides the new values besides the plan, such as the config: a resumed run has the same.
        progress: called with the bytes done since it was last called, by one thread at a time.
        log: called with what became of a run to be resumed.

    Raises:
        ProofError: the source repeats a tied tensor with other values.
        CheckpointError: the source can't be read, or changed meanwhile.
        OSError: a file can't be written; ``staged`` explains it.
    """
    files = plan_files(plan, source, link=link, max_bytes=max_bytes)
    state = source_state(source)
    stage.before_commit.append(partial(check_changed, state))
    job = job_of(plan, files, source, state, f"{link} {identity}")
    journal = open_journal(stage.journal, stage.folder, job, stage.resume, log)
    with Reader(source) as reader:
        prove_duplicates(plan, reader)
        work = _WriteWork(plan.seed, source, reader, stage, context, link, journal, WriteMeter(progress))
        digests = work.run(files)
    if len(files) > 1:
        (stage.folder / INDEX).write_text(index_text(files, total_parameters), encoding="utf-8")
    check_changed(state)
    return WrittenFiles(digests, frozenset(work.clones))


def room_needed(files: Sequence[OutputFile], source: Checkpoint, link: Link, out: Path) -> int:
    """Return the bytes that the files take at their place: a link and a clone take none.

    Raises:
        CheckpointError: a file's values aren't here.
    """
    carried = [source.local(file.carried) for file in files if file.carried is not None]
    one_a_folder = {path.parent: path for path in carried}.values()
    clones = bool(carried) and all(can_clone(path, nearest_folder(out)) for path in one_a_folder)
    return bytes_written(files, source, "hard" if clones else link)


class Stopped(Exception):
    """Another thread has failed."""


class WriteMeter:
    """Reports the bytes done, one thread at a time, until a thread fails: then it stops the others."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._lock = Lock()
        self._cause: BaseException | None = None

    def __call__(self, nbytes: int) -> None:
        with self._lock:
            self.check_running()
            self._progress(nbytes)

    def check_running(self) -> None:
        """Raise Stopped if another thread has failed."""
        if self._cause is not None:
            raise Stopped

    def __enter__(self) -> None:
        """Begin what a thread does."""

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        """Let the first failure of any thread stop the others, and be the one that is raised."""
        if error is None:
            return
        with self._lock:
            self._cause = self._cause or error
        if self._cause is not error:
            raise self._cause from None


class Budget:
    """Memory that threads share: who needs more than there is waits, or has it all."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._used = 0
        self._changed = Condition()

    @contextmanager
    def taken(self, size: int) -> Iterator[None]:
        with self._changed:
            self._changed.wait_for(lambda: not self._used or self._used + size <= self._limit)
            self._used += size
        try:
            yield
        finally:
            with self._changed:
                self._used -= size
                self._changed.notify_all()


_Copied: TypeAlias = "Future[Digests | None]"
"""Done when what is kept of a file is in it; the digests of what is new in a file that was whole already."""

_Filled: TypeAlias = "dict[str, Future[list[str]]]"
"""The digests of the new regions of each tensor, done when they are in the file."""


@dataclass(frozen=True)
class _WriteWork:
    """What the threads have in common."""

    seed: int
    source: Checkpoint
    reader: Reader
    stage: StagingDir
    context: Context | None
    link: Link
    journal: Journal
    meter: WriteMeter
    budget: Budget = field(default_factory=lambda: Budget(_FILL_BYTES))
    clones: set[tuple[FileState, FileState]] = field(default_factory=set)

    def run(self, files: Sequence[OutputFile]) -> dict[str, list[str]]:
        digests: dict[str, list[str]] = {}
        copy_pool = ThreadPoolExecutor(min(_COPY_THREADS, os.cpu_count() or 1))
        fill_pool = ThreadPoolExecutor(os.cpu_count())
        with copy_pool, fill_pool, self.meter:
            copied = [copy_pool.submit(self._copy_kept, file) for file in files]
            filled: list[_Filled] = []
            for file, done in zip(files, copied, strict=True):  # while their kept bytes are still being copied
                new = (tensor for tensor in file.tensors if tensor.new and not tensor.needs_model)
                filled.append({tensor.name: fill_pool.submit(self._fill, tensor, file, done) for tensor in new})
            for each in zip(files, copied, filled, strict=True):
                digests.update(self._finish(*each))
        return digests

    def _copy_kept(self, file: OutputFile) -> Digests | None:
        """Bring what is kept of a file to its place; return the digests of what is new if the file is whole already."""
        with self.meter:
            self.meter.check_running()
            path = self.stage.folder / file.name
            if file.name in self.journal.finished and self._is_whole(file, path):
                self.meter(file.nbytes)
                return self.journal.finished[file.name]
            path.unlink(missing_ok=True)
            if file.carried is not None:
                self._copy_unchanged(file, file.carried, path)
            else:
                fill_kept(file, self.stage.folder, self.source, self.meter)
                self.stage.flush(path)  # the disk takes what is kept while what is new is drawn
            return None

    def _finish(self, file: OutputFile, copied: _Copied, filled: _Filled) -> Digests:
        """Wait for a file; schemes that need the model take turns, here in the caller's own thread."""
        digests = copied.result()
        if digests is None:
            new = [tensor for tensor in file.tensors if tensor.new]
            by_model = {t.name: self._fill(t, file, copied) for t in new if t.needs_model}
            digests = {t.name: by_model[t.name] if t.name in by_model else filled[t.name].result() for t in new}
            self.journal.add(file, digests)
        if file.carried is None:
            self.stage.flush(self.stage.folder / file.name)
        return digests

    def _fill(self, tensor: TensorPlan, file: OutputFile, copied: _Copied) -> list[str]:
        """Draw a tensor's new regions, and put them in the file once what is kept of it is there."""
        largest = max(4 * num_elements(fill.region.shape) for fill in tensor.new)
        with self.meter:
            self.meter.check_running()
            if file.name in self.journal.finished and copied.result() is not None:
                return []  # the file was whole already
            with self.budget.taken(largest):
                target = OutputTarget(self.stage.folder / file.name, file, copied.result)
                return fill_new(tensor, target, self.reader, self.seed, self.context, self.meter)

    def _copy_unchanged(self, file: OutputFile, shard: str, path: Path) -> None:
        origin = self.source.local(shard)
        if self.link != "copy":
            link_file(origin, path, self.link)
            self.meter(file.nbytes)
            return
        header = self.source.by_shard[shard].size - file.nbytes
        if clone := copy_file(origin, path, self.meter, header):
            self.clones.add(clone)
        self.stage.flush(path)

    def _is_whole(self, file: OutputFile, path: Path) -> bool:
        if path.is_symlink() or not path.is_file():
            return False
        if file.carried is None:
            return is_filled(file, self.stage.folder, self.source, self.journal.finished[file.name])
        return self.link == "copy" and same_file(self.source.local(file.carried), path)
