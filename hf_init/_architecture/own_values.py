"""The architecture's own values of one tensor, without the model in memory: declared, initialized, or both."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from copy import copy
from functools import cached_property
from typing import Any

import torch
from transformers import PreTrainedModel
from transformers import initialization as library_init

from hf_init._architecture.library import mark_loaded, on_disk, plain_call, quiet_library
from hf_init._architecture.replay import ConstructorRecording, find_tensor, poisoned, without_side_effects
from hf_init._checkpoint import region_of
from hf_init._errors import RecipeError
from hf_init._tensors import Slot, key_of


class InitialValues:
    """Runs ``_init_weights`` on a model whose tensors are all on meta but for the one that is asked for.

    The owning module's turn comes first, then that of every module around it, as in the library: GPT-2's attention
    re-draws the projection inside it. What isn't asked for is on meta, where writing costs nothing and changes nothing.
    What ``_init_weights`` doesn't reach keeps the value that the constructor gave it.

    Args:
        build: gives the model, on meta, when it is needed; its tensors get the library's mark for what is loaded.
        args, kwargs: what its class's constructor takes besides the config.
    """

    def __init__(
        self,
        build: Callable[[], PreTrainedModel],
        args: tuple[object, ...] = (),
        kwargs: Mapping[str, object] | None = None,
    ):
        self._build = build
        self._made: Mapping[str, torch.Tensor] = {}
        self._arguments = (args, dict(kwargs or {}))
        self._last: tuple[tuple[str, int], dict[str, torch.Tensor]] | None = None

    def architecture(self, slot: Slot) -> torch.Tensor:
        """Return the slot's values in a freshly built model: float32, of ``slot.shape``.

        Raises:
            RecipeError: neither ``_init_weights`` nor the constructor gives the tensor a value, or one fails on it.
        """
        return self._values("architecture", self.fresh, slot)

    def declared(self, slot: Slot) -> torch.Tensor:
        """Return the slot's values as the constructor leaves them, before ``_init_weights``: float32, ``slot.shape``.

        Raises:
            RecipeError: the constructor gives the tensor no value.
        """
        return self._values("declared", self._declared, slot)

    def given(self, slot: Slot) -> torch.Tensor | None:
        """Return the slot's values that were made from data: float32, of ``slot.shape``; None where there are none."""
        found = self._made.get(slot.name)
        return None if found is None else region_of(found, slot.region)

    def knowing(self, values: Mapping[str, torch.Tensor]) -> InitialValues:
        """Return the same, with tensors that were made from data, by their names on disk: float32, whole."""
        other = copy(self)
        other._made = values
        return other

    def on(self, build: Callable[[], PreTrainedModel]) -> InitialValues:
        """Return the same, on another model of the same class and config."""
        args, kwargs = self._arguments
        return InitialValues(build, args, kwargs).knowing(self._made)

    def fresh(self, name: str, key: int) -> torch.Tensor:
        """Return a parameter or buffer of a freshly built model, by its name in memory, drawn under a key.

        Raises:
            RecipeError: as ``architecture``.
        """
        tensor = find_tensor(self._model, name)
        dtype = tensor.dtype
        if not dtype.is_complex:  # whole numbers and flags have room for the poison in 64 bits
            dtype = torch.float32 if dtype.is_floating_point else torch.int64
        started = poisoned(tensor.shape, dtype)
        values = self._initialized(name, key, started)
        if not bool(without_side_effects(values).any()):
            return values
        return self._initialized(name, key, self._declared(name, key).to(values.dtype))

    @cached_property
    def _model(self) -> PreTrainedModel:
        model = self._build()
        for _, tensor in _named_tensors(model):
            mark_loaded(tensor)  # `_init_weights` passes over it
        return model

    @cached_property
    def _recording(self) -> ConstructorRecording:
        args, kwargs = self._arguments
        with quiet_library():
            return ConstructorRecording.of(self._model, *args, **kwargs)

    def _values(self, what: str, values_of: Callable[[str, int], torch.Tensor], slot: Slot) -> torch.Tensor:
        if not _has_tensor(self._model, slot.parameter):
            raise RecipeError(
                f"{slot.name}: {type(self._model).__name__} has no tensor {slot.parameter!r} to ask for its values; "
                "the plan is of another model, or was edited"
            )
        if slot.parameter == slot.name:
            return region_of(values_of(slot.name, slot.key), slot.region).to(torch.float32)
        if self._last is None or slot.name not in self._last[1] or self._last[0] != (what, slot.seed):
            parts = {name: values_of(name, key_of(slot.seed, name)) for name in self._parts(slot)}
            made = on_disk(self._model, parts)
            # One tensor under another name than planned: the loader puts it there all the same.
            self._last = ((what, slot.seed), {slot.name: next(iter(made.values()))} if len(made) == 1 else made)
        return region_of(self._last[1][slot.name], slot.region).to(torch.float32)

    def _parts(self, slot: Slot) -> list[str]:
        """Return the parameters that the tensor on disk is made of: one, or all that are fused there."""
        around = slot.parameter.rpartition(".")[0].rpartition(".")[0]
        near = {name: tensor for name, tensor in self._model.state_dict().items() if name.startswith(around)}
        found = [name for name in near if slot.name in on_disk(self._model, {name: near[name]})]
        return found if slot.parameter in found else [slot.parameter]

    def _declared(self, name: str, key: int) -> torch.Tensor:
        with quiet_library():
            values = self._recording.value(name, key)
        if bool(without_side_effects(values).any()):
            raise RecipeError(
                f"{name}: {type(self._model).__name__} gives it no value, neither in its constructor nor in "
                "`_init_weights`: plain transformers leaves it uninitialised. Give it a rule with a scheme of its own"
            )
        return values

    def _initialized(self, name: str, key: int, started: torch.Tensor) -> torch.Tensor:
        """Return the tensor after ``_init_weights``, from these values on."""
        try:
            return self._run(name, key, {name: started.clone()})
        except RecipeError:
            beside = {other: self._recording.value(other, key) for other in _other_tensors_of_layer(self._model, name)}
            if not beside:
                raise
            return self._run(name, key, {name: started, **beside})

    def _run(self, name: str, key: int, real: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Return one tensor after ``_init_weights``, while others of its layer are real too."""
        with quiet_library(), ExitStack() as stack:
            held = {other: stack.enter_context(_one_real_tensor(self._model, other, real[other])) for other in real}
            for other, tensor in held.items():
                mark_loaded(tensor, other != name)
            torch.default_generator.manual_seed(key)  # the CPU's alone, which `quiet` puts back
            for module, owner in _owners_outward(self._model, name):
                self._init(module, owner, name)
        return held[name].detach()

    @staticmethod
    def _init(module: torch.nn.Module, owner: PreTrainedModel, parameter: str) -> None:
        try:
            with torch.no_grad(), library_init.guard_torch_init_functions():
                plain_call(type(owner), "_init_weights")(owner, module)
        except (RuntimeError, NotImplementedError, TypeError, ValueError, AttributeError) as error:
            raise RecipeError(
                f"{parameter}: {type(owner).__name__}'s own `_init_weights` fails on {type(module).__name__} alone "
                f"({error}); give the tensor a rule with a scheme of its own"
            ) from error


def _has_tensor(model: torch.nn.Module, name: str) -> bool:
    path, _, leaf = name.rpartition(".")
    try:
        module = model.get_submodule(path)
    except AttributeError:
        return False
    return any(store.get(leaf) is not None for store in (module._parameters, module._buffers))


def _named_tensors(model: torch.nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    yield from model.named_parameters(remove_duplicate=False)
    yield from model.named_buffers(remove_duplicate=False)


def _owners_outward(model: PreTrainedModel, parameter: str) -> Iterator[tuple[torch.nn.Module, PreTrainedModel]]:
    """Yield the module that owns a tensor and those around it, each with the model that initializes it."""
    path, module, owner = [], model, model
    path.append((module, owner))
    for name in parameter.split(".")[:-1]:
        module = getattr(module, name)
        owner = module if isinstance(module, PreTrainedModel) else owner
        path.append((module, owner))
    yield from reversed(path)


def _other_tensors_of_layer(model: PreTrainedModel, name: str) -> list[str]:
    """Return the other tensors of the layer that owns this one: a parametrized weight is computed from several."""
    parent, _, _ = name.rpartition(".")
    layer = parent.partition("parametrizations.")[0].rstrip(".")
    names = [other for other, _ in _named_tensors(model.get_submodule(layer))]
    own = [other for other in names if "." not in other or other.startswith("parametrizations.")]
    return [full for other in own if (full := f"{layer}.{other}" if layer else other) != name]


@contextmanager
def _one_real_tensor(model: torch.nn.Module, name: str, started: torch.Tensor) -> Iterator[torch.Tensor]:
    """Put one real tensor into the model."""
    path, _, leaf = name.rpartition(".")
    module = model.get_submodule(path)
    store: dict[str, Any] = module._parameters if leaf in module._parameters else module._buffers
    before = store[leaf]
    held = torch.nn.Parameter(started, requires_grad=False) if leaf in module._parameters else started
    store[leaf] = held
    try:
        yield held
    finally:
        store[leaf] = before
