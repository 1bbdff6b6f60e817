"""Everything in a result that isn't a tensor: config, generation config, tokenizer, and the source's other files."""

from __future__ import annotations

import shutil
from fnmatch import fnmatch
from pathlib import Path

from transformers import PreTrainedModel

from hf_init._manifest import NAME

WEIGHTS = (
    "*.safetensors",
    "*.safetensors.index.json",
    "pytorch_model*.bin",
    "pytorch_model*.bin.index.json",
    "tf_model*.h5",
    "flax_model*.msgpack",
    "model.ckpt*",
)
WRITTEN = ("config.json", NAME)
NOT_CARRIED = (".git", ".cache", "__pycache__")


def others(folder: Path) -> list[Path]:
    """The source's files that are carried over as they are, relative to it."""
    found = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    relative = [path.relative_to(folder) for path in found]
    return [path for path in relative if not _is_weights(path) and not _is_hidden(path) and str(path) not in WRITTEN]


def carry(source: Path, out: Path) -> None:
    """Copies them."""
    for path in others(source):
        (out / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / path, out / path)


def bytes_of_others(folder: Path) -> int:
    return sum((folder / path).stat().st_size for path in others(folder))


def write_config(model: PreTrainedModel, out: Path) -> None:
    """The config as ``save_pretrained`` writes it, and a generation config where the source had none."""
    config = model.config
    config.dtype = str(model.dtype).removeprefix("torch.")
    config.architectures = [type(model).__name__]
    config.save_pretrained(str(out))
    if model.can_generate() and not (out / "generation_config.json").exists():
        model.generation_config.save_pretrained(str(out))


def _is_weights(path: Path) -> bool:
    return len(path.parts) == 1 and any(fnmatch(path.name, pattern) for pattern in WEIGHTS)


def _is_hidden(path: Path) -> bool:
    return any(part in NOT_CARRIED for part in path.parts)
