"""The architecture's own values of one tensor, without the model in memory: declared by it, or initialized."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from copy import copy, deepcopy
from functools import cached_property
from typing import Any

import torch
from torch.utils._pytree import tree_leaves
from transformers import PreTrainedModel

from hf_init._architecture.constructor_faults import UNBUILDABLE
from hf_init._architecture.describe import buffers
from hf_init._architecture.init_pass import InitPass, ModuleFunction, scheme_text, standing_for
from hf_init._architecture.library import is_the_librarys, on_disk, quiet_library, untouched_random_state
from hf_init._architecture.recording import Recording, Tape, named_tensors, storage_id
from hf_init._architecture.replay import replay
from hf_init._architecture.zero3 import without_zero3
from hf_init._checkpoint import region_of
from hf_init._errors import RecipeError
from hf_init._tensors import Slot, key_of
from hf_init._text import one_line, qualified_name

FEW = 16
"""So many tensors are recorded each alone; who asks for more gets a recording of the whole model."""


class NotRecordedError(RecipeError):
    """A class can't be built without values."""


class InitialValues:
    """The values of a freshly built model, tensor by tensor: the construction is recorded on meta, and done again.

    Args:
        build: gives a model on meta, when it is needed: of the class and config that are recorded.
        args, kwargs: what its class's constructor takes besides the config.
        function: the user's own, which is run over every module after ``_init_weights``.
    """

    def __init__(
        self,
        build: Callable[[], PreTrainedModel],
        args: tuple[object, ...] = (),
        kwargs: Mapping[str, object] | None = None,
        function: ModuleFunction | None = None,
    ):
        self._build = build
        self._made: Mapping[str, torch.Tensor] = {}
        self._arguments = (args, dict(kwargs or {}))
        self._function = function
        self._recordings: dict[tuple[int, bool], Recording] = {}
        self._alone: dict[tuple[int, str], Recording | None] = {}
        self._last: tuple[tuple[bool, int], dict[str, torch.Tensor]] | None = None

    def architecture(self, slot: Slot) -> torch.Tensor:
        """Return the slot's values in a freshly built model: in the dtype that it gives them, of ``slot.shape``.

        Raises:
            RecipeError: neither ``_init_weights`` nor the constructor gives the tensor a value, or one fails on it.
        """
        return self._values(slot, declared=False)

    def declared(self, slot: Slot) -> torch.Tensor:
        """Return the slot's values as the constructor leaves them, before ``_init_weights``.

        Raises:
            RecipeError: the constructor gives the tensor no value.
        """
        return self._values(slot, declared=True)

    def given(self, slot: Slot) -> torch.Tensor | None:
        """Return the slot's values that were made from data: float32, of ``slot.shape``; None where there are none."""
        found = self._made.get(slot.name)
        return None if found is None else region_of(found, slot.region)

    def knowing(self, values: Mapping[str, torch.Tensor]) -> InitialValues:
        """Return the same, with tensors that were made from data, by their names on disk: float32, whole."""
        other = copy(self)
        other._made = values
        return other

    @property
    def known(self) -> Mapping[str, torch.Tensor]:
        """Return the tensors that were made from data."""
        return self._made

    def on(self, build: Callable[[], PreTrainedModel]) -> InitialValues:
        """Return the same, on another model of the same class and config."""
        other = copy(self)
        other._build = build
        vars(other).pop("_model", None)
        return other

    def fresh(self, parameter: str, seed: int, declared: bool = False) -> torch.Tensor:
        """Return a parameter or buffer of a freshly built model, by its name in memory.

        Raises:
            RecipeError: as ``architecture``.
        """
        with untouched_random_state():
            values = replay(self._recording(seed, declared, parameter), parameter, seed)
        if values is None:
            in_no_file = parameter in buffers(self._model)[1]
            raise RecipeError(
                f"{parameter}: {type(self._model).__name__} gives it no value, neither in its constructor nor in "
                "`_init_weights`: plain transformers leaves it uninitialised. "
                + ("Give it one there (`torch.zeros`)" if in_no_file else "Give it a rule with a scheme of its own")
            )
        return values

    def has(self, parameter: str, shape: tuple[int, ...], seed: int) -> bool:
        """Return whether a freshly built model gives a tensor of this name and shape values; False if none can be."""
        try:
            recording = self._recording(seed)
        except NotRecordedError:
            return False
        return recording.knows(parameter) and tuple(recording.tensors[parameter].shape) == shape

    def is_function(self, parameter: str, seed: int) -> bool:
        """Return whether the user's function writes to a tensor."""
        recording, name = self._recording(seed), qualified_name(self._function) if self._function else ""
        own = storage_id(recording.tensors[parameter])
        calls = (recording.calls[index] for index in recording.leading_to(parameter))
        return any(call.by == name and own in call.writes for call in calls)

    def origin(self, parameter: str, seed: int, declared: bool = False) -> str:
        """Return what a fresh model's tensor is filled with, and by whom: ``normal(std=0.02), BertModel's own``.

        Empty where a freshly built model has no such tensor.
        """
        recording = self._recording(seed, declared, parameter)
        if parameter not in recording.tensors:
            return ""
        own = storage_id(recording.tensors[parameter])
        calls = [recording.calls[index] for index in recording.leading_to(parameter)]
        made = [call for call in calls if own in call.writes and not call.fresh]
        last = made[-1] if made else None
        whole = next((call for call in reversed(made) if call.whole), None)
        if last is None:
            return "by the constructor"
        text = scheme_text(whole if whole is not None and whole.by == last.by else last)  # a row may be set apart
        if self._function is not None and last.by == qualified_name(self._function):
            return f"{text}, by {last.by}"
        return f"{text}, {last.by}'s own" if last.by else f"{text}, by the constructor"

    @cached_property
    def _model(self) -> PreTrainedModel:
        return self._build()

    def _recording(self, seed: int, declared: bool = False, parameter: str = "") -> Recording:
        """Return the recording of a whole model, or of one tensor if that alone is asked for, and few before it."""
        if (seed, declared) not in self._recordings and not declared and parameter and len(self._alone) < FEW:
            if (seed, parameter) not in self._alone and self._function is None:
                self._alone[seed, parameter] = record_one(self._model, parameter, seed)
            if alone := self._alone.get((seed, parameter)):
                return alone
        if (seed, declared) not in self._recordings:
            args, kwargs = self._arguments
            made = record(self._model, args, kwargs, seed, declared, self._function)
            self._recordings[seed, declared] = made
        return self._recordings[seed, declared]

    def _values(self, slot: Slot, declared: bool) -> torch.Tensor:
        if slot.parameter not in self._recording(slot.seed, declared, slot.parameter).tensors:
            raise RecipeError(
                f"{slot.name}: {type(self._model).__name__} has no tensor {slot.parameter!r} to ask for its values; "
                "the plan is of another model, or was edited"
            )
        if slot.parameter == slot.name:
            return region_of(self.fresh(slot.name, slot.seed, declared), slot.region)
        if self._last is None or slot.name not in self._last[1] or self._last[0] != (declared, slot.seed):
            parts = {name: self.fresh(name, slot.seed, declared) for name in self._parts(slot)}
            made = on_disk(self._model, parts)
            # One tensor under another name than planned: the loader puts it there all the same.
            whole = {slot.name: next(iter(made.values()))} if len(made) == 1 else made
            self._last = ((declared, slot.seed), whole)
        return region_of(self._last[1][slot.name], slot.region)

    def _parts(self, slot: Slot) -> list[str]:
        """Return the parameters that the tensor on disk is made of: one, or all that are fused there."""
        around = slot.parameter.rpartition(".")[0].rpartition(".")[0]
        near = {name: tensor for name, tensor in self._model.state_dict().items() if name.startswith(around)}
        found = [name for name in near if slot.name in on_disk(self._model, {name: near[name]})]
        return found if slot.parameter in found else [slot.parameter]


