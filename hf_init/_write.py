"""The disk executor: a plan becomes shards, streamed into a folder that appears whole or not at all."""

from __future__ import annotations

import errno
import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file

from hf_init._checkpoint import Checkpoint, bits
from hf_init._errors import HfInitError, PlanError
from hf_init._make import Reader, digests, make_all, prove_duplicates
from hf_init._plan import Plan, TensorPlan
from hf_init._spec import Context, count
from hf_init._text import size

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"


@dataclass(frozen=True)
class Shard:
    """One file of the result and what it will hold."""

    name: str
    tensors: tuple[TensorPlan, ...]


def shards(plan: Plan, source: Checkpoint, max_bytes: int | None = None) -> tuple[Shard, ...]:
    """The result's files: as the source is divided, what is new in the last; or of at most ``max_bytes`` each."""
    groups = _by_source(plan, source) if max_bytes is None else _by_size(plan.stored, max_bytes)
    many = len(groups)
    names = [SINGLE] if many == 1 else [f"model-{k:05d}-of-{many:05d}.safetensors" for k in range(1, many + 1)]
    return tuple(Shard(name, tuple(group)) for name, group in zip(names, groups, strict=True))


def write(
    plan: Plan,
    source: Checkpoint,
    folder: Path,
    context: Context | None = None,
    *,
    max_bytes: int | None = None,
    total_parameters: int | None = None,
    progress: Callable[[int], object] = lambda done: None,
) -> dict[str, list[str]]:
    """Writes the tensors of a plan into an existing folder; returns the digests of every new region.

    Memory holds what is new in one shard; everything kept is mapped from the source and streamed.

    Raises:
        ProofError: the source repeats a tied tensor with other values.
        OSError, SafetensorError: a file can't be written; ``staged`` explains it.
    """
    made: dict[str, list[str]] = {}
    parts = shards(plan, source, max_bytes)
    with Reader(source) as reader:
        prove_duplicates(plan, reader)
        for shard in parts:
            made.update(_write_shard(shard, folder, reader, plan.seed, context))
            progress(sum(nbytes(tensor) for tensor in shard.tensors))
    if len(parts) > 1:
        _write_index(parts, folder, total_parameters)
    return made


@contextmanager
def staged(out: Path, needed: int) -> Iterator[Path]:
    """A temporary folder beside ``out`` that takes its name at the end, or disappears with whatever went wrong.

    Raises:
        PlanError: ``out`` exists and isn't an empty folder, or there is no room for ``needed`` bytes.
        HfInitError: a file can't be written.
    """
    refuse_existing(out)
    _refuse_full(out, needed)
    with _explained(out), _parents(out):
        folder = out.parent / f".{out.name}.hf_init-{os.getpid()}-{secrets.token_hex(4)}"
        folder.mkdir()
        try:
            yield folder
            _sync(folder)
            _take_name(folder, out)
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def refuse_existing(out: Path) -> None:
    """Raises PlanError unless ``out`` is free: missing where a folder can be made, or an empty folder."""
    if out.is_symlink() or (out.exists() and not out.is_dir()):
        raise PlanError(f"{out} exists and isn't a folder; give another place for the result")
    if out.exists() and any(out.iterdir()):
        raise PlanError(f"{out} exists and isn't empty; remove it, or give another place for the result")
    if not _nearest(out).is_dir():
        raise PlanError(f"{_nearest(out)} isn't a folder, so {out} can't lie in it; give another place for the result")


def _nearest(out: Path) -> Path:
    """The innermost folder above ``out`` that is there."""
    return next(parent for parent in out.absolute().parents if os.path.lexists(parent))


def _refuse_full(out: Path, needed: int) -> None:
    free = shutil.disk_usage(_nearest(out)).free
    if free < needed:
        raise PlanError(
            f"no space for {out}: {size(needed)} needed, {size(free)} free; make room, or give another place"
        )


@contextmanager
def _parents(out: Path) -> Iterator[None]:
    """The folders above ``out``; those that weren't there go again when the result doesn't come."""
    missing = [parent for parent in out.absolute().parents if not parent.exists()]
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        yield
    finally:
        for parent in missing:
            with suppress(OSError):  # not empty: the result, or somebody else's file, is in it
                parent.rmdir()


def nbytes(tensor: TensorPlan) -> int:
    """The bytes of a tensor in the result's files."""
    return count(tensor.shape) * bits(tensor.dtype) // 8


def _by_source(plan: Plan, source: Checkpoint) -> list[list[TensorPlan]]:
    groups: dict[str, list[TensorPlan]] = {shard: [] for shard in source.shards}
    for tensor in plan.stored:
        groups[_home(tensor, source)].append(tensor)
    return [group for group in groups.values() if group] or [[]]


def _home(tensor: TensorPlan, source: Checkpoint) -> str:
    return source.entries[tensor.kept[0].source].shard if tensor.kept else source.shards[-1]


def _by_size(tensors: Sequence[TensorPlan], max_bytes: int) -> list[list[TensorPlan]]:
    groups: list[list[TensorPlan]] = [[]]
    room = max_bytes
    for tensor in tensors:
        if nbytes(tensor) > room and groups[-1]:
            groups.append([])
            room = max_bytes
        groups[-1].append(tensor)
        room -= nbytes(tensor)
    return groups


def _write_shard(
    shard: Shard, folder: Path, reader: Reader, seed: int, context: Context | None
) -> Mapping[str, list[str]]:
    values = make_all(shard.tensors, reader, seed, context)
    path = folder / shard.name
    save_file(values, str(path), metadata={"format": "pt"})
    path.chmod(_usual_mode(folder))
    return {tensor.name: digests(tensor, values[tensor.name]) for tensor in shard.tensors if tensor.new}


def _usual_mode(folder: Path) -> int:
    """The mode that a file opened here gets: safetensors writes its files for the owner alone."""
    probe = folder / ".mode"
    probe.touch()
    mode = probe.stat().st_mode
    probe.unlink()
    return mode & 0o777


def _write_index(parts: Sequence[Shard], folder: Path, total_parameters: int | None) -> None:
    total = sum(nbytes(tensor) for shard in parts for tensor in shard.tensors)
    metadata = {"total_size": total}
    if total_parameters is not None:
        metadata["total_parameters"] = total_parameters
    weight_map = {tensor.name: shard.name for shard in parts for tensor in shard.tensors}
    text = json.dumps({"metadata": metadata, "weight_map": weight_map}, indent=2, sort_keys=True)
    (folder / INDEX).write_text(text + "\n", encoding="utf-8")


@contextmanager
def _explained(out: Path) -> Iterator[None]:
    """The system's own errors with their context."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        raise HfInitError(
            f"{out} couldn't be made: {error}; nothing is left behind, the source is as it was. Make room or mend what "
            "is wrong there, or give another place"
        ) from error


def _sync(folder: Path) -> None:
    """Every file and every folder, to the disk itself."""
    for path in (*folder.rglob("*"), folder):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _take_name(folder: Path, out: Path) -> None:
    try:
        folder.rename(out)
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
            raise PlanError(f"{out} appeared while the result was written; it was left as it is") from error
        raise
    descriptor = os.open(out.parent, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
