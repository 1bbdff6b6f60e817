"""Parameter groups for an optimizer, and what an optimizer must hold."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import nn

from hf_init._errors import PlanError
from hf_init._roles import matches
from hf_init._shards import whole_shape
from hf_init._tensors import Status
from hf_init._text import join_names
from hf_init.finetune._model import ModelTensor, PlanLike, depths, model_tensors, origin_of, unwrapped
from hf_init.finetune._rows import CHILD, NewParts
from hf_init.finetune._zero3 import stepping

_NO_DECAY = ("norm", "norm_plus_one", "layer_scale", "gate", "logit_scale", "attention.sink")


def parameter_groups(
    model: nn.Module,
    plan: PlanLike = None,
    *,
    lr: float,
    new_lr: float | None = None,
    weight_decay: float = 0.01,
    layer_decay: float = 1.0,
    later: Iterable[str] = (),
) -> list[dict[str, Any]]:  # as torch types the groups of its optimizers
    """Return every trainable parameter in exactly one group, in the format of torch's optimizers.

    New and pretrained apart; no decay on biases, norms and vectors such as gates and scales. With ``layer_decay`` the
    pretrained are one more pair of groups a block: rate ``lr * layer_decay ** d`` where d counts the blocks down from
    the top, embeddings (and a head tied to them) lowest of all. Each group has a ``name``, such as ``"new"`` or
    ``"pretrained/3, no decay"``. A resized tensor that trains as a whole is pretrained.

    Args:
        plan: as in ``freeze``; call this after it.
        lr: of what is pretrained.
        new_lr: of what is new; None: ``lr``.
        layer_decay: 1 for one rate, below 1 for lower rates further down; 1 / 2.6 = 0.38 in ULMFiT (Howard and Ruder,
            2018), 0.65 to 0.95 in ELECTRA and BEiT.
        later: names of frozen parameters to include, because a schedule will open them.

    Raises:
        PlanError: the plan isn't the model's, nothing is trainable, or a setting is out of range.

    Example::

        optimizer = torch.optim.AdamW(parameter_groups(model, lr=2e-5, new_lr=1e-3, layer_decay=0.8))
    """
    rates = {"lr": lr, "new_lr": lr if new_lr is None else new_lr, "weight_decay": weight_decay}
    wrong = [f"{name} is {value}" for name, value in rates.items() if not 0 <= value < float("inf")]
    if wrong:
        raise PlanError(f"{', '.join(wrong)}: expected a finite number, not negative")
    if not 0 < layer_decay <= 1:
        raise PlanError(f"layer_decay is {layer_decay}, expected more than 0 and at most 1")
    model = unwrapped(model)
    tensors = model_tensors(model, origin_of(model, plan).plan)
    opened = frozenset(later)
    unknown = sorted(opened - {each.name for each in tensors})
    if unknown:
        raise PlanError(f"{join_names(unknown)}: no tensor of this model; later takes the names of a schedule")
    depth = depths(tensors)
    top = max(depth.values(), default=0)
    groups: defaultdict[tuple[str, float, bool], list[nn.Parameter]] = defaultdict(list)
    for each, parameter, new in _trainable(model, tensors, opened):
        rate = rates["new_lr"] if new else lr * layer_decay ** (top - depth[each.name])
        name = "new" if new else "pretrained" if layer_decay == 1 else f"pretrained/{depth[each.name]}"
        vector = len(whole_shape(each.tensor)) <= 1 or each.role.endswith(".bias")
        decays = not vector and not any(matches(each.role, pattern) for pattern in _NO_DECAY)
        groups[name, rate, decays].append(parameter)
    if not groups:
        raise PlanError("no parameter of the model is trainable, so there is nothing for an optimizer; freeze less")
    return [
        {
            "name": name if decays else f"{name}, no decay",
            "params": parameters,
            "lr": rate,
            "weight_decay": weight_decay if decays else 0.0,
        }
        for (name, rate, decays), parameters in groups.items()
    ]


def check_optimizer(optimizer: torch.optim.Optimizer, model: nn.Module, later: Iterable[str] = ()) -> None:
    """Raise PlanError unless an optimizer holds every trainable parameter of a model, and nothing else.

    It was made before freezing then, or before the model was moved or changed; the message names the parameters.

    Args:
        later: names of frozen parameters that it may hold, because a schedule will open them.
    """
    names = {id(parameter): name for name, parameter in unwrapped(model).named_parameters()}
    trains = {name for name, parameter in unwrapped(model).named_parameters() if parameter.requires_grad}
    held = {id(parameter): parameter for parameter in _parameters_in(stepping(optimizer, model.parameters()))}
    held_names = {name for key, name in names.items() if key in held}
    shut = held_names - trains - {*later}
    faults = {
        "holds what is frozen": [name for name in names.values() if name in shut],
        "lacks what is to train": [name for name in names.values() if name in trains and name not in held_names],
        "holds what isn't in the model": [
            f"a tensor of {'x'.join(map(str, whole_shape(p))) or 'one element'}"
            for key, p in held.items()
            if key not in names
        ],
    }
    if any(faults.values()):
        lines = [f"it {fault}: {join_names(found)}" for fault, found in faults.items() if found]
        raise PlanError(
            "the optimizer was made before the model was frozen, or for another model:\n  "
            + "\n  ".join(lines)
            + "\nMake it after freezing, of parameter_groups(model, ...) or the parameters that require gradients"
        )


def _parameters_in(optimizer: Any) -> Iterator[torch.Tensor]:
    """Yield the parameters of a model that an optimizer steps; DeepSpeed's steps pieces of its own for them."""
    inner = optimizer
    while not (groups := getattr(inner, "fp16_groups", None) or getattr(inner, "bit16_groups", None)):
        inner = getattr(inner, "optimizer", None)
        if inner is None:
            groups = [group["params"] for group in optimizer.param_groups]
            break
    for group in groups:
        yield from group


def _trainable(
    model: nn.Module, tensors: Sequence[ModelTensor], later: frozenset[str]
) -> Iterator[tuple[ModelTensor, nn.Parameter, bool]]:
    """Yield every parameter to train, with its tensor and whether it is new."""
    for each in tensors:
        tensor = each.tensor
        if isinstance(tensor, nn.Parameter) and (tensor.requires_grad or each.name in later):
            yield each, tensor, each.status is Status.NEW
    parts: NewParts | None = getattr(model, CHILD, None)
    for part, parameter in parts.parts if parts is not None else ():
        yield part.origin, parameter, True
