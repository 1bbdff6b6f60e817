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
from hf_init._write.safetensors_file import METADATA, FileForm, file_bytes, file_form

Link: TypeAlias = Literal["copy", "hard", "symbolic"]
"""How a file of the source that the result takes over whole gets there."""


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
    def nbytes(self) -> int:
        """Return the bytes of its tensors."""
        return sum(map(file_bytes, self.tensors))

    @cached_property
    def form(self) -> FileForm:
        """Return header, offsets and size of a file that is written."""
        return file_form(self.tensors)


def plan_files(
    plan: Plan, source: Checkpoint, *, link: Link = "copy", max_bytes: int | None = None
) -> tuple[OutputFile, ...]:
    """Return the result's files: divided as the source is, or into files of at most ``max_bytes``.

    A changed tensor stays in the file that it came from, which has to be written anyway. One that is new as a whole
    goes into the last file that is written anyway; where there is none, into the last one with copies, which cost the
    same, and into one more file with links, which then cost nothing.

    Raises:
        PlanError: an unknown ``link``.
    """
    if link not in get_args(Link):
        raise PlanError(f"link: expected one of {', '.join(get_args(Link))}, not {link!r}")
    groups = _groups_by_source(plan, source, link) if max_bytes is None else _groups_by_size(plan.stored, max_bytes)
    number = len(groups)
    names = [SINGLE] if number == 1 else [f"model-{k + 1:05d}-of-{number:05d}.safetensors" for k in range(number)]
    return tuple(
        OutputFile(name, tuple(group), _unchanged_shard(group, source))
        for name, group in zip(names, groups, strict=True)
    )


def bytes_written(files: Sequence[OutputFile], source: Checkpoint, link: Link = "copy") -> int:
    """Return the bytes that the files take on the disk: links take none."""
    written = sum(file.form.size for file in files if file.carried is None)
    carried = sum(source.by_shard[file.carried].size for file in files if file.carried is not None)
    return written + (carried if link == "copy" else 0)


def index_text(files: Sequence[OutputFile], total_parameters: int | None = None) -> str:
    """Return the index of several files, as ``save_pretrained`` writes it."""
    metadata = {"total_size": sum(file.nbytes for file in files)}
    if total_parameters is not None:
        metadata["total_parameters"] = total_parameters
    weight_map = {tensor.name: file.name for file in files for tensor in file.tensors}
    return json.dumps({"metadata": metadata, "weight_map": weight_map}, indent=2, sort_keys=True) + "\n"


def _unchanged_shard(group: Sequence[TensorPlan], source: Checkpoint) -> str | None:
    """Return the name of the source's file that holds these tensors, unchanged, and no other; None if there is none."""
    if not group or any(not tensor.status.is_whole or tensor.source != tensor.name for tensor in group):
        return None
    header = source.by_shard[source.entries[group[0].name].shard]
    same = {entry.name for entry in header.entries} == {tensor.name for tensor in group}
    mapped = all(source.entries[tensor.name].shard == header.shard for tensor in group)
    return header.shard if same and mapped and header.metadata.get("format") == METADATA["format"] else None


def _groups_by_source(plan: Plan, source: Checkpoint, link: Link) -> list[list[TensorPlan]]:
    by_shard: dict[str, list[TensorPlan]] = {shard: [] for shard in source.shards}
    for tensor in plan.stored:
        if tensor.kept:
            by_shard[source.entries[tensor.kept[0].source].shard].append(tensor)
    groups = [group for group in by_shard.values() if group]
    new = [tensor for tensor in plan.stored if not tensor.kept]
    if new or not groups:
        written = [group for group in groups if _unchanged_shard(group, source) is None]
        hosts = written or (groups if link == "copy" else [])
        if not hosts:
            groups.append([])
        (hosts or groups)[-1].extend(new)
    return groups


def _groups_by_size(tensors: Sequence[TensorPlan], max_bytes: int) -> list[list[TensorPlan]]:
    groups: list[list[TensorPlan]] = [[]]
    room = max_bytes
    for tensor in tensors:
        if file_bytes(tensor) > room and groups[-1]:
            groups.append([])
            room = max_bytes
        groups[-1].append(tensor)
        room -= file_bytes(tensor)
    return groups
