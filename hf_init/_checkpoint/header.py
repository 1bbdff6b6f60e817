"""The header of one safetensors file, parsed strictly and checked against the file's size before anything uses it."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from hf_init._checkpoint.strict import AGAIN, LIMIT, check_faults, is_shape, parse_object, short_name
from hf_init._errors import CheckpointError

# Code in a safetensors header -> torch's name (ml_dtypes' where torch has none), and the bits of one element.
DTYPES: dict[str, tuple[str, int]] = {
    "BOOL": ("bool", 8),
    "F4": ("float4_e2m1fn_x2", 4),
    "F6_E2M3": ("float6_e2m3fn", 6),
    "F6_E3M2": ("float6_e3m2fn", 6),
    "U8": ("uint8", 8),
    "I8": ("int8", 8),
    "F8_E5M2": ("float8_e5m2", 8),
    "F8_E4M3": ("float8_e4m3fn", 8),
    "F8_E8M0": ("float8_e8m0fnu", 8),
    "F8_E4M3FNUZ": ("float8_e4m3fnuz", 8),
    "F8_E5M2FNUZ": ("float8_e5m2fnuz", 8),
    "I16": ("int16", 16),
    "U16": ("uint16", 16),
    "F16": ("float16", 16),
    "BF16": ("bfloat16", 16),
    "I32": ("int32", 32),
    "U32": ("uint32", 32),
    "F32": ("float32", 32),
    "C64": ("complex64", 64),
    "F64": ("float64", 64),
    "I64": ("int64", 64),
    "U64": ("uint64", 64),
}

# Those of them that numpy has under the same name.
NUMPY = frozenset(
    ["bool", "uint8", "int8", "uint16", "int16", "float16", "uint32", "int32", "float32", "uint64", "int64", "float64"]
)

_BITS = dict(DTYPES.values())

GIT_LFS = b"version https://git-lfs"
"""Begins the small text that git leaves in the place of a large file."""

PULL = "The repository was cloned without its large files: run `git lfs pull` in it, or `hf download` the repository."

# numpy's limits, which are tighter than the format's: 32 dimensions before numpy 2, and a size that fits a pointer.
_MOST_DIMENSIONS = 32
_MOST_BITS = 2**63


def dtype_bits(dtype: str) -> int:
    """Return the bits of one element of a dtype, by torch's name; raise CheckpointError for an unknown one.

    Example:
        >>> dtype_bits("bfloat16"), dtype_bits("float4_e2m1fn_x2")
        (16, 4)
    """
    if dtype not in _BITS:
        raise CheckpointError(f"The dtype {short_name(dtype)} is unknown; known are {', '.join(sorted(_BITS))}.")
    return _BITS[dtype]


@dataclass(frozen=True)
class TensorEntry:
    """One tensor in a file.

    Attributes:
        name: on disk.
        dtype: torch's name, ``"float32"``.
        shape: as the header gives it, in elements (also for dtypes of which two share a byte).
        shard: its file, by the path in the checkpoint's folder.
        start, stop: its bytes in that file, counted from the beginning of the file.
        stored: its name in the file, where the checkpoint gives it another; else empty.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    shard: str
    start: int
    stop: int
    stored: str = ""

    @property
    def nbytes(self) -> int:
        return self.stop - self.start

    @property
    def key(self) -> str:
        """Return its name in the file."""
        return self.stored or self.name


@dataclass(frozen=True)
class Header:
    """What one safetensors file says about itself: its size in bytes, the SHA-256 of its header, its tensors."""

    shard: str
    size: int
    sha256: str
    entries: tuple[TensorEntry, ...]
    metadata: dict[str, str]


def read_header(path: Path, shard: str = "") -> Header:
    """Return the header of a safetensors file, checked; its entries come in the order of the file.

    Args:
        shard: its path in the folder of the checkpoint; left out, its name.

    Raises:
        CheckpointError: the file is missing, truncated, or not what the format asks for.
    """
    if not os.path.isfile(path):
        raise CheckpointError(f"{path} is not there, or is not a file. {AGAIN}")
    try:
        with path.open("rb") as file:
            size, first = os.fstat(file.fileno()).st_size, file.read(8)
            length = int.from_bytes(first, "little")
            data = file.read(length) if length <= min(LIMIT, size - 8) else b""
    except OSError as error:
        raise CheckpointError(f"{path} can't be read: {error.strerror}. Check its permissions.") from None
    if size < 8:
        seen = "is empty" if size == 0 else f"is truncated: it has {size} bytes, expected at least 8"
        raise CheckpointError(f"{path} {seen}. {AGAIN}")
    if first == GIT_LFS[:8]:
        raise CheckpointError(f"{path} is a git-lfs pointer, not the file itself. {PULL}")
    if length > LIMIT:
        raise CheckpointError(
            f"{path} announces a header of {length} bytes, more than the {LIMIT} allowed: "
            f"not a safetensors file. {AGAIN}"
        )
    if length > size - 8:
        raise CheckpointError(
            f"{path} is truncated, or not a safetensors file: it has {size} bytes, "
            f"its header alone needs {length + 8}. {AGAIN}"
        )
    document = parse_object(data, f"The header of {path}")
    metadata = _checked_metadata(document.pop("__metadata__", None), path)
    entries = _header_entries(document, path, 8 + len(data), shard or path.name)
    _check_cover(entries, 8 + len(data), size, path)
    return Header(shard or path.name, size, hashlib.sha256(data).hexdigest(), entries, metadata)


