"""Bytes from the source's files to the result's: cloned, copied by the system, or through memory; or a link."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from hf_init._checkpoint import BLOCK, RunFile, Runs, gather, join_runs, opened, run_blocks, scatter
from hf_init._errors import CheckpointError, PlanError, option
from hf_init._progress import Progress, no_progress
from hf_init._verify import FileState, file_state

_FICLONE = 0x40049409  # linux/fs.h: the new file shares the old one's blocks until one of them is written to
_KERNEL_STEP = 64 << 20
_LONG_RUN = 64 << 10  # bytes from which on a run is copied by itself, by the system
_TARGET_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def copy_file(source: Path, target: Path, progress: Progress, header: int = 0) -> tuple[FileState, FileState] | None:
    """Make a new file with the bytes of another one; its first ``header`` bytes aren't reported.

    Returns:
        The states of the source before and of the copy after the system cloned it whole; None where it doesn't clone.

    Raises:
        CheckpointError: the source can't be read, or ends before it should.
        OSError: the target can't be written.
    """
    with opened(source) as old, opened(target, os.O_RDWR | os.O_CREAT | os.O_EXCL) as new:
        before = os.fstat(old.number)
        if _clone(old, new):
            progress(before.st_size - header)
            return file_state(before), file_state(os.fstat(new.number))
        _copy_range(old, new, 0, 0, header, no_progress)
        _copy_range(old, new, header, header, before.st_size - header, progress)
    return None


def copy_runs(old: RunFile, new: RunFile, source: Runs, target: Runs, progress: Progress) -> None:
    """Copy a region of one file to a region of the same shape in the other.

    Raises:
        CheckpointError, OSError: as ``copy_file``.
    """
    if source.num_runs == 1:
        _copy_range(old, new, source.starts(0, 1).item(), target.starts(0, 1).item(), source.size, progress)
        return
    for size, (sources, targets) in run_blocks(source, target):
        heads, sizes = join_runs(size, sources, targets)
        if sizes.sum() < _LONG_RUN * len(heads):
            scatter(new, targets, gather(old, sources, size))
            progress(size * len(sources))
            continue
        for head, nbytes in zip(heads.tolist(), sizes.tolist(), strict=True):
            _copy_range(old, new, int(sources[head]), int(targets[head]), nbytes, progress)


def write_runs(new: RunFile, target: Runs, data: memoryview, progress: Progress) -> None:
    """Write a region's bytes, row by row.

    Raises:
        OSError: the file can't be written.
    """
    values, offset = np.frombuffer(data, np.uint8), 0
    for size, (targets,) in run_blocks(target):
        nbytes = size * len(targets)
        scatter(new, targets, values[offset : offset + nbytes].reshape(-1, size))
        offset += nbytes
        progress(nbytes)


def equal_blocks(old: RunFile, new: RunFile, source: Runs, target: Runs) -> Iterator[bool]:
    """Yield, block by block, whether two regions hold the same bytes."""
    for size, (sources, targets) in run_blocks(source, target):
        yield np.array_equal(gather(old, sources, size), gather(new, targets, size))


def same_file(a: Path, b: Path) -> bool:
    """Return whether two files hold the same bytes."""
    with opened(a) as old, opened(b) as new:
        sizes = [os.fstat(file.number).st_size for file in (old, new)]
        whole = Runs(sizes[0], 0)
        return sizes[0] == sizes[1] and all(equal_blocks(old, new, whole, whole))


def link_file(source: Path, target: Path, link: str) -> None:
    """Make a second name for a file (``hard``), or a file that says where it is (``symbolic``).

    Raises:
        PlanError: the system refuses; the message says what else there is.
    """
    real = Path(os.path.realpath(source))  # a hub's cache holds links itself
    try:
        os.link(real, target) if link == "hard" else os.symlink(real, target)
    except OSError as error:
        why = "it is on another filesystem" if error.errno == errno.EXDEV else f"{error.strerror}"
        raise PlanError(
            f"no {link} link to {real} can be made where the result is to be: {why}; give a place on the base's own "
            f"filesystem, or {option('link', 'symbolic' if link == 'hard' else 'hard')} or 'copy'"
        ) from error


def can_clone(source: Path, folder: Path) -> bool:
    """Return whether the system clones a file into a folder, by one trial that leaves nothing there."""
    try:
        number = os.open(folder, os.O_RDWR | os.O_TMPFILE | os.O_CLOEXEC)
    except (OSError, AttributeError):  # AttributeError: not Linux
        return False
    try:
        with opened(source) as old:
            return _clone(old, RunFile(number, folder))
    except (OSError, CheckpointError):  # the source is gone: the copying will say so
        return False
    finally:
        os.close(number)


def _clone(old: RunFile, new: RunFile) -> bool:
    try:
        fcntl.ioctl(new.number, _FICLONE, old.number)
    except OSError:
        return False
    return True


def _copy_range(old: RunFile, new: RunFile, source: int, target: int, size: int, progress: Progress) -> None:
    """Copy ``size`` bytes from the offset ``source`` to the offset ``target``."""
    end = source + size
    while source < end:
        nbytes = _copy_in_kernel(old, new, source, target, min(_KERNEL_STEP, end - source))
        if not nbytes:
            data = old.read(source, min(BLOCK, end - source))
            new.write(data, target)
            nbytes = len(data)
        source, target = source + nbytes, target + nbytes
        progress(nbytes)


def _copy_in_kernel(old: RunFile, new: RunFile, source: int, target: int, size: int) -> int:
    """Return how much the system copied by itself; 0 where it doesn't: reading and writing then tell why."""
    if not hasattr(os, "copy_file_range"):
        return 0
    try:
        return os.copy_file_range(old.number, new.number, size, source, target)
    except OSError as error:
        if error.errno in _TARGET_FULL:
            raise OSError(error.errno, error.strerror, str(new.path)) from error
        return 0
