"""Into memory: a checkpoint in a larger architecture, filled and proved."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Literal, TypedDict, TypeVar, overload

import torch
from transformers import GenerationConfig, PreTrainedModel

from hf_init._architecture import (
    UNBUILDABLE,
    Architecture,
    NamedClass,
    buffers,
    has_own_loader,
    load_into,
    on_disk,
    plain_loader,
)
from hf_init._architecture import find_tensor as tensor_of
from hf_init._checkpoint import Bases, Reader, equal_bytes
from hf_init._errors import PlanError
from hf_init._load.prove import LoadedTensor, StateDict, compose, prove
from hf_init._options import LoadOptions
from hf_init._plan import Fill, Plan, TensorPlan
from hf_init._prepare import Prepared, prepare_plan
from hf_init._signature import takes
from hf_init._tensors import key_of
from hf_init._text import one_line
from hf_init.schemes import Fitted, Zeros

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
            names of each get, with ``config`` that of the whole.
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
    model, info = _load_proved(with_fitted_values(prepare_plan(base, cls, *model_args, **options)), spend=True)
    return (model, info) if output_loading_info else model


def with_fitted_values(prepared: Prepared) -> Prepared:
    """Return the plan with the values that are made from data, for which the model is loaded once with zeros."""
    makers = [change.values for change in prepared.change_plans if change.values is not None]
    if not makers:
        return prepared
    model, _ = _load_proved(replace(prepared, plan=_with_zeros(prepared.plan)))
    values = {name: tensor for make in makers for name, tensor in make(model).items()}
    return replace(prepared, initial_values=prepared.initial_values.knowing(values))


def _with_zeros(plan: Plan) -> Plan:
    """Return the plan with zeros for what is made from data."""

    def zeroed(fill: Fill) -> Fill:
        return replace(fill, scheme=Zeros()) if isinstance(fill.scheme, Fitted) else fill

    return replace(plan, tensors=tuple(replace(t, new=tuple(map(zeroed, t.new))) for t in plan.tensors))


def _load_proved(prepared: Prepared, spend: bool = False) -> tuple[PreTrainedModel, LoadingInfo]:
    """Return the model and what the library said, after every tensor was compared with the files.

    Args:
        spend: load into the model that was planned on, if that can be: nobody else needs it.
    """
    spend = spend and prepared.target.is_bare and not has_own_loader(prepared.target.cls)
    seed, values = prepared.plan.seed, prepared.initial_values
    wanted = {name: values.fresh(name, key_of(seed, name)) for name in buffers(prepared.model)[1]}  # in no file
    with Reader(prepared.source) as reader:
        state = compose(prepared.plan, reader, prepared.initial_values)
        with torch.random.fork_rng(devices=[]):  # a constructor may draw, though all that it draws is loaded over
            model, info = _library_load(prepared, state, prepared.model if spend else None)
    prepared = prepared.spent() if spend else prepared
    # Through a mapping of its own: the model may hold the first one's memory, and a write to it would go unseen.
    with Reader(prepared.source) as reader:
        report = prove(prepared.plan, reader, prepared.initial_values, state.digests, _finder_by_name(model, prepared))
    report = replace(report, restored=(*report.restored, *_restore_unsaved_buffers(model, wanted)))
    _finish_model(model, prepared)
    vars(model).update(init_plan=prepared.plan, init_report=report)
    return model, info


def _library_load(
    prepared: Prepared, state: StateDict, into: PreTrainedModel | None = None
) -> tuple[PreTrainedModel, LoadingInfo]:
    """Return what the library loads of a state dict in which nothing is missing.

    Args:
        into: a model on meta; by default, the library makes one.
    """
    target = prepared.target
    load = {
        key: value for key, value in target.load_options.items() if key != "key_mapping"
    }  # the names are planned already
    options = dict(dtype=target.dtype, output_loading_info=True, **load)
    if into is not None:
        return _check_whole(prepared.plan, load_into(into, state.values, **options))
    options |= dict(config=target.config, state_dict=state.values, **target.model_kwargs)
    try:
        loaded = plain_loader(target.cls)(None, *target.model_args, **options)
    except (*UNBUILDABLE, OSError) as error:
        if not has_own_loader(target.cls):
            raise
        raise PlanError(
            f"{target.cls.__name__} has a from_pretrained of its own, which can't load from memory "
            f"({one_line(error)}); extend folder to folder, and load the result with plain transformers"
        ) from error
    return _check_whole(prepared.plan, loaded)


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
    memory = model.state_dict()
    disk = on_disk(model, memory) if prepared.converted else {}

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


def _finish_model(model: PreTrainedModel, prepared: Prepared) -> None:
    """Do what the library does only when it is given a name instead of a state dict."""
    target = prepared.target
    model.config.name_or_path = target.base.name
    model.name_or_path = target.base.name
    asked = target.load_options.get("generation_config")
    if asked is None and model.can_generate() and (target.base.folder / "generation_config.json").is_file():
        model.generation_config = GenerationConfig.from_pretrained(str(target.base.folder))
    for change in prepared.change_plans:
        change.finish(model)
