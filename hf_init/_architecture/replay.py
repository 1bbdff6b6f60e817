"""What a class's constructor gives one tensor: the construction recorded on meta, and replayed for it alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from torch._ops import OpOverload
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map
from transformers import PreTrainedModel
from transformers import initialization as library_init

UNTOUCHED = -(2**62)
"""Stands in fresh memory of whole numbers, where NaN can't."""

MADE_FROM_DATA = (torch.tensor, torch.as_tensor, torch.asarray)
FRESH = ("aten::empty", "aten::new_empty")


@dataclass(frozen=True)
class RecordedCall:
    """One operation of the construction, by the storages that it reads and writes."""

    operation: Any
    args: tuple[object, ...]
    kwargs: Mapping[str, object]
    result: object
    reads: frozenset[int]
    writes: frozenset[int]
    fresh: bool = False


class ConstructorRecording:
    """The construction of a model on meta: every operation on every tensor, no memory.

    A tensor's values are what is left of it when the operations that lead to it are done again on the CPU: memory
    holds that tensor and what it was computed from, whatever the size of the model.
    """

    def __init__(self, build: Callable[[], PreTrainedModel]) -> None:
        with ExitStack() as stack:
            stack.enter_context(torch.device("meta"))
            stack.enter_context(library_init.meta_device_safe_creation_ops())
            recorder = stack.enter_context(_Recorder())
            constants = stack.enter_context(_Constants())
            stack.enter_context(_record_init_functions(recorder.calls))
            self._model = build()
        self._calls = recorder.calls
        self._constants = constants.values

    @classmethod
    def of(cls, model: PreTrainedModel, *args: object, **kwargs: object) -> ConstructorRecording:
        """Record another model of the same class and config."""
        config = deepcopy(model.config)
        return cls(lambda: type(model)(config, *args, **kwargs))

    def value(self, name: str, key: int) -> torch.Tensor:
        """Return a parameter or buffer as the constructor leaves it, drawn under the key; fresh memory is poisoned.

        The caller's random state is used, that of the CPU: see ``quiet``.
        """
        wanted = find_tensor(self._model, name).detach()
        torch.default_generator.manual_seed(key)  # the CPU's alone: `torch.manual_seed` seeds every device
        replay = _Replay(self._constants)
        with torch.no_grad():
            for call in self._leading_to(wanted):
                replay.run(call)
            return replay.real(wanted).clone()

    def _leading_to(self, wanted: torch.Tensor) -> Sequence[RecordedCall]:
        needed, calls = {_storage_id(wanted)}, []
        for call in reversed(self._calls):
            if call.writes & needed:
                calls.append(call)
                needed |= call.reads
        return calls[::-1]


def find_tensor(model: torch.nn.Module, name: str) -> torch.Tensor:
    """Return a parameter or buffer by its name."""
    path, _, leaf = name.rpartition(".")
    module = model.get_submodule(path)
    found = module._parameters.get(leaf)
    found = module._buffers[leaf] if found is None else found
    assert found is not None
    return found


def without_side_effects(tensor: torch.Tensor) -> torch.Tensor:
    """Return where a tensor still holds what fresh memory was filled with."""
    if tensor.is_floating_point() or tensor.is_complex():
        return tensor.isnan()
    return tensor == _poison_value(tensor.dtype)


