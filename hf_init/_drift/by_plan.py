"""With a plan: the kept and the new part of every tensor, each with what it was. Reads headers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from hf_init._checkpoint import Checkpoint, TensorEntry
from hf_init._drift.frozen_globs import KEPT
from hf_init._drift.parts import ALL, NEW, DriftInputs, TensorPart, pair_part, uncastable, unplanned_part
from hf_init._plan import TensorPlan, region_fault
from hf_init._tensors import Copy, Region, Status, num_elements
from hf_init._verify import stored_tensor


@dataclass(frozen=True)
class _TrainedTensor:
    """A planned tensor in the trained files.

    Attributes:
        name: in the plan.
        plan: of a tied tensor that is stored by itself, the one that it is tied to.
        entry: in the files.
    """

    name: str
    plan: TensorPlan
    entry: TensorEntry

    @property
    def names(self) -> tuple[str, ...]:
        return self.entry.name, *_plan_names(self.name, self.plan)

    @property
    def remark(self) -> str:
        return f"tied to {self.plan.name} in the plan, and stored by itself" if self.name != self.plan.name else ""


def planned_parts(inputs: DriftInputs) -> Iterator[TensorPart]:
    """Yield the kept and the new part of every planned tensor, then the tensors that the plan doesn't have."""
    tensors = {tensor.name: tensor for tensor in inputs.source.tensors}
    planned: set[str] = set()
    for tensor in tensors.values():
        entry = trained_entry(inputs.trained, tensor)
        if entry is not None:
            planned.add(entry.name)
            owner = tensors[tensor.tied_to] if tensor.tied_to is not None else tensor
            trained, whole = _TrainedTensor(tensor.name, owner, entry), not (owner.kept and owner.new)
            if owner.kept:
                yield _kept_part(inputs, trained, ALL if whole else KEPT)
            if owner.new:
                yield _new_part(inputs, trained, ALL if whole else NEW)
        elif tensor.stored:
            origin, names = KEPT if tensor.kept else NEW, _plan_names(tensor.name, tensor)
            yield TensorPart(
                tensor.name,
                origin,
                inputs.frozen.holds(names, origin),
                tensor.shape,
                tensor.dtype,
                num_elements(tensor.shape),
                stored=False,
                ignored=tensor.status is Status.CARRIED,
                also=names,
            )
    yield from (unplanned_part(inputs, entry) for name, entry in inputs.trained.entries.items() if name not in planned)


def plan_faults(inputs: DriftInputs) -> Iterator[str]:
    """Yield the trained tensors whose shape isn't the plan's."""
    for tensor in inputs.source.tensors:
        entry = trained_entry(inputs.trained, tensor)
        if entry is not None and entry.shape != tensor.shape:
            yield f"{entry.name} has the shape {list(entry.shape)}, the plan says {list(tensor.shape)}"


def trained_entry(trained: Checkpoint, tensor: TensorPlan) -> TensorEntry | None:
    """Return a planned tensor of the trained files: under its name on disk, or the one in the model."""
    return trained.entries.get(tensor.name) or trained.entries.get(tensor.parameter)


def _plan_names(name: str, plan: TensorPlan) -> tuple[str, str]:
    return name, name if plan.parameter in ("", plan.name) else plan.parameter


def _kept_part(inputs: DriftInputs, tensor: _TrainedTensor, portion: str) -> TensorPart:
    entry, names = tensor.entry, tensor.names
    copies = tensor.plan.kept
    if inputs.extended:  # in the result before training each region is where it is now
        copies = [Copy(copy.region, tensor.plan.name, copy.region) for copy in copies]
    faults = [fault for copy in copies if (fault := _base_fault(inputs.base, copy.source, copy.source_region, entry))]
    regions = [(copy.region, copy.source, copy.source_region) for copy in copies]
    pairs = [] if faults else [pair_part(inputs, entry, *each) for each in regions]
    return TensorPart(
        entry.name,
        KEPT,
        inputs.frozen.holds(names, KEPT),
        entry.shape,
        entry.dtype,
        sum(num_elements(copy.region.shape) for copy in copies),
        portion,
        _base_dtype(inputs.base, copies[0].source),
        tuple(pairs),
        fault=next(iter(faults), ""),
        remark=tensor.remark,
        also=names[1:],
    )


def _base_fault(base: Checkpoint, name: str, region: Region, after: TensorEntry) -> str:
    """Return why a region of the base can't be what a trained region was; empty where it can."""
    before = base.entries.get(name)
    if before is None:
        return f"{name} is not in the base"
    return region_fault(region, before.shape) or uncastable(before, after)


def _base_dtype(base: Checkpoint, name: str) -> str | None:
    return base.entries[name].dtype if name in base.entries else None


def _new_part(inputs: DriftInputs, tensor: _TrainedTensor, portion: str) -> TensorPart:
    entry, plan, names = tensor.entry, tensor.plan, tensor.names
    pairs, dtype, fault = [], None, ""
    if inputs.extended:  # such a base alone says what new regions were before training
        dtype, fault = (
            _base_dtype(inputs.base, plan.name),
            _base_fault(inputs.base, plan.name, plan.new[0].region, entry),
        )
        regions = [] if fault else [fill.region for fill in plan.new]
        pairs = [pair_part(inputs, entry, region, plan.name, region) for region in regions]
    digests = inputs.source.digests.get(plan.name, []) if entry.dtype == plan.dtype else []
    stored = [stored_tensor(inputs.trained, entry.name, fill.region) for fill in plan.new]
    return TensorPart(
        entry.name,
        NEW,
        inputs.frozen.holds(names, NEW),
        entry.shape,
        entry.dtype,
        sum(num_elements(fill.region.shape) for fill in plan.new),
        portion,
        dtype,
        tuple(pairs),
        tuple(zip(stored, digests, strict=True)) if digests else (),
        fault=fault,
        remark=tensor.remark,
        also=names[1:],
    )
