"""Where DeepSpeed's ZeRO-3 meets the new parts: which modules it gathers one for, and when it has stepped."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from importlib import import_module
from typing import Any

import torch
from torch import nn

from hf_init._errors import PlanError
from hf_init._shards import is_under_zero3
from hf_init._text import join_names


def check_not_started(model: nn.Module) -> None:
    """Raise PlanError where DeepSpeed's optimizer for ZeRO-3 is made already: it has what trained before."""
    taken = [name for name, parameter in model.named_parameters() if _optimizer_of(parameter) is not None]
    if taken:
        raise PlanError(
            f"deepspeed.initialize has {type(model).__name__} already, and its optimizer has what trained then "
            f"({join_names(taken)}). Freeze first, then call deepspeed.initialize; Trainer(callbacks=[...]) does so"
        )


def gather_for(module: nn.Module, parameter: nn.Parameter) -> None:
    """Have DeepSpeed gather a parameter whenever a module runs, forward and backward, though it isn't the module's."""
    import_module("deepspeed").zero.register_external_parameter(module, parameter)


def call_after_steps(parameters: Iterable[torch.Tensor], work: Callable[[], None]) -> Callable[[], None] | None:
    """Call something after each step of DeepSpeed's optimizer for ZeRO-3; return how to stop that.

    torch's own hook after a step is no use: DeepSpeed's optimizer isn't torch's, and copies the result of that one,
    which steps pieces, back into the parameters afterwards.

    None where no optimizer has the parameters yet.
    """
    optimizer = next(filter(None, map(_optimizer_of, parameters)), None)
    if optimizer is None:
        return None
    step = optimizer.step

    def step_and_work(*args: object, **options: object) -> object:
        result = step(*args, **options)
        work()
        return result

    optimizer.step = step_and_work  # as torch's learning rate schedules do
    return partial(setattr, optimizer, "step", step)


def stepping(optimizer: Any, parameters: Iterable[torch.Tensor]) -> Any:
    """Return what steps the parameters: DeepSpeed's optimizer, where it gave this one pieces of its own, or this."""
    outer = next(filter(None, map(_optimizer_of, parameters)), None)
    return outer if outer is not None and outer.optimizer is optimizer else optimizer


def _optimizer_of(parameter: torch.Tensor) -> Any:
    # Not public; deepspeed/utils/tensor_fragment.py finds the optimizer of a parameter alike.
    own: Mapping[str, object] = vars(parameter) if is_under_zero3(parameter) else {}
    return own.get("_z3_optimizer")
