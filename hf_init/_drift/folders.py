"""Which folder holds what: the trained tensors, the plan, the base."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from hf_init._checkpoint import INDEX, SINGLE, Checkpoint
from hf_init._errors import CheckpointError, PlanError
from hf_init._plan import MANIFEST_NAME, Manifest, Plan, entry_copies, stored_entries
from hf_init._verify import open_base

TrainedFolder: TypeAlias = str | os.PathLike[str]
PlanLike: TypeAlias = Plan | Manifest | str | os.PathLike[str] | None

ADAPTER = "adapter_config.json"


@dataclass(frozen=True)
class PlanSource:
    """What is known of how a base and a trained checkpoint belong together.

    Attributes:
        manifest: with the plan, and the digests of the new regions as they were made; None where there is none.
        where: it is from, in words.
    """

    manifest: Manifest | None
    where: str

    @property
    def entries(self) -> list[dict[str, Any]]:
        return self.manifest.tensors if self.manifest else []


def place_of(folder: TrainedFolder) -> tuple[Path, tuple[str, ...]]:
    """The folder with the files: the one given, or the last ``checkpoint-N`` in it; and a note about that."""
    root = Path(folder).expanduser()
    if not root.is_dir() or _has_tensors(root):
        return root, ()
    saved = sorted(_checkpoints(root), key=lambda found: found[0])
    if not saved:
        return root, ()
    last = saved[-1][1]
    return last, (f"{root} holds no tensors itself: this is its last checkpoint, {last.name}, of {len(saved)}",)


def _has_tensors(folder: Path) -> bool:
    return any((folder / name).is_file() for name in (SINGLE, INDEX, ADAPTER))


def _checkpoints(root: Path) -> Iterator[tuple[int, Path]]:
    for path in root.iterdir():
        step = re.fullmatch(r"checkpoint-(\d{1,18})", path.name)
        if step and _has_tensors(path):
            yield int(step[1]), path


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds a PEFT adapter and no model."""
    return (folder / ADAPTER).is_file() and not any((folder / name).is_file() for name in (SINGLE, INDEX))


def plan_source(plan: PlanLike, trained: Path, base: TrainedFolder | None) -> PlanSource:
    """The plan that is given, or the one in the trained folder, in the run's folder around it, or in the base.

    Raises:
        CheckpointError: a manifest that can't be read.
        PlanError: ``plan`` is no plan and no folder.
    """
    if isinstance(plan, Plan):
        return PlanSource(Manifest(plan.to_json(), {}, {}, ""), "as it was given")
    if isinstance(plan, Manifest):
        return PlanSource(plan, "as it was given")
    if plan is not None:
        return _given(plan)
    for folder in (trained, trained.parent if trained.name.startswith("checkpoint-") else None, base):
        if folder is not None and os.path.isfile(Path(folder) / MANIFEST_NAME):
            return PlanSource(Manifest.load(folder), str(Path(folder) / MANIFEST_NAME))
    return PlanSource(None, "none")


def _given(plan: Any) -> PlanSource:
    if not isinstance(plan, str | os.PathLike):
        raise PlanError(f"plan: expected a Plan, or a folder with {MANIFEST_NAME}, not {type(plan).__name__}")
    path = Path(plan).expanduser()
    folder = path.parent if path.name == MANIFEST_NAME else path
    return PlanSource(Manifest.load(folder), str(folder / MANIFEST_NAME))


def base_of(base: TrainedFolder | None, known: PlanSource) -> Checkpoint:
    """The base that is given, or the one that the manifest names.

    Raises:
        CheckpointError: it can't be read, is nowhere named, or is a folder without tensors.
    """
    if base is not None:
        return Checkpoint.open(Path(base).expanduser())
    if known.manifest is None or not known.manifest.base:
        raise CheckpointError(
            f"No base is given, and there is no {MANIFEST_NAME} that names one. Give the base's folder."
        )
    return open_base(known.manifest, None)


def is_extended(base: Checkpoint, known: PlanSource) -> bool:
    """Whether the base is the plan's result, before training, and not its source.

    Raises:
        PlanError: it is neither: the plan is of another model.
    """
    manifest = known.manifest
    if manifest is None or (manifest.base and base.fingerprint() == manifest.base["fingerprint"]):
        return False
    if (base.root / MANIFEST_NAME).is_file() and Manifest.load(base.root).tensors == manifest.tensors:
        return True
    sources = {copy["source"] for entry in manifest.tensors for copy in entry_copies(entry)}
    if sources and sources <= base.entries.keys():
        return False
    lacking = [
        entry["name"] for entry in manifest.tensors if stored_entries(entry) and entry["name"] not in base.entries
    ]
    if lacking:
        raise PlanError(
            f"The plan ({known.where}) is of another model than {base.root}, which lacks "
            f"{len(sources - base.entries.keys())} of the {len(sources)} tensors that the plan takes from its source "
            f"and {len(lacking)} of those that it makes, such as {lacking[0]}. Give the base that it was made from, "
            "or the result before training."
        )
    return True
