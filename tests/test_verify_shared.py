"""Bytes that two files have in the same blocks of the disk: not read, counted apart, believed as far as is certain."""

from __future__ import annotations

import errno
import os
import shutil
import struct
import subprocess
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
import transformers
from hypothesis import given
from hypothesis import strategies as st

import hf_init
from hf_init import _verify
from hf_init._checkpoint.checkpoint import SINGLE, Checkpoint
from hf_init._errors import CheckpointError
from hf_init._plan.manifest import Manifest
from hf_init._verify import ranges as _stretches
from hf_init._verify import shared_blocks as _shared
from hf_init._verify.compare import ByteComparison
from hf_init._verify.differences import TensorDiff
from hf_init._verify.ranges import compare_all
from hf_init._verify.regions import stored_tensor
from hf_init._verify.report import VerifyReport
from hf_init._verify.shared_blocks import LEAST, Blocks, Extent, overlaps
from hf_init._verify.verify import verify_result as read_all

SHARED, LAST = 0x2000, 0x1
XFS, BTRFS, OVERLAY = 0x58465342, 0x9123683E, 0x794C7630
FSGETXATTR = 0x801C581F
BLOCK = 4096
ROWS = 3 * LEAST // BLOCK


def verify(out: Path, **options: Any) -> VerifyReport:
    """As ``extend`` proves what it has written."""
    return read_all(out, blocks=True, **options)


class Disk:
    """FIEMAP, played: where the blocks of each file lie is told by the test."""

    def __init__(self) -> None:
        self.files: dict[Path, list[tuple[int, int, int, int]]] = {}
        self.asked: list[tuple[str, int]] = []
        self.attributes = 0x2

    def __call__(self, number: int, request: int, answer: bytearray) -> None:
        if request == FSGETXATTR:
            answer[:4] = struct.pack("=I", self.attributes)
            return
        path = Path(os.readlink(f"/proc/self/fd/{number}"))
        start, _, how, _, room, _ = _shared._HEAD.unpack_from(answer)
        assert request == 0xC020660B and len(answer) == 32 + 56 * room
        self.asked.append((path.parent.name, how))
        every = self.files[path]
        told = [extent for extent in every if extent[0] + extent[2] > start][:room]
        for k, (first, place, nbytes, flags) in enumerate(told):
            last = LAST if (first, place, nbytes, flags) == every[-1] else 0
            _shared._EXTENT.pack_into(answer, 32 + 56 * k, first, place, nbytes, 0, 0, flags | last, 0, 0, 0)
        _shared._HEAD.pack_into(answer, 0, start, 0, how, len(told), room, 0)


@pytest.fixture
def disk(monkeypatch) -> Disk:
    played = Disk()
    monkeypatch.setattr(_shared, "ioctl", played)
    monkeypatch.setattr(_shared, "_filesystem", lambda number: XFS)
    return played


