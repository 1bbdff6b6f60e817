"""What hf_init asks of transformers' own loader: the names on disk, the names in memory, the ties. On meta tensors.

Everything that isn't public in transformers is used here and nowhere else; a test each says when it changes.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from copy import deepcopy
from logging import ERROR
from pathlib import Path
from threading import RLock
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedConfig, PreTrainedModel
from transformers import initialization as library_init
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import (
    WeightConverter,
    WeightRenaming,
    WeightTransform,
    apply_renamings,
    dot_natural_key,
    rename_source_key,
    revert_weight_conversion,
)
from transformers.dynamic_module_utils import custom_object_save
from transformers.utils import logging

from hf_init._architecture.zero3 import without_zero3
from hf_init._errors import PlanError

Address = tuple[Any, ...]

_RANDOM_STATE = RLock()
_LIBRARYS = frozenset(["transformers", "torch", "builtins", "abc", "typing"])


@contextmanager
def quiet_library() -> Iterator[None]:
    """Run without the library's progress bars and reports, and without a trace in the caller's random state."""
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    loud = verbosity != ERROR  # each change makes every logger of the process forget its level
    if loud:
        logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with untouched_random_state():
            yield
    finally:
        if loud:
            logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


@contextmanager
def untouched_random_state() -> Iterator[None]:
    """Put the CPU's random state back: torch's, numpy's and Python's, by all of which a class of one's own may draw.

    One thread at a time: the state is the process's, and what is built meanwhile is recorded or drawn under seeds.
    """
    with _RANDOM_STATE:
        numbers, choices = np.random.get_state(), random.getstate()
        try:
            with torch.random.fork_rng(devices=[]):
                yield
        finally:
            np.random.set_state(numbers)
            random.setstate(choices)


@contextmanager
def building_on_meta() -> Iterator[None]:
    """Make models without values, whatever loads of this process are divided by."""
    with quiet_library(), without_zero3(), torch.device("meta"):
        yield


def plain_call(cls: type, name: str) -> Any:
    """Return the library's own method of a class, past the mixin's."""
    for base in cls.__mro__:
        if name in base.__dict__ and "_hf_init_mixin" not in base.__dict__:
            return base.__dict__[name]
    raise PlanError(f"{cls.__name__} has no {name}; put InitMixin before a PreTrainedModel class")


def own_loader(cls: type[PreTrainedModel], past: type | None = None) -> Callable[..., Any] | None:
    """Return the ``from_pretrained`` that a class has of its own, unbound; None where it has the library's.

    Args:
        past: a base of the class whose own method was called already: only those after it count.
    """
    after = cls.__mro__[cls.__mro__.index(past) + 1 :] if past else cls.__mro__
    for base in after if PreTrainedModel in after else ():
        if base is PreTrainedModel:
            break
        if "from_pretrained" in base.__dict__ and "_hf_init_mixin" not in base.__dict__:
            return base.__dict__["from_pretrained"].__func__
    return None


def load_plainly(cls: type[PreTrainedModel], *args: object, **options: object) -> Any:
    """Call the library's ``from_pretrained`` for a class, past one of its own."""
    return PreTrainedModel.__dict__["from_pretrained"].__func__(cls, *args, **options)


def load_on_meta(
    cls: type[PreTrainedModel],
    config: PreTrainedConfig,
    tensors: Mapping[str, torch.Tensor],
    model_args: Sequence[object] = (),
    **options: object,
) -> PreTrainedModel:
    """Return the model as the library would load it from these (meta) tensors: converted, tied, in its final dtypes.

    Past a class's own ``from_pretrained``, which may want files that meta tensors don't have.
    """
    with quiet_library(), without_zero3():
        return load_plainly(
            cls,
            None,
            *model_args,
            config=config,
            state_dict=dict(tensors),
            device_map="meta",
            ignore_mismatched_sizes=True,
            **options,
        )


