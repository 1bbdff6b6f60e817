"""Tables in files outside the source: rows that another tool wrote, the embeddings of a donor. Files are untrusted."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open

from hf_init._checkpoint import Checkpoint
from hf_init._errors import CheckpointError

UNREADABLE_ROWS = (CheckpointError, OSError, ValueError, SafetensorError, EOFError, TypeError)


def read_rows(path: Path, tensor: str) -> torch.Tensor:
    """The tensor of a ``.npy`` file, or the named one (or only one) of a ``.safetensors`` file; mapped where it can be.

    Raises:
        CheckpointError, OSError, ValueError, SafetensorError, EOFError, TypeError: it can't be read.
    """
    if path.suffix == ".npy":
        # Not mapped: torch warns of memory that can't be written to.
        return torch.from_numpy(np.load(path, allow_pickle=False))
    with safe_open(str(path), framework="pt", device="cpu") as file:
        names = [*file.keys()]
        if not tensor and len(names) != 1:
            raise ValueError(
                f"it holds {len(names)} tensors, and none is named; name one of {', '.join(sorted(names))}"
            )
        if tensor and tensor not in names:
            raise ValueError(f"it has no tensor {tensor!r}, but {', '.join(sorted(names))}")
        return file.get_tensor(tensor or names[0])


def row_table(folder: Path, name: str) -> torch.Tensor:
    """A tensor of another checkpoint, mapped.

    Raises:
        CheckpointError: the folder is no checkpoint, or has no tensor of that name.
    """
    with Checkpoint.open(folder) as checkpoint:
        if name not in checkpoint.entries:
            raise CheckpointError(f"{folder} has no tensor {name!r}")
        shard = checkpoint.root / checkpoint.entries[name].shard
    return read_rows(shard, name)


def fingerprint(tensor: torch.Tensor) -> str:
    """SHA-256 of a tensor's bytes."""
    return hashlib.sha256(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data).hexdigest()
