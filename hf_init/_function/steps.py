"""What two models do, operation by operation on meta: whether a value of the config changes more than shapes."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import starmap, zip_longest
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import PreTrainedModel

from hf_init._function.identity import flat, run_on_meta, wants_values
from hf_init._function.inputs import Inputs, seeded_inputs
from hf_init._text import one_line

MOST = 64
"""How many elements a constant has at most that is compared."""


@dataclass(frozen=True)
class Step:
    """One operation: its name, the shapes of what goes in and comes out, and its numbers and settings."""

    name: str
    shapes: tuple[tuple[int, ...], ...]
    settings: tuple[object, ...]


class Recorder(TorchDispatchMode):
    """Records the operations that run under it."""

    def __init__(self) -> None:
        super().__init__()
        self.steps: list[Step] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        values = [*flat((args, kwargs or {}, result))]
        shapes = tuple(tuple(each.shape) for each in values if isinstance(each, torch.Tensor))
        settings = (setting for each in values for setting in plain_values_of(each))
        self.steps.append(Step(func.overloadpacket.__name__, shapes, tuple(settings)))
        return result


def steps_of(model: PreTrainedModel, inputs: Inputs) -> tuple[list[Step], Exception | None]:
    """Return what a forward on meta does, as far as it goes, and what it raises."""
    taken = {name: each for name, each in inputs.items() if name in inspect.signature(model.forward).parameters}
    there = {name: each.to("meta") if isinstance(each, torch.Tensor) else each for name, each in taken.items()}
    with Recorder() as recorder:
        failure = run_on_meta(model, there)
    return recorder.steps, failure


def other_step(
    before: PreTrainedModel,
    after: PreTrainedModel,
    shown: PreTrainedModel,
    resized: Collection[tuple[int, int]],
    factor: int,
) -> str:
    """Return where a model does something else than another for old inputs; empty where it does the same.

    Args:
        before, after: two models on meta.
        shown: that whose inputs the second is given; the first is given its own.
        resized: sizes of dimensions that may differ: that of the one, and that of the other.
        factor: how many times larger any other size may be.
    """
    # Numbers with a fraction that modules hold, scales and the like, are in no operation's shapes.
    modules = dict(before.named_modules())
    for name, module in after.named_modules():
        for setting, value in vars(module).items():
            was = vars(modules[name]).get(setting) if name in modules else value
            if isinstance(value, float) and value != was:
                return f"{name}.{setting} is {value!r}, and {was!r} in the base"
    seen = "nothing can be seen without values"
    for one, other in zip(seeded_inputs(before), seeded_inputs(shown), strict=False):
        (old, failure), (new, refusal) = steps_of(before, one), steps_of(after, other)
        if refusal is not None and failure is None and not wants_values(refusal):
            return f"it doesn't run on what the base runs on: {one_line(refusal)}"
        differing = (pair for pair in zip_longest(old, new) if not _is_same(*pair, resized, factor))
        if pair := next(differing, None):
            was, now = pair
            return f"it does {_step_text(now)} where the base does {_step_text(was)}"
        if failure is None:
            return ""
        seen = f"the rest can't be seen without values: {one_line(failure)}"
    return seen


def _is_same(one: Step | None, other: Step | None, resized: Collection[tuple[int, int]], factor: int) -> bool:
    if one is None or other is None or one.name != other.name:
        return False

    def follows(was: object, now: object) -> bool:
        if isinstance(was, bool) or not isinstance(was, int) or not isinstance(now, int):
            return was == now
        return now in (was, was and factor * was) or (was, now) in resized

    settings, shapes = (one.settings, other.settings), (one.shapes, other.shapes)
    return (
        [*map(len, one.shapes)] == [*map(len, other.shapes)]
        and len(one.settings) == len(other.settings)
        and all(starmap(follows, zip(*settings, strict=True)))
        and all(follows(old, new) for pair in zip(*shapes, strict=True) for old, new in zip(*pair, strict=True))
    )


def _step_text(step: Step | None) -> str:
    if step is None:
        return "nothing"
    return f"{step.name}({', '.join(map(repr, step.settings))})"


def plain_values_of(value: object) -> list[object]:
    """Return what is plain in an argument: a number, a word, the elements of a small tensor that isn't on meta."""
    if isinstance(value, torch.Tensor):
        return value.flatten().tolist() if value.device.type != "meta" and value.numel() <= MOST else []
    return [value] if value is None or isinstance(value, (bool, int, float, str)) else []
