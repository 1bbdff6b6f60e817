"""A plan laid over a model in memory: what each of its tensors is, tied ones as one."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import nn

from hf_init._block_names import stack_blocks
from hf_init._errors import CheckpointError, PlanError
from hf_init._plan import MANIFEST_NAME, Manifest, Plan, TensorPlan
from hf_init._tensors import Box, Region, Status
from hf_init._text import join_names

PlanLike: TypeAlias = Plan | str | Path | None

_WRAPPERS = ("DistributedDataParallel", "DataParallel", "OptimizedModule")


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
        """What the module holds now, by its own word: it may have been moved to another device."""
        held = self.owner._parameters.get(self.attribute)
        found = self.owner._buffers.get(self.attribute) if held is None else held
        if found is None:
            raise PlanError(f"{self.name} is no longer in the model: it was changed since the plan was laid over it")
        return found

    @property
    def is_parameter(self) -> bool:
        return self.owner._parameters.get(self.attribute) is not None

    @property
    def kept(self) -> tuple[Region, ...]:
        """The regions that came from the checkpoint."""
        if self.status is Status.KEPT:
            return (Box.whole(tuple(self.tensor.shape)),)
        return tuple(copy.region for entry in self.entries for copy in entry.kept) if self.whole else ()

    @property
    def new(self) -> tuple[Region, ...]:
        """The regions that a scheme filled."""
        if self.status is Status.NEW:
            return (Box.whole(tuple(self.tensor.shape)),)
        return tuple(fill.region for entry in self.entries for fill in entry.new) if self.whole else ()


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


def origin_of(model: nn.Module, plan: PlanLike = None) -> PlanOrigin:
    """The plan to read: the one given, that of a folder, the model's own ``init_plan``, that of its ``name_or_path``.

    Raises:
        CheckpointError: there is none of these, or the folder's can't be read.
    """
    if isinstance(plan, Plan):
        return PlanOrigin(plan, base=_folder_of(model))
    if plan is not None:
        return _of_folder(Path(plan))
    own, folder = getattr(unwrapped(model), "init_plan", None), _folder_of(model)
    if isinstance(own, Plan):
        return PlanOrigin(own, base=folder)
    if folder is None or not (folder / MANIFEST_NAME).is_file():
        raise CheckpointError(
            f"no plan: the model has no init_plan and {folder or 'the place it was loaded from'} no "
            f"{MANIFEST_NAME}. Give the "
            "plan or the folder that `extend` wrote; from the base alone, plan_against(model, base) tells what it can"
        )
    return _of_folder(folder)


def unwrapped(model: nn.Module) -> nn.Module:
    """The model itself, without what data parallelism and compilation put around it."""
    while type(model).__name__ in _WRAPPERS:
        model = model.module if hasattr(model, "module") else model._orig_mod  # type: ignore[assignment]  # a Module
    return model


def model_tensors(model: nn.Module, plan: Plan) -> tuple[ModelTensor, ...]:
    """Every tensor of a model's state dict, in its order, tied ones once, with what the plan says of it.

    Raises:
        PlanError: the plan is of another model, or the model was changed since; all offenders are named.
    """
    model = unwrapped(model)
    state = {name: each for name, each in model.state_dict(keep_vars=True).items() if isinstance(each, torch.Tensor)}
    _check_quantized(model, state)
    entries: defaultdict[str, list[TensorPlan]] = defaultdict(list)
    for entry in plan.tensors:
        if entry.status is not Status.TIED and entry.role != "ignored":
            entries[entry.parameter].append(entry)
    _check_others(model, plan, state, entries)
    names: defaultdict[int, list[str]] = defaultdict(list)
    for name, tensor in state.items():
        names[id(tensor)].append(name)
    known = (name for name in state if name in entries)
    return tuple(_place(model, name, state, names[id(state[name])], tuple(entries[name])) for name in known)


def depths(found: Sequence[ModelTensor]) -> dict[str, int]:
    """How deep each tensor lies, counted from the input: 0 for embeddings and what precedes the blocks, then 1, 2...

    Blocks are read off the names, of nested ones the outer: ``layer.3.`` is one block more than ``layer.2.``, a
    decoder's first one more than the encoder's last, and what comes after the last block is one more than that.
    """
    numbers = {block: number for number, block in enumerate(_blocks(found), start=1)}
    first = next((index for index, place in enumerate(found) if _outer(place.name)), len(found))
    return {place.name: _depth(place, index < first, numbers) for index, place in enumerate(found)}


def block_count(found: Sequence[ModelTensor]) -> int:
    """How many blocks there are, of nested ones the outer."""
    return len(_blocks(found))


def _depth(place: ModelTensor, precedes: bool, numbers: Mapping[str, int]) -> int:
    if block := _outer(place.name):
        return numbers[block]
    return 0 if precedes or place.role.startswith("embedding") or place.role == "token" else len(numbers) + 1


def _blocks(found: Sequence[ModelTensor]) -> list[str]:
    return list(dict.fromkeys(block for place in found if (block := _outer(place.name))))


def _outer(name: str) -> str:
    return next(iter(stack_blocks(name)), "")


def _place(
    model: nn.Module, name: str, state: dict[str, torch.Tensor], names: Sequence[str], entries: tuple[TensorPlan, ...]
) -> ModelTensor:
    path, _, attribute = name.rpartition(".")
    return ModelTensor(
        name,
        tuple(other for other in names if other != name),
        model.get_submodule(path),
        attribute,
        _status(entries),
        entries[0].role,
        entries,
        len(entries) == 1 and entries[0].shape == tuple(state[name].shape),
    )


def _status(entries: Sequence[TensorPlan]) -> Status:
    found = {entry.status for entry in entries}
    return found.pop() if len(found) == 1 else Status.RESIZED


def _folder_of(model: nn.Module) -> Path | None:
    name = getattr(getattr(unwrapped(model), "config", None), "name_or_path", "")
    return Path(name) if name and Path(name).is_dir() else None


def _of_folder(folder: Path) -> PlanOrigin:
    base = Path(Manifest.load(folder).base.path)
    return PlanOrigin(Plan.load(folder), folder, base if base.is_dir() else None)


def _check_quantized(model: nn.Module, state: dict[str, torch.Tensor]) -> None:
    packed = [n for n, each in state.items() if isinstance(each, nn.Parameter) and not each.is_floating_point()]
    if getattr(model, "hf_quantizer", None) is not None or getattr(model, "is_quantized", False) or packed:
        raise PlanError(
            f"{type(model).__name__} is quantized{f' ({join_names(packed)})' if packed else ''}: its "
            "tensors aren't those "
            "of the plan. Load the result unquantized; or train adapters on it, with peft_arguments(plan)"
        )
    absent = [name for name, each in state.items() if each.device.type == "meta"]
    if absent:
        raise PlanError(
            f"{join_names(absent)}: on meta or offloaded, so nothing can be frozen or proved; load it whole"
        )


def _check_others(
    model: nn.Module, plan: Plan, state: dict[str, torch.Tensor], entries: dict[str, list[TensorPlan]]
) -> None:
    faults = [*_missing(state, entries), *_shapes(state, entries), *_extra(state, entries), *_ties(plan, state)]
    if faults:
        word = f"{type(model).__name__} isn't the model of this plan, which is of {plan.architecture}"
        same = plan.architecture in (cls.__name__ for cls in type(model).__mro__)
        head = "the model was changed since the plan was made" if same else word
        advice = "Give the plan of this model, or load the model again from what the plan made"
        raise PlanError("\n  ".join([f"{head}:", *faults[:10], *_more(faults)]) + f"\n{advice}")


def _more(faults: Sequence[str]) -> list[str]:
    return [f"and {len(faults) - 10} more"] if len(faults) > 10 else []


def _missing(state: dict[str, Any], entries: dict[str, list[TensorPlan]]) -> Iterator[str]:
    for name, found in entries.items():
        if name not in state:
            yield f"{name} ({found[0].status.value} in the plan) isn't in the model"


def _shapes(state: dict[str, torch.Tensor], entries: dict[str, list[TensorPlan]]) -> Iterator[str]:
    for name, found in entries.items():
        if len(found) == 1 and found[0].name == name and name in state and found[0].shape != tuple(state[name].shape):
            yield f"{name} is {_x(state[name].shape)} in the model, {_x(found[0].shape)} in the plan"


def _extra(state: dict[str, torch.Tensor], entries: dict[str, list[TensorPlan]]) -> Iterator[str]:
    """Trainable tensors that the plan doesn't know; what isn't trained, as a computed table, stays what it is."""
    known = {id(state[name]) for name in entries if name in state}
    for name, tensor in state.items():
        if tensor.requires_grad and id(tensor) not in known:
            yield f"{name} is in the model and not in the plan"


def _ties(plan: Plan, state: dict[str, torch.Tensor]) -> Iterator[str]:
    owner: dict[int, str] = {}
    for entry in plan.tensors:
        if entry.parameter not in state:
            continue
        if entry.status is Status.TIED and entry.tied_to is not None:
            of = plan[entry.tied_to].parameter
            if state.get(of) is not state[entry.parameter]:
                yield f"{entry.parameter} is tied to {of} in the plan, and a tensor of its own in the model"
        elif isinstance(state[entry.parameter], nn.Parameter):
            first = owner.setdefault(id(state[entry.parameter]), entry.parameter)
            if first != entry.parameter:
                yield f"{entry.parameter} and {first} are one tensor in the model, and two in the plan"


def _x(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape)) or "scalar"
