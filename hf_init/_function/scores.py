"""Whether a mixture of rows gets the same mixture of their scores, and so never the largest: followed on meta.

A product with the vocabulary's table gives scores; so do sums with its bias, and whatever treats all scores alike. What
isn't listed here ends it: a mask over some tokens, rows that are scaled one by one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeAlias

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import PreTrainedModel

from hf_init._function.identity import IN_ORDER, flat, run_on_meta
from hf_init._function.inputs import seeded_inputs

Kind: TypeAlias = Literal["table", "bias", "scores"]

TURNING = frozenset({"t", "transpose", "permute", "expand"})
PICKING = frozenset({"slice", "select", "index", "index_select", "split", "unbind"})
RISING = frozenset({"tanh", "_softmax", "_log_softmax", "softmax", "log_softmax"})
"""Operations that keep the order of scores; a mixture's is between those of what it is mixed from, no more."""
PRODUCTS: Mapping[str, tuple[int, int]] = {
    "mm": (0, 1), "bmm": (0, 1), "matmul": (0, 1), "linear": (0, 1), "addmm": (1, 2), "baddbmm": (1, 2),
}  # fmt: skip


class _Scores(TorchDispatchMode):
    """Knows which tensors are the vocabulary's tables, and which are scores by them."""

    def __init__(self, marks: Mapping[torch.Tensor, Kind], capped: bool) -> None:
        super().__init__()
        self._rising = RISING if capped else frozenset()
        self._kinds: dict[int, tuple[torch.Tensor, Kind]] = {
            id(tensor): (tensor, kind) for tensor, kind in marks.items()
        }

    def kind(self, value: object) -> Kind | None:
        return self._kinds[id(value)][1] if id(value) in self._kinds else None

    def __torch_dispatch__(self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        result = func(*args, **(kwargs or {}))
        operation = name.removesuffix("_")
        for each in result if isinstance(result, (list, tuple)) else (result,):
            if isinstance(each, torch.Tensor):
                kind = self._of(operation, args, each)
                if operation != name and not name.startswith("_") and kind != self.kind(each):
                    self._forget(each)
                if kind is not None:
                    self._kinds[id(each)] = each, kind
        return result

    def _forget(self, written: torch.Tensor) -> None:
        """Forget what was known of every view of a tensor that is written to."""
        storage = written.untyped_storage()._cdata
        for key in [key for key, (each, _) in self._kinds.items() if each.untyped_storage()._cdata == storage]:
            del self._kinds[key]

    def _of(self, operation: str, args: Sequence[Any], result: torch.Tensor) -> Kind | None:
        if operation in PRODUCTS:
            return self._product(operation, args)
        if operation == "cat":
            kinds = {*map(self.kind, args[0])}
            return "scores" if "scores" in kinds else "table" if kinds == {"table"} else None
        first = self.kind(args[0]) if args else None
        if operation in IN_ORDER or (operation in TURNING and first != "scores"):
            return first
        if operation in ("add", "sub", "mul", "div"):
            return self._sum_or_multiple(operation, args)
        if first == "scores" and operation in (PICKING | TURNING) and result.shape[-1:] == args[0].shape[-1:]:
            return "scores"
        return "scores" if first == "scores" and operation in self._rising else None

    def _product(self, operation: str, args: Sequence[Any]) -> Kind | None:
        factors = PRODUCTS[operation]
        added = [each for at, each in enumerate(args[:3]) if at not in factors and isinstance(each, torch.Tensor)]
        kinds = {self.kind(args[at]) for at in factors}
        return "scores" if kinds == {"table", None} and all(self.kind(each) == "bias" for each in added) else None

    def _sum_or_multiple(self, operation: str, args: Sequence[Any]) -> Kind | None:
        others = [each for each in args[:2] if self.kind(each) != "scores"]
        if len(others) != 1 or (operation == "div" and others[0] is args[0]):
            return None
        other = others[0]
        same_for_all = not isinstance(other, torch.Tensor) or other.dim() == 0 or other.shape[-1] == 1
        return "scores" if same_for_all or (operation == "add" and self.kind(other) == "bias") else None


def scores_are_mixed(model: PreTrainedModel, tables: Mapping[str, int], capped: bool) -> bool:
    """Return whether all scores of tokens that a model on meta gives are mixed as rows are.

    Args:
        tables: the vocabulary's output matrices and biases, and along which dimension they have its rows, by name.
        capped: whether it is enough that scores keep their order.
    """
    tensors = model.state_dict(keep_vars=True)
    sizes = {name: tensors[name].shape[dim] for name, dim in tables.items()}
    marks: dict[torch.Tensor, Kind] = {
        tensors[name]: "bias" if tensors[name].numel() == size else "table" for name, size in sizes.items()
    }
    for inputs in seeded_inputs(model):
        outputs: list[Any] = []
        handle = model.register_forward_hook(lambda module, args, output, outputs=outputs: outputs.append(output))
        with handle, _Scores(marks, capped) as scores:
            failure = run_on_meta(model, {name: tensor.to("meta") for name, tensor in inputs.items()})
        wide = [
            each for each in flat(outputs) if isinstance(each, torch.Tensor) and {*each.shape[-1:]} & {*sizes.values()}
        ]
        if not failure and wide:
            return all(scores.kind(each) == "scores" for each in wide)
    return False
