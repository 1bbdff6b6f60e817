"""Everything in a result that isn't a tensor: config, generation config, tokenizer, and the source's other files."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Mapping
from functools import reduce
from pathlib import Path
from typing import Any, TypeAlias

from transformers import PreTrainedModel

from hf_init._architecture import declared_vocabulary, save_code
from hf_init._checkpoint import (
    BaseCheckpoint,
    FileLists,
    check_readable,
    declared_by_code,
    files_in,
    module_folders,
    sort_files,
)
from hf_init._plan import MANIFEST_NAME

_REWRITTEN = ("config.json", MANIFEST_NAME)

FilesByFolder: TypeAlias = Mapping[Path, FileLists]
"""Of each checkpoint that a base is made of, the files beside its weights."""


def files_beside(base: BaseCheckpoint) -> FilesByFolder:
    """Return what goes along and what stays behind, of each checkpoint of a base.

    Raises:
        CheckpointError: a file that has to go along can't be read. Of a hub id, only what is in the cache is looked at.
    """
    beside: dict[Path, FileLists] = {}
    for part in base.checkpoints:
        folder, repository = part.root, part.repository
        found = files_in(folder) if repository is None else dict.fromkeys(repository.sizes, "")
        read = {*_REWRITTEN, *part.shards, part.index}
        modules, code = module_folders(folder), declared_by_code(folder, found)
        files = sort_files(found, read, modules, code)
        if any("/" not in name for name in files.left):  # else the class, which takes time to import, changes nothing
            files = sort_files(found, read, modules, code | declared_vocabulary(folder))
        if repository is None:
            check_readable(folder, found, files.carried)
        beside[folder] = files
    return beside


def joined_files(files: FilesByFolder) -> FileLists:
    """Return the files of several checkpoints as those of one result."""
    return reduce(FileLists.joined, files.values())


def fetch_files(base: BaseCheckpoint, files: FilesByFolder) -> None:
    """Download what goes along of a hub id and isn't here yet.

    Raises:
        CheckpointError: it can't be had.
    """
    for part in base.checkpoints:
        if part.repository is not None:
            part.repository.fetch(files[part.root].carried)


def carry_files(files: FilesByFolder, out: Path) -> None:
    """Copy what goes along, however the weights are taken over: it is small, and people edit it."""
    for folder, listed in reversed(
        [*files.items()]
    ):  # of files of one name, the first checkpoint's is the last to come
        for name in listed.carried:
            (out / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(folder / name, out / name)


def carried_bytes(files: FilesByFolder) -> int:
    return sum((folder / name).stat().st_size for folder, listed in files.items() for name in listed.carried)


def write_config(model: PreTrainedModel, out: Path, quantization: Mapping[str, Any] | None = None) -> None:
    """Write config and custom code as ``save_pretrained`` does, and a generation config where the source had none.

    Args:
        quantization: what the config is to say of packed weights.
    """
    config: Any = model.config
    if quantization is not None:
        config = copy.deepcopy(config)
        config.quantization_config = dict(quantization)
    config.dtype = str(model.dtype).removeprefix("torch.")
    config.architectures = [type(model).__name__]
    if model.is_remote_code():
        save_code(model, out)
    config.save_pretrained(out)
    if model.can_generate() and not (out / "generation_config.json").exists():
        model.generation_config.save_pretrained(out)
