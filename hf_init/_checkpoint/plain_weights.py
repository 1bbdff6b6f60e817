"""Weights that are no folder of transformers: a file of safetensors, one that torch wrote, a state dict in memory."""

from __future__ import annotations

import os
import pickle
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeAlias

import torch
from safetensors.torch import save_file

from hf_init._checkpoint.locate import folder_of
from hf_init._checkpoint.weights import SINGLE
from hf_init._errors import CheckpointError
from hf_init._text import join_names, one_line

WeightsLike: TypeAlias = "str | os.PathLike[str] | Mapping[str, torch.Tensor]"
"""A folder, a hub id, a file of safetensors or of torch, or a state dict."""
PICKLED = (".ckpt", ".pt", ".pth", ".bin")
WRAPPERS = ("state_dict", "model_state_dict", "model")
"""Under which keys programs keep the state dict in a file of theirs; Lightning's is the first."""


@contextmanager
def weights_folder(source: WeightsLike) -> Iterator[Path]:
    """Give the folder that holds these weights: the one that is named, or one of a file's or a state dict's tensors.

    Raises:
        CheckpointError: the file can't be read, runs code when it is, or holds no tensors by name.
    """
    if not isinstance(source, Mapping) and not (path := Path(os.path.expanduser(source))).is_file():
        yield folder_of(source)
        return
    with TemporaryDirectory(prefix="hf_init-") as scratch:
        whole = Path(scratch) / SINGLE
        if isinstance(source, Mapping):
            _write_safetensors(source, "the state dict", whole)
        elif path.suffix == ".safetensors":
            whole.symlink_to(path.resolve())
        else:
            _write_safetensors(_unpickled(path), str(path), whole)
        yield whole.parent


def _unpickled(path: Path) -> object:
    """Return the state dict in a file that torch wrote, by itself or as Lightning keeps it; no code of it runs."""
    if path.suffix not in PICKLED:
        raise CheckpointError(f"{path}: expected a folder, or a file ending in .safetensors, {', '.join(PICKLED)}")
    try:
        held = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (OSError, RuntimeError, ValueError, EOFError, KeyError, pickle.UnpicklingError) as error:
        raise CheckpointError(
            f"{path} can't be read as weights alone: {one_line(error).partition('. ')[0]}. Save its state dict by "
            "itself: torch.save(model.state_dict(), FILE)"
        ) from error
    return next((held[key] for key in WRAPPERS if isinstance(held, dict) and isinstance(held.get(key), dict)), held)


def _write_safetensors(tensors: object, what: str, file: Path) -> None:
    """Write a state dict into a file; tensors that share memory are written each by itself."""
    if not isinstance(tensors, Mapping) or not tensors:
        raise CheckpointError(f"{what}: expected tensors by their names, found {type(tensors).__name__}")
    others = [str(name) for name, tensor in tensors.items() if not isinstance(tensor, torch.Tensor)]
    odd = [str(name) for name, t in tensors.items() if isinstance(t, torch.Tensor) and t.layout is not torch.strided]
    if others or odd:
        raise CheckpointError(f"{what}: {join_names(others or odd)}: expected plain tensors; leave out what is none")
    seen: set[int] = set()
    plain: dict[str, torch.Tensor] = {}
    for name, tensor in tensors.items():
        held = tensor.detach().cpu()
        again = held.untyped_storage().data_ptr() in seen
        seen.add(held.untyped_storage().data_ptr())
        plain[str(name)] = held.clone() if again else held.contiguous()
    save_file(plain, file)
