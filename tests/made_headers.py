"""Files of safetensors made by hand, whole, cut off and wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

import hf_init
from hf_init import HfInitError

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"


def info(dtype: Any = "F32", shape: Any = (2,), offsets: Any = (0, 8)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


def framed(header: bytes, data: bytes = b"") -> bytes:
    return len(header).to_bytes(8, "little") + header + data


def write(folder: Path, header: Any, data: bytes = b"", name: str = SINGLE) -> Path:
    """A file of this header (bytes as they are, anything else as JSON) and data."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    (folder / name).write_bytes(framed(text, data))
    return folder


def refused(folder: Path, *words: str) -> str:
    with pytest.raises(HfInitError) as caught:
        hf_init.diff(folder, folder)
    message = str(caught.value)
    assert all(word in message for word in (*words, str(folder))), message
    return message


def sharded(folder: Path, places: dict[str, Any] | None = None) -> Path:
    """Two files, ``a`` with w and x, ``b`` with y, and an index."""
    save_file({"w": np.ones(2, "float32"), "x": np.zeros(3, "float32")}, folder / "a.safetensors")
    save_file({"y": np.full((2, 2), 7, "int64")}, folder / "b.safetensors")
    places = {"w": "a.safetensors", "x": "a.safetensors", "y": "b.safetensors"} if places is None else places
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": places}))
    return folder
