"""A PEFT adapter's folder: the base, which isn't in it, is proved; the full tensors that it carries are compared."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from hf_init._checkpoint import Checkpoint, TensorEntry, read_header, read_object
from hf_init._drift.cast import castable
from hf_init._drift.folders import ADAPTER, TrainedFolder
from hf_init._drift.frozen_globs import KEPT
from hf_init._drift.judge import TensorDrift, judge_all
from hf_init._drift.measure import TensorPair
from hf_init._drift.parts import ALL, NEW, TensorPart
from hf_init._drift.report import DriftReport
from hf_init._errors import CheckpointError, PlanError
from hf_init._plan import MANIFEST_NAME, Manifest, Plan
from hf_init._tensors import Box, Region, Rows, num_elements
from hf_init._text import format_count, join_names
from hf_init._verify import VerifyReport, stored_tensor, verify_result

WEIGHTS = "adapter_model.safetensors"
_PREFIX = "base_model.model."
_TOKENS = ".token_adapter.trainable_tokens_delta"


@dataclass(frozen=True)
class _Adapter:
    config: dict[str, Any]
    files: Checkpoint
    base: Checkpoint
    manifest: Manifest | None

    @property
    def entries(self) -> list[dict[str, Any]]:
        return self.manifest.tensors if self.manifest else []


def adapter(
    base: TrainedFolder | None,
    place: Path,
    notes: tuple[str, ...],
    must_prove: bool,
    progress: Callable[[int], object] | None,
) -> DriftReport:
    """The report on an adapter.

    Raises:
        CheckpointError: its base is not a folder here, or can't be proved and must be.
    """
    config = read_object(place / ADAPTER)
    folder = _base_folder(base, place, config)
    known = (folder / MANIFEST_NAME).is_file()
    if must_prove and not known:
        raise CheckpointError(
            f"{place} is an adapter, and its base, {folder}, has no {MANIFEST_NAME} that says what it "
            "should be: it can't be "
            "proved unchanged. Compare it with the checkpoint that you started from: `hf-init diff`."
        )
    proof = verify_result(folder, progress=progress) if known else None
    with _files(place) as files, Checkpoint.open(folder) as source:
        found = _Adapter(config, files, source, Manifest.load(folder) if known else None)
        return _report(found, place, judge_all(list(_subjects(found)), progress), proof, notes)


def _report(
    found: _Adapter, place: Path, outcome: tuple[TensorDrift, ...], proof: VerifyReport | None, notes: tuple[str, ...]
) -> DriftReport:
    return DriftReport(
        trained=str(place),
        base=str(found.base.root),
        plan=str(found.base.root / MANIFEST_NAME) if proof else "none",
        frozen="the base, which an adapter doesn't hold",
        tensors=outcome,
        notes=(*notes, *_notes(found, place, outcome)),
        warnings=tuple(_warnings(found, outcome)),
        bytes_compared=sum(found.files.entries[name].nbytes for name in found.files.entries if _full(found, name)),
        proof=proof,
        paste=_paste(found),
    )


def _base_folder(base: TrainedFolder | None, place: Path, config: dict[str, Any]) -> Path:
    named = base if base is not None else config.get("base_model_name_or_path")
    if isinstance(named, str | Path) and Path(named).expanduser().is_dir():
        return Path(named).expanduser()
    raise CheckpointError(
        f"{place} is an adapter, which doesn't hold its base, and {named!r}, which "
        f"{'was given' if base is not None else 'its config names'}, is not a folder here. Give the base's folder."
    )


def _files(place: Path) -> Checkpoint:
    if not (place / WEIGHTS).is_file():
        raise CheckpointError(f"{place} has {ADAPTER} and no {WEIGHTS}: save the adapter again with save_pretrained.")
    header = read_header(place / WEIGHTS)
    return Checkpoint(place, (header,), MappingProxyType({entry.name: entry for entry in header.entries}))


def _subjects(found: _Adapter) -> Iterator[TensorPart]:
    for name, entry in found.files.entries.items():
        target = _full(found, name)
        if target is not None:
            yield _subject(found, entry, target)


def _full(found: _Adapter, name: str) -> str | None:
    """The tensor of the base that an adapter's tensor replaces, as a whole or in some rows; None if it adds to one."""
    inside = name.removeprefix(_PREFIX)
    if inside.endswith(_TOKENS):
        inside = f"{inside.removesuffix(_TOKENS)}.weight"
    names = {entry.get("parameter") or entry["name"]: entry["name"] for entry in found.entries}
    target = names.get(inside, inside)
    return target if target in found.base.entries else None


