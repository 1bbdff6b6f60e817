"""Checkpoints in pieces of every rank, as ``torch.distributed.checkpoint`` (DCP) writes them: read tensor by tensor."""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from math import prod
from pathlib import Path, PurePosixPath
from threading import Lock
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader
from torch.distributed.checkpoint.metadata import Metadata, TensorStorageMetadata

from hf_init._checkpoint.checkpoint import Checkpoint
from hf_init._checkpoint.header import DTYPES, Header, TensorEntry
from hf_init._checkpoint.kinds import DCP_METADATA, DISTRIBUTED
from hf_init._checkpoint.plain_weights import WRAPPERS
from hf_init._checkpoint.strict import AGAIN, check_faults, short_name
from hf_init._checkpoint.tensor_bytes import as_bytes
from hf_init._checkpoint.torch_files import UNREADABLE
from hf_init._checkpoint.weights import is_inside
from hf_init._errors import CheckpointError
from hf_init._tensors import Box, subtract_boxes
from hf_init._text import one_line

_DTYPES = frozenset(name for name, _ in DTYPES.values())
_IN_MEMORY = 2  # tensors: the one at hand, and the next that other threads have begun
_CLASSES = {
    "torch.distributed.checkpoint.metadata": (
        "BytesStorageMetadata",
        "ChunkStorageMetadata",
        "Metadata",
        "MetadataIndex",
        "StorageMeta",
        "TensorProperties",
        "TensorStorageMetadata",
        "_MEM_FORMAT_ENCODING",
    ),
    "torch.distributed.checkpoint.filesystem": ("_StorageInfo",),
    "torch.serialization": ("_get_layout",),
    "collections": ("OrderedDict",),
}


def open_pieces(folder: Path, pieces: Path) -> Checkpoint:
    """Return a folder whose weights are in pieces as a checkpoint; of its values one tensor is in memory at a time.

    Args:
        folder: what the user calls the checkpoint. pieces: where its weights are; see ``pieces_folder``.

    Raises:
        CheckpointError: a file is missing, isn't what it should be, or asks for code to be run when it is read.
    """
    in_safetensors = any(pieces.glob(DISTRIBUTED))
    reader = HuggingFaceStorageReader(str(pieces)) if in_safetensors else FileSystemReader(pieces)
    try:
        metadata = reader.read_metadata() if in_safetensors else _read_metadata(pieces / DCP_METADATA)
        reader.set_up_storage_reader(metadata, is_coordinator=True)
        names = _tensor_names(metadata)
        check_faults(str(pieces), _faults(metadata, names), "Copy all of its files again, or save it again.")
    except (*UNREADABLE, OSError, pickle.UnpicklingError, SafetensorError) as error:
        raise CheckpointError(
            f"{pieces} can't be read as a distributed checkpoint: {one_line(error)}. {AGAIN}"
        ) from None
    source = _Pieces(pieces, reader, metadata)
    entries: list[TensorEntry] = []
    for key, name in names.items():
        form = metadata.state_dict_metadata[key]
        assert isinstance(form, TensorStorageMetadata)
        shape, dtype = tuple(form.size), form.properties.dtype
        nbytes = prod(shape) * dtype.itemsize
        entries.append(TensorEntry(name, str(dtype).removeprefix("torch."), shape, name, 0, nbytes))
    return Checkpoint(
        folder,
        tuple(Header(entry.shard, entry.nbytes, "", (entry,), {}) for entry in entries),
        MappingProxyType({entry.name: entry for entry in entries}),
        in_pieces={name: partial(source.read, key) for key, name in names.items()},
    )


