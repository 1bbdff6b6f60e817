"""Parameter groups for an optimizer, and what an optimizer must hold."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import nn

from hf_init._errors import PlanError
from hf_init._roles import matches
from hf_init._tensors import Status
from hf_init._text import join_names
from hf_init.finetune._model import ModelTensor, PlanLike, depths, model_tensors, origin_of, unwrapped
from hf_init.finetune._rows import CHILD

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
) -> list[dict[str, Any]]:
    """Every trainable parameter in exactly one group, in the format of torch's optimizers.

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
    _check_settings(lr=lr, new_lr=lr if new_lr is None else new_lr, weight_decay=weight_decay)
    if not 0 < layer_decay <= 1:
        raise PlanError(f"layer_decay is {layer_decay}, expected more than 0 and at most 1")
    model = unwrapped(model)
    found = model_tensors(model, origin_of(model, plan).plan)
    depth, opened = depths(found), frozenset(later)
    _check_unknown(found, opened)
    top = max(depth.values(), default=0)
    groups: defaultdict[tuple[str, float, bool], list[nn.Parameter]] = defaultdict(list)
    for place, parameter, new in _trainable(model, found, opened):
        rate = (lr if new_lr is None else new_lr) if new else lr * layer_decay ** (top - depth[place.name])
        word = "new" if new else "pretrained" if layer_decay == 1 else f"pretrained/{depth[place.name]}"
        groups[word, rate, _decays(place)].append(parameter)
    if not groups:
        raise PlanError("no parameter of the model is trainable, so there is nothing for an optimizer; freeze less")
    return [
        {"name": _name(*key), "params": params, "lr": key[1], "weight_decay": weight_decay if key[2] else 0.0}
        for key, params in groups.items()
    ]


def check_optimizer(optimizer: torch.optim.Optimizer, model: nn.Module, later: Iterable[str] = ()) -> None:
    """An optimizer must hold every trainable parameter of a model, and nothing that is frozen or another model's.

    Args:
        later: names of frozen parameters that it may hold, because a schedule will open them.

    Raises:
        PlanError: it was made before freezing, or before the model was moved or changed; it names the parameters.
    """
    names = {id(parameter): name for name, parameter in unwrapped(model).named_parameters()}
    held = {id(p): p for group in optimizer.param_groups for p in group["params"]}
    allowed = frozenset(later)
    faults = [
        *_fault("holds what is frozen", (n for i, n in names.items() if i in held and _is_shut(held[i], n, allowed))),
        *_fault("lacks what is to train", (n for n, p in unwrapped(model).named_parameters() if _lacks(p, held))),
        *_fault("holds what isn't in the model", (_shape(p) for i, p in held.items() if i not in names)),
    ]
    if faults:
        raise PlanError(
            "the optimizer was made before the model was frozen, or for another model:\n  "
            + "\n  ".join(faults)
            + "\nMake it after freezing, of parameter_groups(model, ...) or the parameters that require gradients"
        )


def _trainable(
    model: nn.Module, found: Sequence[ModelTensor], later: frozenset[str]
) -> Iterator[tuple[ModelTensor, nn.Parameter, bool]]:
    """Every parameter to train, with its place and whether it is new."""
    for place in found:
        tensor = place.tensor
        if isinstance(tensor, nn.Parameter) and (tensor.requires_grad or place.name in later):
            yield place, tensor, place.status is Status.NEW
    parts = getattr(model, CHILD, None)
    for part, parameter in parts.parts if parts is not None else ():
        yield part.place, parameter, True


def _decays(place: ModelTensor) -> bool:
    vector = place.tensor.ndim <= 1 or place.role.endswith(".bias")
    return not vector and not any(matches(place.role, pattern) for pattern in _NO_DECAY)


def _name(word: str, rate: float, decays: bool) -> str:
    return word if decays else f"{word}, no decay"


def _is_shut(parameter: torch.Tensor, name: str, later: frozenset[str]) -> bool:
    return not parameter.requires_grad and name not in later


def _lacks(parameter: torch.Tensor, held: dict[int, Any]) -> bool:
    return parameter.requires_grad and id(parameter) not in held


def _fault(what: str, names: Iterable[str]) -> list[str]:
    found = list(names)
    return [f"it {what}: {join_names(found)}"] if found else []


def _shape(parameter: torch.Tensor) -> str:
    return f"a tensor of {'x'.join(map(str, parameter.shape)) or 'one element'}"


def _check_settings(**settings: float) -> None:
    wrong = [f"{name} is {value}" for name, value in settings.items() if not 0 <= value < float("inf")]
    if wrong:
        raise PlanError(f"{', '.join(wrong)}: expected a finite number, not negative")


def _check_unknown(found: Iterable[ModelTensor], later: frozenset[str]) -> None:
    unknown = sorted(later - {place.name for place in found})
    if unknown:
        raise PlanError(f"{join_names(unknown)}: no tensor of this model; later takes the names of a schedule")
