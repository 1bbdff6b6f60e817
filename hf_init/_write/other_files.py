"""Everything in a result that isn't a tensor: config, generation config, tokenizer, and the source's other files."""

from __future__ import annotations

import shutil
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from hf_init._architecture import save_code
from hf_init._checkpoint import Checkpoint
from hf_init._plan import MANIFEST_NAME

_WEIGHTS = (
    "*.safetensors",
    "*.safetensors.index.json",
    "pytorch_model*.bin",
    "pytorch_model*.bin.index.json",
    "consolidated*.pth",
    "tf_model*.h5",
    "flax_model*.msgpack",
    "rust_model.ot",
    "model.ckpt*",
    "*.gguf",
)
_REWRITTEN = ("config.json", MANIFEST_NAME)
_NOT_CARRIED = (".git", ".cache", "__pycache__", ".hf_init")


def other_files(folder: Path) -> list[Path]:
    """Return the source's files that are carried over as they are, relative to it."""
    paths = [path.relative_to(folder) for path in sorted(folder.rglob("*")) if path.is_file()]
    return [
        path
        for path in paths
        if not (_is_weights(path) or set(path.parts) & set(_NOT_CARRIED) or str(path) in _REWRITTEN)
    ]


def carry_files(source: Path, out: Path) -> None:
    """Copy them, however the weights are carried over: they are small, and people edit them."""
    for path in other_files(source):
        (out / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / path, out / path)


def other_files_bytes(folder: Path) -> int:
    return sum((folder / path).stat().st_size for path in other_files(folder))


def stale_weights(folder: Path, source: Checkpoint) -> list[str]:
    """Return the weight files beside those that the checkpoint is read from: of another layout, format or time.

    A program with other preferences would load them. A result never gets them.
    """
    read = {*source.shards, source.index}
    return sorted(path.name for path in folder.iterdir() if _is_weights(Path(path.name)) and path.name not in read)


def write_config(model: PreTrainedModel, out: Path) -> None:
    """Write config and custom code as ``save_pretrained`` does, and a generation config where the source had none."""
    config: Any = model.config
    config.dtype = str(model.dtype).removeprefix("torch.")
    config.architectures = [type(model).__name__]
    if model.is_remote_code():
        save_code(model, out)
    config.save_pretrained(out)
    if model.can_generate() and not (out / "generation_config.json").exists():
        model.generation_config.save_pretrained(out)


def _is_weights(path: Path) -> bool:
    return len(path.parts) == 1 and any(fnmatch(path.name, pattern) for pattern in _WEIGHTS)
