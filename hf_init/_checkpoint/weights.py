"""Which files of a folder hold its weights: the ones that transformers would read."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

from hf_init._checkpoint.strict import AGAIN, check_faults, object_or_empty, read_object, short_name
from hf_init._errors import CheckpointError

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"


def is_index(name: str) -> bool:
    """Return whether a weights file of this name is an index of others, by transformers' rule."""
    return name.endswith(".safetensors.index.json")


def weights_file(folder: Path, has: Callable[[str], bool]) -> str:
    """Return the file that transformers would read the weights from; empty where there is none.

    Args:
        folder: where ``config.json`` is, which may name the file.
        has: whether there is a file of that name.

    Raises:
        CheckpointError: the config names what can be no weights file of the folder.
    """
    return named_weights(folder) or next(filter(has, (SINGLE, INDEX)), "")


def named_weights(folder: Path) -> str:
    """Return the weights file that a folder's ``config.json`` names as ``transformers_weights``; else empty."""
    name = object_or_empty(folder / "config.json").get("transformers_weights")
    if name is None:
        return ""
    if not is_inside(name) or not (name.endswith(".safetensors") or is_index(name)):
        raise CheckpointError(
            f"{folder / 'config.json'}: transformers_weights is {short_name(name)}, expected a file in the folder that "
            "ends in .safetensors or .safetensors.index.json. Mend the config, or remove the value"
        )
    return name


def is_inside(name: object) -> bool:
    """Return whether a name from an untrusted file is the plain relative path of a file, leading out of no folder.

    Example:
        >>> is_inside("weights/model.safetensors"), is_inside("../model.safetensors"), is_inside("C:a")
        (True, False, False)
    """
    if not isinstance(name, str) or re.search(r"[\\\0]|^[A-Za-z]:", name):
        return False
    return not {"", ".", ".."} & set(name.split("/"))


def read_index(path: Path) -> tuple[dict[str, str], str]:
    """Return what an index says: tensor -> the path of its file in the folder, and the dtype that its metadata names.

    The dtype is empty where it names none.

    Raises:
        CheckpointError: it isn't an index, or a name leads out of the folder.
    """
    document = read_object(path)
    shards, metadata = document.get("weight_map"), document.get("metadata")
    if not isinstance(shards, dict) or not shards:
        raise CheckpointError(
            f"{path}: weight_map is {short_name(shards)}, expected an object of tensor -> file. {AGAIN}"
        )
    faults = (
        f"{short_name(name)} is in {short_name(file)}, expected the plain name of a file in the same folder, or below"
        for name, file in shards.items()
        if not is_inside(file)
    )
    check_faults(str(path), faults)
    dtype = metadata.get("dtype") if isinstance(metadata, dict) else None
    return shards, dtype if isinstance(dtype, str) else ""


def dead_link(path: Path) -> str | None:
    """Return what is wrong with a link that leads nowhere, after its name; None for anything else."""
    if os.path.islink(path) and not os.path.exists(path):
        return f"is a link to {short_name(os.readlink(path))}, which is not there"
    return None
