"""A result appears whole or not at all, whoever stops the run, and a later run knows what an earlier one left."""

from __future__ import annotations

import errno
import fcntl
import io
import json
import os
import resource
import shutil
import subprocess
import sys
from collections import namedtuple
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from refusals import HEAD, refusal, snapshot
from small_model import FILES, contents, extend_small, failing, names, once_at, small_base

from hf_init import HfInitError
from hf_init.cli import main

NBYTES = 4 * (1600 + 28 + 3 + 9 + 12)
FULL, INTERRUPT = OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()
CALLS = {
    "open": os, "pwrite": os, "fsync": os, "mkdir": os, "rename": os, "copy_file_range": os, "io.open": io,
    "ftruncate": os, "flock": fcntl, "ioctl": fcntl, "unlink": os, "rmdir": os,
}  # fmt: skip
"""What the writing asks of the system: its functions, and where they are."""


@pytest.fixture
def base(tmp_path) -> Path:
    return small_base(tmp_path / "base")


@pytest.fixture
def fresh(base, tmp_path_factory) -> dict[str, bytes]:
    """What an undisturbed run makes, in another place."""
    extend_small(base, out := tmp_path_factory.mktemp("fresh") / "out")
    return written(out)


def written(folder: Path) -> dict[str, bytes]:
    """The bytes of a result, and for its manifest's path to the base, which begins at the result: where that leads."""
    found = contents(folder)
    path = json.loads(found["hf_init.json"])["base"]["path"]
    leads = os.path.normpath(folder.resolve() / path)
    return {**found, "hf_init.json": found["hf_init.json"].replace(f'"path": "{path}"'.encode(), leads.encode(), 1)}


@contextmanager
def disturbed(call: str, number: int, do: Callable[[], object], file: str = "") -> Iterator[list[object]]:
    """Do something before a call's so-manieth time, of those with this file; gives the calls."""
    home, name = CALLS[call], call.removeprefix("io.")
    real, seen = getattr(home, name), list[object]()

    def instead(*args: Any, **options: Any) -> Any:
        if str(args[0]).endswith(file):
            seen.append(args)
            if len(seen) == number:
                do()
        return real(*args, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "cpu_count", lambda: 1)
        patch.setattr(home, name, instead)
        yield seen


def throwing(error: BaseException) -> Callable[[], None]:
    def throw() -> None:
        raise error

    return throw


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
import torch
from pathlib import Path
from small_model import extend_small
from test_write_stage import CALLS, disturbed

