"""What ``_init_weights``, or a function of the user's own, does to a recorded model: every module, in torch's order."""

from __future__ import annotations

import pickle
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache, partial
from inspect import signature
from threading import get_ident
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedModel
from transformers import initialization as library_init

from hf_init._architecture.constructor_faults import UNBUILDABLE
from hf_init._architecture.library import plain_call
from hf_init._architecture.recording import RecordedCall, Tape, code_of, running_classes, storage_id
from hf_init._errors import RecipeError
from hf_init._text import one_line, qualified_name

ModuleFunction = Callable[[nn.Module], object]


class InitPass:
    """The library's own pass over a model that is being recorded, at the end of its constructor as on a real device.

    What it does to tensors on meta is written down as operations. What can't be done on meta, or draws by numpy or
    by Python, is written down as one operation on all tensors of its module, which runs the code itself on values.
    """

    def __init__(self, tape: Tape) -> None:
        self._tape = tape

    @contextmanager
    def at_post_init(self) -> Iterator[None]:
        """Let a model that is built on meta initialize itself, which the library leaves out there.

        At once, and not when all is built: a constructor may copy a model that it has just made.
        """

        recording, original, thread = self, PreTrainedModel.init_weights, get_ident()

        def init_weights(self: PreTrainedModel) -> None:  # another thread's model isn't recorded
            recording._initialize(self) if get_ident() == thread else original(self)

        PreTrainedModel.init_weights = init_weights
        try:
            yield
        finally:
            PreTrainedModel.init_weights = original

    def reach_nested(self, root: PreTrainedModel) -> None:
        """Run the root's ``_init_weights`` over the modules of the models in it that have no recipe of their own."""
        with torch.no_grad(), library_init.guard_torch_init_functions():
            self._reach(root, root, root)

    def reach_one(self, root: PreTrainedModel, name: str) -> None:
        """Run ``_init_weights`` over the module that owns a tensor, then over those around it, as the library does."""
        around: list[tuple[PreTrainedModel, nn.Module]] = [(root, root)]
        for word in name.split(".")[:-1]:
            owner, child = around[-1][0], around[-1][1].get_submodule(word)
            around.append((child if isinstance(child, PreTrainedModel) else owner, child))
        with torch.no_grad(), library_init.guard_torch_init_functions():
            for owner, module in reversed(around):
                self._init_weights(owner, module)

    def apply(self, model: PreTrainedModel, function: ModuleFunction) -> None:
        """Do what ``model.apply(function)`` does."""
        name = qualified_name(function)
        with torch.no_grad():
            model.apply(lambda module: self._visit(module, lambda: function(module), lambda: name, name))

    def _initialize(self, model: PreTrainedModel) -> None:
        # Of code that isn't its own the library leaves out every module that holds only others, heads among them.
        vars(model)["is_custom_code"] = lambda: False
        for owner in model.modules():
            if isinstance(owner, PreTrainedModel):
                vars(owner)["_init_weights"] = partial(self._init_weights, owner)  # which the library's pass asks for
        plain_call(type(model), "initialize_weights")(model)
        for owner in model.modules():
            vars(owner).pop("_init_weights", None)
        del vars(model)["is_custom_code"]
        model.tie_weights(recompute_mapping=False)

    def _reach(self, root: PreTrainedModel, owner: PreTrainedModel, module: nn.Module) -> None:
        for child in module.children():
            self._reach(root, child if isinstance(child, PreTrainedModel) else owner, child)
        if owner is not root and not hasattr(owner, "_hf_init_mixin"):
            self._init_weights(root, module)

    def _init_weights(self, owner: PreTrainedModel, module: nn.Module) -> None:
        cls, method = type(owner), plain_call(type(owner), "_init_weights")
        what, known = f"{cls.__name__}'s own `_init_weights`", method.__module__.startswith("transformers.")
        self._visit(module, lambda: method(owner, module), lambda: _whose(cls) or cls.__name__, what, known)

    def _visit(
        self, module: nn.Module, run: Callable[[], object], whose: Callable[[], str], what: str, known: bool = False
    ) -> None:
        """Record what a function does to a module.

        Args:
            known: the code is the library's, which draws by torch alone.
        """
        tape, mark, places = self._tape, len(self._tape.calls), _stores(module)
        tensors = [store[leaf] for store, leaf in places]
        states = b"" if known else _python_states()
        tape.by = whose
        try:
            run()
            failed = not known and states != _python_states()
        except UNBUILDABLE:
            failed = True
        tape.by = str
        if failed:
            del tape.calls[mark:]
            for (store, leaf), tensor in zip(places, tensors, strict=True):
                store[leaf] = tensor
            tape.note(_own_code(module, run, whose(), what))


