"""The safetensors format, as safetensors' own writer fills it in: which tensor goes where, and the header."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from hf_init._checkpoint import DTYPES, dtype_bits
from hf_init._plan import TensorPlan
from hf_init._tensors import num_elements

METADATA = {"format": "pt"}

_CODES = {name: code for code, (name, _) in DTYPES.items()}
_RANKS = {name: rank for rank, (name, _) in enumerate(DTYPES.values())}  # as safetensors orders its dtypes
_ALIGNED = 8  # the header's bytes are a multiple of it


@dataclass(frozen=True)
class FileForm:
    """One file before anything is in it.

    Attributes:
        header: everything before the first tensor's first byte.
        starts: tensor -> the offset of its first byte in the file.
        size: of the whole file, in bytes.
    """

    header: bytes
    starts: Mapping[str, int]
    size: int


def file_bytes(tensor: TensorPlan) -> int:
    """Return the bytes of a tensor in the result's files."""
    return num_elements(tensor.shape) * dtype_bits(tensor.dtype) // 8


def file_form(tensors: Iterable[TensorPlan]) -> FileForm:
    """Return the file that safetensors would write for these tensors: wide dtypes first, then by name.

    Example:
        >>> from hf_init._tensors import Status
        >>> file_form([TensorPlan("w", Status.NEW, (2,), "float32")]).size
        104
    """
    entries: dict[str, object] = {"__metadata__": METADATA}
    offsets: dict[str, int] = {}
    end = 0
    for tensor in sorted(tensors, key=lambda tensor: (-_RANKS[tensor.dtype], tensor.name)):
        start, end = end, end + file_bytes(tensor)
        offsets[tensor.name] = start
        form = {"dtype": _CODES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [start, end]}
        entries[tensor.name] = form
    text = json.dumps(entries, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNED)
    header = len(text).to_bytes(8, "little") + text
    return FileForm(header, {name: len(header) + offset for name, offset in offsets.items()}, len(header) + end)
