"""Which bytes of two files lie in the same blocks of the disk: equal without being read.

A copy by reflink shares its blocks with the original until one of the two is written to; then the written part gets
blocks of its own. Where the blocks of a file lie, Linux tells by FIEMAP. It is asked where a place names one block of
the whole filesystem: XFS (its data device) and Btrfs. Only extents that the filesystem itself calls shared count, once
what memory still holds of the file is on the disk, and not where their place says too little: compressed, encrypted,
packed with others, or not written yet.

Source: the kernel's Documentation/filesystems/fiemap.rst and include/uapi/linux/{fiemap,fs,magic}.h.
"""

from __future__ import annotations

import ctypes
import os
import struct
import sys
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from io import FileIO
from itertools import islice
from pathlib import Path
from typing import NamedTuple, TypeAlias

if sys.platform == "linux":
    from fcntl import ioctl

_FIEMAP = 0xC020660B
_SYNC = 0x1  # asked for: first what memory holds goes to the disk
_HEAD, _EXTENT = struct.Struct("=QQIIII"), struct.Struct("=QQQ2QI3I")
_MANY = 256  # extents asked for at once
_LAST, _SHARED = 0x1, 0x2000
_VAGUE = 0x2 | 0x4 | 0x8 | 0x80 | 0x100 | 0x200 | 0x400 | 0x800
"""Unknown, not allocated yet, encoded, encrypted, not aligned, inline, packed tail, unwritten."""

_XFS, _BTRFS = 0x58465342, 0x9123683E
_FSGETXATTR, _REALTIME = 0x801C581F, 0x1

_MOST = 100_000  # extents; a file in more pieces is read
_SAMPLE = 4096
_SAMPLES = 8  # of a range: at its start, at its end, and between
LEAST = 1 << 20
"""Bytes below which reading costs less than asking."""

Range: TypeAlias = tuple[int, int]


class Extent(NamedTuple):
    """Bytes of a file that lie one after another on the disk: from where in the file, from where on the disk."""

    start: int
    place: int
    nbytes: int

    @property
    def stop(self) -> int:
        return self.start + self.nbytes


class Blocks:
    """Knows where the files of two checkpoints lie; each file is asked once, and by one thread at a time."""

    def __init__(self) -> None:
        self._known: dict[Path, tuple[int, Sequence[Extent]]] = {}

    def common(self, paths: tuple[Path, Path], starts: Range, nbytes: int) -> list[Range]:
        """Which of so many bytes, from a start in each of two files on, are the same bytes of the disk.

        Returns:
            Ranges counted from the starts, in order; none where it isn't certain. A sample of each is compared: where
            one differs, none is believed.
        """
        if nbytes < LEAST:
            return []
        (device, ours), (other_device, theirs) = map(self._of, paths)
        if device != other_device or not ours or not theirs:
            return []
        found = overlaps(ours, theirs, starts, nbytes)
        return found if _agree(paths, starts, found) else []

    def _of(self, path: Path) -> tuple[int, Sequence[Extent]]:
        if path not in self._known:
            self._known[path] = _shared(path)
        return self._known[path]


def overlaps(ours: Sequence[Extent], theirs: Sequence[Extent], starts: Range, nbytes: int) -> list[Range]:
    """The ranges, counted from a start in each file on, at which both are in the same place; neighbours are one.

    Example:
        >>> overlaps([Extent(0, 4096, 8192)], [Extent(0, 8192, 4096)], (4096, 0), 8192)
        [(0, 4096)]
    """
    found: list[Range] = []
    for start, stop in _alike(ours, theirs, starts, nbytes):
        if found and found[-1][1] == start:
            found[-1] = (found[-1][0], stop)
        else:
            found.append((start, stop))
    return found


