"""Every part of every trained tensor: by the plan where there is one, else by name."""

from __future__ import annotations

from hf_init._checkpoint import check_faults
from hf_init._drift.by_name import parts_by_name
from hf_init._drift.by_plan import plan_faults, planned_parts
from hf_init._drift.parts import DriftInputs, TensorPart
from hf_init._errors import option


def all_parts(inputs: DriftInputs) -> list[TensorPart]:
    """Return every part of every tensor.

    Raises:
        CheckpointError: the trained tensors have other shapes than the plan's, or none of its names.
        PlanError: ``frozen`` names no tensor.
    """
    planned = inputs.source.plan is not None
    if planned:
        check_faults(
            str(inputs.trained.root),
            plan_faults(inputs),
            f"The plan ({inputs.source.where}) is of another model; give the one that it was trained from.",
        )
    parts = list(planned_parts(inputs) if planned else parts_by_name(inputs))
    if not any(part.stored and (part.pairs or part.made or part.fault) for part in parts):
        check_faults(
            str(inputs.trained.root),
            [f"it has no tensor's name in common with {inputs.base.root}"],
            f"Give the folder that extend wrote, whose plan knows which name became which: {option('plan', 'FOLDER')}.",
        )
    return parts