folder = Path(sys.argv[1])
torch.set_num_threads(1)
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
def test_killed_at_any_call_of_the_system_and_run_again(base, tmp_path, fresh):
    """In processes forked from one that isn't the tests' own: there is no result then, or a whole one."""
    path = os.pathsep.join((str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")))
    subprocess.run([sys.executable, "-c", KILLING, tmp_path], check=True, env={**os.environ, "PYTHONPATH": path})
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


# Resumed.


def begun(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the weight files that are made from now on."""
    made: list[str] = []
    real = os.open

    def noting(path: Any, flags: int, *args: Any, **options: Any) -> int:
        if flags & os.O_CREAT and str(path).endswith(".safetensors"):
            made.append(Path(path).name)
        return real(path, flags, *args, **options)

    monkeypatch.setattr(os, "open", noting)
    return made


THIRD_FILE, JOURNAL = ("io.open", 5), "hf_init.journal"  # it is made, and noted in it are the job and two files


@pytest.fixture
def interrupted(base, tmp_path, request) -> Path:
    """A run that was to be resumed where it is interrupted, and was, after two files of three."""
    rename = getattr(request, "param", True)
    with disturbed(*THIRD_FILE, throwing(INTERRUPT), JOURNAL), pytest.raises(KeyboardInterrupt):
        extend_small(base, tmp_path / "out", resume=True, rename=rename)
    assert names(tmp_path) == ([".out.hf_init", "base"] if rename else ["base", "out"])
    return tmp_path / ".out.hf_init" / "result" if rename else tmp_path / "out"


@pytest.mark.parametrize("interrupted", [True, False], indirect=True)
def test_resumed_it_is_the_same_result(interrupted, base, tmp_path, fresh, monkeypatch):
    made = begun(monkeypatch)
    extend_small(base, tmp_path / "out", resume=True, rename=interrupted.name == "result")
    assert made == [FILES[2]] and written(tmp_path / "out") == fresh and names(tmp_path) == ["base", "out"]


@pytest.mark.parametrize("file", FILES[:2])
@pytest.mark.parametrize("at", [10, -1, "short", "gone", "link"])
def test_what_isn_t_as_it_was_left_is_written_again(interrupted, base, tmp_path, fresh, monkeypatch, file, at):
    """A byte of the header, of the last tensor (the new head in the second file), a cut, no file, a link."""
    path = interrupted / file
    data = bytearray(path.read_bytes())
    path.unlink()
    if at == "link":
        path.symlink_to(base / path.name)
    elif at != "gone":
        if isinstance(at, int):
            data[at] ^= 1
        path.write_bytes(data[:-3] if at == "short" else data)
    made = begun(monkeypatch)
    extend_small(base, tmp_path / "out", resume=True)
    assert sorted(made) == [file, FILES[2]] and written(tmp_path / "out") == fresh


@pytest.mark.slow
def test_every_byte_of_what_was_left_is_checked(interrupted, base, tmp_path, fresh, monkeypatch):
    """Whichever byte of a finished file changes (here each fifth): it is noticed."""
    left, data = tmp_path / "left", (interrupted / FILES[1]).read_bytes()
    shutil.copytree(interrupted.parent, left, copy_function=shutil.copy2)
    for at in {*range(0, len(data), 5), len(data) - 1}:
        shutil.rmtree(interrupted.parent, ignore_errors=True)
        shutil.copytree(left, interrupted.parent, copy_function=shutil.copy2)
        (interrupted / FILES[1]).write_bytes(data[:at] + bytes([data[at] ^ 0x10]) + data[at + 1 :])
        with monkeypatch.context() as patch:
            made = begun(patch)
            extend_small(base, tmp_path / "out", resume=True)
        assert sorted(made) == FILES[1:] and written(tmp_path / "out") == fresh, at
        shutil.rmtree(tmp_path / "out")


@pytest.mark.parametrize("what", ["plan", "base", "link", "version", "not asked to"])
def test_another_job_isn_t_resumed(interrupted, base, tmp_path, monkeypatch, what):
    options: dict[str, Any] = {"resume": what != "not asked to"}
    if what == "plan":
        options["seed"] = 1
    elif what == "base":
        os.utime(base / FILES[0], (1, 1))
    elif what == "link":
        options["link"] = "hard"
    elif what == "version":
        monkeypatch.setattr("hf_init._write.journal.__version__", "0.0.0")
    made = begun(monkeypatch)
    assert extend_small(base, tmp_path / "out", **options).ok
    assert sorted(made) == FILES[what == "link" :] and names(tmp_path) == ["base", "out"]


def test_a_journal_that_is_cut_off_is_read_as_far_as_it_goes(interrupted, base, tmp_path, fresh, monkeypatch):
    journal = interrupted.parent / "hf_init.journal"
    journal.write_bytes(journal.read_bytes()[:-10] + b"\xff")
    made = begun(monkeypatch)
    extend_small(base, tmp_path / "out", resume=True)
    assert sorted(made) == FILES[1:] and written(tmp_path / "out") == fresh


def test_what_can_be_resumed_is_said(tiny, tmp_path, capsys):
    argv = [*map(str, ("extend", tiny("bert"), tmp_path / "out", *HEAD, "--max-shard-size", "20KB", "--resume"))]
    with disturbed(*THIRD_FILE, throwing(FULL), JOURNAL):
        assert main(argv) == 2
    said = capsys.readouterr().err
    assert f"what is finished is in {tmp_path / '.out.hf_init'}, for another run to resume" in said
    assert main([*argv, "--seed", "1"]) == 0
    assert "not resumed: the interrupted run was of another plan, base or version; ev" in capsys.readouterr().err
    shutil.rmtree(tmp_path / "out")
    assert main(argv) == 0
    assert "nothing to resume: no interrupted run is there; everything" in capsys.readouterr().err
    shutil.rmtree(tmp_path / "out")
    with disturbed(*THIRD_FILE, throwing(FULL), JOURNAL):
        assert main(argv) == 2
    capsys.readouterr()
    assert main(argv) == 0
    assert "files are there from the interrupted run; each is checked" in capsys.readouterr().err


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
