"""A function of the user's own over every module of a model in memory: only what is new takes what it gives."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from hf_init._architecture import InitialValues, describe_model, seed_generators, untouched_random_state
from hf_init._architecture import find_tensor as tensor_of
from hf_init._checkpoint import region_of
from hf_init._load.known import keeping, loaded_names
from hf_init._plan import Fill, Plan
from hf_init._shards import write_region
from hf_init._tensors import Box, Status, key_of
from hf_init._text import qualified_name
from hf_init.schemes import Model


def fill_by_function(
    model: Any,
    function: Callable[[nn.Module], object],
    seed: int,
    args: tuple[object, ...] = (),
    kwargs: Mapping[str, object] | None = None,
) -> None:
    """Give every new tensor that the function writes to what it gives it, and say so in the model's plan.

    Args:
        seed: where the model has no plan, which has one.
        args, kwargs: what the model's constructor took besides its config.
    """
    plan: Plan | None = vars(model).get("init_plan")
    shapes = {name: spec.shape for name, spec in describe_model(model).items()}
    if plan is not None:
        seed = plan.seed
        kept = {tensor.parameter for tensor in plan.tensors if not tensor.new}
    else:
        kept = loaded_names(model)
    values = InitialValues(lambda: model, args, kwargs, function)
    recorded = {name for name, shape in shapes.items() if values.has(name, shape, seed)}
    written = {name for name in recorded - kept if values.is_function(name, seed)}
    entries = {tensor.parameter: tensor for tensor in plan.tensors if tensor.new} if plan else {}
    for name in written:
        entry = entries.get(name)
        in_part = entry is not None and entry.status is Status.RESIZED
        regions = [fill.region for fill in entry.new] if entry and in_part else [Box.whole(shapes[name])]
        held, fresh = tensor_of(model, name), values.fresh(name, seed)
        for region in regions:
            write_region(held, region, region_of(fresh, region).to(held.device, held.dtype))
    _run_on_others(model, function, seed, (recorded | kept) & shapes.keys())
    if plan is not None:
        scheme = Model(then=qualified_name(function))
        why = {name: values.origin(name, seed) for name in written}
        tensors = [
            replace(t, new=tuple(Fill(fill.region, scheme, why[t.parameter]) for fill in t.new))
            if t.parameter in why
            else t
            for t in plan.tensors
        ]
        vars(model)["init_plan"] = replace(plan, tensors=tuple(tensors))


def _run_on_others(model: nn.Module, function: Callable[[nn.Module], object], seed: int, done: set[str]) -> None:
    """Run the function on the modules that the model's constructor doesn't make, each under a key of its own."""
    modules = {
        path: module
        for path, module in model.named_modules()
        if any(f"{path}.{leaf}".lstrip(".") not in done for leaf, _ in module.named_parameters(recurse=False))
    }
    with untouched_random_state(), keeping(model, done), torch.no_grad():
        for path, module in modules.items():
            seed_generators(key_of(seed, path))
            function(module)
