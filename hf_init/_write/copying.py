"""Bytes from the source's files to the result's: shared, copied by the system, or through memory; or a link."""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from hf_init._checkpoint import BLOCK, RunFile, Runs, gather, join_runs, opened, run_blocks, scatter
from hf_init._errors import PlanError

CopyProgress = Callable[[int], object]
"""Called with the bytes done since it was last called; it may raise to stop the work."""

_FICLONE = 0x40049409  # linux/fs.h: the new file shares the old one's blocks until one of them is written to
_FICLONERANGE = 0x4020940D  # the same of whole blocks
_RANGE = struct.Struct("=qQQQ")
_STEP = 64 << 20
_PAGE = 4096  # where a filesystem doesn't tell the size of its blocks
LONG = 64 << 10
"""Bytes from which on a run is moved by itself, by the system."""

_TARGET_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def copy_file(source: Path, target: Path, told: CopyProgress, header: int = 0) -> None:
    """A new file with the bytes of another one; its first ``header`` bytes aren't told of.

    Raises:
        CheckpointError: the source can't be read, or ends before it should.
        OSError: the target can't be written.
    """
    with opened(source) as old, opened(target, os.O_RDWR | os.O_CREAT | os.O_EXCL) as new:
        size = os.fstat(old.number).st_size
        if _clone(old, new):
            told(size - header)
            return
        copy_range(old, new, 0, 0, header, _nobody)
        copy_range(old, new, header, header, size - header, told)


def copy_range(old: RunFile, new: RunFile, source: int, target: int, size: int, told: CopyProgress) -> None:
    """So many bytes from one place to another; whole blocks that lie alike in both files are shared, where they can be.

    Raises:
        CheckpointError, OSError: as ``copy_file``.
    """
    block = os.fstatvfs(new.number).f_bsize or _PAGE
    before, whole = whole_blocks(source, size, block)
    alike = whole > 0 and (source - target) % block == 0
    if alike and _clone_range(old, new, source + before, target + before, whole):
        told(whole)
        _copy(old, new, source, target, before, told)
        source, target, size = source + before + whole, target + before + whole, size - before - whole
    _copy(old, new, source, target, size, told)


def whole_blocks(start: int, size: int, block: int) -> tuple[int, int]:
    """Of a run of bytes: how many come before its first whole block, and those of its whole blocks, if worth sharing.

    Example:
        >>> whole_blocks(4000, 70_000, 4096), whole_blocks(4000, 60_000, 4096)
        ((96, 69632), (96, 0))
    """
    before = -start % block
    whole = max(size - before, 0) // block * block
    return before, whole if whole >= LONG else 0


def _copy(old: RunFile, new: RunFile, source: int, target: int, size: int, told: CopyProgress) -> None:
    end = source + size
    while source < end:
        step = min(_STEP, end - source)
        done = _in_kernel(old, new, source, target, step) or _through_memory(old, new, source, target, step)
        source, target = source + done, target + done
        told(done)


def copy_runs(old: RunFile, new: RunFile, source: Runs, target: Runs, told: CopyProgress) -> None:
    """A region of one file to a region of the same shape in the other.

    Raises:
        CheckpointError, OSError: as ``copy_file``.
    """
    if source.many == 1:
        copy_range(old, new, source.starts(0, 1).item(), target.starts(0, 1).item(), source.size, told)
        return
    for size, (froms, tos) in run_blocks(source, target):
        heads, sizes = join_runs(size, froms, tos)
        if sizes.sum() < LONG * len(heads):
            scatter(new, tos, gather(old, froms, size))
            told(size * len(froms))
            continue
        for head, many in zip(heads.tolist(), sizes.tolist(), strict=True):
            copy_range(old, new, int(froms[head]), int(tos[head]), many, told)


def put_runs(new: RunFile, target: Runs, data: memoryview, told: CopyProgress) -> None:
    """A region's bytes, row by row, to its place.

    Raises:
        OSError: the file can't be written.
    """
    values, at = np.frombuffer(data, np.uint8), 0
    for size, (tos,) in run_blocks(target):
        many = size * len(tos)
        scatter(new, tos, values[at : at + many].reshape(-1, size))
        at += many
        told(many)


def verify_same_bytes(old: RunFile, new: RunFile, source: Runs, target: Runs) -> Iterator[bool]:
    """Whether two regions hold the same bytes, a block at a time."""
    for size, (froms, tos) in run_blocks(source, target):
        yield np.array_equal(gather(old, froms, size), gather(new, tos, size))


def same_file(a: Path, b: Path) -> bool:
    """Whether two files hold the same bytes."""
    with opened(a) as old, opened(b) as new:
        sizes = [os.fstat(file.number).st_size for file in (old, new)]
        whole = Runs(sizes[0], 0)
        return sizes[0] == sizes[1] and all(verify_same_bytes(old, new, whole, whole))


def link_file(source: Path, target: Path, how: str) -> None:
    """A second name for a file (``hard``), or a file that says where it is (``symbolic``).

    Raises:
        PlanError: the system refuses; the message says what else there is.
    """
    real = Path(os.path.realpath(source))  # a hub's cache holds links itself
    try:
        os.link(real, target) if how == "hard" else os.symlink(real, target)
    except OSError as error:
        why = "it is on another filesystem" if error.errno == errno.EXDEV else f"{error.strerror}"
        raise PlanError(
            f"no {how} link to {real} can be made where the result is to be: {why}; give a place on the base's own "
            f"filesystem, or link={'symbolic' if how == 'hard' else 'hard'!r} or 'copy' (--link)"
        ) from error


def shares_blocks(source: Path, folder: Path) -> bool:
    """Whether the system lets a new file in a folder share another file's blocks. Nothing is left there."""
    try:
        number = os.open(folder, os.O_RDWR | os.O_TMPFILE | os.O_CLOEXEC)
    except (OSError, AttributeError):  # AttributeError: not Linux
        return False
    try:
        with opened(source) as old:
            return _clone(old, RunFile(number, folder))
    except OSError:  # the source is gone: the copying will say so
        return False
    finally:
        os.close(number)


def _nobody(done: int) -> None:
    """Nobody is told."""


def _clone(old: RunFile, new: RunFile) -> bool:
    """Whether the system could let both files share their blocks."""
    try:
        fcntl.ioctl(new.number, _FICLONE, old.number)
    except OSError:
        return False
    return True


def _clone_range(old: RunFile, new: RunFile, source: int, target: int, size: int) -> bool:
    """Whether the system could let both files share whole blocks."""
    try:
        fcntl.ioctl(new.number, _FICLONERANGE, _RANGE.pack(old.number, source, size, target))
    except OSError:
        return False
    return True


def _in_kernel(old: RunFile, new: RunFile, source: int, target: int, size: int) -> int:
    """How much the system copied by itself; 0 where it doesn't: reading and writing then tell why."""
    if not hasattr(os, "copy_file_range"):
        return 0
    try:
        return os.copy_file_range(old.number, new.number, size, source, target)
    except OSError as error:
        if error.errno in _TARGET_FULL:
            raise OSError(error.errno, error.strerror, str(new.path)) from error
        return 0


def _through_memory(old: RunFile, new: RunFile, source: int, target: int, size: int) -> int:
    data = old.read(source, min(size, BLOCK))
    new.write(data, target)
    return len(data)
