"""The one document that a command prints."""

from __future__ import annotations

import json
from typing import Any, NoReturn

import pytest

from hf_init.cli import main

# Documents.


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