def header_from(document: Mapping[str, object], metadata: object, path: Path, size: int, shard: str) -> Header:
    """Return the header of a file that isn't here, from what it says of its tensors and from the file's size.

    Its own bytes, and so their SHA-256, aren't known: that is empty. ``shard`` is its path in the checkpoint's folder.

    Raises:
        CheckpointError: it isn't what the format asks for.
    """
    origin = size - max((entry.stop for entry in _header_entries(document, path, 0, shard)), default=0)
    if origin < 8 + len("{}"):
        raise CheckpointError(f"{path} is truncated: it has {size} bytes, too few for what its header describes.")
    entries = _header_entries(document, path, origin, shard)
    _check_cover(entries, origin, size, path)
    return Header(shard, size, "", entries, _checked_metadata(metadata, path))


def _checked_metadata(value: object, path: Path) -> dict[str, str]:
    """Return a header's metadata; null says as much as leaving it out does, as in the format's own parser."""
    if value is None:
        return {}
    if isinstance(value, dict) and all(isinstance(text, str) for text in value.values()):
        return value
    raise CheckpointError(f"{path}: __metadata__ is {short_name(value)}, expected an object of strings. {AGAIN}")


def _header_entries(document: Mapping[str, object], path: Path, origin: int, shard: str) -> tuple[TensorEntry, ...]:
    """Return the tensors of a header, by the order of their bytes; ``origin`` is where those begin in the file."""
    entries, faults = [], []
    for name, info in document.items():
        form = _tensor_form(info)
        if isinstance(form, str):
            faults.append(f"{short_name(name)}: {form}")
        else:
            dtype, shape, (start, stop) = form
            entries.append(TensorEntry(name, dtype, shape, shard, origin + start, origin + stop))
    check_faults(str(path), faults)
    return tuple(sorted(entries, key=lambda entry: (entry.start, entry.stop)))


def _tensor_form(info: object) -> tuple[str, tuple[int, ...], list[int]] | str:
    """Return a tensor's dtype, shape and offsets, or why its description can't be used, whatever the file holds."""
    if not isinstance(info, dict):
        return f"is {short_name(info)}, expected an object with dtype, shape and data_offsets"
    code, shape, offsets = (info.get(key) for key in ("dtype", "shape", "data_offsets"))
    if not isinstance(code, str) or code not in DTYPES:
        return f"dtype is {short_name(code)}, expected one of {', '.join(DTYPES)}"
    if not is_shape(shape) or len(shape) > _MOST_DIMENSIONS:
        return f"shape is {short_name(shape)}, expected at most {_MOST_DIMENSIONS} integers, none negative"
    if not is_shape(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        return f"data_offsets is {short_name(offsets)}, expected two integers, the first not above the second"
    dtype, bits = DTYPES[code]
    for length in shape:  # its empty dimensions left out: numpy refuses what is too large even when empty
        bits *= max(length, 1)
        if bits > _MOST_BITS:
            return f"shape is {short_name(shape)}: too large for any file"
    need, nbytes = 0 if 0 in shape else bits, offsets[1] - offsets[0]
    if need != 8 * nbytes:
        return f"data_offsets give {nbytes} bytes, dtype and shape {short_name(shape)} need {need / 8:g}"
    return dtype, tuple(shape), offsets


def _check_cover(entries: tuple[TensorEntry, ...], origin: int, size: int, path: Path) -> None:
    """Check that together the tensors cover the file behind its header, each byte once, as the format demands."""
    end = max((entry.stop for entry in entries), default=origin)
    if end > size:
        raise CheckpointError(f"{path} is truncated: it has {size} bytes, its header describes {end}. {AGAIN}")
    first = TensorEntry("the header", "uint8", (), path.name, 0, origin)
    faults = []
    for before, after in pairwise((first, *entries)):
        if after.start < before.stop:
            overlap = f"{short_name(after.name)} overlaps {short_name(before.name)}"
            faults.append(f"{overlap}: it starts at {after.start}, expected {before.stop}")
        if after.start > before.stop:
            hole = f"a hole of {after.start - before.stop} bytes"
            faults.append(f"{hole} before {short_name(after.name)}, expected none")
    check_faults(str(path), faults)
    if end < size:
        raise CheckpointError(f"{path} has {size} bytes, its header describes {end}: the rest is a hole. {AGAIN}")
