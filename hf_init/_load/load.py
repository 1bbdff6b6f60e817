"""Into memory: a checkpoint in a larger architecture, filled and proved."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from types import new_class
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypedDict, TypeVar, overload

import torch
from transformers import GenerationConfig, PreTrainedModel

from hf_init._architecture import (
    Architecture,
    NamedClass,
    as_zero3_loads,
    buffers,
    is_zero3_enabled,
    load_into,
    load_plainly,
    on_disk,
    own_loader,
    tolerated,
    with_zero3_dtype,
    without_zero3,
)
from hf_init._architecture import find_tensor as tensor_of
from hf_init._checkpoint import Bases, Reader, equal_bytes
from hf_init._errors import PlanError
from hf_init._load.prove import LoadedTensor, StateDict, compose, prove
from hf_init._options import LoadOptions
from hf_init._plan import Fill, Plan, TensorPlan
from hf_init._prepare import Prepared, check_in_memory, prepare_plan
from hf_init._shards import gathered_tensor, is_sharded
from hf_init._signature import takes
from hf_init._tensors import Status
from hf_init._text import join_names, one_line
from hf_init.schemes import Distilled, Fitted, Zeros

if TYPE_CHECKING:
    from typing_extensions import Unpack


ModelT = TypeVar("ModelT", bound=PreTrainedModel)


class LoadingInfo(TypedDict):
    """What the library found while it loaded a state dict."""

    missing_keys: set[str]
    unexpected_keys: set[str]
    mismatched_keys: set[tuple[str, tuple[int, ...], tuple[int, ...]]]
    error_msgs: list[str]


@overload
def from_pretrained(
    cls: type[ModelT],
    base: Bases,
    *model_args: object,
    output_loading_info: Literal[False] = False,
    **options: Unpack[LoadOptions],
) -> ModelT: ...
@overload
def from_pretrained(
    cls: type[ModelT],
    base: Bases,
    *model_args: object,
    output_loading_info: Literal[True],
    **options: Unpack[LoadOptions],
) -> tuple[ModelT, LoadingInfo]: ...
@overload
def from_pretrained(
    cls: NamedClass,
    base: Bases,
    *model_args: object,
    output_loading_info: Literal[False] = False,
    **options: Unpack[LoadOptions],
) -> PreTrainedModel: ...
@overload
def from_pretrained(
    cls: NamedClass,
    base: Bases,
    *model_args: object,
    output_loading_info: Literal[True],
    **options: Unpack[LoadOptions],
) -> tuple[PreTrainedModel, LoadingInfo]: ...
@takes(LoadOptions, others=True)
def from_pretrained(
    cls: Architecture,
    base: Bases,
    *model_args: object,
    output_loading_info: bool = False,
    **options: Unpack[LoadOptions],
) -> PreTrainedModel | tuple[PreTrainedModel, LoadingInfo]:
    """Load a checkpoint into a larger architecture: fill what is new by the recipe, and verify the rest.

    The new and resized tensors are made first, in float32, rounded once to the model's dtype; then the library loads
    a state dict in which nothing is missing; then every tensor is compared with the files, byte for byte.

    Args:
        cls: a ``PreTrainedModel`` class or an ``AutoModelFor*`` class.
        base: a checkpoint folder or a hub id; or several, ``{"vision_tower.": FOLDER, ...}`` by the prefix that the
            names of each get; ``config`` is made of theirs, or that of the whole.
        model_args: what the class's constructor takes besides its config.
        output_loading_info: return ``(model, info)`` as the library does.
        options: as listed below. As in the library, a keyword that is none of them sets a value of the config
            (``num_hidden_layers=7``) or goes to the class's constructor; a type checker accepts these as
            ``config={"num_hidden_layers": 7}`` and ``model_kwargs={...}``.

    Returns:
        The model, in evaluation mode, with ``init_plan`` and ``init_report``.

    Raises:
        HfInitError: bad input, or a byte that isn't what it should be; the message says what to do.

    Example::

        model = from_pretrained(BertForSequenceClassification, "base", num_labels=3)
        print(model.init_plan)
    """
    return load_class(cls, base, *model_args, output_loading_info=output_loading_info, **options)


def load_class(
    cls: Architecture,
    base: Bases,
    *model_args: object,
    past: type | None = None,
    output_loading_info: bool = False,
    **options: Any,
) -> Any:
    """Load as ``from_pretrained`` does, through what the class does around it in a ``from_pretrained`` of its own.

    Args:
        past: a base of the class whose own method was called already.
    """
    said = {"output_loading_info": True} if output_loading_info else {}
    if isinstance(cls, type) and issubclass(cls, PreTrainedModel) and (own := own_loader(cls, past)):
        return _load_around(own, cls, base, *model_args, **said, **options)
    _check_places(options.get("device_map"))
    prepared = prepare_plan(base, cls, *model_args, **with_zero3_dtype(options))
    check_in_memory(prepared.target)
    if prepared.target.cls is not cls and own_loader(prepared.target.cls):
        return load_class(prepared.target.cls, base, *model_args, **said, **options)
    model, info = _load_proved(with_fitted_values(prepared), spend=True)
    return (model, _with_what_was_lacking(prepared, info)) if output_loading_info else model


_NOT_HERE = (
    "where what is loaded can't be compared with the files; extend folder to folder (hf_init.extend), and load the "
    "result with plain transformers"
)


def _check_places(device_map: object) -> None:
    """Raise PlanError if a model is asked for where its values couldn't be compared with the files."""
    if torch.empty(0).device.type == "meta":
        raise PlanError(
            'the default device is meta (`torch.device("meta")` around the call, or `torch.set_default_device`), where '
            "a model has no values; load outside of it, or ask hf_init.plan, which needs no memory"
        )
    places: Mapping[object, object] = device_map if isinstance(device_map, Mapping) else {"": device_map}
    away = {str(name) or "the model": str(place) for name, place in places.items() if str(place) in ("disk", "meta")}
    if away:
        raise PlanError(f"device_map puts {join_names([*away])} on {join_names(sorted({*away.values()}))}, {_NOT_HERE}")


