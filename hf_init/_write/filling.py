"""One file that is written: its header, what is kept, what is drawn; and whether a file that is there is that one."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from hf_init._checkpoint import (
    Checkpoint,
    Reader,
    Runs,
    as_bytes,
    byte_runs,
    dtype_bits,
    gather,
    opened,
    outer,
    run_blocks,
    tensor_digest,
)
from hf_init._checkpoint import RunFile as Open
from hf_init._errors import CheckpointError
from hf_init._fill import draw_slot, slots_of
from hf_init._plan import TensorPlan
from hf_init._progress import Progress
from hf_init._tensors import Context, Region
from hf_init._write.copying import copy_runs, put_runs, verify_same_bytes
from hf_init._write.files import OutputFile

Digests: TypeAlias = Mapping[str, list[str]]
"""Tensor -> SHA-256 of each of its new regions."""


@dataclass(frozen=True)
class KeptBytes:
    """A kept region: its place in one of the source's files and in the result's."""

    shard: str
    source: Runs
    target: Runs


def kept_in(file: OutputFile, source: Checkpoint) -> Iterator[KeptBytes]:
    """What a file keeps, in the order in which it will hold it."""
    for tensor in sorted(file.tensors, key=lambda tensor: file.form.starts[tensor.name]):
        for copy in tensor.kept:
            entry, width = source.entries[copy.source], dtype_bits(tensor.dtype)
            dims = max(outer(copy.region, tensor.shape), outer(copy.source_region, entry.shape))
            yield KeptBytes(
                entry.shard,
                byte_runs(copy.source_region, entry.shape, width, entry.start, dims),
                byte_runs(copy.region, tensor.shape, width, file.form.starts[tensor.name], dims),
            )


def fill_kept(file: OutputFile, folder: Path, source: Checkpoint, progress: Progress) -> None:
    """A new file with its header and everything that is kept; the rest of it is zeros.

    Raises:
        CheckpointError: the source can't be read, or has changed.
        OSError: the file can't be written.
    """
    with opened(folder / file.name, os.O_RDWR | os.O_CREAT | os.O_EXCL) as new:
        _set_size(new.number, file)
        new.write(file.form.header, 0)
        for kept in kept_in(file, source):
            with opened(source.local(kept.shard)) as old:
                copy_runs(old, new, kept.source, kept.target, progress)


@dataclass(frozen=True)
class OutputTarget:
    """A file that new values go to.

    Attributes:
        ready: returns when the file is there, with what is kept; nothing is written before.
    """

    path: Path
    file: OutputFile
    ready: Callable[[], object]


def fill_new(
    tensor: TensorPlan, target: OutputTarget, reader: Reader, seed: int, context: Context | None, progress: Progress
) -> list[str]:
    """Every new region of a tensor, drawn and put into the file; returns their digests, in the plan's order.

    Raises:
        RecipeError: a scheme can't fill its region.
        OSError: the file can't be written.
    """
    digests = []
    for scheme, slot in slots_of(tensor, reader, seed, context):
        values = draw_slot(scheme, slot)
        digests.append(tensor_digest(values))
        target.ready()
        with opened(target.path, os.O_RDWR) as new:
            put_runs(new, _places(target.file, tensor, slot.region), as_bytes(values).numpy().data, progress)
    return digests


def is_filled(file: OutputFile, folder: Path, source: Checkpoint, digests: Digests) -> bool:
    """Whether a file that an earlier run left is what this one would write, byte for byte."""
    path = folder / file.name
    if path.is_symlink() or not path.is_file() or path.stat().st_size != file.form.size:
        return False
    try:
        with opened(path) as new:
            header = new.read(0, len(file.form.header)).tobytes()
    except CheckpointError:
        return False
    return header == file.form.header and _keeps(file, path, source) and _digests(file, path) == dict(digests)


def _set_size(number: int, file: OutputFile) -> None:
    try:
        os.ftruncate(number, file.form.size)
    except OSError as error:
        raise OSError(error.errno, error.strerror, file.name) from error


def _places(file: OutputFile, tensor: TensorPlan, region: Region) -> Runs:
    return byte_runs(
        region, tensor.shape, dtype_bits(tensor.dtype), file.form.starts[tensor.name], outer(region, tensor.shape)
    )


def _keeps(file: OutputFile, path: Path, source: Checkpoint) -> bool:
    with opened(path) as new:
        for kept in kept_in(file, source):
            with opened(source.local(kept.shard)) as old:
                if not all(verify_same_bytes(old, new, kept.source, kept.target)):
                    return False
    return True


def _digests(file: OutputFile, path: Path) -> dict[str, list[str]]:
    with opened(path) as new:
        return {
            tensor.name: [_digest(new, _places(file, tensor, fill.region)) for fill in tensor.new]
            for tensor in file.tensors
            if tensor.new
        }


def _digest(file: Open, places: Runs) -> str:
    found = hashlib.sha256()
    for size, (starts,) in run_blocks(places):
        found.update(gather(file, starts, size).data)
    return found.hexdigest()