@dataclass(frozen=True)
class _Pieces:
    """The values of a checkpoint in pieces, by torch's own reader."""

    folder: Path
    reader: Any
    metadata: Metadata
    _read: dict[str, np.ndarray] = field(default_factory=dict)
    _lock: Lock = field(default_factory=Lock)

    def read(self, key: str) -> np.ndarray:
        """Return the bytes of a tensor, put together from its pieces; the last ones that were read are kept.

        Raises:
            CheckpointError: a file can't be read.
        """
        with self._lock:
            if key not in self._read:
                for oldest in [*islice(self._read, max(len(self._read) - _IN_MEMORY + 1, 0))]:
                    del self._read[oldest]
                self._read[key] = self._put_together(key)
            return self._read[key]

    def _put_together(self, key: str) -> np.ndarray:
        form = self.metadata.state_dict_metadata[key]
        assert isinstance(form, TensorStorageMetadata)
        tensor, planner = torch.empty(form.size, dtype=form.properties.dtype), DefaultLoadPlanner()
        try:
            planner.set_up_planner({key: tensor}, self.metadata, is_coordinator=True)
            self.reader.read_data(planner.create_local_plan(), planner).wait()
        except (*UNREADABLE, OSError, pickle.UnpicklingError, SafetensorError) as error:
            raise CheckpointError(f"{self.folder}: {key} can't be read: {one_line(error)}. {AGAIN}") from None
        return as_bytes(tensor).numpy()


class _MetadataReader(pickle.Unpickler):
    """Reads what DCP itself writes to ``.metadata``, which torch's reader unpickles whatever it asks for."""

    def find_class(self, module: str, name: str) -> Any:
        if name in _CLASSES.get(module, ()):
            return super().find_class(module, name)
        if module == "torch" and (name == "Size" or isinstance(getattr(torch, name, None), torch.dtype | torch.layout)):
            return getattr(torch, name)
        if module.startswith("pathlib") and name in ("PosixPath", "WindowsPath"):
            return PurePosixPath  # of another system, too: it is where the checkpoint was
        raise CheckpointError(
            f"{DCP_METADATA} asks for {short_name(f'{module}.{name}')} to be run when it is read, which torch's own "
            "never does. Nothing of it was run; if you trust whoever made it, `accelerate merge-weights DIR OUT` puts "
            "the pieces together"
        )


def _read_metadata(path: Path) -> Metadata:
    with path.open("rb") as file:
        metadata = _MetadataReader(file).load()
    if not isinstance(metadata, Metadata) or not isinstance(metadata.storage_data, dict):
        raise ValueError(f"{DCP_METADATA} holds {type(metadata).__name__}, expected the metadata of a checkpoint")
    outside = {info.relative_path for info in metadata.storage_data.values() if not is_inside(info.relative_path)}
    check_faults(str(path), (f"{short_name(file)} leads out of the folder" for file in outside))
    return metadata


def _tensor_names(metadata: Metadata) -> dict[str, str]:
    """Return the names of the model's tensors by their keys, which other states may lie beside, each in a dict."""
    paths = {
        key: tuple(map(str, (metadata.planner_data or {}).get(key, (key,))))
        for key, form in metadata.state_dict_metadata.items()
        if isinstance(form, TensorStorageMetadata)
    }
    wrapped = {
        key: path[at + 1 :] for key, path in paths.items() for at, word in enumerate(path[:-1]) if word in WRAPPERS
    }
    return {key: ".".join(path) for key, path in (wrapped or paths).items()}


def _faults(metadata: Metadata, names: Mapping[str, str]) -> Iterator[str]:
    """Yield what can't be read: pieces that leave something out or overlap, files elsewhere, unknown dtypes."""
    if not names:
        yield "it holds no tensor"
    for key in names:
        form = metadata.state_dict_metadata[key]
        assert isinstance(form, TensorStorageMetadata)
        shape, starts = tuple(form.size), [(tuple(chunk.offsets), tuple(chunk.sizes)) for chunk in form.chunks]
        boxes = [
            Box(at, tuple(a + n for a, n in zip(at, sizes, strict=True))) for at, sizes in starts if 0 not in sizes
        ]
        if sum(prod(box.shape) for box in boxes) != prod(shape) or (boxes and any(subtract_boxes(shape, boxes))):
            yield f"{short_name(key)}: the pieces of the ranks don't make one tensor of shape {list(shape)}"
        if str(form.properties.dtype).removeprefix("torch.") not in _DTYPES:
            yield f"{short_name(key)} is {form.properties.dtype}, which safetensors can't hold"
    if len({*names.values()}) < len(names):
        yield "two tensors have one name"
