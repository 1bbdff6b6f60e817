"""An interrupted run is resumed: what is finished stays, what has changed is written again, another job is not."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from disturbed_writes import FULL, INTERRUPT, disturbed, throwing, written
from disturbed_writes import base as base
from disturbed_writes import fresh as fresh
from refusals import HEAD
from small_model import FILES, extend_small, names

from hf_init.cli import main

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
