"""Every part of every trained tensor: by the plan where there is one, else by name."""

from __future__ import annotations

from hf_init._checkpoint._strict import refuse
from hf_init._drift._by_name import by_name
from hf_init._drift._planned import faults, planned
from hf_init._drift._subject import Scene, Subject


def subjects(scene: Scene) -> list[Subject]:
    """Every part of every tensor.

    Raises:
        CheckpointError: the trained tensors have other shapes than the plan's, or none of its names.
        PlanError: ``frozen`` names no tensor.
    """
    if scene.guide.manifest is not None:
        refuse(
            str(scene.trained.root),
            faults(scene),
            f"The plan ({scene.guide.where}) is of another model; give the one that it was trained from.",
        )
    found = list(planned(scene) if scene.guide.manifest is not None else by_name(scene))
    if not any(each.stored and (each.pairs or each.made or each.fault) for each in found):
        refuse(
            str(scene.trained.root),
            [f"it has no tensor's name in common with {scene.base.root}"],
            "Give plan=, the folder that `hf-init extend` wrote: its plan knows which name became which.",
        )
    return found