def poisoned(shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
    """Return fresh memory, full of a value that no initialization leaves."""
    return torch.empty(tuple(shape), dtype=dtype).fill_(_poison_value(dtype))


def _poison_value(dtype: torch.dtype) -> float:
    if dtype.is_floating_point or dtype.is_complex:
        return float("nan")
    return UNTOUCHED if dtype is torch.int64 else False if dtype is torch.bool else torch.iinfo(dtype).min


class _Recorder(TorchDispatchMode):
    """Writes down every operation, and lets it happen."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[RecordedCall] = []

    def __torch_dispatch__(
        self,
        func: OpOverload,
        types: object,
        args: tuple[object, ...] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        given = frozenset(map(_storage_id, _tensors_in((args, kwargs))))
        made = frozenset(map(_storage_id, _tensors_in(result))) - given
        written = frozenset(map(_storage_id, _tensors_in(_written_arguments(func, args, kwargs))))
        if made or written:  # a view is a storage and its geometry: nothing to do again
            fresh = func._schema.name.startswith(FRESH)
            self.calls.append(RecordedCall(func, args, kwargs, result, given, made | written, fresh))
        return result


@contextmanager
def _record_init_functions(calls: list[RecordedCall]) -> Iterator[None]:
    """Record torch's initialization functions whole: on meta, some of them return before they do anything."""
    originals = dict(library_init.TORCH_INIT_FUNCTIONS)
    library_init.TORCH_INIT_FUNCTIONS.update({name: _record_function(own, calls) for name, own in originals.items()})
    try:
        with library_init.guard_torch_init_functions():
            yield
    finally:
        library_init.TORCH_INIT_FUNCTIONS.update(originals)


def _record_function(function: Callable[..., object], calls: list[RecordedCall]) -> Callable[..., object]:
    def note(tensor: torch.Tensor, *args: object, **kwargs: object) -> object:
        if tensor.device.type != "meta":
            return function(tensor, *args, **kwargs)
        storage = frozenset((_storage_id(tensor),))
        calls.append(RecordedCall(function, (tensor, *args), kwargs, (), storage, storage))
        return tensor

    return note


class _Constants(TorchFunctionMode):
    """Keeps the values of tensors that are made from data, which meta has no room for."""

    def __init__(self) -> None:
        super().__init__()
        self.values: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: object,
        args: tuple[object, ...] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        is_of_meta = bool(args) and isinstance(args[0], torch.Tensor) and args[0].device.type == "meta"
        if func in MADE_FROM_DATA and result.device.type == "meta" and not is_of_meta:
            real = func(*args, **{**kwargs, "device": "cpu"}).detach()
            self.values[_storage_id(result)] = (result, real)
        return result


class _Replay:
    """Does recorded operations again, on the CPU."""

    def __init__(self, constants: Mapping[int, tuple[torch.Tensor, torch.Tensor]]) -> None:
        self._real: dict[int, torch.UntypedStorage] = {}
        for storage, (_, real) in constants.items():
            self._real[storage] = real.clone().untyped_storage()

    def run(self, call: RecordedCall) -> None:
        args, kwargs = tree_map(self._argument, (call.args, dict(call.kwargs)))
        done = call.operation(*args, **kwargs)
        if call.fresh:
            done.copy_(poisoned(done.shape, done.dtype))
        for meta, real in zip(_tensors_in(call.result), _tensors_in(done), strict=False):
            if _storage_id(meta) in call.writes and _storage_id(meta) not in self._real:
                self._real[_storage_id(meta)] = _storage_laid_out_as(meta, real)

    def real(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return the tensor that stands for a recorded one: the same view of the storage that replaces its own."""
        storage = self._real.get(_storage_id(tensor))
        if storage is None:
            return tensor  # it was real when it was recorded
        view = torch.empty(0, dtype=tensor.dtype)
        return view.set_(storage, tensor.storage_offset(), tensor.shape, tensor.stride())  # type: ignore[arg-type]

    def _argument(self, value: object) -> object:
        if isinstance(value, torch.Tensor):
            return self.real(value)
        return torch.device("cpu") if isinstance(value, torch.device) and value.type == "meta" else value


def _storage_laid_out_as(meta: torch.Tensor, real: torch.Tensor) -> torch.UntypedStorage:
    """Return the storage of a result, laid out as it was recorded."""
    if real.stride() == meta.stride() and real.storage_offset() == meta.storage_offset():
        return real.untyped_storage()
    flat = torch.empty(meta.untyped_storage().nbytes() // meta.element_size(), dtype=meta.dtype)
    flat.as_strided(meta.shape, meta.stride(), meta.storage_offset()).copy_(real)
    return flat.untyped_storage()


def _written_arguments(func: OpOverload, args: Sequence[object], kwargs: Mapping[str, object]) -> Iterator[object]:
    """Yield the arguments that an operation writes to, by its schema."""
    for place, argument in enumerate(func._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            yield args[place] if place < len(args) else kwargs.get(argument.name)


def _tensors_in(values: object) -> list[torch.Tensor]:
    values = list(values) if isinstance(values, Iterator) else values
    return [value for value in tree_flatten(values)[0] if isinstance(value, torch.Tensor)]


def _storage_id(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage()._cdata