def scheme_text(call: RecordedCall) -> str:
    """Return an operation as a scheme is spelled: ``normal(std=0.02)``; ``computed`` where it isn't one's.

    Example:
        >>> from torch.nn.init import normal_
        >>> call = RecordedCall(normal_, (None, 0.0, 0.5), {}, (), frozenset(), frozenset(), "normal_")
        >>> scheme_text(call)
        'normal(std=0.5)'
    """
    name = {"zero_": "zeros", "fill_": "constant"}.get(call.name, call.name.rstrip("_").partition(".")[0])
    function = getattr(nn.init, call.name, None)
    if function is None and call.name not in ("zero_", "fill_"):
        return "computed"
    if function is None:
        return name if len(call.args) < 2 else f"{name}(val={call.args[1]})"
    given = signature(library_init.TORCH_INIT_FUNCTIONS.get(call.name, function)).parameters
    values = {**dict(zip(given, call.args, strict=False)), **call.kwargs}
    settings = [
        f"{key}={value:g}" if isinstance(value, float) else f"{key}={value}"
        for key, value in values.items()
        if key not in ("tensor", "generator") and key in given and value != given[key].default
    ]
    return f"{name}({', '.join(settings)})" if settings else name


def _stores(module: nn.Module) -> list[tuple[dict[str, Any], str]]:
    """Return where the tensors of a module and of those in it are held."""
    stores: list[dict[str, Any]] = [store for each in module.modules() for store in (each._parameters, each._buffers)]
    return [(store, leaf) for store in stores for leaf, tensor in store.items() if tensor is not None]


def _python_states() -> bytes:
    return pickle.dumps((random.getstate(), np.random.get_state()))


def _own_code(module: nn.Module, run: Callable[[], object], by: str, what: str) -> RecordedCall:
    """Return the call that runs code on the values of a module's tensors, and leaves in them what it made of them."""
    places = _stores(module)
    metas = [tensor for store, leaf in places if (tensor := store[leaf]) is not None]
    held = list({id(meta): meta for meta in metas}.values())

    def operation(*values: torch.Tensor) -> None:
        standing = [store[leaf] for store, leaf in places]
        real = {id(meta): standing_for(meta, value) for meta, value in zip(held, values, strict=True)}
        for (store, leaf), meta in zip(places, metas, strict=True):
            store[leaf] = real[id(meta)]
        try:
            with torch.no_grad(), library_init.guard_torch_init_functions():
                run()
                after = {id(meta): store[leaf] for (store, leaf), meta in zip(places, metas, strict=True)}
                for meta, value in zip(held, values, strict=True):
                    value.copy_(after[id(meta)])
        except UNBUILDABLE as error:
            raise RecipeError(
                f"{what} fails on {type(module).__name__} alone ({one_line(error)}); give its tensors rules with "
                "schemes of their own"
            ) from error
        finally:
            for (store, leaf), tensor in zip(places, standing, strict=True):
                store[leaf] = tensor

    memory = frozenset(map(storage_id, held))
    return RecordedCall(operation, tuple(held), {}, (), memory, memory, "own code", random=True, by=by)


def standing_for(meta: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """Return values as a parameter, if what they stand for is one."""
    return nn.Parameter(value, meta.requires_grad) if isinstance(meta, nn.Parameter) else value


def _whose(owner: type) -> str:
    """Return the class whose ``_init_weights`` is running; of the library's classes, the one that was asked."""
    running = running_classes(_init_codes(owner))
    mine = running[:1]
    for cls in running[1:] if running and _is_librarys(running[0]) else ():
        if not _is_librarys(cls):
            break
        mine = [cls]
    return mine[0].__name__ if mine else ""


@lru_cache
def _init_codes(owner: type) -> dict[object, type]:
    methods = [(cls, cls.__dict__["_init_weights"]) for cls in owner.__mro__ if "_init_weights" in cls.__dict__]
    return {code: cls for cls, method in methods for code in code_of(method) if code is not None}


def _is_librarys(cls: type) -> bool:
    return cls.__module__.partition(".")[0] == "transformers"
