"""Where a result may not go, and what is left when writing it fails: nothing, and the source as it was."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from refusals import HEAD, refusal, snapshot
from safetensors import SafetensorError

import hf_init
from hf_init._checkpoint.checkpoint import Checkpoint
from hf_init._errors import HfInitError
from hf_init._write import stage as _stage
from hf_init._write import writing as _writing
from hf_init._write.filling import fill_kept
from hf_init.cli import main

SHARDED = ("--max-shard-size", "20KB")


@pytest.fixture
def base(tiny, tmp_path) -> Path:
    folder = tmp_path / "base"
    shutil.copytree(tiny("bert"), folder)
    return folder


@pytest.fixture
def refused(base, tmp_path, capsys) -> Callable[..., str]:
    """The message with which the base isn't extended into a folder."""

    def run(out: object, *argv: object) -> str:
        return refusal(tmp_path, capsys, "extend", base, out, *HEAD, *argv)

    return run


# Where OUT may not be.


def test_out_is_not_empty(refused, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").touch()
    assert f"{tmp_path / 'out'} exists and isn't empty" in refused(tmp_path / "out")


def test_out_is_a_file(refused, tmp_path):
    (tmp_path / "out").touch()
    assert f"{tmp_path / 'out'} exists and isn't a folder" in refused(tmp_path / "out")


def test_out_is_a_link_to_nowhere(refused, tmp_path):
    (tmp_path / "out").symlink_to(tmp_path / "nowhere")
    assert f"{tmp_path / 'out'} exists and isn't a folder" in refused(tmp_path / "out")


def test_out_lies_in_a_file(refused, tmp_path):
    (tmp_path / "file").touch()
    message = refused(tmp_path / "file" / "a" / "out")
    assert f"{tmp_path / 'file'} isn't a folder, so {tmp_path / 'file' / 'a' / 'out'} can't lie in it" in message


def test_out_is_an_empty_name(refused):
    assert "OUT is an empty name" in refused("")


@pytest.mark.parametrize("way", ["base", "./base/.", "other/../base", "link"])
def test_out_is_the_base(refused, tmp_path, monkeypatch, way):
    (tmp_path / "link").symlink_to(tmp_path / "base")
    monkeypatch.chdir(tmp_path)
    message = refused(way)
    assert "OUT is the base itself" in message and "remove" not in message


@pytest.mark.parametrize("way", ["base/out", "base/a/b/out", "link/out", "other/../base/out"])
def test_out_lies_inside_the_base(refused, tmp_path, monkeypatch, way):
    (tmp_path / "link").symlink_to(tmp_path / "base")
    monkeypatch.chdir(tmp_path)
    assert "lies inside the base" in refused(way)


@pytest.mark.parametrize("way", [".", "..", "base/.."])
def test_the_base_lies_inside_out(refused, tmp_path, monkeypatch, way):
    monkeypatch.chdir(tmp_path)
    message = refused(way)
    assert "lies inside OUT" in message and "remove" not in message


def test_an_empty_folder_may_become_the_result(base, tmp_path):
    (tmp_path / "out").mkdir()
    assert main(["extend", str(base), str(tmp_path / "out"), *HEAD]) == 0
    assert hf_init.verify(tmp_path / "out").ok


def test_folders_above_out_are_made(base, tmp_path):
    assert main(["extend", str(base), str(tmp_path / "a" / "b" / "out"), *HEAD]) == 0
    assert sorted(path.name for path in (tmp_path / "a" / "b").iterdir()) == ["out"]


# No space.


def test_no_space_is_known_before_anything_is_written(refused, tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr("hf_init._write.stage.shutil.disk_usage", lambda path: usage(10**9, 10**9, 1000))
    message = refused(tmp_path / "a" / "out")
    assert f"no space for {tmp_path / 'a' / 'out'}: " in message and "needed, 1000 B free" in message


def test_the_space_that_is_asked_for_is_what_the_result_takes(base, tmp_path, monkeypatch):
    asked: list[int] = []
    monkeypatch.setattr(_stage, "_check_full", lambda out, needed: asked.append(needed))
    hf_init.extend(base, tmp_path / "out", HEAD[1])
    took = sum(path.stat().st_size for path in (tmp_path / "out").iterdir())
    headers = took - Checkpoint.open(tmp_path / "out").nbytes
    assert took - headers <= asked[0] <= took


LIMITED = """
import resource, sys
from hf_init.cli import main
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, resource.RLIM_INFINITY))
sys.exit(main(sys.argv[1:]))
"""


def test_the_system_stops_the_writing(base, tmp_path):
    """A real failure in the middle of a file: the system's limit on the size of one."""
    before = snapshot(tmp_path)
    command = [sys.executable, "-c", LIMITED, "extend", base, tmp_path / "a" / "out", *HEAD]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith(f"hf-init: {tmp_path / 'a' / 'out'} couldn't be made: ")
    assert "File too large" in done.stderr and "Traceback" not in done.stderr
    assert snapshot(tmp_path) == before


# Failures half way: the second shard, the config, the manifest, the proof, the last step.

FULL = OSError(errno.ENOSPC, "No space left on device")
FULL_SAFETENSORS = SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")


def failing(error: BaseException, after: int = 0, do: Callable[..., object] = lambda *args, **options: None) -> Any:
    """A function that does its work a few times and then fails."""
    calls: list[object] = []

    def call(*args: Any, **options: Any) -> object:
        calls.append(args)
        if len(calls) > after:
            raise error
        return do(*args, **options)

    return call


@pytest.mark.parametrize("error", [FULL, FULL_SAFETENSORS], ids=["OSError", "SafetensorError"])
@pytest.mark.parametrize("after", [0, 1])
def test_no_space_half_way(refused, tmp_path, monkeypatch, error, after):
    monkeypatch.setattr(_writing, "fill_kept", failing(error, after, fill_kept))
    message = refused(tmp_path / "a" / "out", *SHARDED)
    assert "No space left on device" in message and "nothing is left behind, the source is as it was" in message


STEPS = [
    "hf_init._write.writing.fill_kept",
    "hf_init._write.writing.fill_new",
    "hf_init._write.writing.index_text",
    "hf_init._write.stage._fsync",
    "hf_init._write.stage._take_name",
    "hf_init._write.other_files.shutil.copyfile",
    "transformers.PreTrainedConfig.save_pretrained",
    "hf_init._plan.manifest.Manifest.save",
    "hf_init._verify.verify_result",
]


@pytest.mark.parametrize("step", STEPS)
def test_a_failure_at_any_step_leaves_nothing(refused, base, tmp_path, monkeypatch, step):
    (base / "notes.txt").write_text("carried over")
    monkeypatch.setattr(step, failing(OSError(errno.EIO, "Input/output error", "somewhere")))
    message = refused(tmp_path / "a" / "out", *SHARDED)
    assert "couldn't be made: [Errno 5] Input/output error: 'somewhere'; nothing is left behind" in message


@pytest.mark.parametrize("step", STEPS)
def test_an_interruption_at_any_step_leaves_nothing(refused, base, tmp_path, monkeypatch, step):
    (base / "notes.txt").write_text("carried over")
    monkeypatch.setattr(step, failing(KeyboardInterrupt()))
    assert refused(tmp_path / "a" / "out", *SHARDED).startswith("hf-init: interrupted; ")


def test_in_python_an_interruption_stays_one_and_the_systems_errors_are_hf_inits(base, tmp_path, monkeypatch):
    before = snapshot(tmp_path)
    for error, seen in ((KeyboardInterrupt(), KeyboardInterrupt), (FULL, HfInitError), (FULL_SAFETENSORS, HfInitError)):
        monkeypatch.setattr(_writing, "fill_kept", failing(error))
        with pytest.raises(seen):
            hf_init.extend(base, tmp_path / "out", HEAD[1])
    assert snapshot(tmp_path) == before


def test_a_result_that_is_not_what_was_planned_never_appears(refused, tmp_path, monkeypatch):
    def spoiled(file: Any, folder: Path, *rest: Any) -> None:
        fill_kept(file, folder, *rest)
        data = bytearray((folder / file.name).read_bytes())
        data[len(data) // 2] ^= 1
        (folder / file.name).write_bytes(data)

    monkeypatch.setattr(_writing, "fill_kept", spoiled)
    message = refused(tmp_path / "out")
    assert "1 difference from what the plan" in message and "at row" in message


# What appears at OUT while the result is written.


@pytest.mark.parametrize("kind", ["folder", "file", "link"])
def test_what_appears_meanwhile_is_left_alone(base, tmp_path, monkeypatch, capsys, kind):
    out = tmp_path / "out"

    def appear(*job: Any) -> None:
        fill_kept(*job)
        if kind == "folder":
            out.mkdir()
            (out / "theirs").write_text("theirs")
        elif kind == "file":
            out.write_text("theirs")
        else:
            out.symlink_to(tmp_path / "base")

    monkeypatch.setattr(_writing, "fill_kept", appear)
    assert main(["extend", str(base), str(out), *HEAD]) == 2
    assert capsys.readouterr().err == f"hf-init: {out} appeared while the result was written; it was left as it is\n"
    theirs = {"folder": out / "theirs", "file": out, "link": out / "config.json"}[kind]
    assert theirs.is_file() and (kind == "link" or theirs.read_text() == "theirs")
    assert sorted(os.listdir(tmp_path)) == ["base", "out"]


def test_two_at_once_leave_one_whole_result(base, tmp_path, monkeypatch):
    out = tmp_path / "out"
    told: list[str] = []

    def overtaken(*job: Any) -> None:
        fill_kept(*job)
        with pytest.raises(HfInitError) as error:
            hf_init.extend(base, out, HEAD[1], num_labels=7)
        told.append(str(error.value))

    monkeypatch.setattr(_writing, "fill_kept", overtaken)
    hf_init.extend(base, out, HEAD[1], num_labels=3)
    assert told == [
        f"another run (process {os.getpid()}) is writing this result, in {tmp_path / '.out.hf_init'}; wait for it, "
        "or give another place"
    ]
    assert hf_init.verify(out).ok and hf_init.Plan.load(out)["classifier.bias"].shape == (3,)
    assert sorted(os.listdir(tmp_path)) == ["base", "out"]
