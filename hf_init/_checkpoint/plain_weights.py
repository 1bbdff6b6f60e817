"""Weights that aren't in safetensors: a file that torch wrote, a state dict in memory."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from weakref import finalize

import torch
from safetensors.torch import save_file

from hf_init._checkpoint.checkpoint import Checkpoint
from hf_init._checkpoint.torch_files import load_data
from hf_init._checkpoint.weights import SINGLE
from hf_init._errors import CheckpointError
from hf_init._text import join_names

WRAPPERS = ("state_dict", "model_state_dict", "model")
"""Under which keys programs keep the state dict in a file of theirs; Lightning's is the first."""


def read_pickled(path: Path) -> Checkpoint:
    """Return the tensors of a file that torch wrote: a state dict, by itself or as Lightning keeps it.

    Raises:
        CheckpointError: it can't be read without running code of its own, or holds no tensors by name.
    """
    held = load_data(path)
    inner = (held[key] for key in WRAPPERS if isinstance(held, dict) and isinstance(held.get(key), dict))
    return from_state_dict(next(inner, held), str(path))


def from_state_dict(tensors: object, what: str = "the state dict") -> Checkpoint:
    """Return a state dict as a checkpoint, in a file that is there as long as the checkpoint.

    Tensors that share memory are each written by itself.

    Raises:
        CheckpointError: it holds something else than plain tensors by name.
    """
    if not isinstance(tensors, Mapping) or not tensors:
        raise CheckpointError(f"{what}: expected tensors by their names, found {type(tensors).__name__}")
    others = [str(name) for name, tensor in tensors.items() if not isinstance(tensor, torch.Tensor)]
    odd = [  # on meta, one rank's part, packed by a quantizer
        str(name)
        for name, t in tensors.items()
        if isinstance(t, torch.Tensor)
        if t.is_meta or t.layout is not torch.strided or hasattr(t, "__tensor_flatten__")
    ]
    if others or odd:
        raise CheckpointError(
            f"{what}: {join_names(others or odd)}: expected plain tensors with values, whole and unpacked; leave out "
            "what is none"
        )
    seen: set[int] = set()
    plain: dict[str, torch.Tensor] = {}
    for name, tensor in tensors.items():
        held = tensor.detach().cpu()
        again = held.untyped_storage().data_ptr() in seen
        seen.add(held.untyped_storage().data_ptr())
        plain[str(name)] = held.clone() if again else held.contiguous()
    scratch = TemporaryDirectory(prefix="hf_init-")
    save_file(plain, Path(scratch.name) / SINGLE)
    checkpoint = Checkpoint.open(scratch.name)
    finalize(checkpoint, scratch.cleanup)
    return checkpoint
