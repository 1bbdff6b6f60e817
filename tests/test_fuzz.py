"""A share of what ``scripts/prove/fuzz.py`` does: damaged files are read, or refused by hf_init's own error."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest

from hf_init import HfInitError

SCRIPTS, SINGLE = Path(__file__).parent.parent / "scripts" / "prove", "model.safetensors"


@pytest.fixture
def scripts(monkeypatch) -> None:
    monkeypatch.syspath_prepend(str(SCRIPTS))


@pytest.fixture(scope="module")
def watch() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(SCRIPTS))
        from _fuzz_targets import Watch

        return Watch()


def outcomes(kind: str, cases: int, folder: Path, watch: Any) -> set[str]:
    from _fuzz_mutate import damaged
    from _fuzz_targets import TARGETS, trial

    target, random = TARGETS[kind](), Random(f"0 {kind}")
    target.prepare(folder)
    assert trial(target, folder, target.good, watch) == "read"
    return {
        trial(target, folder, damaged(random, target.good, target.framed), watch, measure=number % 20 == 19)
        for number in range(cases)
    }


@pytest.mark.parametrize(
    ("kind", "cases"),
    [
        ("header", 300), ("index", 100), ("manifest", 100), ("recipe", 30), ("config", 20),
        *(pytest.param(kind, cases, marks=pytest.mark.slow) for kind, cases in (
            ("header", 1500), ("index", 500), ("manifest", 500), ("recipe", 100), ("config", 40))),
    ],
)  # fmt: skip
def test_damaged_files_are_read_or_refused(scripts, watch, tmp_path, kind, cases):
    assert outcomes(kind, cases, tmp_path, watch) == {"read", "refused"}


@pytest.mark.slow
def test_documents_made_up_by_hypothesis_are_read_or_refused(scripts, watch, tmp_path):
    import fuzz
    from _fuzz_targets import TARGETS, trial

    for kind in ("header", "index"):
        target, seen = TARGETS[kind](), list[str]()
        target.prepare(tmp_path)
        fuzz.by_hypothesis(target, 100, 0, lambda data, target=target, seen=seen: seen.append(
            trial(target, tmp_path, data, watch)) or "")  # fmt: skip
        assert len(seen) >= 100 and "refused" in seen


def fails(read: Callable[[Path], object]) -> Callable[[Path], object]:
    """A reader that does this, too, once the file is damaged."""

    def reader(folder: Path) -> None:
        if (folder / SINGLE).stat().st_size == 3:
            read(folder)

    return reader


def refuse(message: str) -> Callable[[Path], object]:
    def reader(folder: Path) -> None:
        raise HfInitError(message)

    return reader


def raised(error: Exception) -> Callable[[Path], object]:
    def reader(folder: Path) -> None:
        raise error

    return reader


@pytest.mark.parametrize(
    ("read", "message"),
    [
        (raised(KeyError("w")), "KeyError: 'w'"),
        (raised(MemoryError()), "MemoryError"),
        (raised(RecursionError()), "RecursionError"),
        (refuse(""), "a message of 0 characters"),
        (refuse("x" * 30_000), "a message of 30000 characters"),
        (lambda folder: Path(os.devnull).read_bytes(), "opened /dev/null"),
        (lambda folder: (folder / ".." / "secret").read_bytes(), "opened .*/secret"),
        (lambda folder: np.ones(3_000_000, np.uint8), r"3\d+ bytes of memory for 3 bytes of files"),
    ],
)
def test_what_must_not_be_is_noticed(scripts, watch, tmp_path, read, message):
    from _fuzz_targets import TARGETS, Wrong, trial

    (tmp_path / "secret").write_text("secret")
    (tmp_path / "folder").mkdir()
    target = replace(TARGETS["header"](), read=fails(read))
    target.prepare(tmp_path / "folder")
    assert trial(target, tmp_path / "folder", target.good, watch, measure=True) == "read"
    with pytest.raises(Wrong, match=message):
        trial(target, tmp_path / "folder", b"bad", watch, measure=True)


@pytest.mark.slow
def test_the_script_says_what_it_did_and_ends_with_1_when_something_is_wrong(scripts, tmp_path, capsys, monkeypatch):
    import fuzz
    from _fuzz_targets import TARGETS

    monkeypatch.setattr(fuzz, "_memory_folder", lambda: str(tmp_path))
    assert fuzz.main(["header", "--cases", "40"]) == 0
    assert capsys.readouterr().out.startswith("header: 41 cases, ")
    broken = TARGETS["header"]()
    broken = replace(broken, read=lambda folder: {broken.good: 0}[(folder / SINGLE).read_bytes()])
    monkeypatch.setitem(TARGETS, "header", lambda: broken)
    assert fuzz.main(["header", "--cases", "400"]) == 1
    said = capsys.readouterr().out
    assert "KeyError: b'" in said and Path(said.split("the file is ")[1].split()[0]).is_file()


def test_damage_is_the_same_each_time_and_of_many_kinds(scripts):
    from _fuzz_mutate import damaged
    from _fuzz_targets import TARGETS

    target = TARGETS["header"]()
    first, again = ([damaged(random, target.good, True) for _ in range(300)] for random in (Random(1), Random(1)))
    assert first == again and len(set(first)) > 250
    framed = [data for data in first if 8 + int.from_bytes(data[:8], "little") <= len(data)]
    assert len(framed) > 200, "most are damaged inside, not cut off"
    documents = [data[8 : 8 + int.from_bytes(data[:8], "little")] for data in framed]
    assert sum(map(is_json, documents)) > 150


def is_json(text: bytes) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True