def _subject(found: _Adapter, entry: TensorEntry, target: str) -> TensorPart:
    source, tokens = found.base.entries[target], entry.name.endswith(_TOKENS)
    rows: Region | None = _rows(found.config, target, entry, source) if tokens else Box.whole(source.shape)
    fits = rows is not None and rows.shape == entry.shape
    castable_too = source.dtype == entry.dtype or castable(source.dtype, entry.dtype)
    fault = "" if fits and castable_too else _unlike(source, entry)
    pair = TensorPair(
        stored_tensor(found.files, entry.name), lambda: stored_tensor(found.base, target, rows), source.dtype
    )
    return TensorPart(
        target,
        NEW if any(plan["name"] == target and plan.get("new") for plan in found.entries) else KEPT,
        False,
        entry.shape,
        entry.dtype,
        num_elements(entry.shape),
        f"{format_count(entry.shape[0])} rows" if tokens else ALL,
        source.dtype,
        () if fault else (pair,),
        fault=fault,
    )


def _unlike(before: TensorEntry, after: TensorEntry) -> str:
    return f"was {before.dtype} {list(before.shape)}, is {after.dtype} {list(after.shape)}: it can't be compared"


def _rows(config: dict[str, Any], target: str, entry: TensorEntry, source: TensorEntry) -> Rows | None:
    """The rows of an embedding that trainable tokens stand for."""
    said = config.get("trainable_token_indices")
    module = target.removesuffix(".weight")
    lists = [said] if isinstance(said, list) else []
    if isinstance(said, dict):
        lists = [rows for name, rows in said.items() if module == name or module.endswith(f".{name}")]
    rows = next((rows for rows in lists if isinstance(rows, list) and len(rows) == entry.shape[0]), None)
    if rows is None or not all(isinstance(row, int) and 0 <= row < source.shape[0] for row in rows):
        return None
    return Rows(0, tuple(rows), source.shape)


def _notes(found: _Adapter, place: Path, outcome: tuple[TensorDrift, ...]) -> Iterator[str]:
    own = [name for name in found.files.entries if _full(found, name) is None]
    yield (
        f"{place} is an adapter of PEFT ({found.config.get('peft_type', 'of no type')}): the base isn't in it, and is "
        "proved in its own folder"
    )
    if own:
        yield f"{format_count(len(own))} tensors of the adapter's own, which are added to the base when it is loaded"
    for key in ("modules_to_save", "trainable_token_indices"):
        if found.config.get(key):
            yield f"{key} of the adapter: {json.dumps(found.config[key])}"
    if found.manifest is None:
        yield f"the base has no {MANIFEST_NAME}: whether it is what it was isn't known"


def _warnings(found: _Adapter, outcome: tuple[TensorDrift, ...]) -> Iterator[str]:
    carried = {tensor.name for tensor in outcome}
    bare = [
        entry["name"]
        for entry in found.entries
        if entry.get("new") and entry["name"] not in carried and not _adapted(found, entry)
    ]
    if bare:
        yield f"new, and the adapter doesn't carry it: {join_names(bare)}. It stays as it was made: see what to paste"
    still = [tensor.name for tensor in outcome if tensor.status == "untrained"]
    if still:
        yield f"new, and still as it was made: {join_names(still)}. Did the optimizer have it, and did it require grad?"


def _adapted(found: _Adapter, entry: dict[str, Any]) -> bool:
    """Whether the adapter has something of its own at the module of a tensor."""
    module = (entry.get("parameter") or entry["name"]).rpartition(".")[0]
    return any(name.removeprefix(_PREFIX).startswith(f"{module}.") for name in found.files.entries)


def _paste(found: _Adapter) -> str:
    """The arguments of a PEFT config that the plan of the base asks for; or why there are none."""
    from hf_init.finetune import peft_arguments  # brings torch, which only an adapter's report needs

    if found.manifest is None:
        return ""
    try:
        arguments = peft_arguments(Plan.from_json(found.manifest.plan))
    except PlanError as error:
        return str(error)
    return ",\n".join(f"{key}={value!r}" for key, value in arguments.items())