def _with_what_was_lacking(prepared: Prepared, info: LoadingInfo) -> LoadingInfo:
    """Return what the library says of a load from a state dict that lacks nothing, with what the files lacked."""
    patterns, entries = tolerated(prepared.model), prepared.source.entries
    addresses = {tensor.name: tensor.address for tensor in prepared.target.source}
    unused = (addresses.get(tensor.name, (tensor.name,)) for tensor in prepared.plan.unused)
    first = {tensor.name for tensor in prepared.plan.tensors if tensor.status is Status.NEW}
    new = (tensor.parameter for tensor in prepared.plan.tensors if {tensor.name, tensor.tied_to} & first)
    resized = (tensor for tensor in prepared.plan.tensors if tensor.status is Status.RESIZED and tensor.kept)
    shapes = ((t.parameter, entries[t.kept[0].source].shape, t.shape) for t in resized)
    return {
        **info,
        "missing_keys": {name for name in new if not any(re.search(pattern, name) for pattern in patterns)},
        "unexpected_keys": {str(address[0]) for address in unused},
        "mismatched_keys": {each for each in shapes if each[1] != each[2]},
    }


class HandedOn(PreTrainedModel):
    """Stands behind a class that has a ``from_pretrained`` of its own, in the place of the library's."""

    load: ClassVar[Callable[..., Any]]

    @classmethod
    def from_pretrained(cls, *args: Any, **options: Any) -> Any:
        """Load what the class hands on by ``super().from_pretrained``."""
        return cls.load(*args, **options)


def _load_around(own: Callable[..., Any], cls: type[PreTrainedModel], *args: object, **options: object) -> Any:
    """Call a class's own ``from_pretrained`` so that what it asks the library for is loaded and proved here."""
    loaded: list[object] = []

    def load(*handed: Any, **rest: Any) -> Any:
        loaded.append(load_class(cls, *handed, past=PreTrainedModel, **rest))
        return loaded[-1]

    body = {"load": staticmethod(load), "__module__": cls.__module__}
    standing = new_class(cls.__name__, (cls, HandedOn), exec_body=lambda names: names.update(body))
    where = f"{cls.__name__}.from_pretrained ({own.__code__.co_filename}:{own.__code__.co_firstlineno})"
    try:
        result = own(standing, *args, **options)
    except OSError as error:
        raise PlanError(
            f"{where} can't read what it asks for beside the weights: {one_line(error)}. Put the file there, as it is "
            "in the model's own repository; plain transformers asks for it as well"
        ) from error
    if not loaded:
        raise PlanError(
            f"{where} doesn't call super().from_pretrained(...), so nothing of what it loads could be proved; load by "
            "that call, or extend folder to folder and load the result with plain transformers"
        )
    return result


def with_fitted_values(prepared: Prepared) -> Prepared:
    """Return the plan with the values that are made from data, for which a model is loaded once."""
    makers = [change.values for change in prepared.change_plans if change.values is not None]
    if not makers:
        return prepared
    values: dict[str, torch.Tensor] = {}
    for make in makers:
        values |= make(prepared.plan, lambda: _with_zeros_loaded(prepared))
    return replace(prepared, initial_values=prepared.initial_values.knowing(values))


def _with_zeros_loaded(prepared: Prepared) -> PreTrainedModel:
    """Load the model with zeros for what is made from data, whole on each rank."""

    def zeroed(fill: Fill) -> Fill:
        return replace(fill, scheme=Zeros()) if isinstance(fill.scheme, (Distilled, Fitted)) else fill

    tensors = tuple(replace(tensor, new=tuple(map(zeroed, tensor.new))) for tensor in prepared.plan.tensors)
    whole = {key: value for key, value in prepared.target.load_options.items() if key != "distributed_config"}
    target = replace(prepared.target, load_options=whole)
    with without_zero3():
        return _load_proved(replace(prepared, plan=replace(prepared.plan, tensors=tensors), target=target))[0]


