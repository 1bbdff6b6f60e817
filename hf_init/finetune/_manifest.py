"""The manifest beside what training saves."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hf_init._checkpoint import Checkpoint
from hf_init._errors import CheckpointError
from hf_init._fill import region_digests
from hf_init._plan import MANIFEST_NAME, BaseRecord, Manifest
from hf_init._shards import gathered_tensor
from hf_init._version import __version__
from hf_init.finetune._model import ModelTensor, PlanOrigin


def manifest_of(origin: PlanOrigin, tensors: Sequence[ModelTensor]) -> Manifest | Path | None:
    """Return the manifest that goes with a plan: the file it was read from, or one made of the model before it trains.

    None where neither is to be had: the base isn't a folder here, or the model holds what is new in another dtype or
    put together from several tensors.
    """
    if origin.folder is not None:
        return origin.folder / MANIFEST_NAME
    stored = {entry.name for entry in origin.plan.stored}
    filled = [each for each in tensors if any(entry.new and entry.name in stored for entry in each.entries)]
    as_planned = (each.whole and str(each.tensor.dtype) == f"torch.{each.entries[0].dtype}" for each in filled)
    if origin.base is None or not all(as_planned):
        return None
    try:
        base = Checkpoint.open(origin.base)
    except CheckpointError:
        return None
    whole = ((each.entries[0], gathered_tensor(each.tensor).cpu()) for each in filled)
    digests = {entry.name: region_digests(entry, tensor) for entry, tensor in whole}
    return Manifest(origin.plan, BaseRecord.of(base), digests, f"hf_init {__version__}")


def save_manifest(manifest: Manifest | Path | None, folder: Path) -> Path | None:
    """Write a manifest into a folder; return its path there."""
    if isinstance(manifest, Manifest):
        manifest.save(folder)
    elif manifest is None:
        return None
    elif manifest.resolve() != (folder / MANIFEST_NAME).resolve():
        Manifest.load(manifest.parent).save(folder)  # where its base is is said from there
    return folder / MANIFEST_NAME
