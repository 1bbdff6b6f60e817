"""Files that the filesystem clones whole (reflink): their bytes are counted apart while nobody has written to them."""

from __future__ import annotations

import errno
import os
import time
from pathlib import Path

import pytest
import transformers

import hf_init
from hf_init import _verify
from hf_init._checkpoint.checkpoint import SINGLE, Checkpoint
from hf_init._errors import ProofError
from hf_init._write import copying

FICLONE = 0x40049409


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    folder = tmp_path_factory.mktemp("bert")
    transformers.BertModel(transformers.BertConfig(vocab_size=30, **sizes)).save_pretrained(folder)
    return folder


@pytest.fixture
def cloning(monkeypatch) -> None:
    """A filesystem with reflinks, played: a new file has the old one's bytes at one call."""

    def ioctl(new: int, request: int, old: int) -> None:
        assert request == FICLONE
        os.pwrite(new, os.pread(old, 1 << 30, 0), 0)

    monkeypatch.setattr(copying.fcntl, "ioctl", ioctl)


def before_the_proof(monkeypatch, change) -> None:
    """Do something between the writing and the proof."""
    proof = _verify.verify_result

    def changed(folder: Path, *args, **options):
        time.sleep(0.05)  # a tick of the clock by which filesystems note changes
        change(folder / SINGLE)
        return proof(folder, *args, **options)

    monkeypatch.setattr(_verify, "verify_result", changed)


def flip_last_byte(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        last = file.read(1)[0]
        file.seek(-1, os.SEEK_END)
        file.write(bytes([last ^ 1]))


def test_a_cloned_file_is_counted_apart_and_verify_reads_it(base, tmp_path, cloning):
    nbytes = Checkpoint.open(base).nbytes
    report = hf_init.extend(base, tmp_path / "out")
    assert (report.bytes_cloned, report.bytes_compared, report.bytes_linked) == (nbytes, 0, 0)
    assert report.to_json()["bytes_cloned"] == nbytes
    assert "in files that the filesystem has just cloned from it" in str(report)
    again = hf_init.verify(tmp_path / "out")
    assert again and (again.bytes_cloned, again.bytes_compared) == (0, nbytes)


def test_the_progress_counts_cloned_bytes_too(base, tmp_path, cloning):
    done: list[int] = []
    hf_init.extend(base, tmp_path / "out", progress=done.append)
    assert sum(done) == 2 * Checkpoint.open(base).nbytes, "written, and proved"


def test_what_the_filesystem_does_not_clone_is_read(base, tmp_path, monkeypatch):
    def refused(new: int, request: int, old: int) -> None:
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    monkeypatch.setattr(copying.fcntl, "ioctl", refused)
    report = hf_init.extend(base, tmp_path / "out")
    assert (report.bytes_cloned, report.bytes_compared) == (0, Checkpoint.open(base).nbytes)


def test_a_clone_that_was_written_to_is_read(base, tmp_path, cloning, monkeypatch):
    before_the_proof(monkeypatch, flip_last_byte)
    last = max(Checkpoint.open(base).entries.values(), key=lambda entry: entry.stop).name
    with pytest.raises(ProofError, match=f"{last}: kept bytes differ from the base"):
        hf_init.extend(base, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_clone_whose_source_was_written_to_is_read(base, tmp_path, cloning, monkeypatch):
    data = (base / SINGLE).read_bytes()
    before_the_proof(monkeypatch, lambda path: flip_last_byte(base / SINGLE))
    try:
        with pytest.raises(ProofError, match="kept bytes differ from the base"):
            hf_init.extend(base, tmp_path / "out")
    finally:
        (base / SINGLE).write_bytes(data)


def replace_by_a_copy(path: Path) -> None:
    data = path.read_bytes()
    path.unlink()
    path.write_bytes(data)


@pytest.mark.parametrize("change", [lambda path: os.utime(path, ns=(1, 1)), replace_by_a_copy])
def test_a_clone_in_another_state_is_read(base, tmp_path, cloning, monkeypatch, change):
    """The bytes may be the same: nothing but reading them tells."""
    before_the_proof(monkeypatch, change)
    report = hf_init.extend(base, tmp_path / "out")
    assert (report.bytes_cloned, report.bytes_compared) == (0, Checkpoint.open(base).nbytes)


def test_a_time_that_was_set_back_hides_nothing(base, tmp_path, cloning, monkeypatch):
    def change(path: Path) -> None:
        before = path.stat()
        flip_last_byte(path)
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))

    before_the_proof(monkeypatch, change)
    with pytest.raises(ProofError, match="kept bytes differ from the base"):
        hf_init.extend(base, tmp_path / "out")


def test_only_the_very_pair_of_files_counts(base, tmp_path, cloning):
    """A clone of another file, or of this one by another run, says nothing."""
    hf_init.extend(base, tmp_path / "one")
    hf_init.extend(base, tmp_path / "two")
    states = [_verify.file_state((folder / SINGLE).stat()) for folder in (base, tmp_path / "one", tmp_path / "two")]
    other = _verify.verify_result(tmp_path / "two", base, clones=[(states[0], states[1])])
    assert other.ok and other.bytes_cloned == 0 < other.bytes_compared
    very = _verify.verify_result(tmp_path / "two", base, clones=[(states[0], states[2])])
    assert very.bytes_compared == 0 < very.bytes_cloned
