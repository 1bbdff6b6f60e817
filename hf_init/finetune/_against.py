"""Without a manifest: what a model and the checkpoint that it came from can tell between them."""

from __future__ import annotations

import operator
from pathlib import Path

import torch
from torch import nn

from hf_init import schemes
from hf_init._architecture import describe_model, shared
from hf_init._checkpoint import Checkpoint, Reader, equal_bytes, open_checkpoint
from hf_init._errors import PlanError
from hf_init._plan import Fill, Plan, TensorPlan
from hf_init._shards import check_whole, gathered_tensor
from hf_init._tensors import Box, Copy, Status, TensorSpec, subtract_boxes
from hf_init._text import join_names
from hf_init.finetune._model import named_state, unwrapped

_NOT_IN_BASE = "not in the base"


def plan_against(model: nn.Module, base: str | Path) -> Plan:
    """Compare a model with its base, by bytes, and return a plan for ``freeze`` and the rest, without a manifest.

    A tensor whose bytes are the base's is kept; one that is larger, and holds the base's at its beginning, is resized;
    everything else is new. Names are compared as they are, and without the prefix of the base model. Its notes say
    what it can't tell: whether a tensor of the base's name and shape that holds other bytes was trained or
    re-initialized; rows that were moved; tensors that the loader renames or puts together. Call it before training.

    Raises:
        CheckpointError: the base can't be read.
        PlanError: nothing in the model is the base's.

    Example::

        frozen = freeze(model, plan_against(model, "all-MiniLM-L6-v2"))
    """
    model = unwrapped(model)
    check_whole(model)
    state, prefix = named_state(model), getattr(model, "base_model_prefix", "")
    specs, ties = describe_model(model), shared(model)
    with open_checkpoint(base, beside=False) as source, Reader(source) as reader:
        names = {}
        for name in state:
            candidates = (name, name.removeprefix(f"{prefix}."), f"{prefix}.{name}")
            names[name] = next((each for each in candidates if each in source.entries), None)
        tensors = [_planned_by_bytes(specs[n], state[n], names[n], source, reader) for n in state if n not in ties]
    if not any(tensor.kept for tensor in tensors):
        raise PlanError(f"nothing in {type(model).__name__} is of {base}: no tensor holds its bytes. Is it the base?")
    tied = [_planned_tensor(specs[alias], Status.TIED, tied_to=name) for alias, name in ties.items()]
    notes = [f"made from {base} alone, without a manifest: by what schemes the new was filled it can't tell"]
    if changed := [each.name for each in tensors if each.status is Status.NEW and names[each.name]]:
        notes.append(
            f"in the base with other bytes, so taken for new, whether trained or re-initialized: {join_names(changed)}"
        )
    if larger := [each.name for each in tensors if each.status is Status.RESIZED]:
        notes.append(f"larger than in the base, whose elements are at the beginning: {join_names(larger)}")
    return Plan(type(model).__name__, 0, (*tensors, *tied), notes=tuple(notes))


def _planned_by_bytes(
    spec: TensorSpec, tensor: torch.Tensor, name: str | None, source: Checkpoint, reader: Reader
) -> TensorPlan:
    """Plan a tensor of the model: kept or resized if it holds the bytes of the base's tensor ``name``, else new."""
    box = Box.whole(source.entries[name].shape) if name else None
    fits = box and len(box.stop) == len(spec.shape) and all(map(operator.le, box.stop, spec.shape))
    same = (
        name and box and fits and equal_bytes(gathered_tensor(tensor)[box.slices], reader.tensor(name).to(tensor.dtype))
    )
    if not name or not box or not same:
        fill = Fill(Box.whole(spec.shape), schemes.Skip(), _NOT_IN_BASE)
        return _planned_tensor(spec, Status.NEW, new=(fill,))
    copy = Copy(box, name, box)
    if box.stop == spec.shape:
        return _planned_tensor(spec, Status.KEPT, kept=(copy,), source=name)
    new = tuple(Fill(rest, schemes.Declared(), _NOT_IN_BASE) for rest in subtract_boxes(spec.shape, [box]))
    return _planned_tensor(spec, Status.RESIZED, kept=(copy,), new=new)


def _planned_tensor(
    spec: TensorSpec,
    status: Status,
    kept: tuple[Copy, ...] = (),
    new: tuple[Fill, ...] = (),
    source: str | None = None,
    tied_to: str | None = None,
) -> TensorPlan:
    return TensorPlan(
        spec.name, status, spec.shape, spec.dtype, kept, new, source, tied_to, parameter=spec.name, role=spec.role
    )
