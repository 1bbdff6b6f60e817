"""A plan laid over a model in memory: what each of its tensors is, tied ones as one."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import torch
from torch import nn

from hf_init._block_names import stack_blocks
from hf_init._checkpoint import Origin
from hf_init._errors import CheckpointError, PlanError
from hf_init._paths import user_path
from hf_init._plan import MANIFEST_NAME, Manifest, Plan, TensorPlan, format_shape
from hf_init._shards import check_whole, whole_shape
from hf_init._tensors import Box, Region, Status

PlanLike: TypeAlias = Plan | str | Path | None

_WRAPPERS = ("DistributedDataParallel", "DataParallel", "DeepSpeedEngine", "OptimizedModule")


@dataclass(frozen=True)
class ModelTensor:
    """One tensor of a model, and what the plan says of it.

    Attributes:
        name: in the state dict; of a tied tensor, the one that the plan has an entry for.
        aliases: its other names.
        owner, attribute: the module that holds it, and under which name.
        status: kept, resized or new.
        role: as in ``TensorSpec``.
        entries: of the plan; several where the loader puts it together from several tensors on disk.
        whole: whether it is one tensor on disk too, of the same shape: then the plan's regions are its regions.
    """

    name: str
    aliases: tuple[str, ...]
    owner: nn.Module
    attribute: str
    status: Status
    role: str
    entries: tuple[TensorPlan, ...]
    whole: bool

    @property
    def tensor(self) -> torch.Tensor:
        """Return what the module holds now, read from it each time: it may have been moved to another device."""
        for tensors in (self.owner._parameters, self.owner._buffers):
            if (tensor := tensors.get(self.attribute)) is not None:
                return tensor
        raise PlanError(f"{self.name} is no longer in the model: it was changed since the plan was laid over it")

    @property
    def is_parameter(self) -> bool:
        return self.owner._parameters.get(self.attribute) is not None

    @property
    def kept(self) -> tuple[Region, ...]:
        """Return the regions that came from the checkpoint."""
        if self.status is Status.KEPT:
            return (self.box,)
        return tuple(copy.region for entry in self.entries for copy in entry.kept) if self.whole else ()

    @property
    def new(self) -> tuple[Region, ...]:
        """Return the regions that a scheme filled."""
        if self.status is Status.NEW:
            return (self.box,)
        return tuple(fill.region for entry in self.entries for fill in entry.new) if self.whole else ()

    def holders(self, model: nn.Module) -> tuple[tuple[nn.Module, str], ...]:
        """Return every module and attribute that the tensor is under."""
        aliases = (alias.rpartition(".")[::2] for alias in self.aliases)
        return ((self.owner, self.attribute), *((model.get_submodule(path), name) for path, name in aliases))

    @property
    def box(self) -> Box:
        """Return the region that is all of it."""
        return Box.whole(whole_shape(self.tensor))


@dataclass(frozen=True)
class PlanOrigin:
    """Where a plan comes from.

    Attributes:
        folder: the result that it was read from.
        base: the checkpoint that the result was made of, where its folder is known.
    """

    plan: Plan
    folder: Path | None = None
    base: Path | None = None


def origin_of(model: nn.Module, plan: PlanLike) -> PlanOrigin:
    """Return the plan given, that of a folder, the model's own ``init_plan``, or that of its ``name_or_path``.

    Raises:
        CheckpointError: there is none of these, or the folder's can't be read.
    """
    name = getattr(getattr(unwrapped(model), "config", None), "name_or_path", "")
    folder = user_path(name) if name and user_path(name).is_dir() else None
    given = getattr(unwrapped(model), "init_plan", None) if plan is None else plan
    if isinstance(given, Plan):
        here = getattr(unwrapped(model), "init_base", None)  # where a hub id was downloaded to
        known = here is not None and Origin.of(here).name == str(name).partition("@")[0]
        return PlanOrigin(given, base=here if folder is None and known else folder)
    if isinstance(plan, (str, Path)):
        folder = user_path(plan)
    elif folder is None or not (folder / MANIFEST_NAME).is_file():
        raise CheckpointError(
            f"no plan: the model has no init_plan and {folder or 'the place it was loaded from'} no {MANIFEST_NAME}. "
            "Give the plan or the folder that `extend` wrote; from the base alone, plan_against(model, base) tells "
            "what it can"
        )
    return PlanOrigin(Plan.load(folder), folder, Manifest.load(folder).base.origins[0].find())


def unwrapped(model: nn.Module) -> nn.Module:
    """Return the model itself, without what data parallelism and compilation put around it."""
    while type(model).__name__ in _WRAPPERS:
        model = model.get_submodule("module" if hasattr(model, "module") else "_orig_mod")
    return model


def model_tensors(model: nn.Module, plan: Plan) -> tuple[ModelTensor, ...]:
    """Return every tensor of a model's state dict, in its order, tied ones once, with what the plan says of it.

    Raises:
        PlanError: the plan is of another model, or the model was changed since; all offenders are named.
    """
    model = unwrapped(model)
    check_whole(model)
    state = named_state(model)
    entries: defaultdict[str, list[TensorPlan]] = defaultdict(list)
    for entry in plan.tensors:
        if entry.status not in (Status.TIED, Status.CARRIED):
            entries[entry.parameter].append(entry)
    _check_planned_model(model, plan, state, entries)
    names: defaultdict[int, list[str]] = defaultdict(list)
    for name, tensor in state.items():
        names[id(tensor)].append(name)
    result = []
    for name in (name for name in state if name in entries):
        planned, shape = entries[name], whole_shape(state[name])
        path, _, attribute = name.rpartition(".")
        statuses = {entry.status for entry in planned}
        result.append(
            ModelTensor(
                name=name,
                aliases=tuple(other for other in names[id(state[name])] if other != name),
                owner=model.get_submodule(path),
                attribute=attribute,
                status=statuses.pop() if len(statuses) == 1 else Status.RESIZED,
                role=planned[0].role,
                entries=tuple(planned),
                whole=len(planned) == 1 and planned[0].shape == shape,
            )
        )
    return tuple(result)


def named_state(model: nn.Module) -> dict[str, torch.Tensor]:
    """Return the tensors of a model's state dict themselves, by name."""
    return {name: each for name, each in model.state_dict(keep_vars=True).items() if isinstance(each, torch.Tensor)}


