"""Files that the filesystem clones are counted apart; which files come along, and how much memory it takes."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import time
from collections import namedtuple
from pathlib import Path

import pytest
from safetensors.torch import save_file
from shaped_models import THREE, Shapes, extend, shapes_of
from shaped_models import three as three
from small_model import FILES, contents, extend_small, failing, names, once_at, small_base

import hf_init
from hf_init import HfInitError

FICLONE = 0x40049409


# Clones.


@pytest.fixture
def cloned(monkeypatch) -> list[str]:
    """A filesystem with reflinks, played: a new file has the old one's bytes at one call. Gives the new files."""
    files: list[str] = []

    def ioctl(new: int, request: int, old: int) -> None:
        assert request == FICLONE
        if "(deleted)" not in (path := os.readlink(f"/proc/self/fd/{new}")):  # the trial
            files.append(Path(path).name)
        os.pwrite(new, os.pread(old, 1 << 30, 0), 0)

    monkeypatch.setattr(fcntl, "ioctl", ioctl)
    return files


KEPT, NBYTES = 4 * 1600, 4 * (1600 + 28 + 3 + 9 + 12)


def test_a_cloned_file_is_counted_apart_and_verify_reads_it(tmp_path, cloned):
    base, done = small_base(tmp_path / "base"), list[int]()
    report = extend_small(base, tmp_path / "out", progress=done.append)
    assert cloned == [FILES[0]] and sum(done) == 2 * NBYTES
    assert report.to_json()["bytes_cloned"] == report.bytes_cloned == KEPT and report.bytes_linked == 0
    assert "in files that the filesystem has just cloned from it" in str(report)
    again = hf_init.verify(tmp_path / "out")
    assert again and (again.bytes_cloned, again.bytes_compared) == (0, report.bytes_compared + KEPT)


def test_what_the_filesystem_does_not_clone_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(fcntl, "ioctl", failing(OSError(errno.EOPNOTSUPP, "Operation not supported")))
    report = extend_small(small_base(tmp_path / "base"), tmp_path / "out")
    assert report.bytes_cloned == 0 and report.bytes_compared > KEPT


def flip(path: Path) -> None:
    time.sleep(0.05)  # a tick of the clock by which filesystems note changes
    data = path.read_bytes()
    with path.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(bytes([data[-1] ^ 1]))


def flip_in_the_past(path: Path) -> None:
    before = path.stat()
    flip(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def replace_by_a_copy(path: Path) -> None:
    data = path.read_bytes()
    path.unlink()
    path.write_bytes(data)


@pytest.mark.parametrize("where", ["copy", "source"])
@pytest.mark.parametrize("change", [flip, flip_in_the_past, replace_by_a_copy, lambda path: os.utime(path, ns=(1, 1))])
def test_a_clone_in_another_state_is_read(tmp_path, cloned, change, where):
    """Between the writing and the proof: the bytes may be the same, nothing but reading them tells."""
    base = small_base(tmp_path / "base")
    file = (base if where == "source" else tmp_path / ".out.hf_init" / "result") / FILES[0]
    progress = once_at(NBYTES, lambda: change(file))
    if where == "source":
        with pytest.raises(HfInitError, match=r"changed while|a: kept bytes differ from the base"):
            extend_small(base, tmp_path / "out", progress=progress)
    elif change in (flip, flip_in_the_past):
        with pytest.raises(HfInitError, match="a: kept bytes differ from the base"):
            extend_small(base, tmp_path / "out", progress=progress)
    else:
        report = extend_small(base, tmp_path / "out", progress=progress)
        assert report.bytes_cloned == 0 and report.bytes_compared > KEPT
        return
    assert names(tmp_path) == ["base"]


def test_a_copy_that_shares_its_blocks_needs_no_room(tmp_path, cloned, monkeypatch):
    """By one trial, which leaves nothing; where no file without a name can be made, there is none."""
    base = small_base(tmp_path / "base")
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 10**9, 3000))
    extend_small(base, tmp_path / "out")
    extend_small(base, tmp_path / "links", link="hard")
    before = names(tmp_path)
    monkeypatch.delattr(os, "O_TMPFILE")
    with pytest.raises(HfInitError, match="no space for"):
        extend_small(base, tmp_path / "other")
    assert names(tmp_path) == before


