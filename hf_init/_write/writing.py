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
from hf_init._tensors import Context, num_elements
from hf_init._write.copying import copy_file, link_file, same_file
from hf_init._write.files import Link, OutputFile, bytes_written, index_text, plan_files
from hf_init._write.filling import Digests, OutputTarget, fill_kept, fill_new, is_filled
from hf_init._write.journal import Journal, job_of, open_journal
from hf_init._write.sharing import aligned, block_shared
from hf_init._write.source_watch import check_changed, source_state
from hf_init._write.stage import StagingDir, nearest_folder

Progress = Callable[[int], object]

_COPIERS = 4  # threads that copy: more than a disk needs
_AT_ONCE = 256 << 20  # the bytes of new regions, in float32, that are made side by side; a larger one is made alone


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
    progress: Progress = lambda done: None,
    say: Callable[[str], object] = lambda text: None,
) -> dict[str, list[str]]:
    """Writes the tensors of a plan into a staged folder; returns the digests of every new region.

    Memory holds the largest new region, or several that are smaller than 256 MiB together; what is kept passes through
    it in blocks.

    Args:
        link: how a file that stays as it is gets there: ``copy``, ``hard``, ``symbolic``.
        max_bytes: of one file; None keeps the source's own division.
        identity: what decides the new values besides the plan, such as the config: a resumed run has the same.
        progress: called with the bytes done since it was last called, by one thread at a time.
        say: told what became of a run to be resumed.

    Raises:
        ProofError: the source repeats a tied tensor with other values.
        CheckpointError: the source can't be read, or changed meanwhile.
        OSError: a file can't be written; ``staged`` explains it.
    """
    files = plan_files(plan, source, link=link, max_bytes=max_bytes)
    files = aligned(files, source, block_shared(files, source, stage.folder))
    seen = source_state(source)
    stage.before_commit.append(partial(check_changed, seen))
    job = job_of(plan, files, source, seen, f"{link} {identity}")
    journal = open_journal(stage.journal, stage.folder, job, stage.resume, say)
    with Reader(source) as reader:
        prove_duplicates(plan, reader)
        made = _Work(plan.seed, source, reader, stage, context, link, journal, WriteMeter(progress)).run(files)
    if len(files) > 1:
        (stage.folder / INDEX).write_text(index_text(files, total_parameters), encoding="utf-8")
    check_changed(seen)
    return made


def room_needed(files: Sequence[OutputFile], source: Checkpoint, link: Link, out: Path) -> int:
    """The bytes that the files take at their place: none for a link, nor for a copy that shares its blocks there.

    Raises:
        CheckpointError: a file's values aren't here.
    """
    block = block_shared(files, source, nearest_folder(out))
    return bytes_written(aligned(files, source, block), source, "hard" if block else link)


class Stopped(Exception):
    """Another thread has failed."""


