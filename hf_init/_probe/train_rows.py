"""A model in which only new rows can be trained: they are leaves of their own, beside the frozen tables.

No mask, and no gradient of a whole table: the input's rows are looked up where a new id stands, the output's logits are
computed beside the old ones.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class Grown:
    """The new rows of a model's vocabulary, by its parameters' names.

    Attributes:
        ids: of the new tokens, in the order of the rows.
        rows: of the input embedding, ``(n, d)``.
        head, bias: of the output, ``(n, d)`` and ``(n,)``; None where the output is tied, or has no bias.
    """

    ids: tuple[int, ...]
    rows: torch.Tensor
    head: torch.Tensor | None = None
    bias: torch.Tensor | None = None


class Inputs(torch.nn.Module):
    """An input embedding with rows of its own for some ids."""

    def __init__(self, old: torch.nn.Module, place: torch.Tensor, rows: torch.nn.Parameter) -> None:
        super().__init__()
        self.old, self.new = old, _twin(old, {"weight": rows})
        self.register_buffer("place", place, persistent=False)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        place: Any = self.place
        at = place[ids]
        new = (at >= 0).unsqueeze(-1)
        old = self.old(ids.where(at < 0, 0))
        return torch.where(new, self.new(at.clamp(min=0)).to(old.dtype), old)


class Outputs(torch.nn.Module):
    """An output layer with rows of its own for some ids; ids that are nobody's are never chosen."""

    def __init__(self, old: torch.nn.Module, ids: torch.Tensor, rows: Mapping[str, torch.nn.Parameter]) -> None:
        super().__init__()
        self.old, self.new = old, _twin(old, rows)
        self.register_buffer("ids", ids, persistent=False)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        ids: Any = self.ids
        old = self.old(states).to(self.new.weight.dtype)
        beyond = max(0, int(ids.max()) + 1 - old.shape[-1])
        logits = torch.nn.functional.pad(old, (0, beyond), value=float("-inf"))
        return logits.index_copy(-1, ids, self.new(states.to(logits.dtype)))


@contextmanager
def grow_model(model: Any, new: Grown) -> Iterator[list[torch.nn.Parameter]]:
    """The model with new rows, all else frozen; gives the rows, to train. Afterwards the model is as it was.

    Its logits are those of the model with the rows in its tables. The rows keep their own dtype, which is that of the
    logits, too: in a model of bfloat16, steps too small for it add up all the same.
    """
    inputs, outputs = model.get_input_embeddings(), model.get_output_embeddings()
    frozen = [parameter for parameter in model.parameters() if parameter.requires_grad]
    rows = {"weight": torch.nn.Parameter(new.rows.detach().clone())}
    head = rows if new.head is None else {"weight": torch.nn.Parameter(new.head.detach().clone())}
    if new.bias is not None:
        head = {**head, "bias": torch.nn.Parameter(new.bias.detach().clone())}
    ids = torch.tensor(new.ids)
    place = torch.full((max(int(ids.max()) + 1, len(inputs.weight)),), -1)
    place[ids] = torch.arange(len(ids))
    for parameter in frozen:
        parameter.requires_grad_(False)
    try:
        model.set_input_embeddings(Inputs(inputs, place, rows["weight"]))
        model.set_output_embeddings(Outputs(outputs, ids, head))
        yield [*{id(leaf): leaf for leaf in (*rows.values(), *head.values())}.values()]
    finally:
        model.set_input_embeddings(inputs)
        model.set_output_embeddings(outputs)
        for parameter in frozen:
            parameter.requires_grad_(True)


def _twin(module: torch.nn.Module, parameters: Mapping[str, torch.nn.Parameter]) -> Any:
    """A layer that computes as another one, with other parameters."""
    twin: Any = copy.copy(module)
    twin._parameters = {**dict.fromkeys(module._parameters), **parameters}
    if hasattr(twin, "padding_idx"):
        twin.padding_idx = None
    return twin
