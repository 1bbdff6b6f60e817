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
from hf_init._errors import CheckpointError
from hf_init._fill import draw_slot, slots_of
from hf_init._plan import TensorPlan
from hf_init._progress import Progress
from hf_init._tensors import Context, Region
from hf_init._write.copying import copy_runs, equal_blocks, write_runs
from hf_init._write.files import OutputFile

Digests: TypeAlias = Mapping[str, list[str]]
"""Tensor -> SHA-256 of each of its new regions."""


@dataclass(frozen=True)
class KeptBytes:
    """A kept region: where it is in one of the source's files and in the result's."""

    shard: str
    source: Runs
    target: Runs


@dataclass(frozen=True)
class OutputTarget:
    """A file that new values go to.

    Attributes:
        ready: returns when the file is there, with what is kept; nothing is written before.
    """

    path: Path
    file: OutputFile
    ready: Callable[[], object]


def fill_kept(file: OutputFile, folder: Path, source: Checkpoint, progress: Progress) -> None:
    """Make a new file with its header and everything that is kept; the rest of it is zeros.

    Raises:
        CheckpointError: the source can't be read, or has changed.
        OSError: the file can't be written.
    """
    with opened(folder / file.name, os.O_RDWR | os.O_CREAT | os.O_EXCL) as new:
        try:
            os.ftruncate(new.number, file.form.size)
        except OSError as error:
            raise OSError(error.errno, error.strerror, file.name) from error
        new.write(file.form.header, 0)
        for kept in _kept_runs(file, source):
            with opened(source.local(kept.shard)) as old:
                copy_runs(old, new, kept.source, kept.target, progress)


def fill_new(
    tensor: TensorPlan, target: OutputTarget, reader: Reader, seed: int, context: Context | None, progress: Progress
) -> list[str]:
    """Draw every new region of a tensor and put it into the file; return their digests, in the plan's order.

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
            write_runs(new, _target_runs(target.file, tensor, slot.region), as_bytes(values).numpy().data, progress)
    return digests


def is_filled(file: OutputFile, folder: Path, source: Checkpoint, digests: Digests) -> bool:
    """Return whether a file that an earlier run left is what this one would write, byte for byte."""
    path = folder / file.name
    if path.stat().st_size != file.form.size:
        return False
    with opened(path) as new:
        try:
            header = new.read(0, len(file.form.header)).tobytes()
        except CheckpointError:
            return False
        if header != file.form.header:
            return False
        for kept in _kept_runs(file, source):
            with opened(source.local(kept.shard)) as old:
                if not all(equal_blocks(old, new, kept.source, kept.target)):
                    return False
    return _digests_of_new(file, path) == dict(digests)


def _kept_runs(file: OutputFile, source: Checkpoint) -> Iterator[KeptBytes]:
    """Yield what a file keeps, in the order in which it will hold it."""
    for tensor in sorted(file.tensors, key=lambda tensor: file.form.starts[tensor.name]):
        for copy in tensor.kept:
            entry, bits = source.entries[copy.source], dtype_bits(tensor.dtype)
            dims = max(outer(copy.region, tensor.shape), outer(copy.source_region, entry.shape))
            yield KeptBytes(
                entry.shard,
                byte_runs(copy.source_region, entry.shape, bits, entry.start, dims),
                byte_runs(copy.region, tensor.shape, bits, file.form.starts[tensor.name], dims),
            )


def _target_runs(file: OutputFile, tensor: TensorPlan, region: Region) -> Runs:
    dims = outer(region, tensor.shape)
    return byte_runs(region, tensor.shape, dtype_bits(tensor.dtype), file.form.starts[tensor.name], dims)


def _digests_of_new(file: OutputFile, path: Path) -> dict[str, list[str]]:
    digests: dict[str, list[str]] = {}
    with opened(path) as new:
        for tensor in file.tensors:
            for fill in tensor.new:
                sha256 = hashlib.sha256()
                for size, (starts,) in run_blocks(_target_runs(file, tensor, fill.region)):
                    sha256.update(gather(new, starts, size).data)
                digests.setdefault(tensor.name, []).append(sha256.hexdigest())
    return digests