def depths(tensors: Sequence[ModelTensor]) -> dict[str, int]:
    """Return how deep each tensor lies, counted from the input: 0 for embeddings and what precedes the blocks.

    Blocks are read off the names, of nested ones the outer: ``layer.3.`` is one block more than ``layer.2.``, a
    decoder's first one more than the encoder's last, and what comes after the last block is one more than that.
    """
    numbers = {block: number for number, block in enumerate(blocks_of(tensors), start=1)}
    result, began = {}, False
    for tensor in tensors:
        block = _outer_block(tensor.name)
        began = began or bool(block)
        early = not began or tensor.role.startswith("embedding") or tensor.role == "token"
        result[tensor.name] = numbers[block] if block else 0 if early else len(numbers) + 1
    return result


def blocks_of(tensors: Sequence[ModelTensor]) -> list[str]:
    """Return the names of a model's blocks, of nested ones the outer, from the input on."""
    return list(dict.fromkeys(block for tensor in tensors if (block := _outer_block(tensor.name))))


def _outer_block(name: str) -> str:
    return next(iter(stack_blocks(name)), "")


def _check_planned_model(
    model: nn.Module, plan: Plan, state: Mapping[str, torch.Tensor], entries: Mapping[str, list[TensorPlan]]
) -> None:
    absent = {name: planned[0].status.value for name, planned in entries.items() if name not in state}
    faults = [f"{name} ({status} in the plan) isn't in the model" for name, status in absent.items()]
    for name, planned in entries.items():
        if len(planned) == 1 and planned[0].name == name and name in state:
            seen, expected = whole_shape(state[name]), planned[0].shape
            if seen != expected:
                faults.append(f"{name} is {format_shape(seen)} in the model, {format_shape(expected)} in the plan")
    known = {id(state[name]) for name in entries if name in state}
    for name, tensor in state.items():
        if tensor.requires_grad and id(tensor) not in known:  # a table that is computed, not trained, may be unknown
            faults.append(f"{name} is in the model and not in the plan")
    first_name: dict[int, str] = {}
    for entry in (entry for entry in plan.tensors if entry.parameter in state):
        name = entry.parameter
        if entry.status is Status.TIED and entry.tied_to is not None:
            other = plan[entry.tied_to].parameter
            if state.get(other) is not state[name]:
                faults.append(f"{name} is tied to {other} in the plan, and a tensor of its own in the model")
        elif isinstance(state[name], nn.Parameter):
            other = first_name.setdefault(id(state[name]), name)
            if other != name:
                faults.append(f"{name} and {other} are one tensor in the model, and two in the plan")
    if faults:
        headline = f"{type(model).__name__} isn't the model of this plan, which is of {plan.architecture}"
        if plan.architecture in (cls.__name__ for cls in type(model).__mro__):
            headline = "the model was changed since the plan was made"
        more = [f"and {len(faults) - 10} more"] if len(faults) > 10 else []
        advice = "Give the plan of this model, or load the model again from what the plan made"
        raise PlanError("\n  ".join([f"{headline}:", *faults[:10], *more]) + f"\n{advice}")
