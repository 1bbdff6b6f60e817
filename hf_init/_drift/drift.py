"""``measure_drift``: a trained checkpoint against what it was before."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from hf_init._checkpoint import open_tensors
from hf_init._drift.adapter import adapter_drift
from hf_init._drift.all_parts import all_parts
from hf_init._drift.folders import (
    PlanLike,
    TrainedFolder,
    found_here,
    is_adapter,
    is_extended,
    open_drift_base,
    plan_source,
    trained_folder,
)
from hf_init._drift.frozen_globs import FrozenGlobs, FrozenLike
from hf_init._drift.judge import TensorDrift, judge_parts
from hf_init._drift.parts import DriftInputs, TensorPart, part_bytes
from hf_init._drift.report import DriftReport, untrained_warning
from hf_init._progress import Progress
from hf_init._text import format_count, join_names
from hf_init._verify import describe_renaming


def measure_drift(
    base: TrainedFolder | None,
    trained: TrainedFolder,
    plan: PlanLike = None,
    *,
    frozen: FrozenLike = "none",
    progress: Progress | None = None,
    prefix: str = "",
    hub: Mapping[str, Any] = MappingProxyType({}),
) -> DriftReport:
    """Compare every tensor and row of a trained checkpoint with what it was before, by the plan.

    Args:
        base: the result of ``extend`` before training, or the checkpoint that it came from; None: the one that the
            manifest names.
        trained: a file, a folder in the HuggingFace layout, or a Trainer's output with ``checkpoint-N`` in
            it (the last one counts). Of a PEFT adapter's folder, the base is proved and the adapter's own full tensors
            are compared.
        plan: a ``Plan``, or a folder with ``hf_init.json``; None: the manifest in ``trained``, or in ``base``. Without
            one tensors are brought together by their names.
        frozen: what was meant to stay: ``"none"``; ``"kept"``, everything pretrained; globs on names; or a sequence of
            those, where ``!`` takes out and the last that fits counts: ``["kept", "!*.q_proj.weight"]``.
        progress: called with the bytes done since it was last called.
        prefix: what the names of ``base`` get before them.
        hub: of hub ids: ``token``, ``cache_dir``, ``local_files_only``, ``force_download``.

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
    base = None if base is None else found_here(base, hub)
    folder, notes = trained_folder(found_here(trained, hub))
    globs = FrozenGlobs.of(frozen)
    if is_adapter(folder):
        return adapter_drift(base, folder, notes, bool(globs.words), progress)
    source = plan_source(plan, folder, base)
    with open_tensors(folder) as after, open_drift_base(base, source, prefix) as before:
        inputs = DriftInputs(before, after, source, is_extended(before, source), globs)
        parts = all_parts(inputs)
        globs.check_used([(part.names, part.origin) for part in parts])
        tensors = judge_parts(parts, progress)
        return DriftReport(
            trained=str(folder),
            base=str(before.root),
            plan=source.where,
            frozen=str(globs),
            tensors=tensors,
            notes=(*notes, *_drift_notes(inputs, parts, tensors)),
            warnings=tuple(_drift_warnings(tensors)),
            bytes_compared=sum(part_bytes(part) for part in parts if part.pairs),
        )


def _drift_notes(inputs: DriftInputs, parts: Sequence[TensorPart], tensors: Sequence[TensorDrift]) -> Iterator[str]:
    source, base = inputs.source, inputs.base
    if source.plan is None:
        renamed = Counter(describe_renaming(part.also[0], part.name) for part in parts if part.also)
        for (was, name), number in renamed.most_common():
            yield f"under another name: {was} is {name} ({format_count(number)} tensors)"
        yield (
            "no plan: tensors are brought together by their names, and all that both have counts as pretrained. Which "
            "rows of a resized tensor are which, and how new values were made, isn't known; "
            "give the folder that extend wrote as plan"
        )
    if not inputs.extended and source.base is not None and base.fingerprint() != source.base.fingerprint:
        yield f"{base.root} is not the very same files that the plan was made from; the bytes decide"
    digests_alone = source.digests and not inputs.extended
    if digests_alone and any(tensor.status == "new" and tensor.change is None for tensor in tensors):
        yield "how far new values moved isn't known from their digests; give the extended folder as base for that"
    cast = sorted({(t.dtype_before, t.dtype) for t in tensors if t.dtype_before not in (None, t.dtype)})
    for before, after in cast:
        yield f"saved in {after}, was {before}: what stayed equals its exact cast, bit for bit"
    missing = [tensor.name for tensor in tensors if tensor.status == "missing" and not tensor.failed]
    if missing:
        why = "no plan says why" if source.plan is None else "the library drops them, or they were left out"
        yield f"not in the trained checkpoint: {join_names(missing)} ({why})"
    for checkpoint in (inputs.trained, base):
        for stray in checkpoint.strays:
            yield f"{checkpoint.root}: {stray} is not read, another file goes before it"


def _drift_warnings(tensors: Sequence[TensorDrift]) -> Iterator[str]:
    yield from untrained_warning(tensors)
    broken = [tensor.name for tensor in tensors if tensor.change and tensor.change.not_finite]
    if broken:
        yield f"NaN or infinite values: {join_names(broken)}. The training diverged"
    unplanned = [tensor.name for tensor in tensors if tensor.reason.startswith("not in the ")]
    if unplanned:
        yield f"known neither by plan nor base: {join_names(unplanned)} ({format_count(len(unplanned))} in all)"
