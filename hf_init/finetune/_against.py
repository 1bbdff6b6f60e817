"""Without a manifest: what a model and the checkpoint that it came from can tell between them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn

from hf_init import schemes
from hf_init._architecture import describe_model, shared
from hf_init._checkpoint import Checkpoint, Reader, equal_bytes
from hf_init._errors import PlanError
from hf_init._plan import Fill, Plan, TensorPlan
from hf_init._tensors import Box, Copy, Status, TensorSpec, subtract_boxes
from hf_init._text import join_names
from hf_init.finetune._model import unwrapped

_NOT_IN_BASE = "not in the base"


def plan_against(model: nn.Module, base: str | Path) -> Plan:
    """A plan for ``freeze`` and the rest, where there is no manifest: by comparing the model with its base, by bytes.

    A tensor whose bytes are the base's is kept; one that is larger, and holds the base's at its beginning, is resized;
    everything else is new. Names are compared as they are, and without the prefix of the base model. Its notes say
    what it can't tell: whether a tensor of the base's name and shape that holds other bytes was trained or made anew;
    rows that were moved; tensors that the loader renames or puts together. Call it before training.

    Raises:
        CheckpointError: the base can't be read.
        PlanError: nothing in the model is the base's.

    Example::

        frozen = freeze(model, plan_against(model, "all-MiniLM-L6-v2"))
    """
    model = unwrapped(model)
    state = {name: each for name, each in model.state_dict(keep_vars=True).items() if isinstance(each, torch.Tensor)}
    specs, second = describe_model(model), shared(model)
    with Checkpoint.open(base) as source, Reader(source) as reader:
        names = {name: _in_base(name, source, getattr(model, "base_model_prefix", "")) for name in state}
        tensors = [_entry(specs[n], state[n], names[n], source, reader) for n in state if n not in second]
    if not any(tensor.kept for tensor in tensors):
        raise PlanError(f"nothing in {type(model).__name__} is of {base}: no tensor holds its bytes. Is it the base?")
    ties = [_tie(specs[alias], of) for alias, of in second.items()]
    notes = _notes(tensors, names, Path(base))
    return Plan(type(model).__name__, 0, (*tensors, *ties), notes=notes)


def _in_base(name: str, source: Checkpoint, prefix: str) -> str | None:
    tries = (name, name.removeprefix(f"{prefix}."), f"{prefix}.{name}")
    return next((each for each in tries if each in source.entries), None)


def _entry(spec: TensorSpec, held: torch.Tensor, name: str | None, source: Checkpoint, reader: Reader) -> TensorPlan:
    box = Box.whole(source.entries[name].shape) if name else None
    fits = (
        box is not None
        and len(box.stop) == held.ndim
        and all(small <= large for small, large in zip(box.stop, held.shape, strict=True))
    )
    if name is None or box is None or not fits or not _same(held, box, reader.tensor(name)):
        return _planned(spec, Status.NEW, new=(Fill(Box.whole(spec.shape), schemes.Skip(), _NOT_IN_BASE),))
    copy = Copy(box, name, box)
    if box.stop == spec.shape:
        return _planned(spec, Status.KEPT, kept=(copy,), source=name)
    new = tuple(Fill(rest, schemes.Declared(), _NOT_IN_BASE) for rest in subtract_boxes(spec.shape, [box]))
    return _planned(spec, Status.RESIZED, kept=(copy,), new=new)


def _same(held: torch.Tensor, box: Box, want: torch.Tensor) -> bool:
    return equal_bytes(held.detach()[box.slices], want.to(held.dtype))


def _planned(
    spec: TensorSpec,
    status: Status,
    kept: tuple[Copy, ...] = (),
    new: tuple[Fill, ...] = (),
    source: str | None = None,
) -> TensorPlan:
    return TensorPlan(spec.name, status, spec.shape, spec.dtype, kept, new, source, parameter=spec.name, role=spec.role)


def _tie(spec: TensorSpec, of: str) -> TensorPlan:
    return TensorPlan(spec.name, Status.TIED, spec.shape, spec.dtype, tied_to=of, parameter=spec.name, role=spec.role)


def _notes(tensors: list[TensorPlan], names: Mapping[str, str | None], base: Path) -> tuple[str, ...]:
    differ = [each.name for each in tensors if each.status is Status.NEW and names[each.name]]
    grown = [each.name for each in tensors if each.status is Status.RESIZED]
    notes = [f"made from {base} alone, without a manifest: by what schemes the new was filled it can't tell"]
    if differ:
        notes.append(
            f"in the base with other bytes, so taken for new, whether trained or made anew: {join_names(differ)}"
        )
    if grown:
        notes.append(f"larger than in the base, whose elements are at the beginning: {join_names(grown)}")
    return tuple(notes)
