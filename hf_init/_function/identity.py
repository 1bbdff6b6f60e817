"""Which blocks give back what they get: followed through a forward on meta, where no element has a value.

Each tensor is a constant, the block's own input, or unknown. A linear layer of zeros gives zeros, whatever it is given;
the input plus zeros is the input, bit for bit in any dtype; what isn't listed here makes a value unknown. So a block
that is found to be the identity is one, and what can't be followed isn't claimed.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack
from types import MappingProxyType
from typing import Any, Literal, TypeAlias

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import PreTrainedModel

from hf_init._architecture import UNBUILDABLE, quiet_library
from hf_init._function.inputs import Inputs, seeded_inputs
from hf_init._text import one_line

Known: TypeAlias = "float | Literal['input'] | None"
"""What is known of a tensor: the value of all its elements, that it is the block's input, or nothing."""

IN_ORDER = frozenset({
    "view", "reshape", "_unsafe_view", "clone", "detach", "alias", "_to_copy", "unsqueeze", "squeeze",
})  # fmt: skip
"""Operations that keep every element, in its order."""
PICKING = frozenset({
    "t", "transpose", "permute", "expand", "slice", "select", "index", "index_select", "gather", "repeat",
    "split", "split_with_sizes", "unbind", "narrow", "as_strided", "diagonal", "unfold", "lift_fresh", "roll",
    "flip",
})  # fmt: skip
"""Operations whose elements are elements of their first argument."""
ZERO_TO_ZERO = frozenset({
    "gelu", "silu", "relu", "tanh", "neg", "abs", "sqrt", "sum", "mean", "cumsum", "index_add", "scatter_add",
    "masked_fill", "leaky_relu", "elu", "index_put", "index_copy", "cat", "stack", "where", "constant_pad_nd",
    "copy",
})  # fmt: skip
"""Operations that give zeros where all floating tensors that go in are zeros."""
FACTORS: Mapping[str, tuple[tuple[int, ...], int | None]] = {
    "mul": ((0, 1), None),
    "div": ((0,), None),
    "mm": ((0, 1), None),
    "bmm": ((0, 1), None),
    "linear": ((0, 1), 2),
    "addmm": ((1, 2), 0),
    "baddbmm": ((1, 2), 0),
    "convolution": ((0, 1), 2),
    "native_layer_norm": ((2,), 3),
    "native_group_norm": ((1,), 2),
    "native_batch_norm": ((1,), 2),
    "_fused_rms_norm": ((2,), None),
    "embedding": ((0,), None),
}
"""Products, which are zeros where a factor is: the positions of the factors, and of what is added."""
FILLED = {
    "zeros": 0.0,
    "zeros_like": 0.0,
    "new_zeros": 0.0,
    "zero": 0.0,
    "ones": 1.0,
    "ones_like": 1.0,
    "new_ones": 1.0,
}