# Files beside the weights.


OTHERS = ("tokenizer.json", "vocab.txt", "README.md", "1_Pooling/config.json")
STALE = ("adapter_model.safetensors", "consolidated.00.pth", "model.gguf", "pytorch_model.bin", "tf_model.h5")


def put(folder: Path, *files: str) -> None:
    for file in files:
        (folder / file).parent.mkdir(exist_ok=True)
        (folder / file).write_text(file)


def stale(base: Path) -> list[str]:
    """The files that the plan leaves behind."""
    return [*hf_init.plan(base, Shapes).files.left]


def test_everything_but_weights_comes_along_and_weights_that_nobody_reads_stay(three, tmp_path):
    put(three, *OTHERS)
    assert stale(three) == []
    put(three, *STALE, "hf_init.json", ".cache/lock")
    put(tmp_path, "blob")
    (three / "link.json").symlink_to("../blob")
    assert stale(three) == list(STALE)
    extend(three, tmp_path / "out", shapes_of(THREE))
    found = contents(tmp_path / "out")
    found["README.md"] = found.pop("BASE_README.md")  # the base's card has another name beside the result's own
    assert {name: found.pop(name) for name in OTHERS} == {name: name.encode() for name in OTHERS}
    assert found.pop("link.json") == b"blob" and not (tmp_path / "out" / "link.json").is_symlink()
    assert {name for name in found if not name.startswith("model")} == {"config.json", "hf_init.json"}


def test_files_of_another_layout_are_stale(three):
    """One file beside shards goes before their index, so the shards and the index are the ones that nobody reads."""
    put(three, "model-00001-of-00004.safetensors")
    assert stale(three) == ["model-00001-of-00004.safetensors"]
    save_file(THREE, three / "model.safetensors", {"format": "pt"})
    shards = [f"model-0000{k}-of-0000{n}.safetensors" for k, n in ((1, 3), (1, 4), (2, 3), (3, 3))]
    assert stale(three) == [*shards, "model.safetensors.index.json"]


# Memory.


CHILD = """
import json, sys, threading, time
from pathlib import Path
import torch
from safetensors.torch import load_file
from small_model import save_base
from shaped_models import Shapes, ShapesConfig, extend, shapes_of

torch.set_num_threads(1)
folder = Path(sys.argv[1])
extend(save_base(folder / "small", ShapesConfig(), {"w": torch.zeros(3)}), folder / "first", {"w": ([3], "float32")})
shape = [64 << 10, 1 << 10]
header = json.dumps({"w": {"dtype": "F32", "shape": shape, "data_offsets": [0, 256 << 20]},
                     "__metadata__": {"format": "pt"}}).encode()
ShapesConfig(shapes={"w": (shape, "float32")}).save_pretrained(folder / "base")
with open(folder / "base" / "model.safetensors", "wb") as file:  # a header and a hole
    file.write(len(header).to_bytes(8, "little") + header)
    file.truncate(8 + len(header) + (256 << 20))

def anonymous():
    return int(next(line for line in open("/proc/self/status") if line.startswith("RssAnon")).split()[1]) / 1024

def peak_of(do):
    peaks, done = [], []
    def watch():
        while not done:
            peaks.append(anonymous())
            time.sleep(0.001)
    before = anonymous()
    thread = threading.Thread(target=watch)
    thread.start()
    kept = do()
    done.append(True)
    thread.join()
    return max(peaks) - before

print(peak_of(lambda: extend(folder / "base", folder / "out", {"w": ([shape[0] + 10, shape[1]], "float32")},
                             keep={"w": "leading"}) and None))
print(peak_of(lambda: load_file(folder / "base" / "model.safetensors")["w"].clone()))
"""


@pytest.mark.slow
def test_memory_is_that_of_what_is_new(warm, tmp_path):
    """Ten new rows on 256 MiB take less than 64; and the measure would see the whole tensor in memory."""
    done = warm.run(CHILD, tmp_path)
    writing, loading = map(float, done.stdout.split())
    assert writing < 64 < 200 < loading
