"""Every part of every trained tensor: by the plan where there is one, else by name."""

from __future__ import annotations

from hf_init._checkpoint import check_faults
from hf_init._drift.by_name import by_name
from hf_init._drift.by_plan import plan_faults, planned_parts
from hf_init._drift.parts import DriftInputs, TensorPart


def all_parts(scene: DriftInputs) -> list[TensorPart]:
    """Every part of every tensor.

    Raises:
        CheckpointError: the trained tensors have other shapes than the plan's, or none of its names.
        PlanError: ``frozen`` names no tensor.
    """
    if scene.guide.manifest is not None:
        check_faults(
            str(scene.trained.root),
            plan_faults(scene),
            f"The plan ({scene.guide.where}) is of another model; give the one that it was trained from.",
        )
    found = list(planned_parts(scene) if scene.guide.manifest is not None else by_name(scene))
    if not any(each.stored and (each.pairs or each.made or each.fault) for each in found):
        check_faults(
            str(scene.trained.root),
            [f"it has no tensor's name in common with {scene.base.root}"],
            "Give plan=, the folder that `hf-init extend` wrote: its plan knows which name became which.",
        )
    return found
