"""Where a result is until it is whole: a folder beside its place that takes its name at the end, or goes."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from safetensors import SafetensorError

from hf_init._errors import HfInitError, PlanError, option
from hf_init._text import format_bytes
from hf_init._write.lock import LOCK, check_busy, clear_folder, discard, hold_lock, is_left

WORK = ".hf_init"
"""In a result that is written in place: the folder whose lock says that it isn't whole yet."""

_FLUSH_THREADS = 4  # they wait for the disk: it brings down together what is asked for at once
_INTERRUPTIONS = (OSError, KeyboardInterrupt)
_NO_RENAME = (errno.EPERM, errno.EACCES, errno.EXDEV, errno.EBUSY, errno.EINVAL, errno.ENOSYS, errno.ENOTSUP)


@dataclass(frozen=True)
class StagingDir(os.PathLike[str]):
    """A result in the making.

    Attributes:
        folder: where its files go.
        work: the folder that is ours alone, with the lock and the journal.
        resume: whether what an interrupted run left is still there, to go on with.
        before_commit: called when everything is written and proved; what it raises stops the result.
    """

    folder: Path
    work: Path
    resume: bool = False
    before_commit: list[Callable[[], object]] = field(default_factory=list)
    _pool: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(_FLUSH_THREADS), repr=False)
    _flushes: list[Future[None]] = field(default_factory=list, repr=False)

    def __fspath__(self) -> str:
        return str(self.folder)

    @property
    def journal(self) -> Path:
        return self.work / "hf_init.journal"

    @property
    def in_place(self) -> bool:
        return self.work.parent == self.folder

    def prepare(self, out: Path, needed: int) -> None:
        """Make the folders, without what another way of writing left there, nor this one's own if it isn't resumed."""
        if self.in_place:
            _discard_renamed(out)
        elif (out / WORK).is_dir():
            with hold_lock(out / WORK):
                clear_folder(out, keep=WORK)
                discard(out / WORK)
        if not self.resume:
            clear_folder(self.work)
            if self.in_place:
                clear_folder(self.folder, keep=WORK)
        self.folder.mkdir(exist_ok=True)
        _fsync(self.work)
        _fsync(self.work.parent)
        needed -= sum(512 * path.stat().st_blocks for path in _real_paths(self.folder))
        free = shutil.disk_usage(nearest_folder(out)).free
        if free < needed:
            raise PlanError(
                f"no space for {out}: {format_bytes(needed)} needed, {format_bytes(free)} free; make "
                "room, or give another place"
            )

    def flush(self, path: Path) -> None:
        """Begin to bring a file down to the disk itself, while other work goes on; ``stage_result`` waits for it."""
        self._flushes.append(self._pool.submit(_fsync, path))

    def settle(self) -> None:
        """Bring every file and folder down to the disk, and check that nothing has changed that mustn't."""
        for path in (*_real_paths(self.folder), self.folder):
            self.flush(path)
        for flushed in self._flushes:
            flushed.result()
        for check in self.before_commit:
            check()

    def commit(self, out: Path) -> None:
        """Take the one step that makes it a result: it gets its name, or its lock goes."""
        if self.in_place:
            discard(self.work)
            _fsync(out)
            return
        try:
            self.folder.rename(out)
        except OSError as error:
            if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                raise PlanError(f"{out} appeared while the result was written; it was left as it is") from error
            if error.errno in _NO_RENAME:
                raise PlanError(
                    f"{out}: the system doesn't let the finished folder take its name ({error.strerror}), as on some "
                    f"network mounts; write it in place with {option('rename', False)}"
                ) from error
            raise
        _fsync(out.parent)
        discard(self.work)

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)


@contextmanager
def stage_result(out: Path, needed: int, *, resume: bool = False, rename: bool = True) -> Iterator[StagingDir]:
    """Make a folder that becomes ``out`` at the end, or disappears with whatever went wrong.

    Args:
        out: where the result is to be.
        needed: its bytes.
        resume: go on with what an interrupted run to the same place left, and leave the same to the next run where this
            one is interrupted.
        rename: write beside ``out`` and rename at the end. Else write in place: there is a manifest last of all, and a
            lock until the result is proved.

    Raises:
        PlanError: ``out`` exists and isn't an empty folder, another run writes it, or there is no room.
        HfInitError: a file can't be written.
    """
    check_existing(out)
    work = _work_folder(out, rename)
    with _explained(out, kept=work if resume else None), _parents(work), hold_lock(work):
        stage, stays = StagingDir(work / "result" if rename else out, work, resume), False
        try:
            stage.prepare(out, needed)
            yield stage
            stage.settle()
            stage.commit(out)
            stays = True
        except _INTERRUPTIONS:
            stays = resume
            raise
        finally:
            stage.close()
            if not stays:
                if stage.in_place:
                    clear_folder(stage.folder, keep=WORK)
                discard(stage.work)


def check_existing(out: Path) -> None:
    """Raise PlanError unless ``out`` is free: missing where a folder can be made, empty, or left by a dead run."""
    if os.path.lexists(out) and not out.is_dir():
        what = "is a link that leads nowhere" if out.is_symlink() else "exists and isn't a folder"
        raise PlanError(f"{out} {what}; give another place for the result")
    unfinished = (out / WORK / LOCK).is_file()  # written in place by a run that died
    if out.exists() and not unfinished and any(path.name != WORK or not is_left(path) for path in out.iterdir()):
        _discard_renamed(out)
        raise PlanError(f"{out} exists and isn't empty; remove it, or give another place for the result")
    parent = nearest_folder(out)
    if not parent.is_dir():
        raise PlanError(f"{parent} isn't a folder, so {out} can't lie in it; give another place for the result")
    for rename in (True, False):
        check_busy(_work_folder(out, rename))


def nearest_folder(out: Path) -> Path:
    """Return the innermost folder above ``out`` that is there."""
    return next(parent for parent in out.absolute().parents if os.path.lexists(parent))


def _work_folder(out: Path, rename: bool) -> Path:
    return out.parent / f".{out.name}.hf_init" if rename else out / WORK


def _discard_renamed(out: Path) -> None:
    """Remove what a run to ``out`` that died has left beside a result, if no other run holds it."""
    work = _work_folder(out, True)
    with suppress(PlanError, OSError):
        if is_left(work):
            with hold_lock(work):
                discard(work)
    with suppress(OSError):  # of a result in place, the empty rest
        (out / WORK).rmdir()


@contextmanager
def _parents(work: Path) -> Iterator[None]:
    """Make the folders above the one to work in; those that weren't there go again when the result doesn't come."""
    missing = [parent for parent in work.absolute().parents if not parent.exists()]
    try:
        work.parent.mkdir(parents=True, exist_ok=True)
        yield
    finally:
        for parent in missing:
            with suppress(OSError):  # not empty: the result, or somebody else's file, is in it
                parent.rmdir()


@contextmanager
def _explained(out: Path, kept: Path | None) -> Iterator[None]:
    """Give the system's own errors their context."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        left = "nothing is left behind" if kept is None else f"what is finished is in {kept}, for another run to resume"
        raise HfInitError(
            f"{out} couldn't be made: {error}; {left}, the source is as it was. Make room or mend what "
            "is wrong there, or give another place"
        ) from error


def _real_paths(folder: Path) -> Iterator[Path]:
    """Yield every file and folder in it that is its own: links lead to what is the source's."""
    return (path for path in folder.rglob("*") if not path.is_symlink())


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
