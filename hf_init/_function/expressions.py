"""Whether a model with more blocks computes the same expression, taken for granted that those give back what they get.

Every tensor gets a number: that of its parameter, or of the operation and the numbers of what goes in. Two runs on meta
that give their output the same number do the same to get it, whatever else they do.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import PreTrainedModel

from hf_init._function.identity import flat, run_on_meta, wants_values
from hf_init._function.inputs import Inputs, main_output, seeded_inputs
from hf_init._function.steps import plain_values_of
from hf_init._text import one_line


class Numbering(TorchDispatchMode):
    """Numbers tensors as they are made.

    Attributes:
        table: what each number stands for, the same for runs that are compared.
    """

    def __init__(self, table: dict[object, int], names: Mapping[torch.Tensor, str]) -> None:
        super().__init__()
        self.table = table
        self._numbers: dict[int, tuple[torch.Tensor, int]] = {}  # a tensor stays, so that its id is no other's
        for tensor, name in names.items():
            self.give(tensor, self._number((name, tuple(tensor.shape))))

    def give(self, tensor: torch.Tensor, number: int) -> None:
        self._numbers[id(tensor)] = tensor, number

    def of(self, tensor: torch.Tensor) -> int:
        """Return a tensor's number; one that no operation made is its shape and its elements."""
        if id(tensor) not in self._numbers:
            self.give(tensor, self._number(("constant", tuple(tensor.shape), *plain_values_of(tensor))))
        return self._numbers[id(tensor)][1]

    def _number(self, key: object) -> int:
        return self.table.setdefault(key, len(self.table))

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = tuple(self._given(each) for each in flat((args, kwargs or {})))
        result = func(*args, **(kwargs or {}))
        name = str(func)
        for place, made in enumerate(flat(result)):
            if isinstance(made, torch.Tensor):
                number = self._number((name, place, given))
                if id(made) in self._numbers and func._schema.is_mutable:
                    storage = made.untyped_storage()._cdata
                    views = [(t, k) for t, k in self._numbers.values() if t.untyped_storage()._cdata == storage]
                    for view, before in views:
                        self.give(view, self._number((before, number)))
                else:
                    self.give(made, number)
        return result

    def _given(self, value: object) -> object:
        return ("tensor", self.of(value)) if isinstance(value, torch.Tensor) else (type(value).__name__, repr(value))


@dataclass(frozen=True)
class Sameness:
    """Whether a model gives what another gives, on the inputs that are known for it.

    Attributes:
        same: None where it can't be seen.
        failure: what the one raises where the other runs, or ends for want of values alone.
    """

    same: bool | None
    failure: str = ""


def compare_expressions(
    before: PreTrainedModel, after: PreTrainedModel, origin: Callable[[str], str], passing: Collection[str]
) -> Sameness:
    """Compare what two models on meta give.

    Args:
        origin: gives the name in the one of a parameter of the other.
        passing: paths of modules of the other that give back what they get.
    """
    for inputs in seeded_inputs(before):
        table: dict[object, int] = {}
        old, failure = _output_number(before, inputs, table, str, ())
        if failure is None or wants_values(failure):
            new, refusal = _output_number(after, inputs, table, origin, passing)
            if refusal is not None and not wants_values(refusal):
                return Sameness(None, one_line(refusal))
            if old is not None and new is not None:
                return Sameness(old == new)
    return Sameness(None)


def _output_number(
    model: PreTrainedModel,
    inputs: Inputs,
    table: dict[object, int],
    origin: Callable[[str], str],
    passing: Collection[str],
) -> tuple[int | None, Exception | None]:
    """Return the number of what a model gives, and what it raises."""
    there = {name: each.to("meta") for name, each in inputs.items() if isinstance(each, torch.Tensor)}
    held = (*model.named_parameters(), *model.named_buffers())
    names = {**{tensor: origin(name) for name, tensor in held}, **{tensor: name for name, tensor in there.items()}}
    found: list[tuple[str, torch.Tensor] | None] = []
    numbering = Numbering(table, names)

    def passed(_: torch.nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Any) -> None:
        given = next(each for each in flat((args, kwargs)) if isinstance(each, torch.Tensor))
        made = next(each for each in flat(output) if isinstance(each, torch.Tensor))
        numbering.give(made, numbering.of(given))

    with numbering, ExitStack() as hooks:
        for module in map(model.get_submodule, passing):
            hooks.enter_context(module.register_forward_hook(passed, with_kwargs=True))
        outer = model.register_forward_hook(lambda module, args, output: found.append(main_output(output)))
        hooks.enter_context(outer)
        failure = run_on_meta(model, there)
    main = found[0] if found and failure is None else None
    return None if main is None else numbering.of(main[1]), failure
