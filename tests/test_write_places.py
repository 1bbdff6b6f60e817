"""Where a result may be written: two runs at once, what others left there, and a source that changes."""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path
from typing import Any

import pytest
from disturbed_writes import NBYTES, written
from disturbed_writes import base as base
from disturbed_writes import fresh as fresh
from refusals import snapshot
from small_model import FILES, extend_small, failing, names, once_at

from hf_init import HfInitError

# Two runs, and what others left.


@pytest.mark.parametrize("rename", [True, False])
def test_two_at_once_leave_one_whole_result(base, tmp_path, fresh, rename):
    out, told = tmp_path / "out", list[str]()

    def overtaken() -> None:
        for other in (True, False):
            with pytest.raises(HfInitError) as error:
                extend_small(base, out, rename=other, seed=7)
            told.append(str(error.value))

    extend_small(base, out, rename=rename, progress=once_at(0, overtaken))
    work = tmp_path / ".out.hf_init" if rename else out / ".hf_init"
    another = (
        f"another run (process {os.getpid()}) is writing this result, in {work}; wait for it, or give another place"
    )
    assert told == [another] * 2 and written(out) == fresh and names(tmp_path) == ["base", "out"]


@pytest.mark.parametrize("kind", ["folder", "file", "link"])
def test_what_appears_meanwhile_is_left_alone(base, tmp_path, kind):
    out = tmp_path / "out"

    def appear() -> None:
        if kind == "folder":
            out.mkdir()
            (out / "theirs").write_text("theirs")
        elif kind == "file":
            out.write_text("theirs")
        else:
            out.symlink_to(base)

    with pytest.raises(HfInitError, match=f"^{out} appeared while the result was written; it was left as it is$"):
        extend_small(base, out, progress=once_at(0, appear))
    theirs = {"folder": out / "theirs", "file": out, "link": out / "config.json"}[kind]
    assert theirs.is_file() and (kind == "link" or theirs.read_text() == "theirs")
    assert names(tmp_path) == ["base", "out"]


@pytest.mark.parametrize("rename", [True, False])
def test_what_a_killed_run_of_the_other_way_left_goes_too(base, tmp_path, fresh, rename):
    out = tmp_path / "out"
    work = out / ".hf_init" if rename else tmp_path / ".out.hf_init"
    work.mkdir(parents=True)
    (work / "hf_init.lock").write_text("1")
    (work.parent / "half.safetensors" if rename else work / "half").touch()
    extend_small(base, out, rename=rename)
    assert written(out) == fresh and names(tmp_path) == ["base", "out"]


@pytest.mark.parametrize("kind", ["folder", "link"])
def test_what_isn_t_ours_under_our_name_is_left_alone(base, tmp_path, kind):
    theirs = tmp_path / ".out.hf_init"
    if kind == "folder":
        theirs.mkdir()
        (theirs / "theirs").write_text("theirs")
    else:
        theirs.symlink_to(base)
    before = snapshot(tmp_path)
    with pytest.raises(HfInitError, match=r"\.out\.hf_init is in the way and isn't an unfinished result"):
        extend_small(base, tmp_path / "out")
    assert snapshot(tmp_path) == before


def test_a_writer_that_ends_meanwhile_lets_the_next_one_in(base, tmp_path, monkeypatch):
    """Its lock is opened, and removed before it is locked: the one that is locked then is a new one."""
    lock, real, calls = tmp_path / ".out.hf_init" / "hf_init.lock", fcntl.flock, list[int]()
    lock.parent.mkdir()
    lock.touch()

    def flock(number: int, how: int) -> None:
        calls.append(number)
        if len(calls) == 2:  # first it is looked whether anybody has it
            os.unlink(lock)
        real(number, how)

    monkeypatch.setattr(fcntl, "flock", flock)
    extend_small(base, tmp_path / "out")
    assert len(calls) == 3 and names(tmp_path) == ["base", "out"]


def test_without_locks_a_folder_that_is_there_is_refused(base, tmp_path, monkeypatch, fresh):
    monkeypatch.setattr(fcntl, "flock", failing(OSError(errno.ENOLCK, "No locks available")))
    extend_small(base, tmp_path / "out")
    assert written(tmp_path / "out") == fresh
    (tmp_path / ".again.hf_init").mkdir()
    (tmp_path / ".again.hf_init" / "hf_init.lock").touch()
    with pytest.raises(HfInitError, match="no locks to tell whether its writer lives; if no other run"):
        extend_small(base, tmp_path / "again")


