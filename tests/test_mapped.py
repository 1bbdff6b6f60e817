"""What is proved by identity is the file's; what was written to, or is another file's, never is."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from hf_init._checkpoint.checkpoint import Checkpoint
from hf_init._load.mapped import (
    BATCH,
    ENTRY,
    OF_FILE,
    PRESENT,
    SWAPPED,
    MappedArea,
    Pages,
    mapped_areas,
    watch_pages,
    written_areas,
)

PAGE = os.sysconf("SC_PAGE_SIZE")
SIZE = 3 * PAGE  # elements of a byte: a tensor of three pages and their edges


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Two tensors side by side that share a page, beginning anywhere in the file."""
    torch.manual_seed(0)
    values = {name: torch.randint(256, (SIZE,), dtype=torch.uint8) for name in "ab"}
    save_file(values, tmp_path / "model.safetensors")
    return tmp_path / "model.safetensors"


def mapped(path: Path) -> dict[str, torch.Tensor]:
    with safe_open(path, framework="pt") as reader:
        return {name: reader.get_tensor(name) for name in reader.keys()}  # noqa: SIM118  # no mapping


def held(tensor: torch.Tensor, path: Path, name: str) -> bool | None:
    """Whether it is proved in place; None where this system can't tell."""
    entry = Checkpoint.open(path.parent).entries[name]
    with watch_pages([path]) as pages:
        return None if pages is None else pages.hold(tensor, path, entry.start, entry.stop)


def test_a_mapped_tensor_is_the_files_read_or_not(file: Path) -> None:
    tensors = mapped(file)
    assert held(tensors["a"], file, "a") in (True, None)
    assert int(tensors["a"].sum()) > 0, "reading brings its pages in"
    assert held(tensors["a"], file, "a") in (True, None)


@pytest.mark.parametrize("place", [0, SIZE // 2, SIZE - 1])
def test_a_tensor_with_one_byte_written_is_not(file: Path, place: int) -> None:
    tensor = mapped(file)["a"]
    tensor[place] = tensor[place].clone()
    assert not held(tensor, file, "a"), "the same value, but the page is the process's own"


def test_a_neighbour_that_was_written_to_makes_the_shared_page_uncertain(file: Path) -> None:
    tensors = mapped(file)
    tensors["b"][-1] = 0
    assert held(tensors["a"], file, "a") in (True, None), "no page of it is shared with that one"
    tensors["b"][0] = 0
    assert not held(tensors["a"], file, "a"), "no harm is done to it, and only a comparison can say so"


def test_another_tensor_another_file_and_a_copy_are_not(file: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / file.name).write_bytes(file.read_bytes())
    tensor = mapped(file)["a"]
    assert not held(tensor, file, "b"), "of the same size, elsewhere in the file"
    assert not held(mapped(other / file.name)["a"], file, "a"), "a file of the same bytes"
    assert not held(tensor.clone(), file, "a")
    assert not held(tensor[:-1], file, "a")
    assert not held(tensor[::2], file, "a")
    assert not held(tensor.to("meta"), file, "a")


def test_a_file_put_in_the_place_of_another_is_not_what_is_mapped(file: Path) -> None:
    tensor, copy = mapped(file)["a"], file.with_suffix(".new")
    copy.write_bytes(file.read_bytes())
    copy.replace(file)
    assert not held(tensor, file, "a")


def test_every_state_of_a_page() -> None:
    here = [0, PRESENT | OF_FILE, OF_FILE]
    gone = [PRESENT, SWAPPED, SWAPPED | OF_FILE, PRESENT | SWAPPED | OF_FILE]
    soft_dirty = 1 << 55  # set for what was merely mapped lately: no word on the values
    entries = np.array([int(bits) | soft_dirty for bits in (*here, *gone)], np.uint64)
    assert written_areas(entries).tolist() == [False] * len(here) + [True] * len(gone)


def test_maps_are_read_line_by_line() -> None:
    text = (
        "7f00000000-7f00004000 rw-p 00002000 fe:01 77                     /models/a b.safetensors\n"
        "7f00004000-7f00008000 rw-s 00000000 fe:01 77                     /models/a b.safetensors (deleted)\n"
        "7f00008000-7f0000c000 rw-p 00000000 00:00 0 \n"
        "7f0000c000-7f0000d000 rw-p 00000000 fe:01 7                      /models/another.safetensors\n"
        "7ffd00000000-7ffd00021000 rw-p 00000000 00:00 0                          [stack]\n"
    )
    private, common = mapped_areas(text, [77])
    file = (os.makedev(0xFE, 1), 77)
    assert private == MappedArea(0x7F00000000, 0x7F00004000, True, 0x2000, file)
    assert private.shows(0x7F00000010, 16, 0x2010)
    assert not private.shows(0x7F00000010, 16, 0x10), "another place of the file"
    assert not private.shows(0x7F00003FF8, 16, 0x5FF8), "it ends before the bytes do"
    assert not common.shows(0x7F00004000, 16, 0), "what is written there is written to the file"


@pytest.fixture
def pagemap(tmp_path: Path) -> Iterator[int]:
    """A page table made up: a sparse file."""
    descriptor = os.open(tmp_path / "pagemap", os.O_RDWR | os.O_CREAT)
    yield descriptor
    os.close(descriptor)


def test_pages_are_asked_for_in_batches_and_silence_is_no_answer(file: Path, pagemap: int) -> None:
    status, first = os.stat(file), 64
    area = MappedArea(first * PAGE, (first + BATCH + 8) * PAGE, True, 0, (status.st_dev, status.st_ino))
    os.pwrite(pagemap, bytes((first + BATCH + 6) * ENTRY), 0)  # two pages short
    os.pwrite(pagemap, int(PRESENT).to_bytes(ENTRY, "little"), (first + BATCH + 1) * ENTRY)
    pages = Pages([area], pagemap)
    known = {
        k: not pages._any_written(area, (first + k) * PAGE, (first + k + 1) * PAGE)
        for k in range(-8 % BATCH, BATCH + 8)
    }
    assert [k - BATCH for k, whole in known.items() if not whole] == [1, 6, 7]


def test_a_page_table_that_says_nothing_is_not_believed(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    really = os.pread
    monkeypatch.setattr(os, "pread", lambda fd, many, at: bytes(len(really(fd, many, at))))
    with watch_pages([file]) as pages:
        assert pages is None, "zeros would make everything the file's"


def test_an_empty_file_proves_nothing(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"")
    with watch_pages([tmp_path / "model.safetensors"]) as pages:
        assert pages is None
