"""Which folder holds what: the trained tensors, the plan, the base."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from hf_init._checkpoint import Checkpoint, folder_of, open_tensors, pieces_folder, weights_file
from hf_init._errors import CheckpointError, PlanError
from hf_init._paths import user_path
from hf_init._plan import MANIFEST_NAME, BaseRecord, Manifest, Plan, TensorPlan

TrainedFolder: TypeAlias = str | os.PathLike[str]
PlanLike: TypeAlias = Plan | Manifest | str | os.PathLike[str] | None

ADAPTER = "adapter_config.json"


@dataclass(frozen=True)
class PlanSource:
    """What is known of how a base and a trained checkpoint belong together.

    Attributes:
        plan: None where there is none.
        where: it is from, in words.
        base: what the plan's manifest says of the base.
        digests: of the new regions as they were made, from the manifest.
    """

    plan: Plan | None
    where: str
    base: BaseRecord | None = None
    digests: Mapping[str, list[str]] = field(default_factory=dict[str, list[str]])

    @classmethod
    def of(cls, manifest: Manifest, where: str) -> PlanSource:
        return cls(manifest.plan, where, manifest.base, manifest.digests)

    @property
    def tensors(self) -> tuple[TensorPlan, ...]:
        return () if self.plan is None else self.plan.tensors


def found_here(source: TrainedFolder, hub: Mapping[str, Any]) -> Path:
    """Return a folder or file as it is, and where a hub id is downloaded to."""
    path = Path(source).expanduser()
    return path if path.exists() else folder_of(source, **hub)


def trained_folder(folder: TrainedFolder) -> tuple[Path, tuple[str, ...]]:
    """Return the folder with the files, the one given or the last ``checkpoint-N`` in it; and a note about that."""
    root = user_path(folder)
    if not root.is_dir() or _has_tensors(root):
        return root, ()
    steps = {path: re.fullmatch(r"checkpoint-(\d{1,18})", path.name) for path in root.iterdir() if _has_tensors(path)}
    saved = sorted((int(step[1]), path) for path, step in steps.items() if step)
    if not saved:
        return root, ()
    last = saved[-1][1]
    return last, (f"{root} holds no tensors itself: this is its last checkpoint, {last.name}, of {len(saved)}",)


def _has_tensors(folder: Path) -> bool:
    if (folder / ADAPTER).is_file() or pieces_folder(folder) is not None:
        return True
    return bool(weights_file(folder, lambda name: (folder / name).is_file()))


def is_adapter(folder: Path) -> bool:
    """Return whether a folder holds a PEFT adapter and no model."""
    return (folder / ADAPTER).is_file() and not weights_file(folder, lambda name: (folder / name).is_file())


def plan_source(plan: PlanLike, trained: Path, base: TrainedFolder | None) -> PlanSource:
    """Return the plan that is given, or the one in the trained folder, in the run's folder around it, or in the base.

    Raises:
        CheckpointError: a manifest that can't be read.
        PlanError: ``plan`` is no plan and no folder.
    """
    if isinstance(plan, Plan):
        return PlanSource(plan, "as it was given")
    if isinstance(plan, Manifest):
        return PlanSource.of(plan, "as it was given")
    if plan is not None:
        if not isinstance(plan, str | os.PathLike):
            raise PlanError(f"plan: expected a Plan, or a folder with {MANIFEST_NAME}, not {type(plan).__name__}")
        path = user_path(plan)
        folder = path.parent if path.name == MANIFEST_NAME else path
        return PlanSource.of(Manifest.load(folder), str(folder / MANIFEST_NAME))
    for folder in (trained, trained.parent if trained.name.startswith("checkpoint-") else None, base):
        if folder is not None and os.path.isfile(user_path(folder) / MANIFEST_NAME):
            return PlanSource.of(Manifest.load(folder), str(user_path(folder) / MANIFEST_NAME))
    return PlanSource(None, "none")


def open_drift_base(base: TrainedFolder | None, source: PlanSource, prefix: str) -> Checkpoint:
    """Open the base that is given, or the one that the manifest names.

    Raises:
        CheckpointError: it can't be read, is nowhere named, or is a folder without tensors.
    """
    if base is not None:
        return open_tensors(base, prefix)
    if source.base is None:
        raise CheckpointError(
            f"No base is given, and there is no {MANIFEST_NAME} that names one. Give the base's folder."
        )
    return source.base.open()


def is_extended(base: Checkpoint, source: PlanSource) -> bool:
    """Return whether the base is the plan's result, before training, and not its source.

    Raises:
        PlanError: it is neither: the plan is of another model.
    """
    if source.plan is None or (source.base and base.fingerprint() == source.base.fingerprint):
        return False
    if (base.root / MANIFEST_NAME).is_file() and Manifest.load(base.root).tensors == source.tensors:
        return True
    needed = {copy.source for tensor in source.tensors for copy in tensor.kept}
    if needed and needed <= base.entries.keys():
        return False
    lacking = [tensor.name for tensor in source.tensors if tensor.stored and tensor.name not in base.entries]
    if lacking:
        raise PlanError(
            f"The plan ({source.where}) is of another model than {base.root}, which lacks "
            f"{len(needed - base.entries.keys())} of the {len(needed)} tensors that the plan takes from its source "
            f"and {len(lacking)} of those that it makes, such as {lacking[0]}. Give the base that it was made from, "
            "or the result before training."
        )
    return True
