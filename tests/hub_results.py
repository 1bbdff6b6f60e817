"""Results of a hub id, and what is beside the weights there."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hub_server import Hub
from huggingface_hub import constants
from small_model import contents

import hf_init

HEAD = ("LlamaForTokenClassification",)
BESIDE = {
    "source.spm": b"spm", "target.spm": b"other", "bpe.codes": b"codes", "LICENSE": b"free", "README.md": b"# it",
    ".gitattributes": b"*.bin lfs",
    "modules.json": b'[{"path": ""}, {"path": "2_Dense"}]', "2_Dense/config.json": b"{}",
    "2_Dense/pytorch_model.bin": b"dense", "own.py": b"VOCAB_FILES_NAMES = {'vocab_file': 'pieces'}", "pieces": b"a b",
}  # fmt: skip
LEFT = {
    "onnx/model.onnx": b"x" * 9, "pytorch_model.bin": b"x" * 9, "optimizer.pt": b"x",
    "checkpoint-500/model.safetensors": b"x", "model.fp16.safetensors": b"x", "banner.png": b"x",
}  # fmt: skip


def extend(base: object, out: Path, **options: Any) -> dict[str, bytes]:
    hf_init.extend(base, out, *HEAD, labels=["a", "b"], **options).raise_if_failed()
    return contents(out)


def manifest(out: Path) -> dict[str, Any]:
    return json.loads((out / "hf_init.json").read_text())


@pytest.fixture
def files(tiny) -> dict[str, bytes]:
    return {**contents(tiny("llama")), **BESIDE, **LEFT}


@pytest.fixture
def hub(serve, files) -> Hub:
    return serve(files)


@pytest.fixture
def folder(files, tmp_path) -> Path:
    """The same files in a folder."""
    for name, data in files.items():
        (tmp_path / "folder" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "folder" / name).write_bytes(data)
    return tmp_path / "folder"


@pytest.fixture
def cache(monkeypatch, tmp_path) -> Callable[[str], Path]:
    """Change to the cache of another machine, which can't reach the hub."""

    def change(name: str) -> Path:
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / name))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / f"{name} notes"))
        return tmp_path / name

    return change
