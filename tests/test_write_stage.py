"""A result appears whole or not at all, whoever stops the run, and a later run knows what an earlier one left."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import subprocess
import sys
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import write_killed
from write_checks import contents, extend, grown, kept, names, new, plan_of, save_base, values
from write_killed import AFTER, BEFORE, COMPLETE, plan_for

from hf_init._checkpoint.checkpoint import Checkpoint
from hf_init._errors import CheckpointError, HfInitError, PlanError, ProofError
from hf_init._verify.verify import verify_result
from hf_init._write import copying as _copying
from hf_init._write import lock as _lock
from hf_init._write import stage as _stage
from hf_init._write import writing as _writing
from hf_init._write.filling import fill_kept
from hf_init._write.stage import check_existing, stage_result

FULL = OSError(errno.ENOSPC, "No space left on device")


def make_base(folder: Path) -> Checkpoint:
    return save_base(folder, {"a": values(40, 40)}, {"b": values(5, 4), "c": values(3)}, {"d": values(9)})


@pytest.fixture
def source(tmp_path) -> Checkpoint:
    return make_base(tmp_path / "base")


@pytest.fixture
def fresh(source, tmp_path) -> dict[str, bytes]:
    """What an undisturbed run makes."""
    extend(source, tmp_path / "fresh" / "out", plan_for(source))
    return contents(tmp_path / "fresh" / "out")


def failing(error: BaseException, after: int = 0, do: Callable[..., Any] = lambda *args, **options: None) -> Any:
    """A function that does its work a few times and then fails."""
    calls: list[object] = []

    def call(*args: Any, **options: Any) -> Any:
        calls.append(args)
        if len(calls) > after:
            raise error
        return do(*args, **options)

    return call


# Killed.

INSTANTS = [(instant, rename) for instant in (*BEFORE, *AFTER) for rename in (True, False)]


@pytest.fixture(scope="module")
def killed(tmp_path_factory) -> Path:
    """The places of runs that were killed, and of two that weren't: their instants don't come when writing in place."""
    folder = tmp_path_factory.mktemp("killed")
    make_base(folder / "base")
    command = [sys.executable, write_killed.__file__, str(folder)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    ends = [line.split("\t") for line in done.stdout.splitlines()]
    assert [(instant, rename == "True") for instant, rename, _ in ends] == INSTANTS
    ended = [(instant, rename) for instant, rename, signal in ends if signal != "9"]
    assert ended == [("before the name", "False"), ("after the name", "False")]
    return folder


@pytest.mark.parametrize(("instant", "rename"), INSTANTS)
def test_killed_at_an_instant_and_run_again(killed, source, tmp_path, fresh, instant, rename):
    place = tmp_path / "place"
    shutil.copytree(killed / (instant if rename else f"{instant}, in place"), place)
    out = place / "out"
    assert out.exists() == (not rename or instant in COMPLETE)
    if out.exists() and not (out / ".hf_init").exists():
        with pytest.raises(PlanError, match="exists and isn't empty"):
            check_existing(out)
        assert names(place) == ["out"], "a run that is refused sweeps up all the same"
    else:
        extend(source, out, plan_for(source), rename=rename)
    assert names(place) == ["out"]
    assert without_manifest(contents(out)) == without_manifest(fresh)
    assert verify_result(out, source.root).ok


def without_manifest(files: dict[str, bytes]) -> dict[str, bytes]:
    return {name: data for name, data in files.items() if name != "hf_init.json"}


@pytest.mark.parametrize("instant", ["after two files", "after the manifest"])
@pytest.mark.parametrize("rename", [True, False])
def test_a_killed_run_is_resumed_without_writing_again_what_it_had_finished(
    killed, source, tmp_path, fresh, monkeypatch, instant, rename
):
    """The base is another copy here, so the journal is of another job: only told to be the same one."""
    shutil.rmtree(source.root)
    shutil.copytree(killed / "base", source.root, copy_function=shutil.copy2)
    place = tmp_path / "place"
    shutil.copytree(killed / (instant if rename else f"{instant}, in place"), place)
    job = (place / (".out.hf_init" if rename else "out/.hf_init") / "hf_init.journal").read_text().split()[1]
    monkeypatch.setattr(_writing, "job_of", lambda *parts: job.strip('"}'))
    begun, said = counted(monkeypatch), []
    extend(source, place / "out", plan_for(source), rename=rename, resume=True, log=said.append)
    done = 2 if instant == "after two files" else 3
    assert said == [f"resumed: {done} files are there from the interrupted run; each is checked"]
    assert len(begun) == 3 - done
    assert without_manifest(contents(place / "out")) == without_manifest(fresh)
    assert names(place) == ["out"]


def counted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that are written or copied from now on."""
    begun: list[str] = []

    def noting(do: Callable[..., Any], name_of: Callable[..., str]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            begun.append(name_of(*args))
            return do(*args, **options)

        return call

    monkeypatch.setattr(_writing, "fill_kept", noting(fill_kept, lambda file, *rest: file.name))
    monkeypatch.setattr(_writing, "copy_file", noting(_copying.copy_file, lambda origin, path, *rest: path.name))
    return begun


# Resumed.


@pytest.fixture
def interrupted(source, tmp_path, monkeypatch) -> Path:
    """A run that was to be resumed where it is interrupted, and was, after two files of three."""
    with monkeypatch.context() as patch:
        patch.setattr(_writing.Journal, "add", failing(KeyboardInterrupt(), 2, _writing.Journal.add))
        with pytest.raises(KeyboardInterrupt):
            extend(source, tmp_path / "out", plan_for(source), resume=True)
    assert names(tmp_path) == [".out.hf_init", "base", "out"][: 2 + (tmp_path / "out").exists()]
    return tmp_path / ".out.hf_init" / "result"


def resumed(source: Checkpoint, out: Path, **options: Any) -> str:
    said: list[str] = []
    extend(source, out, plan_for(source), resume=True, log=said.append, **options)
    (told,) = said
    return told


def test_resumed_it_is_the_same_result(interrupted, source, tmp_path, fresh, monkeypatch):
    begun = counted(monkeypatch)
    assert resumed(source, tmp_path / "out").startswith("resumed: 2 files")
    assert begun == ["model-00003-of-00003.safetensors"]
    assert contents(tmp_path / "out") == fresh
    assert names(tmp_path) == ["base", "fresh", "out"]


@pytest.mark.parametrize("at", [10, -1, "short", "gone", "link"])
def test_what_isn_t_as_it_was_left_is_written_again(interrupted, source, tmp_path, fresh, monkeypatch, at):
    """A byte of the header, of the last tensor (the new head in the second file), a cut, no file, a link."""
    path = interrupted / "model-00002-of-00003.safetensors"
    data = bytearray(path.read_bytes())
    path.unlink()
    if at == "link":
        path.symlink_to(source.root / path.name)
    elif at != "gone":
        if isinstance(at, int):
            data[at] ^= 1
        path.write_bytes(data[:-3] if at == "short" else data)
    begun = counted(monkeypatch)
    assert resumed(source, tmp_path / "out").startswith("resumed: ")
    assert sorted(begun) == ["model-00002-of-00003.safetensors", "model-00003-of-00003.safetensors"]
    assert contents(tmp_path / "out") == fresh


def test_every_byte_of_what_was_left_is_checked(interrupted, source, tmp_path, monkeypatch):
    """Whichever bit of a finished file flips: it is noticed."""
    from hf_init._write.files import plan_files
    from hf_init._write.filling import is_filled
    from hf_init._write.journal import _journal_lines

    files = {file.name: file for file in plan_files(plan_for(source), source)}
    path = interrupted / "model-00002-of-00003.safetensors"
    notes = [
        line for line in _journal_lines(tmp_path / ".out.hf_init" / "hf_init.journal") if line.get("file") == path.name
    ]
    data, file = path.read_bytes(), files[path.name]
    assert is_filled(file, interrupted, source, notes[0]["digests"])
    for at in range(len(data)):
        path.write_bytes(data[:at] + bytes([data[at] ^ 0x10]) + data[at + 1 :])
        assert not is_filled(file, interrupted, source, notes[0]["digests"]), at


@pytest.mark.parametrize("what", ["plan", "base", "link", "version"])
def test_another_job_isn_t_resumed(interrupted, source, tmp_path, fresh, monkeypatch, what):
    plan, options = plan_for(source), {}
    if what == "plan":
        plan = plan_of(*plan.tensors[:-1], new("head", 3, 4))
    elif what == "base":
        os.utime(source.root / "model-00001-of-00003.safetensors", (1, 1))
    elif what == "link":
        options = {"link": "hard"}
    else:
        monkeypatch.setattr("hf_init._write.journal.__version__", "0.0.0")
    said: list[str] = []
    extend(source, tmp_path / "out", plan, resume=True, log=said.append, **options)
    assert said == [
        "not resumed: the interrupted run was of another plan, base or version; everything is written afresh"
    ]
    assert verify_result(tmp_path / "out").ok and names(tmp_path) == ["base", "fresh", "out"]


def test_nothing_to_resume_is_said(source, tmp_path, fresh):
    assert resumed(source, tmp_path / "out").startswith("nothing to resume: ")
    assert contents(tmp_path / "out") == fresh


def test_without_resume_what_was_left_goes(interrupted, source, tmp_path, fresh, monkeypatch):
    begun = counted(monkeypatch)
    extend(source, tmp_path / "out", plan_for(source))
    assert len(begun) == 3 and contents(tmp_path / "out") == fresh


def test_a_journal_that_is_cut_off_or_no_journal_is_read_as_far_as_it_goes(interrupted, source, tmp_path, fresh):
    journal = interrupted.parent / "hf_init.journal"
    journal.write_bytes(journal.read_bytes()[:-10] + b"\xff")
    assert resumed(source, tmp_path / "out").startswith("resumed: 1 files")
    assert contents(tmp_path / "out") == fresh


def test_a_system_that_refuses_says_what_can_be_resumed(source, tmp_path, fresh, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(_writing, "fill_kept", failing(FULL, 1, fill_kept))
        with pytest.raises(HfInitError, match=r"what is finished is in .*\.out\.hf_init, for another run to resume"):
            extend(source, tmp_path / "out", plan_for(source), resume=True)
    assert resumed(source, tmp_path / "out").startswith("resumed: ")
    assert contents(tmp_path / "out") == fresh


def test_a_result_that_isn_t_right_isn_t_kept_to_be_resumed(source, tmp_path, monkeypatch):
    monkeypatch.setattr(_writing, "fill_new", lambda tensor, *rest: ["0" * 64 for _ in tensor.new])
    with pytest.raises(ProofError):
        extend(source, tmp_path / "out", plan_for(source), resume=True)
    assert names(tmp_path) == ["base"]


# Two runs.


def test_the_second_run_names_the_first(source, tmp_path):
    with stage_result(tmp_path / "out", 0):
        for rename in (True, False):
            with pytest.raises(PlanError, match=f"another run \\(process {os.getpid()}\\) is writing this result"):
                extend(source, tmp_path / "out", plan_for(source), rename=rename)
    assert names(tmp_path) == ["base", "out"]


def test_the_second_run_names_the_first_in_place(source, tmp_path):
    with stage_result(tmp_path / "out", 0, rename=False) as stage:
        for rename in (True, False):
            with pytest.raises(PlanError, match=f"another run \\(process {os.getpid()}\\) is writing this result"):
                extend(source, tmp_path / "out", plan_for(source), rename=rename)
        (stage.folder / "theirs").touch()
    assert names(tmp_path / "out") == ["theirs"]


@pytest.mark.parametrize("rename", [True, False])
def test_what_a_killed_run_of_the_other_way_left_goes_too(source, tmp_path, fresh, rename):
    out = tmp_path / "out"
    work = out / ".hf_init" if rename else tmp_path / ".out.hf_init"
    work.mkdir(parents=True)
    (work / "hf_init.lock").write_text("1")
    (work.parent / "half.safetensors" if rename else work / "half").touch()
    extend(source, out, plan_for(source), rename=rename)
    assert without_manifest(contents(out)) == without_manifest(fresh)
    assert names(tmp_path) == ["base", "fresh", "out"]


def test_a_folder_of_that_name_that_isn_t_ours_is_left_alone(source, tmp_path):
    theirs = tmp_path / ".out.hf_init" / "theirs"
    theirs.parent.mkdir()
    theirs.write_text("theirs")
    with pytest.raises(PlanError, match=r"\.out\.hf_init is in the way and isn't an unfinished result"):
        extend(source, tmp_path / "out", plan_for(source))
    assert theirs.read_text() == "theirs" and names(tmp_path) == [".out.hf_init", "base"]


def test_a_link_of_that_name_is_left_alone(source, tmp_path):
    (tmp_path / ".out.hf_init").symlink_to(source.root)
    with pytest.raises(PlanError, match="is in the way"):
        extend(source, tmp_path / "out", plan_for(source))
    assert names(source.root) == names(make_base(tmp_path / "other").root)


def test_a_writer_that_ends_meanwhile_lets_the_next_one_in(source, tmp_path, monkeypatch):
    """Its lock is opened, and removed before it is locked: the one that is locked then is a new one."""
    lock = tmp_path / ".out.hf_init" / "hf_init.lock"
    lock.parent.mkdir()
    lock.touch()
    once = iter([True])

    def flock(number: int, how: int) -> None:
        if next(once, False):
            os.unlink(lock)
        fcntl.flock(number, how)

    monkeypatch.setattr(_lock, "fcntl", namedtuple("f", "flock LOCK_EX LOCK_NB")(flock, fcntl.LOCK_EX, fcntl.LOCK_NB))
    monkeypatch.setattr(_stage, "check_busy", lambda work: None)
    extend(source, tmp_path / "out", plan_for(source))
    assert next(once, None) is None and names(tmp_path) == ["base", "out"]


def test_without_locks_a_folder_that_is_there_is_refused(source, tmp_path, monkeypatch, fresh):
    def flock(number: int, how: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(_lock, "fcntl", namedtuple("f", "flock LOCK_EX LOCK_NB")(flock, fcntl.LOCK_EX, fcntl.LOCK_NB))
    extend(source, tmp_path / "out", plan_for(source))
    assert contents(tmp_path / "out") == fresh
    (tmp_path / ".again.hf_init").mkdir()
    (tmp_path / ".again.hf_init" / "hf_init.lock").touch()
    with pytest.raises(PlanError, match="no locks to tell whether its writer lives; if no other run"):
        extend(source, tmp_path / "again", plan_for(source))


# The system refuses.


@pytest.mark.parametrize("number", [errno.EPERM, errno.EXDEV, errno.ENOTSUP, errno.EBUSY])
def test_where_a_rename_is_refused_the_way_out_is_named(source, tmp_path, fresh, monkeypatch, number):
    with monkeypatch.context() as patch:
        patch.setattr("pathlib.Path.rename", failing(OSError(number, "Not here")))
        with pytest.raises(PlanError, match=r"take its name \(Not here\).*--no-rename"):
            extend(source, tmp_path / "out", plan_for(source))
        assert names(tmp_path) == ["base", "fresh"]
        patch.setattr("os.rename", failing(OSError(number, "Not here")))
        extend(source, tmp_path / "out", plan_for(source), rename=False)
    assert without_manifest(contents(tmp_path / "out")) == without_manifest(fresh)


@pytest.mark.parametrize("step", ["fill_kept", "fill_new", "index_text"])
def test_in_place_nothing_is_left_of_a_failure(source, tmp_path, monkeypatch, step):
    monkeypatch.setattr(_writing, step, failing(FULL))
    with pytest.raises(HfInitError, match="No space left on device; nothing is left behind"):
        extend(source, tmp_path / "a" / "out", plan_for(source), rename=False)
    assert names(tmp_path) == ["base"]


@pytest.mark.parametrize("number", [errno.EXDEV, errno.EPERM])
@pytest.mark.parametrize("how", ["hard", "symbolic"])
def test_links_that_can_t_be_made_are_one_clear_error(source, tmp_path, monkeypatch, number, how):
    monkeypatch.setattr(os, "link" if how == "hard" else "symlink", failing(OSError(number, "Not here")))
    why = "it is on another filesystem" if number == errno.EXDEV else "Not here"
    with pytest.raises(PlanError, match=f"no {how} link to .*: {why}; give a place on the base's own filesystem, or"):
        extend(source, tmp_path / "out", plan_for(source), link=how)
    assert names(tmp_path) == ["base"]


def test_a_failure_in_one_thread_is_the_one_that_is_told(source, tmp_path, monkeypatch):
    """The others stop; none of their errors hides the cause."""
    monkeypatch.setattr(_writing, "copy_file", failing(FULL))
    with pytest.raises(HfInitError, match="No space left on device"):
        extend(source, tmp_path / "out", plan_for(source))
    assert names(tmp_path) == ["base"]


def test_a_flush_that_fails_stops_the_result(source, tmp_path, monkeypatch):
    """An error of the disk that the system tells of only when it is asked."""
    real = _stage._fsync
    monkeypatch.setattr(_stage, "_fsync", failing(OSError(errno.EIO, "Input/output error"), 2, real))
    with pytest.raises(HfInitError, match="Input/output error; nothing is left behind"):
        extend(source, tmp_path / "out", plan_for(source))
    assert names(tmp_path) == ["base"]


def test_everything_is_flushed_before_the_name(source, tmp_path, monkeypatch):
    flushed: list[str] = []
    real, take = _stage._fsync, _stage._take_name
    monkeypatch.setattr(_stage, "_fsync", lambda path: (flushed.append(path.name), real(path)))
    monkeypatch.setattr(_stage, "_take_name", lambda folder, out: (flushed.append("the name"), take(folder, out)))
    extend(source, tmp_path / "out", plan_for(source))
    assert {*names(tmp_path / "out"), "result"} <= set(flushed[: flushed.index("the name")])
    assert flushed[-1] == tmp_path.name, "the folder that holds the name, last"


@pytest.mark.parametrize("calls", range(12))
@pytest.mark.parametrize("rename", [True, False])
def test_whatever_can_t_be_opened_nothing_is_left(source, tmp_path, monkeypatch, calls, rename):
    """The lock, a file, the folder to be flushed: a disk without any room, or a folder without rights."""
    real, left = os.open, iter(range(calls))

    def once(*args: Any, **options: Any) -> int:
        if next(left, None) is None and not refused:
            refused.append(args[0])
            raise OSError(errno.EACCES, "Permission denied")
        return real(*args, **options)

    refused: list[Any] = []
    with monkeypatch.context() as patch:
        patch.setattr(os, "open", once)
        with pytest.raises(HfInitError, match=r"Permission denied|changed while"):
            extend(source, tmp_path / "out", plan_for(source), rename=rename)
    assert names(tmp_path) == ["base"]


def test_an_empty_rest_of_writing_in_place_goes(source, tmp_path):
    """Killed between the step that made it a result and the next."""
    extend(source, tmp_path / "out", plan_for(source), rename=False)
    (tmp_path / "out" / ".hf_init").mkdir()
    with pytest.raises(PlanError, match="isn't empty"):
        check_existing(tmp_path / "out")
    assert ".hf_init" not in names(tmp_path / "out")


# The source changes.

FIRST = "model-00001-of-00003.safetensors"


def shrink(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def replace(path: Path) -> None:
    data = path.read_bytes()
    path.unlink()
    path.write_bytes(data)


def touch(path: Path) -> None:
    os.utime(path, (1, 1))


CHANGES = [
    *[(change, _writing, "source_state") for change in (shrink, Path.unlink)],  # else the bytes decide
    *[(change, _writing, "index_text") for change in (shrink, replace, touch, Path.unlink)],
    *[(change, _stage.StagingDir, "settle") for change in (shrink, replace, touch, Path.unlink)],
]


@pytest.mark.parametrize(("change", "module", "step"), CHANGES)
def test_a_source_that_changes_makes_no_result(source, tmp_path, monkeypatch, change, module, step):
    """Before its first byte is read, when all are, and after the proof."""
    real = getattr(module, step)

    def changing(*args: Any) -> Any:
        change(source.root / FIRST)
        return real(*args)

    monkeypatch.setattr(module, step, changing)
    with pytest.raises(CheckpointError, match=f"{FIRST}.* changed while"):
        extend(source, tmp_path / "out", plan_for(source))
    assert names(tmp_path) == ["base"]


@pytest.mark.parametrize("by", ["the system", "memory"])
def test_a_file_that_ends_too_early_is_one_clear_error(source, tmp_path, monkeypatch, by):
    if by == "memory":
        monkeypatch.setattr(os, "copy_file_range", failing(OSError(errno.EXDEV, "Not here")))
    real = fill_kept

    def shrinking(*args: Any) -> Any:
        shrink(source.root / "model-00002-of-00003.safetensors")
        return real(*args)

    monkeypatch.setattr(_writing, "fill_kept", shrinking)
    with pytest.raises(CheckpointError, match=r"00002-of-00003.safetensors ends at byte \d+: it was changed"):
        extend(source, tmp_path / "out", plan_for(source))
    assert names(tmp_path) == ["base"]


@pytest.mark.parametrize("after", [3, 8])
def test_a_read_error_half_way_names_the_file_and_the_place(source, tmp_path, monkeypatch, after):
    monkeypatch.setattr(os, "copy_file_range", failing(OSError(errno.EIO, "Input/output error")))
    monkeypatch.setattr(os, "preadv", failing(OSError(errno.EIO, "Input/output error"), after, os.preadv))
    with pytest.raises(
        CheckpointError, match=r"model-0000\d-of-00003.safetensors can't be read at byte \d+: Input/output"
    ):
        extend(source, tmp_path / "out", plan_for(source))
    assert names(tmp_path) == ["base"]


def test_without_the_system_s_help_the_bytes_are_the_same(source, tmp_path, fresh, monkeypatch):
    monkeypatch.setattr(os, "copy_file_range", failing(OSError(errno.ENOSYS, "Not here")))
    extend(source, tmp_path / "out", plan_for(source))
    assert contents(tmp_path / "out") == fresh


def test_blocks_that_the_system_lets_share_are_shared(source, tmp_path, fresh, monkeypatch):
    """A filesystem with reflinks, played: the new file has the old one's bytes at one call."""
    cloned: list[str] = []

    def ioctl(new: int, request: int, old: int) -> None:
        assert request == 0x40049409
        if "(deleted)" not in (path := os.readlink(f"/proc/self/fd/{new}")):  # the trial
            cloned.append(path)
        os.pwrite(new, os.pread(old, 10**6, 0), 0)

    monkeypatch.setattr(_copying.fcntl, "ioctl", ioctl)
    extend(source, tmp_path / "out", plan_for(source))
    assert [Path(path).name for path in cloned] == [FIRST]
    assert contents(tmp_path / "out") == fresh


def test_the_callers_random_state_is_left_alone(source, tmp_path):
    before = torch.get_rng_state()
    extend(
        source,
        tmp_path / "out",
        plan_of(kept(source, "a"), grown(source, "b", 2), kept(source, "c"), kept(source, "d")),
    )
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("rename", [True, False])
def test_a_folder_that_can_t_be_written_to_is_one_clear_error(source, rename):
    """The kernel's own folder, where nobody makes a file, the superuser neither."""
    with pytest.raises(HfInitError, match=r"/sys/out couldn't be made: .*nothing is left behind"):
        extend(source, Path("/sys/out"), plan_for(source), rename=rename)
    assert not Path("/sys/out").exists()