def build_on_meta(
    cls: type[PreTrainedModel], config: PreTrainedConfig, names: Iterable[str], dtype: torch.dtype, **options: object
) -> tuple[PreTrainedModel, Addresses] | None:
    """Return what ``load_on_meta`` gives for tensors of these names, by the constructor alone: much faster.

    With the addresses of the model, which tell what loading has to do. None where loading changes the model: where it
    casts some tensors, or fuses layers.
    """
    if getattr(config, "fusion_config", None) is not None:
        return None
    drawing = without_drawing() if is_the_librarys(cls) else nullcontext()
    with building_on_meta(), library_init.meta_device_safe_creation_ops(), drawing:
        model = PreTrainedModel.__dict__["_from_config"].__func__(cls, deepcopy(config), dtype=dtype, **options)
    if not hasattr(model, "all_tied_weights_keys"):
        raise PlanError(
            f"{cls.__name__} doesn't end its __init__ with self.post_init(), and transformers can load no class that "
            "doesn't; add it"
        )
    if model._get_dtype_plan(dtype):
        return None
    addresses = Addresses(model)
    model._weight_conversions = addresses.used(names)  # as the loader leaves it: ``on_disk`` reads it
    model.tie_weights(recompute_mapping=False)
    return model, addresses


class _Standing:
    """In the place of a model's class: who asks it for a model gets the one that is there."""

    def __init__(self, model: PreTrainedModel) -> None:
        self._model = model

    def __call__(self, config: object, *args: object, **kwargs: object) -> PreTrainedModel:
        return self._model

    def __getattr__(self, name: str) -> object:
        return getattr(type(self._model), name)


def load_into(model: PreTrainedModel, state: Mapping[str, object], **options: object) -> Any:
    """Load a state dict with the library's loader into a model of ``build_on_meta`` instead of one of its own."""
    stand_in: Any = _Standing(model)
    return load_plainly(stand_in, None, config=model.config, state_dict=state, **options)


def is_the_librarys(cls: type) -> bool:
    """Return whether a class is one of transformers itself, with none of the user's code in it."""
    return {base.__module__.partition(".")[0] for base in cls.__mro__} <= _LIBRARYS


def without_drawing() -> AbstractContextManager[None]:
    """Let torch's initialization functions leave meta tensors as they are: nothing is drawn, and it takes time."""
    return replaced_init_functions(_off_meta)


@contextmanager
def replaced_init_functions(
    replaced: Callable[[str, Callable[..., object]], Callable[..., object]],
) -> Iterator[None]:
    """Run with others in the place of torch's initialization functions, each made of a function's name and itself."""
    originals = dict(library_init.TORCH_INIT_FUNCTIONS)
    library_init.TORCH_INIT_FUNCTIONS.update({name: replaced(name, own) for name, own in originals.items()})
    try:
        with library_init.guard_torch_init_functions():
            yield
    finally:
        library_init.TORCH_INIT_FUNCTIONS.update(originals)


def _off_meta(name: str, function: Callable[..., object]) -> Callable[..., object]:
    """Return an initialization function that leaves meta tensors as they are."""

    def only_real(tensor: torch.Tensor, *args: object, **kwargs: object) -> object:
        return tensor if tensor.device.type == "meta" else function(tensor, *args, **kwargs)

    return only_real


class Addresses:
    """Where the loader of a model puts a tensor of a given name on disk.

    An address is ``(parameter, pattern, position)``: the parameter in memory; for a tensor that is converted on
    the way (an expert that becomes a slice of a fused tensor), the pattern that it enters by and its position among
    the tensors of that pattern. Two names with one address are interchangeable on disk.
    """

    def __init__(self, model: PreTrainedModel, key_mapping: dict[str, str] | None = None) -> None:
        self._transforms = get_model_conversion_mapping(model, key_mapping)
        self._renamings = [t for t in self._transforms if isinstance(t, WeightRenaming)]
        self._converters = [t for t in self._transforms if isinstance(t, WeightConverter)]
        self._prefix = model.base_model_prefix
        self._parameters = model.state_dict(keep_vars=True)  # for its names: nothing is detached
        self._known: dict[str, tuple[str, str | None]] = {}

    def of(self, names: Sequence[str]) -> dict[str, Address]:
        """Return the address of every name; a name that the model has no tensor for gets one of its own."""
        positions: Counter[tuple[str, str]] = Counter()
        found: dict[str, Address] = {}
        for name in sorted(names, key=dot_natural_key) if self._converters else names:
            parameter, pattern = self._renamed(name)
            if pattern is None:
                found[name] = (parameter,)
            else:
                found[name] = (parameter, pattern, positions[parameter, pattern])
                positions[parameter, pattern] += 1
        return found

    def used(self, names: Iterable[str]) -> list[WeightTransform]:
        """Return what the loader does to tensors of these names: its renamings and conversions that match one."""
        for name in names:
            self._renamed(name)
        return [transform for transform in self._transforms if transform.was_used()]

    def _renamed(self, name: str) -> tuple[str, str | None]:
        """Apply the loader's own rule, its second try without renamings included."""
        if name not in self._known:
            self._known[name] = self._asked(name)
        return self._known[name]

    def _asked(self, name: str) -> tuple[str, str | None]:
        renamed, pattern = rename_source_key(name, self._renamings, self._converters, self._prefix, self._parameters)
        if renamed not in self._parameters and name in self._parameters:
            return rename_source_key(name, [], [], self._prefix, self._parameters)
        return renamed, pattern


