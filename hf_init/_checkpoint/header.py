"""The header of one safetensors file, parsed strictly and checked against the file's size before anything uses it."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO

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

# numpy's limits, which are tighter than the format's: 32 dimensions before numpy 2, and a size that fits a pointer.
_MOST_DIMENSIONS = 32
_MOST_BITS = 2**63


def dtype_bits(dtype: str) -> int:
    """The bits of one element of a dtype, by torch's name; raises CheckpointError for an unknown one.

    Example:
        >>> dtype_bits("bfloat16"), bits("float4_e2m1fn_x2")
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
        shard: the name of its file.
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
        """Its name in the file."""
        return self.stored or self.name


@dataclass(frozen=True)
class Header:
    """What one safetensors file says about itself: its size in bytes, the SHA-256 of its header, its tensors."""

    shard: str
    size: int
    sha256: str
    entries: tuple[TensorEntry, ...]
    metadata: dict[str, str]


def read_header(path: Path) -> Header:
    """The header of a safetensors file, checked; its entries come in the order of the file.

    Raises:
        CheckpointError: the file is missing, truncated, or not what the format asks for.
    """
    if not os.path.isfile(path):
        raise CheckpointError(f"{path} is not there, or is not a file. {AGAIN}")
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            data = _header_bytes(file, size, path)
    except OSError as error:
        raise CheckpointError(f"{path} can't be read: {error.strerror}. Check its permissions.") from None
    document = parse_object(data, f"The header of {path}")
    metadata = _metadata(document.pop("__metadata__", {}), path)
    entries = _entries(document, path, 8 + len(data))
    _check_cover(entries, 8 + len(data), size, path)
    return Header(path.name, size, hashlib.sha256(data).hexdigest(), entries, metadata)


def header_from(document: dict[str, Any], metadata: Any, path: Path, size: int) -> Header:
    """The header of a file that isn't here, from what it says of its tensors and from the file's size.

    Its own bytes, and so their SHA-256, aren't known: that is empty.

    Raises:
        CheckpointError: it isn't what the format asks for.
    """
    found = _entries(document, path, 0)
    origin = size - max((entry.stop for entry in found), default=0)
    if origin < 8 + len("{}"):
        raise CheckpointError(f"{path} is truncated: it has {size} bytes, too few for what its header describes.")
    entries = _entries(document, path, origin)
    _check_cover(entries, origin, size, path)
    return Header(path.name, size, "", entries, _metadata(metadata, path))


def _header_bytes(file: BinaryIO, size: int, path: Path) -> bytes:
    if size < 8:
        seen = "is empty" if size == 0 else f"is truncated: it has {size} bytes, expected at least 8"
        raise CheckpointError(f"{path} {seen}. {AGAIN}")
    length = int.from_bytes(file.read(8), "little")
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
    return file.read(length)


def _metadata(value: Any, path: Path) -> dict[str, str]:
    if not isinstance(value, dict) or not all(isinstance(text, str) for text in value.values()):
        raise CheckpointError(f"{path}: __metadata__ is {short_name(value)}, expected an object of strings. {AGAIN}")
    return value


def _faults(document: dict[str, Any]) -> Iterator[str]:
    for name, info in document.items():
        fault = _fault(info)
        if fault:
            yield f"{short_name(name)}: {fault}"


def _fault(info: Any) -> str | None:
    """Why a tensor's description can't be used by itself; whether it fits the file is checked later."""
    if not isinstance(info, dict):
        return f"is {short_name(info)}, expected an object with dtype, shape and data_offsets"
    dtype, shape, offsets = (info.get(key) for key in ("dtype", "shape", "data_offsets"))
    if not isinstance(dtype, str) or dtype not in DTYPES:
        return f"dtype is {short_name(dtype)}, expected one of {', '.join(DTYPES)}"
    if not is_shape(shape) or len(shape) > _MOST_DIMENSIONS:
        return f"shape is {short_name(shape)}, expected at most {_MOST_DIMENSIONS} integers, none negative"
    if not is_shape(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        return f"data_offsets is {short_name(offsets)}, expected two integers, the first not above the second"
    return _size_fault(shape, DTYPES[dtype][1], offsets)


def _size_fault(shape: list[int], width: int, offsets: list[int]) -> str | None:
    extent = width  # of the tensor with its empty dimensions left out: numpy refuses what is too large even when empty
    for length in shape:
        extent *= max(length, 1)
        if extent > _MOST_BITS:
            return f"shape is {short_name(shape)}: too large for any file"
    need = 0 if 0 in shape else extent
    if need != 8 * (offsets[1] - offsets[0]):
        return (
            f"data_offsets give {offsets[1] - offsets[0]} bytes, dtype and shape {short_name(shape)} need {need / 8:g}"
        )
    return None


def _entries(document: dict[str, Any], path: Path, origin: int) -> tuple[TensorEntry, ...]:
    check_faults(str(path), _faults(document))
    found = (
        TensorEntry(
            name,
            DTYPES[info["dtype"]][0],
            tuple(info["shape"]),
            path.name,
            *(origin + at for at in info["data_offsets"]),
        )
        for name, info in document.items()
    )
    return tuple(sorted(found, key=lambda entry: (entry.start, entry.stop)))


def _check_cover(entries: tuple[TensorEntry, ...], origin: int, size: int, path: Path) -> None:
    """Together the tensors cover the file behind its header, each byte once, as the format demands."""
    end = max((entry.stop for entry in entries), default=origin)
    if end > size:
        raise CheckpointError(f"{path} is truncated: it has {size} bytes, its header describes {end}. {AGAIN}")
    first = TensorEntry("the header", "uint8", (), path.name, 0, origin)
    check_faults(str(path), (fault for before, after in pairwise((first, *entries)) for fault in _gap(before, after)))
    if end < size:
        raise CheckpointError(f"{path} has {size} bytes, its header describes {end}: the rest is a hole. {AGAIN}")


def _gap(before: TensorEntry, after: TensorEntry) -> Iterator[str]:
    if after.start < before.stop:
        yield (
            f"{short_name(after.name)} overlaps {short_name(before.name)}: it starts at "
            f"{after.start}, expected {before.stop}"
        )
    if after.start > before.stop:
        yield f"a hole of {after.start - before.stop} bytes before {short_name(after.name)}, expected none"
