"""A base and its results, good and spoiled, for the command line; and the one document that a command prints."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NoReturn

import pytest
from refusals import HEAD
from results import flipped

import hf_init
from hf_init.cli import main


def document(capsys: pytest.CaptureFixture[str], code: int, *argv: object) -> Any:
    """The one JSON document that a command prints, with nothing else anywhere."""
    capsys.readouterr()
    assert main([*map(str, argv), "--json"]) == code
    said = capsys.readouterr()
    assert said.err == ""
    whole = json.loads(said.out, parse_constant=_no_constant)
    assert whole["schema"].startswith("hf_init.") and whole["ok"] is (code == 0)
    return whole


def _no_constant(name: str) -> NoReturn:
    raise AssertionError(f"{name} is not JSON")


@pytest.fixture(scope="module")
def base(tiny) -> Path:
    return tiny("bert")


@pytest.fixture(scope="module")
def out(base, tmp_path_factory) -> Path:
    """A result: three labels."""
    folder = tmp_path_factory.mktemp("cli") / "out"
    hf_init.extend(base, folder, HEAD[1], labels=["neg", "neu", "pos"])
    return folder


@pytest.fixture
def spoiled(out, tmp_path) -> Path:
    """The result with one bit flipped in a kept tensor."""
    return flipped(out, tmp_path / "spoiled", "bert.pooler.dense.weight", 0)
