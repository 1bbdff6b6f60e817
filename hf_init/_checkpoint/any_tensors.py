"""Whatever holds tensors, opened as a checkpoint."""

from __future__ import annotations

import os
from typing import Any

from hf_init._checkpoint.checkpoint import Checkpoint
from hf_init._checkpoint.kinds import pieces_folder
from hf_init._checkpoint.locate import open_checkpoint
from hf_init._paths import user_path

PICKLED = (".ckpt", ".pt", ".pth", ".bin")


def open_tensors(source: str | os.PathLike[str], prefix: str = "", **hub: Any) -> Checkpoint:
    """Open whatever holds tensors: a folder, a hub id, a single ``.safetensors`` file, or one that torch wrote.

    A folder may hold them in pieces of every rank, as training on several leaves them.

    Args:
        prefix: what the tensors' names get before them.

    Raises:
        CheckpointError: as ``open_checkpoint``; a file of torch can't be read without running code of its own.
    """
    path = user_path(source)
    if path.is_file() and path.suffix in PICKLED:
        from hf_init._checkpoint.plain_weights import read_pickled

        found = read_pickled(path)
    elif path.is_dir() and (pieces := pieces_folder(path)) is not None:
        from hf_init._checkpoint.in_pieces import open_pieces

        found = open_pieces(path, pieces)
    else:
        found = Checkpoint.of_file(path) if path.is_file() else open_checkpoint(source, beside=False, **hub)
    return Checkpoint.merged({prefix: found}) if prefix else found
