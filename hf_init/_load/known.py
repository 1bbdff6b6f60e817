"""Which tensors of a model have their values already: known by the model's modules, and kept whatever runs over them.

A mark on a tensor is lost when the tensor is copied or replaced; a module stays what it is through a deep copy, a
pickle, ``load_state_dict(assign=True)``, compilation, and under another name inside an adapter of PEFT.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from functools import wraps
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from hf_init._architecture import is_loaded, storage_id, tensor_place, written_tensors

RECORD = "_hf_init_known"
_keeping = ContextVar("_keeping", default=False)


def remember(model: nn.Module, loaded: bool = False) -> None:
    """Let every module know its tensors, and which of them came from a checkpoint.

    Args:
        loaded: all of them did; otherwise those that the library's loader has marked, and those known to be.
    """
    for module in model.modules():
        before = vars(module).get(RECORD, {})
        vars(module)[RECORD] = {
            leaf: loaded or before.get(leaf, False) or is_loaded(tensor) for leaf, tensor in _own_tensors(module)
        }


def remember_loaded(model: nn.Module, names: Collection[str]) -> None:
    """Let every module know those of its tensors that were loaded by these names."""
    for path, module in model.named_modules(remove_duplicate=False):
        leaves = {leaf: True for leaf, _ in _own_tensors(module) if f"{path}.{leaf}".lstrip(".") in names}
        vars(module)[RECORD] = {**vars(module).get(RECORD, {}), **leaves}


def known_names(model: nn.Module) -> set[str]:
    """Return the names of the tensors that are known; while a model is made for the first time, of the loaded ones.

    What an adapter or a parametrization put around a known layer is known too: it is somebody else's to fill.
    """
    first = RECORD not in vars(model)
    return {name for name, loaded in _known(model, "", False) if loaded or not first}


def loaded_names(model: nn.Module) -> set[str]:
    """Return the names of the tensors that came from a checkpoint, or were put around such."""
    return {name for name, loaded in _known(model, "", False) if loaded}


def _known(module: nn.Module, path: str, around: bool) -> Iterator[tuple[str, bool]]:
    record: Mapping[str, bool] = vars(module).get(RECORD, {})
    inner = getattr(module, "base_layer", None)
    around = around or (isinstance(inner, nn.Module) and bool(vars(inner).get(RECORD)))
    for leaf, tensor in _own_tensors(module):
        if around or leaf in record or is_loaded(tensor):
            yield path + leaf, record.get(leaf, around or is_loaded(tensor))
    for name, child in module.named_children():
        yield from _known(child, f"{path}{name}.", around or (name == "parametrizations" and bool(record)))


def _own_tensors(module: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    for store in (module._parameters, module._buffers):
        yield from ((leaf, tensor) for leaf, tensor in store.items() if tensor is not None)


@contextmanager
def keeping(module: nn.Module, names: Iterable[str] | None = None) -> Iterator[None]:
    """Put tensors back as they were if what runs meanwhile writes to them, replaces them or gives them other memory.

    Only what is written to is copied, when it is. Within another ``keeping`` it does nothing: that one knows what for.

    Args:
        names: by default, of all that the modules know.
    """
    stores = [tensor_place(module, name) for name in (known_names(module) if names is None else names)]
    places = [(store, leaf, store[leaf]) for store, leaf in stores if store[leaf].device.type != "meta"]
    if _keeping.get() or not places:
        yield
        return
    token = _keeping.set(True)
    guard = _CopyBeforeWrite(tensor for _, _, tensor in places)
    memory = [tensor.data for _, _, tensor in places]
    try:
        with guard:
            yield
    finally:
        _keeping.reset(token)
        for (store, leaf, tensor), data in zip(places, memory, strict=True):
            if storage_id(tensor) != storage_id(data):
                tensor.data = data
            store[leaf] = tensor
        guard.put_back()


class _CopyBeforeWrite(TorchDispatchMode):
    """Copies the memory of some tensors before an operation writes to it."""

    def __init__(self, tensors: Iterable[torch.Tensor]) -> None:
        super().__init__()
        self._kept = {storage_id(tensor): tensor for tensor in tensors}
        self._copies: dict[int, torch.Tensor] = {}

    def __torch_dispatch__(
        self,
        func: Any,
        types: object,
        args: tuple[object, ...] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        for tensor in written_tensors(func, args, kwargs or {}):
            key = storage_id(tensor)
            if key in self._kept and key not in self._copies:
                self._copies[key] = self._kept[key].detach().clone()
        return func(*args, **(kwargs or {}))

    def put_back(self) -> None:
        """Give every tensor that was written to its values again."""
        with torch.no_grad():
            for key, values in self._copies.items():
                self._kept[key].copy_(values)


def guarded(init_weights: Callable[..., Any]) -> Callable[..., Any]:
    """Return an ``_init_weights`` that leaves the known tensors of its module as they are."""

    @wraps(init_weights)
    def kept(self: object, module: nn.Module) -> Any:
        with keeping(module):
            return init_weights(self, module)

    return kept