class WriteMeter:
    """Tells of the bytes done, one thread at a time, until something fails."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._lock = Lock()
        self.cause: BaseException | None = None

    def __call__(self, done: int) -> None:
        with self._lock:
            self.go_on()
            self._progress(done)

    def go_on(self) -> None:
        """Raises Stopped if another thread has failed."""
        if self.cause is not None:
            raise Stopped

    @contextmanager
    def watching(self) -> Iterator[None]:
        """The first failure of any thread stops the others, and is the one that is raised."""
        try:
            yield
        except BaseException as error:
            with self._lock:
                self.cause = self.cause or error
            if self.cause is error:
                raise
            raise self.cause from None


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


Copied: TypeAlias = "Future[Digests | None]"
"""That what is kept of a file is in its place; of a file that was whole already, the digests of what is new in it."""

Drawn: TypeAlias = "dict[str, Future[list[str]]]"
"""The digests of the new regions of each tensor, once they are in the file."""


@dataclass(frozen=True)
class _Work:
    """What the threads have in common."""

    seed: int
    source: Checkpoint
    reader: Reader
    stage: StagingDir
    context: Context | None
    link: Link
    journal: Journal
    told: WriteMeter
    budget: Budget = field(default_factory=lambda: Budget(_AT_ONCE))

    def run(self, files: Sequence[OutputFile]) -> dict[str, list[str]]:
        made: dict[str, list[str]] = {}
        copiers = ThreadPoolExecutor(min(_COPIERS, os.cpu_count() or 1))
        painters = ThreadPoolExecutor(os.cpu_count())
        with copiers, painters, self.told.watching():
            begun = [copiers.submit(self._begin, file) for file in files]
            drawn = [self._draw(file, copied, painters) for file, copied in zip(files, begun, strict=True)]
            for file, copied, waiting in zip(files, begun, drawn, strict=True):
                made.update(self._finish(file, copied, waiting))
        return made

    def _begin(self, file: OutputFile) -> Digests | None:
        """What is kept of a file, in its place; of a file that is whole already, the digests of what is new in it."""
        with self.told.watching():
            self.told.go_on()
            path = self.stage.folder / file.name
            if file.name in self.journal.finished and self._is_whole(file, path):
                self.told(file.nbytes)
                return self.journal.finished[file.name]
            path.unlink(missing_ok=True)
            if file.carried:
                self._carry(file, path)
            else:
                fill_kept(file, self.stage.folder, self.source, self.told)
                self.stage.flush(path)  # the disk takes what is kept while what is new is drawn
            return None

    def _draw(self, file: OutputFile, copied: Copied, painters: ThreadPoolExecutor) -> Drawn:
        """Begins with what is new in a file, while its kept bytes are still being copied."""
        fresh = (tensor for tensor in file.tensors if tensor.new and not _asks(tensor))
        return {tensor.name: painters.submit(self._paint, tensor, file, copied) for tensor in fresh}

    def _finish(self, file: OutputFile, copied: Copied, waiting: Drawn) -> Digests:
        """What is new in a file, too. Schemes that ask the architecture take turns, here in the caller's own thread."""
        digests = copied.result()
        if digests is None:
            fresh = [tensor for tensor in file.tensors if tensor.new]
            asked = {t.name: self._paint(t, file, copied) for t in fresh if _asks(t)}
            digests = {t.name: asked[t.name] if _asks(t) else waiting[t.name].result() for t in fresh}
            self.journal.add(file, digests)
        if file.carried is None:
            self.stage.flush(self.stage.folder / file.name)
        return digests

    def _paint(self, tensor: TensorPlan, file: OutputFile, copied: Copied) -> list[str]:
        """Draws a tensor's new regions, and puts them in the file once what is kept of it is there."""
        largest = max(4 * num_elements(fill.region.shape) for fill in tensor.new)
        with self.told.watching():
            self.told.go_on()
            if file.name in self.journal.finished and copied.result() is not None:
                return []  # the file was whole already
            with self.budget.taken(largest):
                target = OutputTarget(self.stage.folder / file.name, file, copied.result)
                return fill_new(tensor, target, self.reader, self.seed, self.context, self.told)

    def _carry(self, file: OutputFile, path: Path) -> None:
        origin, size = self._origin(file)
        if self.link == "copy":
            copy_file(origin, path, self.told, header=size - file.nbytes)
            self.stage.flush(path)
        else:
            link_file(origin, path, self.link)
            self.told(file.nbytes)

    def _is_whole(self, file: OutputFile, path: Path) -> bool:
        if file.carried is None:
            return is_filled(file, self.stage.folder, self.source, self.journal.finished[file.name])
        return self.link == "copy" and same_file(self._origin(file)[0], path)

    def _origin(self, file: OutputFile) -> tuple[Path, int]:
        """Of a file that is carried over: where it comes from, and its bytes."""
        assert file.carried is not None
        return self.source.local(file.carried), self.source.by_shard[file.carried].size


def _asks(tensor: TensorPlan) -> bool:
    return any(fill.scheme.needs_model for fill in tensor.new)
