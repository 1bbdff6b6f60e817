"""Tensors that are a file's own bytes: mapped from it, and no page of theirs written to. Proved without reading them.

A private mapping shows the file until a page is written to; that page becomes memory of the process's own, and the
kernel's page table says so. Linux only; where the kernel doesn't tell, or doesn't tell the truth, nothing is proved so.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

PRESENT, SWAPPED, OF_FILE = (np.uint64(1 << bit) for bit in (63, 62, 61))
"""Bits of an entry of /proc/self/pagemap; of a file's page or shared memory, as opposed to the process's own."""

ENTRY = 8  # bytes for each page in pagemap
BATCH = 1 << 16  # pages asked for at once


@dataclass(frozen=True)
class MappedArea:
    """A range of addresses that shows a file, from ``offset`` on.

    Attributes:
        private: whether a write stays in the process.
        file: device and inode.
    """

    start: int
    stop: int
    private: bool
    offset: int
    file: tuple[int, int]

    def shows(self, address: int, nbytes: int, offset: int) -> bool:
        """Return whether these addresses are in it, and show its file from this offset on."""
        inside = self.start <= address and address + nbytes <= self.stop
        return inside and self.private and self.offset + address - self.start == offset


def mapped_areas(maps: str, inodes: Iterable[int]) -> tuple[MappedArea, ...]:
    """Return the ranges of addresses that show files of these inodes, from the text of /proc/self/maps.

    Example:
        >>> mapped_areas("7f00-8000 rw-p 00001000 fe:00 42   /models/model.safetensors", [42])[0].offset
        4096
    """
    wanted, found = {str(inode) for inode in inodes}, list[MappedArea]()
    for fields in (line.split(maxsplit=5)[:5] for line in maps.splitlines()):
        if len(fields) == 5 and fields[4] in wanted:
            addresses, flags, offset, device, inode = fields
            start, stop = (int(address, 16) for address in addresses.split("-"))
            number = os.makedev(*(int(part, 16) for part in device.split(":")))
            found.append(MappedArea(start, stop, flags.endswith("p"), int(offset, 16), (number, int(inode))))
    return tuple(found)


def written_areas(entries: np.ndarray) -> np.ndarray:
    """Return which pages were written to, by their entries of /proc/self/pagemap (``uint64``); one flag a page.

    A page that isn't there yet would be the file's once it is read. A page that was written to is the process's own:
    there and of no file, or swapped out; a page on its way to another place is taken for written to.

    Example:
        >>> written_areas(np.array([0, PRESENT | OF_FILE, PRESENT, SWAPPED], np.uint64)).tolist()
        [False, False, True, True]
    """
    of_file = (entries & OF_FILE) != 0
    return ((entries & PRESENT) != 0) & ~of_file | ((entries & SWAPPED) != 0)


class Pages:
    """The mappings of this process as they are now, and which of their pages were written to when first asked for.

    Args:
        found: what is mapped.
        pagemap: a descriptor of the open /proc/self/pagemap.
    """

    def __init__(self, found: Iterable[MappedArea], pagemap: int) -> None:
        self._areas: dict[tuple[int, int], list[MappedArea]] = {}
        self._files: dict[Path, tuple[int, int]] = {}
        self._written: dict[MappedArea, np.ndarray] = {}
        self._pagemap = pagemap
        for area in found:
            self._areas.setdefault(area.file, []).append(area)

    def hold(self, tensor: torch.Tensor, path: Path, start: int, stop: int) -> bool:
        """Return whether a tensor is these bytes of a file: its memory shows them, and no page of it was written to.

        False where it isn't certain; then only a comparison can tell.
        """
        plain = type(tensor) in (torch.Tensor, torch.nn.Parameter) and tensor.device.type == "cpu"
        in_order = plain and tensor.layout is torch.strided and tensor.is_contiguous()
        if not in_order or tensor.is_conj() or tensor.is_neg():  # its elements aren't in memory as they are
            return False
        if tensor.numel() * tensor.element_size() != stop - start:
            return False
        mapped, address = self._areas.get(self._file(path), ()), tensor.data_ptr()
        area = next((area for area in mapped if area.shows(address, stop - start, start)), None)
        return area is not None and not self._any_written(area, address, address + stop - start)

    def _file(self, path: Path) -> tuple[int, int]:
        if path not in self._files:
            status = os.stat(path)
            self._files[path] = (status.st_dev, status.st_ino)
        return self._files[path]

    def _any_written(self, area: MappedArea, start: int, stop: int) -> bool:
        if area not in self._written:
            self._written[area] = self._written_pages(area)
        pages = self._written[area]
        if not pages.size:
            return False
        first, last = start // mmap.PAGESIZE, -(-stop // mmap.PAGESIZE)
        return int(np.searchsorted(pages, first)) < int(np.searchsorted(pages, last))

    def _written_pages(self, area: MappedArea) -> np.ndarray:
        """Return the numbers of the pages of an area that aren't certain to be the file's, in order."""
        first, last = area.start // mmap.PAGESIZE, area.stop // mmap.PAGESIZE
        numbers = []
        for page in range(first, last, BATCH):
            num_pages = min(BATCH, last - page)
            entries = np.frombuffer(os.pread(self._pagemap, num_pages * ENTRY, page * ENTRY), np.uint64)
            unknown = np.arange(entries.size, num_pages)  # what the kernel doesn't answer for is the process's own
            numbers += [np.flatnonzero(written_areas(entries)) + page, unknown + page]
        return np.concatenate(numbers)


@contextmanager
def watch_pages(paths: Collection[Path]) -> Iterator[Pages | None]:
    """Yield the pages of this process that show these files; None where they can't be had, or aren't to be believed.

    It is tried on one of the files: a page that is read must be known for the file's, one that is written to must not.
    """
    try:
        pagemap = os.open("/proc/self/pagemap", os.O_RDONLY)
    except OSError:  # another system, or not allowed to
        yield None
        return
    try:
        yield _tried_pages(paths, pagemap)
    finally:
        os.close(pagemap)


def _tried_pages(paths: Collection[Path], pagemap: int) -> Pages | None:
    path = next(iter(paths))
    try:
        with open(path, "rb") as file:
            size = min(os.fstat(file.fileno()).st_size, mmap.PAGESIZE)
            trial = mmap.mmap(file.fileno(), size, access=mmap.ACCESS_COPY)
        maps = Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace")
        found = mapped_areas(maps, [os.stat(each).st_ino for each in paths])
    except (OSError, ValueError):  # ValueError: an empty file
        return None
    shown, first = torch.frombuffer(trial, dtype=torch.uint8), trial[0]
    seen_read = Pages(found, pagemap).hold(shown, path, 0, size)
    trial[0] = first
    seen_written = not Pages(found, pagemap).hold(shown, path, 0, size)
    return Pages(found, pagemap) if seen_read and seen_written else None