def _alike(ours: Sequence[Extent], theirs: Sequence[Extent], starts: Range, nbytes: int) -> Iterator[Range]:
    """The same, extent by extent."""
    here, there = starts
    i, j = (max(bisect_right(of, at, key=_begin) - 1, 0) for of, at in ((ours, here), (theirs, there)))
    while i < len(ours) and j < len(theirs):
        a, b = ours[i], theirs[j]
        start, stop = max(a.start - here, b.start - there, 0), min(a.stop - here, b.stop - there, nbytes)
        if start < stop and a.place - a.start + here == b.place - b.start + there:
            yield start, stop
        if a.stop - here < b.stop - there:
            i += 1
        else:
            j += 1


def _begin(extent: Extent) -> int:
    return extent.start


def _shared(path: Path) -> tuple[int, Sequence[Extent]]:
    """A file's device, and its extents that other files share, as far as their place is certain."""
    if sys.platform != "linux":
        return 0, ()
    try:
        number = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:  # reading it will tell why
        return 0, ()
    try:
        if not _one_address_space(number) or not any(flags & _SHARED for _, flags in _extents(number, 0)):
            return 0, ()  # nobody has to wait for the disk
        os.fsync(number)  # with FIEMAP, other threads would wait, too
        found = list(islice(_extents(number, _SYNC), _MOST + 1))
        plain = [extent for extent, flags in found if flags & _SHARED and not flags & _VAGUE]
        return os.fstat(number).st_dev, plain if len(found) <= _MOST else ()
    except OSError:  # a filesystem that doesn't tell
        return 0, ()
    finally:
        os.close(number)


def _one_address_space(number: int) -> bool:
    """Whether a place on the disk, as FIEMAP tells it of an open file, is that of one block of the filesystem only."""
    kind = _filesystem(number)
    if kind == _XFS:
        attributes = bytearray(28)
        ioctl(number, _FSGETXATTR, attributes)
        return not int.from_bytes(attributes[:4], sys.byteorder) & _REALTIME
    return kind == _BTRFS


def _filesystem(number: int) -> int:
    """The magic number of an open file's filesystem; 0 where the system doesn't tell."""
    told = ctypes.create_string_buffer(512)  # struct statfs, whose first field is a long
    failed = ctypes.CDLL(None).fstatfs(number, told)
    return 0 if failed else ctypes.c_long.from_buffer(told).value & 0xFFFFFFFF


def _extents(number: int, how: int) -> Iterator[tuple[Extent, int]]:
    """Every extent of an open file, with its flags."""
    start = 0
    while True:
        answer = bytearray(_HEAD.size + _MANY * _EXTENT.size)
        _HEAD.pack_into(answer, 0, start, (1 << 64) - 1 - start, how, 0, _MANY, 0)
        ioctl(number, _FIEMAP, answer)
        many = _HEAD.unpack_from(answer)[3]
        flags = _LAST
        for at in range(many):
            first, place, nbytes, _, _, flags, *_ = _EXTENT.unpack_from(answer, _HEAD.size + at * _EXTENT.size)
            yield Extent(first, place, nbytes), flags
            start = first + nbytes
        if flags & _LAST:
            return


def _agree(paths: tuple[Path, Path], starts: Range, ranges: Iterable[Range]) -> bool:
    """Whether some bytes of each range, the first and the last among them, are the same in both files."""
    places = [sample for one in ranges for sample in _samples(*one)]
    try:
        with open(paths[0], "rb", buffering=0) as ours, open(paths[1], "rb", buffering=0) as theirs:
            pairs = ((_read(ours, starts[0] + at, many), _read(theirs, starts[1] + at, many)) for at, many in places)
            return all(here == there for here, there in pairs)
    except OSError:  # reading all of it will tell why
        return False


def _samples(start: int, stop: int) -> Iterator[tuple[int, int]]:
    """Where to look in a range, and at how many bytes."""
    many = min(_SAMPLE, stop - start)
    yield from ((start + (stop - start - many) * k // (_SAMPLES - 1), many) for k in range(_SAMPLES))


def _read(file: FileIO, at: int, nbytes: int) -> bytes:
    return os.pread(file.fileno(), nbytes, at)
