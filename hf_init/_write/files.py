"""The plan of files: what each file of a result will hold, and which of them is one of the source's, whole. No I/O."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, TypeAlias, get_args

from hf_init._checkpoint import SINGLE, Checkpoint
from hf_init._errors import PlanError
from hf_init._plan import Plan, TensorPlan
from hf_init._tensors import Status
from hf_init._write.safetensors_file import METADATA, FileForm, file_bytes, file_form

Link: TypeAlias = Literal["copy", "hard", "symbolic"]
"""How a file of the source that the result takes over whole gets there."""

LINKS: tuple[str, ...] = get_args(Link)


@dataclass(frozen=True)
class OutputFile:
    """One file of the result.

    Attributes:
        name: in the result's folder.
        tensors: what it will hold.
        carried: the name of the source's file that it is, byte for byte; None for a file that is written.
    """

    name: str
    tensors: tuple[TensorPlan, ...]
    carried: str | None = None

    @property
    def how(self) -> str:
        """``carried``: a file of the source, whole. ``renamed``: whole tensors of the source. ``written``: else."""
        if self.carried is not None:
            return "carried"
        return "renamed" if all(tensor.status is Status.KEPT for tensor in self.tensors) else "written"

    @property
    def nbytes(self) -> int:
        """The bytes of its tensors."""
        return sum(map(file_bytes, self.tensors))

    @cached_property
    def form(self) -> FileForm:
        """Of a file that is written."""
        return file_form(self.tensors)


def plan_files(
    plan: Plan, source: Checkpoint, *, link: Link = "copy", max_bytes: int | None = None
) -> tuple[OutputFile, ...]:
    """The result's files: divided as the source is, or into files of at most ``max_bytes``.

    A changed tensor stays in the file that it came from, which has to be written anyway. One that is new as a whole
    goes into the last file that is written anyway; where there is none, into the last one with copies, which cost the
    same, and into one more file with links, which then cost nothing.

    Raises:
        PlanError: an unknown ``link``.
    """
    if link not in LINKS:
        raise PlanError(f"link: expected one of {', '.join(LINKS)}, not {link!r}")
    wholes = _Wholes(source)
    groups = _by_source(plan, source, wholes, link) if max_bytes is None else _by_size(plan.stored, max_bytes)
    return tuple(
        OutputFile(name, tuple(group), wholes.shard_of(group))
        for name, group in zip(_names(len(groups)), groups, strict=True)
    )


def bytes_written(files: Sequence[OutputFile], source: Checkpoint, link: Link = "copy") -> int:
    """Return the bytes that the files take on the disk: links take none."""
    written = sum(file.form.size for file in files if file.carried is None)
    carried = sum(source.by_shard[file.carried].size for file in files if file.carried is not None)
    return written + (carried if link == "copy" else 0)


def index_text(files: Sequence[OutputFile], total_parameters: int | None = None) -> str:
    """The index of several files, as ``save_pretrained`` writes it."""
    metadata = {"total_size": sum(file.nbytes for file in files)}
    if total_parameters is not None:
        metadata["total_parameters"] = total_parameters
    weight_map = {tensor.name: file.name for file in files for tensor in file.tensors}
    return json.dumps({"metadata": metadata, "weight_map": weight_map}, indent=2, sort_keys=True) + "\n"


def _names(many: int) -> list[str]:
    return [SINGLE] if many == 1 else [f"model-{k:05d}-of-{many:05d}.safetensors" for k in range(1, many + 1)]


class _Wholes:
    """Knows which tensors together are a whole file of the source."""

    def __init__(self, source: Checkpoint) -> None:
        self._source = source
        self._names = {
            header.shard: {entry.name for entry in header.entries}
            for header in source.headers
            if header.metadata.get("format") == METADATA["format"]
        }

    def shard_of(self, group: Sequence[TensorPlan]) -> str | None:
        if not group or any(tensor.status is not Status.KEPT or tensor.source != tensor.name for tensor in group):
            return None
        shard = self._source.entries[group[0].name].shard
        same = self._names.get(shard) == {tensor.name for tensor in group}
        return shard if same and all(self._source.entries[tensor.name].shard == shard for tensor in group) else None


def _by_source(plan: Plan, source: Checkpoint, wholes: _Wholes, link: Link) -> list[list[TensorPlan]]:
    homes: dict[str, list[TensorPlan]] = {shard: [] for shard in source.shards}
    fresh = [tensor for tensor in plan.stored if not tensor.kept]
    for tensor in plan.stored:
        if tensor.kept:
            homes[source.entries[tensor.kept[0].source].shard].append(tensor)
    groups = [group for group in homes.values() if group]
    if fresh or not groups:
        written = [group for group in groups if wholes.shard_of(group) is None]
        hosts = written or (groups if link == "copy" else [])
        if not hosts:
            groups.append([])
        (hosts or groups)[-1].extend(fresh)
    return groups


def _by_size(tensors: Sequence[TensorPlan], max_bytes: int) -> list[list[TensorPlan]]:
    groups: list[list[TensorPlan]] = [[]]
    room = max_bytes
    for tensor in tensors:
        if file_bytes(tensor) > room and groups[-1]:
            groups.append([])
            room = max_bytes
        groups[-1].append(tensor)
        room -= file_bytes(tensor)
    return groups
