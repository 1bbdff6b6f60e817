"""A folder of our own to work in: made, held under a lock as long as the writer lives, and known again afterwards."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from hf_init._errors import PlanError

LOCK = "hf_init.lock"

_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL)


@contextmanager
def hold_lock(work: Path) -> Iterator[None]:
    """Hold a folder under its lock: made, or taken over from a writer that is gone. The caller has to ``discard`` it.

    Raises:
        PlanError: another process holds it, or it is nothing of ours.
        OSError: it can't be made.
    """
    descriptor = _acquire(work)
    try:
        yield
    finally:
        os.close(descriptor)


def check_busy(work: Path) -> None:
    """Raise PlanError if a living process holds the folder."""
    if (work / LOCK).is_file():
        descriptor = os.open(work / LOCK, os.O_RDWR | os.O_CLOEXEC)
        try:
            _flock(descriptor, work, lockless=True)
        finally:
            os.close(descriptor)


def is_left(work: Path) -> bool:
    """Return whether a folder is one of ours, of a writer that may be gone."""
    return not work.is_symlink() and work.is_dir() and ((work / LOCK).is_file() or not any(work.iterdir()))


def discard(work: Path) -> None:
    """Remove the folder, its lock after everything else in it: nobody else comes in before that."""
    clear_folder(work)
    with suppress(OSError):  # another writer was quick and has the folder now: it is theirs
        os.unlink(work / LOCK)
        os.rmdir(work)


def clear_folder(folder: Path, keep: str = LOCK) -> None:
    """Remove what is in a folder but for one name; what can't be removed stays."""
    with suppress(OSError):
        for path in folder.iterdir():
            if path.name == keep:
                continue
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                with suppress(OSError):
                    path.unlink()


def _acquire(work: Path) -> int:
    """Return the open lock of a folder, locked by this process."""
    while True:
        with suppress(FileExistsError):
            work.mkdir()
        if not is_left(work):
            raise PlanError(f"{work} is in the way and isn't an unfinished result; remove it, or give another place")
        with ExitStack() as undo:
            undo.callback(_remove_empty, work)
            is_new, descriptor = _open_lock(work / LOCK)
            undo.pop_all()
            undo.callback(os.close, descriptor)
            try:
                _flock(descriptor, work, lockless=is_new)
                if os.path.samestat(os.fstat(descriptor), os.stat(work / LOCK)):
                    with suppress(OSError):  # a full disk: the work itself will say so, and the lock needs no name
                        os.ftruncate(descriptor, 0)
                        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
                    undo.pop_all()
                    return descriptor
            except FileNotFoundError:
                pass  # its writer has just ended and removed it: once more
            except (OSError, KeyboardInterrupt):
                if is_new:
                    discard(work)
                raise


def _remove_empty(work: Path) -> None:
    with suppress(OSError):
        work.rmdir()


def _open_lock(path: Path) -> tuple[bool, int]:
    """Return whether the file was made by this, and its descriptor."""
    flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW
    with suppress(FileExistsError):
        return True, os.open(path, flags | os.O_CREAT | os.O_EXCL, 0o644)
    return False, os.open(path, flags)


def _flock(descriptor: int, work: Path, lockless: bool) -> None:
    """Lock the file, or let it pass on a filesystem without locks where that is ``lockless``."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        pid = os.pread(descriptor, 20, 0).decode(errors="replace").strip() or "unknown"
        raise PlanError(
            f"another run (process {pid}) is writing this result, in {work}; wait for it, or give another place"
        ) from None
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        if not lockless:  # without locks, that the file is there is all that can be known
            raise PlanError(
                f"{work} is there, and this filesystem has no locks to tell whether its writer lives; if no other run "
                "writes this result, remove that folder"
            ) from error