def names_after(key_mapping: Mapping[str, str] | None, names: Iterable[str]) -> list[str]:
    """Return names as the loader renames them for an option, before it does anything else."""
    renamings = [WeightRenaming(pattern, new) for pattern, new in (key_mapping or {}).items()]
    return [apply_renamings(name, renamings) for name in names]


def on_disk(model: PreTrainedModel, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return tensors of a model's state dict under the names and shapes that ``save_pretrained`` writes."""
    if getattr(model, "_weight_conversions", None) == []:  # nothing to revert, but the library would try every name
        return dict(sorted(tensors.items(), key=lambda named: dot_natural_key(named[0])))
    with quiet_library():
        return revert_weight_conversion(model, dict(tensors))


def takes_as_they_are(model: PreTrainedModel, tensors: Mapping[str, tuple[int, ...]]) -> bool:
    """Return whether a load of tensors of these names and shapes is certain to match the model one to one.

    It is where a class of the library's own needs no conversion, every name is one of its state dict and stays what it
    is, every shape is the one there, and what has no tensor is tied to one that has. False where it isn't certain:
    then the library has to be asked.
    """
    if not is_the_librarys(type(model)) or getattr(model, "_weight_conversions", None) != []:
        return False
    state, alias, addresses = model.state_dict(), tied_names(model), Addresses(model)
    if any(address != (name,) for name, address in addresses.of(list(tensors)).items()) or addresses.used(()):
        return False
    return {name: tuple(tensor.shape) for name, tensor in state.items() if name not in alias} == dict(tensors)


def tied_names(model: PreTrainedModel) -> dict[str, str]:
    """Return every tied name in the state dict with the name that the files hold, by the config's word."""
    if not model.all_tied_weights_keys:
        return {}
    held = model.state_dict().keys()
    declared = {alias: of for alias, of in model.all_tied_weights_keys.items() if alias in held and of in held}
    names: dict[str, str] = {}
    for alias, of in declared.items():
        seen = set[str]()
        while of in declared and of not in seen:
            seen.add(of)
            of = declared[of]
        names[alias] = of
    return names


def is_loaded(tensor: torch.Tensor) -> bool:
    """Return whether the library says that it loaded a tensor, or initialized it."""
    return bool(getattr(tensor, "_is_hf_initialized", False))


def save_code(model: PreTrainedModel, folder: Path) -> None:
    """Write the code of a model's class, and name it in the config, as ``save_pretrained`` does."""
    config: Any = model.config  # annotated as a mapping there, and an object by what it is asked for
    custom_object_save(model, folder, config=config)


def not_saved(model: PreTrainedModel) -> set[str]:
    """Return the names that ``save_pretrained`` leaves out on purpose."""
    return set(getattr(model, "_keys_to_ignore_on_save", None) or ())


def tolerated(model: PreTrainedModel) -> tuple[str, ...]:
    """Return patterns of names in memory that the class says a checkpoint may lack."""
    return tuple(sorted(getattr(model, "_keys_to_ignore_on_load_missing", None) or ()))


def ignored_on_load(model: PreTrainedModel) -> tuple[str, ...]:
    """Return patterns of names in a checkpoint that the class drops without a word."""
    patterns: set[str] = set(getattr(model, "_keys_to_ignore_on_load_unexpected", None) or ())
    buffers = [name for name, _ in model.named_buffers()]
    if any(name.endswith("rotary_emb.inv_freq") for name in buffers):
        patterns.add(r"rotary_emb\.inv_freq")
    if any(name.endswith("position_ids") for name in buffers):
        patterns.add(r"(^|\.)position_ids$")
    return tuple(sorted(patterns))
