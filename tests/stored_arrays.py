"""Checkpoints of a few arrays, and where their bytes lie."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

NOTHING = dict.fromkeys(("identical", "renamed", "cast", "changed", "added", "removed"), 0)
SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"


def write(folder: Path, tensors: dict[str, np.ndarray], name: str = SINGLE) -> Path:
    folder.mkdir(exist_ok=True)
    save_file(tensors, folder / name)
    return folder


def tensors() -> dict[str, np.ndarray]:
    return {
        "w": np.arange(12, dtype="float32").reshape(4, 3),
        "ids": np.arange(5, dtype="int64"),
        "step": np.array(3, "int32"),
        "none": np.zeros((0, 2), "float16"),
    }


def entry(report: Any, name: str) -> dict[str, Any]:
    return next(tensor for tensor in report.tensors if tensor["name"] == name)


@pytest.fixture
def a(tmp_path) -> Path:
    return write(tmp_path / "a", tensors())
