"""A result appears whole or not at all, whoever stops the run, and a later run knows what an earlier one left."""

from __future__ import annotations

import errno
import os
import resource
import shutil
from collections import namedtuple
from pathlib import Path

import pytest
from disturbed_writes import CALLS, FULL, INTERRUPT, NBYTES, disturbed, throwing, written
from disturbed_writes import base as base
from disturbed_writes import fresh as fresh
from refusals import HEAD, refusal, snapshot
from small_model import FILES, extend_small, failing, names, once_at

from hf_init import HfInitError

# Whatever fails.


@pytest.mark.parametrize("rename", [True, False])
@pytest.mark.parametrize("error", [OSError(errno.EIO, "Input/output error"), INTERRUPT], ids=["error", "interruption"])
@pytest.mark.parametrize("most", [1, pytest.param(1000, marks=pytest.mark.slow)], ids=["first", "every"])
@pytest.mark.parametrize("call", list(CALLS)[:10])
def test_whatever_the_system_refuses_leaves_nothing_or_the_result(base, tmp_path, fresh, call, error, rename, most):
    before, out = snapshot(tmp_path), tmp_path / "a" / "out"
    for number in range(1, most + 1):
        with disturbed(call, number, throwing(error)) as seen:
            try:
                extend_small(base, out, rename=rename)
            except (HfInitError, KeyboardInterrupt) as caught:
                assert isinstance(error, OSError) == isinstance(caught, HfInitError)
                assert not out.exists() or number == len(seen), "the last call: the folder's name is flushed"
        if out.exists():
            assert names(out.parent) == ["out"] and written(out) == fresh
            shutil.rmtree(out.parent)
        assert snapshot(tmp_path) == before, number
        if number > len(seen):
            break


def test_the_disk_is_full_or_a_file_may_not_be_so_large(base, tmp_path, monkeypatch, capsys):
    out = tmp_path / "a" / "out"
    before = snapshot(tmp_path)
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    for call in ("pwrite", "copy_file_range", "fsync"):
        with disturbed(call, 2, throwing(FULL)), pytest.raises(HfInitError, match=r"couldn't be made: .*No space left"):
            extend_small(base, out)
        assert snapshot(tmp_path) == before
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, limits[1]))
    try:
        with pytest.raises(HfInitError, match=r"couldn't be made: .*File too large.*nothing is left behind"):
            extend_small(base, out)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert snapshot(tmp_path) == before


def test_a_failure_and_an_interruption_on_the_command_line(tiny, tmp_path, capsys):
    argv = ("extend", tiny("bert"), tmp_path / "a" / "out", *HEAD, "--max-shard-size", "20KB")
    with disturbed("pwrite", 2, throwing(FULL)):
        said = refusal(tmp_path, capsys, *argv)
    assert "No space left on device" in said and "; nothing is left behind, the source is as it was" in said
    with disturbed("pwrite", 2, throwing(INTERRUPT)):
        assert refusal(tmp_path, capsys, *argv).startswith("hf-init: interrupted; ")


def test_no_space_is_known_before_anything_is_written(base, tmp_path, monkeypatch, fresh):
    """Asked for is what the result takes, but for headers."""
    usage, took = namedtuple("usage", "total used free"), sum(map(len, fresh.values()))
    before = snapshot(tmp_path)
    for free in (1000, NBYTES - 1):
        monkeypatch.setattr(shutil, "disk_usage", lambda path, free=free: usage(10**9, 10**9, free))
        with pytest.raises(HfInitError, match=rf"no space for {tmp_path / 'a' / 'out'}: .* needed, .* free"):
            extend_small(base, tmp_path / "a" / "out")
        assert snapshot(tmp_path) == before
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 10**9, took))
    extend_small(base, tmp_path / "out")


def test_everything_is_flushed_before_the_name(base, tmp_path, monkeypatch):
    flushed: list[str] = []
    fsync, rename = os.fsync, os.rename

    def flush(number: int) -> None:
        flushed.append(os.path.basename(os.readlink(f"/proc/self/fd/{number}")))
        fsync(number)

    monkeypatch.setattr(os, "fsync", flush)
    monkeypatch.setattr(os, "rename", lambda old, new: (flushed.append("the name"), rename(old, new)))
    extend_small(base, tmp_path / "out")
    assert {*names(tmp_path / "out"), "result"} <= set(flushed[: flushed.index("the name")])
    assert flushed[-1] == tmp_path.name, "the folder that holds the name, last"