def _load_proved(prepared: Prepared, spend: bool = False) -> tuple[PreTrainedModel, LoadingInfo]:
    """Return the model and what the library said, after every tensor was compared with the files.

    Args:
        spend: load into the model that was planned on, if that can be: nobody else needs it.
    """
    divided = is_zero3_enabled() or prepared.target.load_options.get("distributed_config") is not None
    spend = spend and prepared.target.is_bare and not divided
    seed, values = prepared.plan.seed, prepared.initial_values
    wanted = {name: values.fresh(name, seed) for name in buffers(prepared.model)[1]}  # in no file
    frozen = prepared.target.frozen
    with Reader(prepared.source) as reader:
        state = compose(prepared.plan, reader, prepared.initial_values)
        with torch.random.fork_rng(devices=[]):  # a constructor may draw, though all that it draws is loaded over
            model, info = _library_load(prepared, state, prepared.model if spend else None)
    if not divided:
        state.values.clear()  # the model has its own, and memory is short here
    prepared = prepared.spent() if spend else prepared
    # Through a mapping of its own: the model may hold the first one's memory, and a write to it would go unseen.
    with Reader(prepared.source) as reader:
        report = prove(prepared.plan, reader, prepared.initial_values, state, _finder_by_name(model, prepared))
    report = replace(report, restored=(*report.restored, *_restore_unsaved_buffers(model, wanted)))
    # What the library does only when it is given a name instead of a state dict.
    base = prepared.target.base
    model.config.name_or_path = model.name_or_path = base.name
    asked = prepared.target.load_options.get("generation_config")
    if asked is None and model.can_generate() and (base.folder / "generation_config.json").is_file():
        model.generation_config = GenerationConfig.from_pretrained(str(base.folder))
    for change in prepared.change_plans:
        change.finish(model)
    for name, parameter in model.named_parameters():
        # The loader freezes what isn't floating, complex numbers among it.
        parameter.requires_grad_((parameter.requires_grad or parameter.is_complex()) and name not in frozen)
    place = None if prepared.source.parts else base.folder  # of a hub id, which is its name_or_path
    vars(model).update(init_plan=prepared.plan, init_report=report, init_base=place)
    return model, info


def _library_load(
    prepared: Prepared, state: StateDict, into: PreTrainedModel | None = None
) -> tuple[PreTrainedModel, LoadingInfo]:
    """Return what the library loads of a state dict in which nothing is missing.

    Args:
        into: a model on meta; by default, the library makes one.
    """
    target = prepared.target
    load = {key: value for key, value in target.load_options.items() if key != "key_mapping"}  # which is planned
    options = dict(dtype=target.dtype, output_loading_info=True, **load)
    values = as_zero3_loads(state.values) if is_zero3_enabled() else state.values
    try:
        if into is not None:
            return _check_whole(prepared.plan, load_into(into, state.values, **options))
        options |= dict(config=target.config, state_dict=values, **target.model_kwargs)
        return _check_whole(prepared.plan, load_plainly(target.cls, None, *target.model_args, **options))
    except (ValueError, AssertionError) as error:  # torch asserts that it was built for a device
        if load.get("device_map") is None:
            raise
        spilled = "offload" in str(error)  # what the library then advises, a folder for it, would prove nothing
        why = f"the model doesn't fit, and a part of it would go to disk, {_NOT_HERE}" if spilled else one_line(error)
        raise PlanError(f"device_map={load['device_map']!r}: {why}") from error


def _check_whole(plan: Plan, loaded: tuple[PreTrainedModel, LoadingInfo]) -> tuple[PreTrainedModel, LoadingInfo]:
    """Return what was loaded, or raise PlanError if something is missing in it."""
    info = loaded[1]
    left_out = {tensor.parameter for tensor in plan.tensors if tensor.left_out}
    missing = sorted(set(info["missing_keys"]) - left_out)
    if missing or info["mismatched_keys"]:
        raise PlanError(f"{plan.architecture}: the library found no value for {missing or info['mismatched_keys']}")
    return loaded


def _finder_by_name(model: PreTrainedModel, prepared: Prepared) -> Callable[[TensorPlan], LoadedTensor | None]:
    """Return how to find a model's tensor by its name on disk; the model's own where nothing was converted."""
    state = model.state_dict(keep_vars=True)
    memory = {name: each if is_sharded(each) else each.detach() for name, each in state.items()}
    disk = on_disk(model, {n: gathered_tensor(each) for n, each in memory.items()}) if prepared.converted else {}

    def find(tensor: TensorPlan) -> LoadedTensor | None:
        own = tensor.name not in prepared.converted
        found = memory.get(tensor.parameter) if own else disk.get(tensor.name)
        return None if found is None else LoadedTensor(found, own)

    return find


def _restore_unsaved_buffers(model: PreTrainedModel, wanted: Mapping[str, torch.Tensor]) -> tuple[str, ...]:
    """Give every buffer that no file holds its value; return the names of those that held another."""
    restored = []
    for name, want in wanted.items():
        held = tensor_of(model, name)
        want = want.to(held.dtype)
        if held.device.type != "meta" and not equal_bytes(held, want):
            with torch.no_grad():
                held.copy_(want)
            restored.append(name)
    return tuple(restored)