class Follower(TorchDispatchMode):
    """Knows of tensors what follows from what is known of others."""

    def __init__(self) -> None:
        super().__init__()
        self._known: dict[int, tuple[torch.Tensor, Known]] = {}  # a tensor stays, so that its id is no other's
        self._itemsize = 0

    def mark(self, tensor: torch.Tensor, known: Known) -> None:
        """Take something for known of a tensor."""
        self._known[id(tensor)] = tensor, known
        if known == "input":
            self._itemsize = tensor.element_size()

    def known(self, value: object) -> Known:
        """Return what is known of a tensor, or of a number."""
        if isinstance(value, torch.Tensor):
            return self._known.get(id(value), (value, None))[1]
        return float(value) if isinstance(value, (int, float)) else None

    def __torch_dispatch__(self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name == "_local_scalar_dense":
            raise RuntimeError("a block whose way depends on values can't be followed without any")
        result = func(*args, **(kwargs or {}))
        operation = name.removesuffix("_")
        known = self._of(operation, args, kwargs or {}, result)
        if operation != name and not name.startswith("_"):
            self._overwrite(args[0], known)
        elif known is not None:
            for each in result if isinstance(result, (list, tuple)) and operation in PICKING else (result,):
                first = each[0] if isinstance(each, tuple) else each
                if isinstance(first, torch.Tensor):
                    self.mark(first, known)
        return result

    def _overwrite(self, tensor: torch.Tensor, known: Known) -> None:
        """Forget what was known of every view of a tensor that is written to, unless it stays true."""
        storage = tensor.untyped_storage()._cdata
        for other, before in list(self._known.values()):
            if before != known and other.untyped_storage()._cdata == storage:
                self.mark(other, None)
        self.mark(tensor, known)

    def _of(self, operation: str, args: Sequence[Any], kwargs: Mapping[str, Any], result: Any) -> Known:
        if operation in FILLED:
            return FILLED[operation]
        if operation in ("full", "fill", "full_like", "new_full", "scalar_tensor"):
            return self.known(args[-1])
        if operation in ("add", "sub") and len(args) > 1:
            sign = kwargs.get("alpha", 1) * (1 if operation == "add" else -1)
            return self._sum(args[0], args[1], sign, result)
        if operation in IN_ORDER:
            known = self.known(args[0])
            return known if known != "input" or result.element_size() >= self._itemsize else None
        if operation in PICKING:
            known = self.known(args[0])
            return known if known != "input" else None
        if operation in ZERO_TO_ZERO:
            tensors = [each for each in flat(args) if isinstance(each, torch.Tensor) and each.is_floating_point()]
            return 0.0 if tensors and all(self.known(each) == 0 for each in tensors) else None
        return self._product(operation, args)

    def _sum(self, a: object, b: object, sign: float, result: torch.Tensor) -> Known:
        left, right = self.known(a), self.known(b)
        if isinstance(left, float) and isinstance(right, float):
            return left + sign * right
        if left == "input" and right == 0:
            same = isinstance(a, torch.Tensor) and a.shape == result.shape
            return "input" if same else None
        if right == "input" and left == 0 and sign == 1:
            return "input" if isinstance(b, torch.Tensor) and b.shape == result.shape else None
        return None

    def _product(self, operation: str, args: Sequence[Any]) -> Known:
        factors, added = FACTORS.get(operation, ((), None))
        known = [self.known(args[k]) for k in factors if k < len(args)]
        if operation == "mul" and set(known) == {"input", 1.0}:
            return "input"
        if 0 not in known:
            return None
        bias = args[added] if added is not None and added < len(args) else None
        return 0.0 if bias is None else self.known(bias)


class ZeroForNumbers(TorchDispatchMode):
    """Answers a question for a number of a meta tensor with 0: outside of blocks it decides what they are given."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None) -> Any:
        return 0 if func.overloadpacket.__name__ == "_local_scalar_dense" else func(*args, **(kwargs or {}))


def flat(values: object) -> Iterator[Any]:
    """Yield values with those of lists and mappings in their places."""
    if isinstance(values, Mapping):
        values = list(values.values())
    if isinstance(values, (list, tuple)):
        for each in values:
            yield from flat(each)
    else:
        yield values


def block_outputs(
    model: PreTrainedModel,
    blocks: Collection[str],
    constants: Mapping[str, float],
    more: Mapping[str, torch.Tensor] = MappingProxyType({}),
) -> dict[str, Known]:
    """Return what is known of the outputs of blocks of a model on meta: ``"input"`` where a block is the identity.

    A block that no forward reached isn't among them.

    Args:
        model: its forward runs, in evaluation mode.
        blocks: paths of modules.
        constants: parameters of which all elements have one value, by name.
        more: inputs besides those that are known for it.
    """
    found: dict[str, Known] = {}
    marks = {tensor: constants[name] for name, tensor in model.state_dict(keep_vars=True).items() if name in constants}
    for inputs in seeded_inputs(model):
        left = [path for path in blocks if path not in found]
        with ExitStack() as hooks:
            for path in left:
                for remove in _watched(model.get_submodule(path), path, marks, found):
                    hooks.callback(remove)
            if left:
                run_on_meta(model, {**{name: tensor.to("meta") for name, tensor in inputs.items()}, **more})
    return found


def failure_on_meta(model: PreTrainedModel) -> str:
    """Return what a model on meta raises for every kind of input that is known for it.

    Empty where one goes through, or ends for want of values alone.
    """
    runs = ({name: tensor.to("meta") for name, tensor in inputs.items()} for inputs in seeded_inputs(model))
    failures = [run_on_meta(model, inputs) for inputs in runs]
    fails = bool(failures) and all(failure is not None and not wants_values(failure) for failure in failures)
    return one_line(failures[-1]) if fails and failures[-1] else ""


def wants_values(failure: Exception) -> bool:
    """Return whether a run on meta ended because no element has a value: all that torch says of it is that."""
    return isinstance(failure, NotImplementedError)


def _watched(
    module: torch.nn.Module, path: str, constants: Mapping[torch.Tensor, float], found: dict[str, Known]
) -> list[Callable[[], None]]:
    """Watch one block; what it is found to be is told by its path."""
    running: list[Follower] = []

    def before(_: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        follower = Follower()
        for parameter, value in constants.items():
            follower.mark(parameter, value)
        given = next((each for each in (*args, *kwargs.values()) if isinstance(each, torch.Tensor)), None)
        if given is not None:
            follower.mark(given, "input")
        running.append(follower)
        follower.__enter__()

    def after(_: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        follower = running.pop()
        follower.__exit__(None, None, None)
        first = output[0] if isinstance(output, (tuple, list)) else output
        given = next(each for each in (*args, *kwargs.values()) if isinstance(each, torch.Tensor))
        known = follower.known(first)
        same = isinstance(first, torch.Tensor) and first.shape == given.shape and first.dtype == given.dtype
        found[path] = known if known != "input" or same else None

    def leave() -> None:
        while running:
            running.pop().__exit__(None, None, None)

    handles = (
        module.register_forward_pre_hook(before, with_kwargs=True),
        module.register_forward_hook(after, with_kwargs=True),
    )
    return [*(handle.remove for handle in handles), leave]


def run_on_meta(model: PreTrainedModel, inputs: Inputs) -> Exception | None:
    """Run a forward on meta, as far as it goes, and return what it raises.

    Experts are asked for all at once, as values would choose them.
    """
    model.eval()
    try:
        with quiet_library(), torch.no_grad(), ZeroForNumbers():
            model.set_experts_implementation("batched_mm")
            model(**inputs)
    except UNBUILDABLE as error:  # it looks at values, or wants other inputs
        return error
    return None