def record(
    model: PreTrainedModel,
    args: tuple[object, ...],
    kwargs: Mapping[str, object],
    seed: int,
    declared: bool = False,
    function: ModuleFunction | None = None,
) -> Recording:
    """Record the making of another model of the same class and config.

    Args:
        declared: by its constructor alone; otherwise ``_init_weights`` has its turn too, and the user's function.

    Raises:
        NotRecordedError: it can't be made on meta.
    """
    cls, config = type(model), deepcopy(model.config)
    args, kwargs = _without_values((args, dict(kwargs)))
    tape = Tape(key_of(seed, cls.__name__))
    initialize = InitPass(tape)
    try:
        posted = nullcontext() if declared else initialize.at_post_init()
        with quiet_library(), without_zero3(), tape.recording(), posted:
            other = cls(config, *args, **kwargs)
            if not declared and getattr(cls, "init_nested", False):
                initialize.reach_nested(other)
            if not declared and function is not None:
                initialize.apply(other, function)
            return Recording(tape, named_tensors(other))
    except UNBUILDABLE as error:
        raise NotRecordedError(
            f"{cls.__name__} can't be built without values to look at what it gives its tensors ({one_line(error)})"
        ) from error


def record_one(model: PreTrainedModel, name: str, seed: int) -> Recording | None:
    """Record what ``_init_weights`` does to one tensor, on a model that is there: fast, where little is new.

    None if the values depend on more, such as the constructor's, or if code of the user's own has a part in them.
    """
    path, _, leaf = name.rpartition(".")
    owner = dict(model.named_modules(remove_duplicate=False)).get(path)
    stores: list[dict[str, Any]] = [] if owner is None else [owner._parameters, owner._buffers]
    store = next((each for each in stores if each.get(leaf) is not None), None)
    tied = any(name in pair for pair in model.all_tied_weights_keys.items())
    # A layer with a pass of its own, as in ViTMAE, fills those in it too, and the library runs it in another way.
    around = [each for at, each in model.named_modules() if at and f"{path}.".startswith(f"{at}.")]
    own = any(hasattr(each, "initialize_weights") and not isinstance(each, PreTrainedModel) for each in around)
    if store is None or tied or own or not is_the_librarys(type(model)):
        return None
    held, tape = store[leaf], Tape(key_of(seed, type(model).__name__))
    dtype = torch.float32 if held.dtype in (torch.float16, torch.bfloat16) else held.dtype  # rounded once, at the end
    store[leaf] = standing_for(held, torch.empty(held.shape, dtype=dtype, device="meta"))
    try:
        with quiet_library(), tape.recording():
            InitPass(tape).reach_one(model, name)
        recording = Recording(tape, [(name, store[leaf])])
    finally:
        store[leaf] = held
    computed = dtype != held.dtype and len(recording.leading_to(name)) > 1  # maybe in its neighbours' few bits
    return recording if recording.starts_from_nothing(name) and not computed else None


def _without_values(arguments: tuple[tuple[object, ...], dict[str, object]]) -> Any:
    """Return what a constructor takes with copies on meta of the modules in it, which recording mustn't touch."""
    modules = [value for value in tree_leaves(arguments) if isinstance(value, torch.nn.Module)]
    if not modules:
        return arguments
    tensors = [tensor for module in modules for _, tensor in named_tensors(module)]
    empty = {id(tensor): torch.empty_like(tensor, device="meta") for tensor in tensors}
    whole = {
        id(tensor): torch.nn.Parameter(empty[id(tensor)], tensor.requires_grad)
        if isinstance(tensor, torch.nn.Parameter)
        else empty[id(tensor)]
        for tensor in tensors
    }
    return deepcopy(arguments, whole)
