"""``measure_drift`` and ``verify_after_training``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from hf_init._checkpoint import Checkpoint
from hf_init._drift.adapter import adapter
from hf_init._drift.all_parts import all_parts
from hf_init._drift.folders import (
    PlanLike,
    PlanSource,
    TrainedFolder,
    base_of,
    is_adapter,
    is_extended,
    place_of,
    plan_source,
)
from hf_init._drift.frozen_globs import FrozenGlobs, FrozenLike
from hf_init._drift.judge import TensorDrift, judge_all
from hf_init._drift.parts import DriftInputs, Recompute, part_bytes
from hf_init._drift.report import DriftReport
from hf_init._progress import Progress
from hf_init._text import format_count, join_names


def measure_drift(
    base: TrainedFolder | None,
    trained: TrainedFolder,
    plan: PlanLike = None,
    *,
    frozen: FrozenLike = "none",
    recompute: Recompute | None = None,
    progress: Progress | None = None,
) -> DriftReport:
    """Compare every tensor and row of a trained checkpoint with what it was before, by the plan.

    Args:
        base: the result of ``extend`` before training, or the checkpoint that it came from; None: the one that the
            manifest names.
        trained: a folder in the HuggingFace layout, one or many shards, or a Trainer's output with ``checkpoint-N`` in
            it (the last one counts). Of a PEFT adapter's folder, the base is proved and the adapter's own full tensors
            are compared.
        plan: a ``Plan``, or a folder with ``hf_init.json``; None: the manifest in ``trained``, or in ``base``. Without
            one tensors are brought together by their names.
        frozen: what was meant to stay: ``"none"``; ``"kept"``, everything pretrained; globs on names; or a sequence of
            those, where ``!`` takes out and the last that fits counts: ``["kept", "!*.q_proj.weight"]``.
        recompute: as in ``verify``; without it and with the source as base, the manifest's digests tell whether new
            values moved, and not how far.
        progress: called with the bytes done since it was last called.

    Raises:
        CheckpointError: a folder can't be read, or has other shapes or names than the plan.
        PlanError: the plan is of another model, or ``frozen`` names no tensor. A difference raises nothing: see the
            report.

    Example:
        >>> import tempfile, numpy, safetensors.numpy
        >>> folders = [tempfile.TemporaryDirectory() for _ in range(2)]
        >>> for folder, value in zip(folders, (1.0, 1.5)):
        ...     safetensors.numpy.save_file({"w": numpy.full(4, value)}, f"{folder.name}/model.safetensors")
        >>> report = measure_drift(*(folder.name for folder in folders))
        >>> report.counts["trained"], report.tensors[0].change.relative, report.ok
        (1, 0.5, True)
        >>> measure_drift(*(folder.name for folder in folders), frozen="kept").ok
        False
        >>> for folder in folders: folder.cleanup()
    """
    place, notes = place_of(trained)
    words = FrozenGlobs.of(frozen)
    if is_adapter(place):
        return adapter(base, place, notes, bool(words.words), progress)
    known = plan_source(plan, place, base)
    with Checkpoint.open(place) as after, base_of(base, known) as before:
        scene = DriftInputs(before, after, known, is_extended(before, known), words, recompute)
        found = all_parts(scene)
        words.refuse_idle([(subject.names, subject.origin) for subject in found])
        outcome = judge_all(found, progress)
        return DriftReport(
            trained=str(place),
            base=str(before.root),
            plan=known.where,
            frozen=str(words),
            tensors=outcome,
            notes=(*notes, *_notes(scene, outcome)),
            warnings=tuple(_warnings(outcome)),
            bytes_compared=sum(part_bytes(subject) for subject in found if subject.pairs),
        )


def verify_after_training(
    out: TrainedFolder,
    base: TrainedFolder | None = None,
    *,
    plan: PlanLike = None,
    frozen: FrozenLike = "kept",
    recompute: Recompute | None = None,
    progress: Progress | None = None,
) -> DriftReport:
    """Prove that everything pretrained stayed in a trained checkpoint: ``measure_drift`` with ``frozen="kept"``.

    Raises:
        HfInitError: as ``measure_drift``. A difference raises nothing: see the report's ``ok`` and ``raise_if_failed``.

    Example::

        verify_after_training("trained", frozen=["kept", "!*.layer.5.*"]).raise_if_failed()
    """
    return measure_drift(base, out, plan, frozen=frozen, recompute=recompute, progress=progress)


def _notes(scene: DriftInputs, outcome: Sequence[TensorDrift]) -> Iterator[str]:
    yield from _plan_notes(scene.guide, scene)
    cast = sorted({(t.dtype_before, t.dtype) for t in outcome if t.dtype_before not in (None, t.dtype)})
    for before, after in cast:
        yield f"saved in {after}, was {before}: what stayed equals its exact cast, bit for bit"
    missing = [tensor.name for tensor in outcome if tensor.status == "missing" and not tensor.failed]
    if missing:
        why = "the library drops them, or they were left out" if scene.guide.manifest else "no plan says why"
        yield f"not in the trained checkpoint: {join_names(missing)} ({why})"
    for checkpoint in (scene.trained, scene.base):
        for stray in checkpoint.strays:
            yield f"{checkpoint.root}: {stray} is not read, another file goes before it"


def _plan_notes(known: PlanSource, scene: DriftInputs) -> Iterator[str]:
    manifest = known.manifest
    if manifest is None:
        yield (
            "no plan: tensors are brought together by their names, and all that both have counts as pretrained. What "
            "was renamed, which rows of a resized tensor are which, and how new values were made isn't known; "
            "give plan=, the folder that extend wrote"
        )
    elif not scene.extended and manifest.base and scene.base.fingerprint() != manifest.base["fingerprint"]:
        yield f"{scene.base.root} is not the very same files that the plan was made from; the bytes decide"
    if manifest is not None and not scene.extended and scene.recompute is None and manifest.digests:
        yield "how far new values moved isn't known from their digests; give the extended folder as base for that"


def _warnings(outcome: Sequence[TensorDrift]) -> Iterator[str]:
    still = [tensor.name for tensor in outcome if tensor.status == "untrained"]
    if still:
        yield f"new, and still as it was made: {join_names(still)}. Did the optimizer have it, and did it require grad?"
    broken = [tensor.name for tensor in outcome if tensor.change and tensor.change.not_finite]
    if broken:
        yield f"NaN or infinite values: {join_names(broken)}. The training diverged"
    lone = [tensor.name for tensor in outcome if tensor.reason.startswith("not in the ")]
    if lone:
        yield f"known neither by plan nor base: {join_names(lone)} ({format_count(len(lone))} in all)"
