"""The digests by which a result is proved later without its base."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from functools import partial
from types import MappingProxyType
from typing import TypeAlias, TypedDict

from hf_init._checkpoint import Checkpoint
from hf_init._errors import CheckpointError
from hf_init._plan import TensorPlan
from hf_init._progress import Progress, no_progress
from hf_init._tensors import Box, Region
from hf_init._text import join_names
from hf_init._verify.compare import bytes_digest
from hf_init._verify.headers import check_form
from hf_init._verify.regions import stored_tensor
from hf_init._verify.threads import VerifyMeter, WorkerBuffers, run_jobs

RegionKey: TypeAlias = tuple[str, Region]


class RecordedDigests(TypedDict):
    """Digests of what is kept and of whole tensors, as the manifest has them."""

    kept_digests: dict[str, list[str]]
    tensor_digests: dict[str, str]


def result_digests(
    folder: str | os.PathLike[str], tensors: Iterable[TensorPlan], progress: Progress | None = None
) -> RecordedDigests:
    """Return the SHA-256, in hex, of every kept region and of every tensor in a result's files.

    Args:
        folder: whose tensors are written; its manifest may not be.
        tensors: the entries of the plan.
        progress: called with the bytes done since it was last called, by one thread at a time.

    Returns:
        The keyword arguments of ``Manifest`` that hold them.

    Raises:
        CheckpointError: a file can't be read, or isn't what the plan says.

    Example:
        >>> import tempfile, numpy, safetensors.numpy
        >>> folder = tempfile.TemporaryDirectory()
        >>> safetensors.numpy.save_file({"w": numpy.zeros(2, "uint8")}, f"{folder.name}/model.safetensors")
        >>> from hf_init._tensors import Copy, Status
        >>> whole = Box.whole((2,))
        >>> tensor = TensorPlan("w", Status.KEPT, (2,), "uint8", (Copy(whole, "w", whole),), source="w")
        >>> result_digests(folder.name, [tensor])["tensor_digests"]["w"][:8]
        '96a296d2'
        >>> folder.cleanup()
    """
    stored = [tensor for tensor in tensors if tensor.stored]
    with Checkpoint.open(folder) as result:
        wrong = [tensor.name for tensor in stored if check_form(result, tensor)]
        if wrong:
            raise CheckpointError(f"{folder}: {join_names(wrong)} are not what the plan says. Make the result again.")
        regions = [
            (tensor.name, region)
            for tensor in stored
            for region in (*(copy.region for copy in tensor.kept), Box.whole(tensor.shape))
        ]
        digests = _region_digests(result, regions, VerifyMeter(progress).counting("digested"))
    return RecordedDigests(
        kept_digests={
            tensor.name: [digests[tensor.name, copy.region] for copy in tensor.kept] for tensor in stored if tensor.kept
        },
        tensor_digests={tensor.name: digests[tensor.name, Box.whole(tensor.shape)] for tensor in stored},
    )


def new_digests(
    folder: str | os.PathLike[str], tensors: Iterable[TensorPlan], known: Mapping[RegionKey, str] = MappingProxyType({})
) -> dict[str, list[str]]:
    """Return the SHA-256, in hex, of every new region of tensors in a result's files, as a manifest has them.

    Args:
        known: digests that need no reading, by the tensor's name and the region.

    Raises:
        CheckpointError: a file can't be read, or isn't what the plan says.
    """
    filled = [tensor for tensor in tensors if tensor.new and tensor.stored]
    regions = [(tensor.name, fill.region) for tensor in filled for fill in tensor.new]
    with Checkpoint.open(folder) as result:
        digests = {**known, **_region_digests(result, [key for key in regions if key not in known], no_progress)}
    return {tensor.name: [digests[tensor.name, fill.region] for fill in tensor.new] for tensor in filled}


def _region_digests(result: Checkpoint, regions: Iterable[RegionKey], progress: Progress) -> dict[RegionKey, str]:
    digests: dict[RegionKey, str] = {}
    parts = {key: stored_tensor(result, *key) for key in regions}

    def digest(key: RegionKey, buffers: WorkerBuffers) -> bool:
        digests[key] = bytes_digest(parts[key], buffers.seen, progress)
        return False

    run_jobs(partial(digest, key) for key in parts)
    return digests