@pytest.mark.parametrize("number", [errno.EPERM, errno.EXDEV, errno.ENOTSUP, errno.EBUSY])
def test_where_a_rename_is_refused_the_way_out_is_named(base, tmp_path, fresh, monkeypatch, number):
    monkeypatch.setattr(os, "rename", failing(OSError(number, "Not here")))
    with pytest.raises(HfInitError, match=r"take its name \(Not here\).*rename=False"):
        extend_small(base, tmp_path / "out")
    assert names(tmp_path) == ["base"]
    extend_small(base, tmp_path / "out", rename=False)
    assert written(tmp_path / "out") == fresh and names(tmp_path / "out") == sorted([*fresh, "README.md"])


@pytest.mark.parametrize("number", [errno.EXDEV, errno.EPERM])
@pytest.mark.parametrize("how", ["hard", "symbolic"])
def test_links_that_can_t_be_made_are_one_clear_error(base, tmp_path, monkeypatch, number, how):
    monkeypatch.setattr(os, "link" if how == "hard" else "symlink", failing(OSError(number, "Not here")))
    why = "it is on another filesystem" if number == errno.EXDEV else "Not here"
    with pytest.raises(HfInitError, match=f"no {how} link to .*: {why}; give a place on the base's own filesystem, or"):
        extend_small(base, tmp_path / "out", link=how)
    assert names(tmp_path) == ["base"]


@pytest.mark.parametrize("rename", [True, False])
def test_a_folder_that_can_t_be_written_to_is_one_clear_error(base, rename):
    """The kernel's own folder, where nobody makes a file, the superuser neither."""
    with pytest.raises(HfInitError, match=r"/sys/out couldn't be made: .*nothing is left behind"):
        extend_small(base, Path("/sys/out"), rename=rename)
    assert not Path("/sys/out").exists()


def test_a_result_that_is_not_what_was_planned_never_appears_nor_is_kept_to_be_resumed(base, tmp_path):
    file = tmp_path / ".out.hf_init" / "result" / FILES[0]

    def spoil() -> None:
        data = bytearray(file.read_bytes())
        data[-1] ^= 1
        file.write_bytes(data)

    for resume in (False, True):
        with pytest.raises(HfInitError, match=r"1 difference from what the plan(.|\n)*a: .*at row 39"):
            extend_small(base, tmp_path / "out", resume=resume, progress=once_at(NBYTES, spoil))
        assert names(tmp_path) == ["base"]


# Killed.


KILLING = """
import os, shutil, signal, sys
from pathlib import Path
from small_model import extend_small
from disturbed_writes import CALLS, disturbed

folder = Path(sys.argv[1])
extend_small(folder / "base", folder / "first" / "out")  # brings what the children would else bring one by one
shutil.rmtree(folder / "first")
for call in ("open", "pwrite", "fsync", "mkdir", "rename", "io.open", "unlink", "rmdir"):
    for rename in (True, False):
        number, alive = 1, False
        while not alive:
            number *= 2
            place = folder / f"{call} {rename} {number}"
            place.mkdir()
            if not os.fork():
                with disturbed(call, number // 2, lambda: os.kill(os.getpid(), signal.SIGKILL)):
                    extend_small(folder / "base", place / "out", rename=rename, resume=number % 4 == 0)
                os._exit(0)
            alive = os.wait()[1] == 0
"""


@pytest.mark.slow
def test_killed_at_any_call_of_the_system_and_run_again(base, warm, tmp_path, fresh):
    """In processes forked from one that isn't the tests' own: there is no result then, or a whole one."""
    done = warm.run(KILLING, tmp_path)
    assert done.returncode == 0, done.stderr
    places = [place for place in tmp_path.iterdir() if place.name != "base"]
    finished = 0
    for number, place in enumerate(places):
        out, rename = place / "out", "True" in place.name
        left = {name for name in names(out) if name != ".hf_init"} if out.exists() else set()
        if not left or (out / ".hf_init" / "hf_init.lock").is_file():
            extend_small(base, out, rename=rename, resume=number % 2 == 0)
            finished += 1
        else:
            with pytest.raises(HfInitError, match="exists and isn't empty"):
                extend_small(base, out)
        assert written(out) == fresh and names(place) == ["out"] and names(out) == sorted([*fresh, "README.md"]), (
            place.name
        )
    assert 10 < finished < len(places) - 10
