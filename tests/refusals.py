"""What the tests of bad input share: a command must be refused in one message, and leave every file as it was."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from hf_init.cli import main

HEAD = ("--architecture", "BertForSequenceClassification")


def snapshot(root: Path) -> dict[str, tuple[bytes | None, int]]:
    """Everything under a folder: each path with the SHA-256 of its bytes (None for a folder) and its time of change."""
    return {
        str(path.relative_to(root)): (
            hashlib.sha256(path.read_bytes()).digest() if path.is_file() else None,
            os.stat(path, follow_symlinks=False).st_mtime_ns,
        )
        for path in sorted(root.rglob("*"))
    }


def refusal(root: Path, capsys: pytest.CaptureFixture[str], *argv: object) -> str:
    """The message of a command that must be refused: exit 2, one message, no traceback, nothing written under root."""
    before = snapshot(root)
    capsys.readouterr()
    assert main([str(arg) for arg in argv]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("hf-init: ") and said.err.count("hf-init: ") == 1 and "Traceback" not in said.err
    assert snapshot(root) == before, "something was written"
    return said.err
