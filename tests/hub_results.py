"""Results of a hub id, and what is beside the weights there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

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