@pytest.fixture
def copies(tmp_path) -> tuple[Path, Path]:
    """A base of a few MiB, and a result that is a copy of it."""
    base, out = tmp_path / "base", tmp_path / "out"
    base.mkdir()
    values = np.arange(ROWS * BLOCK // 4, dtype="float32").reshape(ROWS, -1)
    safetensors.numpy.save_file({"w": values}, base / SINGLE)
    entry = {"name": "w", "status": "kept", "shape": list(values.shape), "dtype": "float32", "source": "w"}
    named = {"path": str(base), "fingerprint": Checkpoint.open(base).fingerprint()}
    shutil.copytree(base, out)
    Manifest({"tensors": [entry], "unused": []}, named, {}, "a test").save(out)
    return base, out


def lie(disk: Disk, base: Path, out: Path, flags: int = SHARED, nbytes: int | None = None) -> None:
    """The first bytes of both files lie in the same blocks, the rest in blocks of their own."""
    size = (base / SINGLE).stat().st_size
    shared = size if nbytes is None else nbytes
    for place, folder in ((1, base), (2, out)):
        own = [(shared, place << 40, size - shared, 0)] if shared < size else []
        disk.files[folder / SINGLE] = [(0, 1 << 30, shared, flags), *own]


def touch(path: Path, at: int) -> None:
    """Another byte at this place."""
    with path.open("r+b") as file:
        byte = os.pread(file.fileno(), 1, at)
        os.pwrite(file.fileno(), bytes([byte[0] ^ 1]), at)


@pytest.fixture
def read(monkeypatch) -> list[int]:
    """The bytes of each comparison that is made."""
    found: list[int] = []
    same = _stretches.same_bytes
    monkeypatch.setattr(_stretches, "same_bytes", lambda left, right: found.append(left.nbytes) or same(left, right))
    return found


def test_what_lies_in_the_same_blocks_is_not_read_and_counted_apart(disk, copies, read):
    base, out = copies
    lie(disk, base, out)
    report = verify(out)
    nbytes = Checkpoint.open(base).nbytes
    assert report.ok and not read
    assert (report.bytes_shared, report.bytes_linked, report.bytes_compared) == (nbytes, 0, 0)
    assert "3.0 MiB in the same blocks of the disk" in str(report)
    assert report.to_json()["bytes_shared"] == nbytes


def test_verify_and_diff_read_every_byte(disk, copies, read):
    """The filesystem's word is for the proof that an extension ends with."""
    base, out = copies
    lie(disk, base, out)
    nbytes = Checkpoint.open(base).nbytes
    report = hf_init.verify(out)
    assert report.ok and (report.bytes_shared, report.bytes_compared, sum(read)) == (0, nbytes, nbytes)
    read.clear()
    assert hf_init.diff(base, out).identical and sum(read) == nbytes and not disk.asked


def test_an_extension_is_proved_with_the_blocks_that_it_shares(tmp_path, monkeypatch):
    asked: list[bool] = []
    proof = _verify.verify_result
    monkeypatch.setattr(_verify, "verify_result", lambda *a, **how: asked.append(how["blocks"]) or proof(*a, **how))
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    transformers.BertModel(transformers.BertConfig(vocab_size=30, **sizes)).save_pretrained(tmp_path / "bert")
    assert hf_init.extend(tmp_path / "bert", tmp_path / "out").ok and asked == [True]


def test_a_part_that_was_written_to_has_blocks_of_its_own_and_is_read(disk, copies, read):
    base, out = copies
    start, nbytes = Checkpoint.open(base).entries["w"].start, Checkpoint.open(base).nbytes
    lie(disk, base, out, nbytes=2 << 20)
    report = verify(out)
    assert report.ok and report.bytes_shared == (2 << 20) - start
    assert sum(read) == report.bytes_compared == nbytes - report.bytes_shared
    touch(out / SINGLE, start + 2 * LEAST + 3 * BLOCK + 8)
    (difference,) = verify(out).differences
    assert difference["index"] == [2 * LEAST // BLOCK + 3, 2]


def test_the_progress_is_of_all_bytes(disk, copies):
    base, out = copies
    lie(disk, base, out, nbytes=2 << 20)
    done: list[int] = []
    verify(out, progress=done.append)
    assert sum(done) == Checkpoint.open(base).nbytes


@pytest.mark.parametrize("flag", [0x2, 0x4, 0x8, 0x80, 0x100, 0x200, 0x400, 0x800])
def test_a_place_that_is_not_certain_counts_for_nothing(disk, copies, read, flag):
    base, out = copies
    lie(disk, base, out, SHARED | flag)
    report = verify(out)
    assert report.ok and report.bytes_shared == 0 and sum(read) == report.bytes_compared > 0


def test_nobody_waits_for_the_disk_where_nothing_is_shared(disk, copies, read):
    base, out = copies
    lie(disk, base, out, flags=0)
    assert verify(out).bytes_shared == 0 and read
    assert disk.asked == [("out", 0), ("base", 0)]
    disk.asked.clear()
    lie(disk, base, out)
    verify(out)
    assert disk.asked == [("out", 0), ("out", 1), ("base", 0), ("base", 1)], "what memory holds is on the disk first"


def test_a_filesystem_that_says_the_untrue_is_not_believed(disk, copies, read):
    """The same place on another device, say: the first bytes of both differ."""
    base, out = copies
    lie(disk, base, out)
    start = Checkpoint.open(base).entries["w"].start
    touch(out / SINGLE, start)
    report = verify(out)
    assert [difference["index"] for difference in report.differences] == [[0, 0]] and report.bytes_shared == 0
    touch(out / SINGLE, start)
    touch(out / SINGLE, start + 3 * LEAST - 1)
    assert [difference["index"] for difference in verify(out).differences] == [[ROWS - 1, BLOCK // 4 - 1]]


@pytest.mark.parametrize("number", [errno.EOPNOTSUPP, errno.ENOTTY, errno.EINVAL])
def test_a_filesystem_that_does_not_tell_is_read(copies, monkeypatch, read, number):
    def refused(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(_shared, "ioctl", refused)
    monkeypatch.setattr(_shared, "_filesystem", lambda number: BTRFS)
    report = verify(copies[1])
    assert report.ok and report.bytes_shared == 0 and sum(read) == report.bytes_compared


def test_another_system_is_read(copies, monkeypatch, read):
    monkeypatch.setattr(_shared.sys, "platform", "darwin")
    assert verify(copies[1]).ok and read


def test_the_same_place_on_another_device_is_another_place(disk, copies, monkeypatch, read):
    base, out = copies
    lie(disk, base, out)
    known = _shared._shared
    monkeypatch.setattr(_shared, "_shared", lambda path: (known(path)[0] + (path.parent == out), known(path)[1]))
    assert verify(out).bytes_shared == 0 and read


def test_a_file_in_many_pieces_is_known_whole(disk, copies):
    base, out = copies
    pieces = [(at, (at * 7) % (1 << 30) + (1 << 31), BLOCK, SHARED) for at in range(0, 3 * LEAST + BLOCK, BLOCK)]
    assert len(pieces) > 2 * _shared._MANY
    disk.files = {base / SINGLE: pieces, out / SINGLE: pieces}
    assert verify(out).bytes_shared == Checkpoint.open(base).nbytes


def test_a_file_that_is_gone_shares_nothing(disk, tmp_path):
    (tmp_path / "there").write_bytes(b"x")
    disk.files[tmp_path / "there"] = [(0, 1 << 30, BLOCK, SHARED)]
    assert Blocks().common((tmp_path / "there", tmp_path / "gone"), (0, 0), LEAST) == []


@pytest.mark.parametrize("which", [0, 1])
def test_a_file_that_was_cut_since_is_an_error(disk, copies, which):
    lie(disk, *copies)
    with Checkpoint.open(copies[1]) as result, Checkpoint.open(copies[0]) as source:
        seen, expected = stored_tensor(result, "w"), stored_tensor(source, "w")
        os.truncate(copies[which] / SINGLE, 2 * LEAST)
        with pytest.raises(CheckpointError, match=f"{copies[which].name}/{SINGLE} has changed"):
            compare_all(
                [ByteComparison(seen, expected, seen.region, TensorDiff.of((ROWS,), "float32"))], blocks=Blocks()
            )


def test_here_and_now_a_copy_in_memory_shares_nothing(copies):
    """The system's real answer, wherever the tests run: a file that was written byte by byte has blocks of its own."""
    base, out = copies
    (out / SINGLE).write_bytes((base / SINGLE).read_bytes())
    assert Blocks().common((out / SINGLE, base / SINGLE), (0, 0), 3 * LEAST) == []


@given(st.data())
def test_overlaps_are_those_of_the_bytes(data):
    """Against every byte's place, written out."""

    def layout(label: str) -> list[Extent]:
        found, at = [], 0
        for _ in range(data.draw(st.integers(0, 5), label)):
            at += data.draw(st.integers(0, 2))
            length = data.draw(st.integers(1, 4))
            found.append(Extent(at, data.draw(st.integers(0, 12)), length))
            at += length
        return found

    ours, theirs = layout("ours"), layout("theirs")
    starts = data.draw(st.tuples(st.integers(0, 6), st.integers(0, 6)))
    nbytes = data.draw(st.integers(1, 12))
    places = [{e.start + k: e.place + k for e in extents for k in range(e.nbytes)} for extents in (ours, theirs)]
    both = [[at.get(start + k) for k in range(nbytes)] for at, start in zip(places, starts, strict=True)]
    same = {k for k, (here, there) in enumerate(zip(*both, strict=True)) if here == there and here is not None}
    found = overlaps(ours, theirs, starts, nbytes)
    assert {k for start, stop in found for k in range(start, stop)} == same
    assert all(a[1] < b[0] for a, b in pairwise(found)), "neighbours are one"


def test_a_range_that_ends_before_its_sample_is_compared_up_to_its_end(disk, copies):
    """What is behind it is another tensor's, and may differ."""
    base, out = copies
    start = Checkpoint.open(base).entries["w"].start
    lie(disk, base, out, nbytes=start + 100)
    touch(out / SINGLE, start + 200)
    paths = (out / SINGLE, base / SINGLE)
    assert Blocks().common(paths, (start, start), LEAST) == [(0, 100)]
    touch(out / SINGLE, start + 50)
    assert Blocks().common(paths, (start, start), LEAST) == []


@pytest.mark.parametrize("kind", [OVERLAY, 0xEF53, 0])
def test_a_place_is_one_place_on_known_filesystems_only(disk, copies, monkeypatch, read, kind):
    """Others may count the bytes of several devices, each from 0."""
    lie(disk, *copies)
    monkeypatch.setattr(_shared, "_filesystem", lambda number: kind)
    report = verify(copies[1])
    assert report.ok and report.bytes_shared == 0 and sum(read) == report.bytes_compared and not disk.asked


def test_a_file_on_the_real_time_device_of_xfs_has_places_of_its_own(disk, copies, read):
    lie(disk, *copies)
    disk.attributes |= 0x1
    assert verify(copies[1]).bytes_shared == 0 and read and not disk.asked


def test_the_filesystem_is_told_by_the_system(copies):
    """The tests run on one that `stat` knows, too."""
    path = copies[0] / SINGLE
    told = subprocess.run(["stat", "-f", "-c", "%t", path], capture_output=True, text=True, check=True).stdout
    with path.open("rb") as file:
        assert _shared._filesystem(file.fileno()) == int(told, 16)
    assert _shared._filesystem(-1) == 0


def test_a_file_in_too_many_pieces_is_read(disk, copies, monkeypatch, read):
    base, out = copies
    pieces = [(at, (1 << 31) + at, BLOCK, SHARED) for at in range(0, 3 * LEAST + BLOCK, BLOCK)]
    disk.files = {base / SINGLE: pieces, out / SINGLE: pieces}
    monkeypatch.setattr(_shared, "_MOST", len(pieces))
    assert verify(out).bytes_shared and not read
    monkeypatch.setattr(_shared, "_MOST", len(pieces) - 1)
    assert verify(out).bytes_shared == 0 and read


def test_samples_lie_all_over_a_range_and_never_beyond(disk, copies):
    assert list(_shared._samples(10, 13)) == [(10, 3)] * _shared._SAMPLES
    places = list(_shared._samples(100, 100 + (1 << 20)))
    assert places[0] == (100, 4096) and sum(places[-1]) == 100 + (1 << 20)
    assert all(0 < after[0] - before[0] <= (1 << 20) // 7 for before, after in pairwise(places))
