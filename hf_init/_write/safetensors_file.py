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
        starts: tensor -> the place of its first byte in the file.
        size: of the whole file, in bytes.
    """

    header: bytes
    starts: Mapping[str, int]
    size: int


def file_bytes(tensor: TensorPlan) -> int:
    """The bytes of a tensor in the result's files."""
    return num_elements(tensor.shape) * dtype_bits(tensor.dtype) // 8


def file_form(tensors: Iterable[TensorPlan]) -> FileForm:
    """The file that safetensors would write for these tensors: wide dtypes first, then by name.

    Example:
        >>> from hf_init._tensors import Status
        >>> file_form([TensorPlan("w", Status.NEW, (2,), "float32")]).size
        104
    """
    ordered = sorted(tensors, key=lambda tensor: (-_RANKS[tensor.dtype], tensor.name))
    entries: dict[str, object] = {"__metadata__": METADATA}
    offsets: dict[str, int] = {}
    end = 0
    for tensor in ordered:
        offsets[tensor.name], end = end, end + file_bytes(tensor)
        place = {
            "dtype": _CODES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [offsets[tensor.name], end],
        }
        entries[tensor.name] = place
    text = json.dumps(entries, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNED)
    header = len(text).to_bytes(8, "little") + text
    return FileForm(header, {name: len(header) + at for name, at in offsets.items()}, len(header) + end)