# Where OUT may be.


def occupied(out: Path) -> Path:
    out.mkdir()
    (out / "mine").touch()
    return out


def linked(out: Path) -> Path:
    out.symlink_to(out.parent / "nowhere")
    return out


def within_a_file(out: Path) -> Path:
    out.touch()
    return out / "a" / "out"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (occupied, "out exists and isn't empty"),
        (lambda out: (out.touch(), out)[1], "out exists and isn't a folder"),
        (linked, "out is a link that leads nowhere"),
        (within_a_file, r"out isn't a folder, so .*/out/a/out can't lie in it"),
        (lambda out: "", "OUT is an empty name"),
        *((lambda out, way=way: way, "OUT is the base itself") for way in ("base", "./base/.", "x/../base", "link")),
        *((lambda out, way=way: way, "lies inside the base") for way in ("base/out", "base/a/b", "link/out")),
        *((lambda out, way=way: way, "lies inside OUT") for way in (".", "..", "base/..")),
    ],
)
def test_where_a_result_can_t_go(base, tmp_path, monkeypatch, make, message):
    (tmp_path / "link").symlink_to(base)
    monkeypatch.chdir(tmp_path)
    place = make(tmp_path / "out")
    before = snapshot(tmp_path)
    with pytest.raises(HfInitError, match=message) as caught:
        extend_small(base, place)
    assert "isn't empty" in message or "remove" not in str(caught.value)
    assert snapshot(tmp_path) == before


def test_an_empty_folder_may_become_the_result_and_folders_above_it_are_made(base, tmp_path, fresh):
    (tmp_path / "out").mkdir()
    for out in (tmp_path / "out", tmp_path / "a" / "b" / "out"):
        extend_small(base, out)
        assert written(out) == fresh and "out" in names(out.parent)


# The source changes.


def shrink(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def replace(path: Path) -> None:
    data = path.read_bytes()
    path.unlink()
    path.write_bytes(data)


@pytest.mark.parametrize("change", [shrink, replace, lambda path: os.utime(path, (1, 1)), Path.unlink])
@pytest.mark.parametrize("done", [0, NBYTES, 2 * NBYTES], ids=["first", "written", "proved"])
def test_a_source_that_changes_makes_no_result(base, tmp_path, change, done):
    progress = once_at(done, lambda: change(base / FILES[0]))
    with pytest.raises(HfInitError, match=rf"{FILES[0]}.*(changed while|has changed since|is not there|ends at byte)"):
        extend_small(base, tmp_path / "out", progress=progress)
    assert names(tmp_path) == ["base"]


@pytest.mark.parametrize("by", ["the system", "memory"])
def test_a_file_that_ends_too_early_is_one_clear_error(base, tmp_path, monkeypatch, by):
    real = os.copy_file_range

    def shrinking(*args: Any) -> int:
        if (base / FILES[1]).stat().st_size > 150:
            shrink(base / FILES[1])
        if by == "memory":
            raise OSError(errno.EXDEV, "Not here")
        return real(*args)

    monkeypatch.setattr(os, "copy_file_range", shrinking)
    with pytest.raises(HfInitError, match=rf"{FILES[1]} ends at byte \d+: it was changed|{FILES[1]}.*changed while"):
        extend_small(base, tmp_path / "out")
    assert names(tmp_path) == ["base"]


@pytest.mark.parametrize("after", [3, 6])
def test_a_read_error_half_way_names_the_file_and_the_place(base, tmp_path, monkeypatch, after):
    monkeypatch.setattr(os, "copy_file_range", failing(OSError(errno.EIO, "Input/output error")))
    monkeypatch.setattr(os, "preadv", failing(OSError(errno.EIO, "Input/output error"), after, os.preadv))
    with pytest.raises(HfInitError, match=r"model-0000\d-of-00003.safetensors can't be read at byte \d+: Input/output"):
        extend_small(base, tmp_path / "out")
    assert names(tmp_path) == ["base"]


def test_without_the_system_s_help_the_bytes_are_the_same(base, tmp_path, fresh, monkeypatch):
    monkeypatch.setattr(os, "copy_file_range", failing(OSError(errno.ENOSYS, "Not here")))
    extend_small(base, tmp_path / "out")
    assert written(tmp_path / "out") == fresh
