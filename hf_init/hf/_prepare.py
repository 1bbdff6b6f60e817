"""A target becomes a layout, a checkpoint becomes its source tensors: both in the names on disk, on meta."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any

import torch
from transformers import PreTrainedConfig, PreTrainedModel

from hf_init._checkpoint import Checkpoint, Entry
from hf_init._diff import Keep, compare
from hf_init._errors import HfInitError, PlanError
from hf_init._layout import describe, shared
from hf_init._plan import Plan, TensorPlan, make
from hf_init._recipe import RecipeLike, checked_seed
from hf_init._spec import Geometry, Layout, SourceTensor, TensorSpec, Tie
from hf_init._text import one_line, several
from hf_init.hf._context import Architecture
from hf_init.hf._library import (
    Address,
    Addresses,
    build_on_meta,
    ignored_on_load,
    load_on_meta,
    not_saved,
    on_disk,
    takes_as_they_are,
    ties,
)
from hf_init.hf._missing import Own
from hf_init.hf._multihead._origins import NOWHERE
from hf_init.hf._refusals import refuse_stranger, refuse_two_claims, refuse_unexpected
from hf_init.hf._target import LOAD_OPTIONS, Target, resolve
from hf_init.hf._ties import refuse_second_names
from hf_init.hf._wish import Scene, Terms
from hf_init.recipes import find

UNBUILDABLE = (
    ImportError,
    LookupError,
    TypeError,
    ValueError,
    AttributeError,
    RuntimeError,
    ArithmeticError,
    AssertionError,
)
"""What the constructors of models raise for values that they can't use."""

NOT_ON_META = ("device_map", "max_memory", "key_mapping")
IMPLEMENTATIONS = frozenset({"attn_implementation", "experts_implementation"})
WITHOUT_LOADING = frozenset(LOAD_OPTIONS) - {"use_kernels"}
"""Options that make no difference to how a model is built, or that its constructor is told of."""


@dataclass(frozen=True)
class Prepared:
    """A plan and what its executors need.

    Attributes:
        terms: of every wish.
        converted: names on disk of the tensors that the loader makes others of.
        bare: whether the model is as its constructor made it, so that a checkpoint can be loaded into it.
    """

    target: Target
    plan: Plan
    model: PreTrainedModel
    context: Architecture
    terms: tuple[Terms, ...] = ()
    converted: frozenset[str] = frozenset()
    bare: bool = False

    @property
    def source(self) -> Checkpoint:
        return self.target.source

    def spent(self) -> Prepared:
        """The same, for when a checkpoint was loaded into the model: its context builds another, if it needs one."""
        return replace(self, context=self.context.on(partial(on_meta, self.target)), bare=False)


def prepare(
    target: Target, recipe: RecipeLike = None, *, seed: int | None = None, keep: Keep | None = None, rules: Any = ()
) -> Prepared:
    """Plans a target: reads headers and shapes only.

    Raises:
        PlanError, RecipeError: see ``compare`` and ``make``.
    """
    first = (*rules, *(rule for wish in target.wishes for rule in wish.rules()))
    chosen = find(recipe).with_rules_first(first, None if seed is None else checked_seed(seed))
    model, found = _made(target)
    plainly = found or Addresses(model)
    layout = layout_of(model, plainly)
    mapping = target.load.get("key_mapping")  # renames what the source holds, not what is written
    addresses = Addresses(model, mapping) if mapping else plainly
    source = source_tensors(target.source, addresses, ignored_on_load(model))
    refuse_two_claims(target.source, source)
    own = cache(partial(_own, target))
    source += second_names(own, layout, addresses, source)
    layout = _without_unsaved(layout, not_saved(model), source)
    refuse_second_names(chosen, keep, layout)
    arguments = (target.model_args, target.model_kwargs)
    twin = partial(_twin, target)
    scene = Scene(target.origin, target.cls, target.config, model, layout, source, twin, tuple(keep or ()), arguments)
    terms = tuple(wish.terms(scene) for wish in target.wishes)
    wished = {name: how for term in terms for name, how in term.keep.items()}
    plan = make(compare(source, layout, keep, wished), chosen, layout, [term.fills for term in terms])
    record = {name: said for term in terms for name, said in term.record.items()}
    plan = replace(plan, notes=(*plan.notes, *(note for term in terms for note in term.notes)), record=record)
    refuse_unexpected(plan, scene, chosen, terms, own)
    refuse_stranger(plan, target, keep)
    converted = frozenset(tensor.name for tensor in layout.tensors if len(tensor.address) > 1)
    context = Architecture(lambda: model, target.model_args, target.model_kwargs)
    return Prepared(target, plan, model, context, terms, converted, bare=found is not None)


def layout_of(model: PreTrainedModel, addresses: Addresses | None = None) -> Layout:
    """What the files of a model hold, and where its loader puts them.

    Args:
        addresses: of the model, without renamings; made where they aren't at hand.
    """
    specs = describe(model)
    alias = _aliases(model)
    with torch.no_grad():
        state = model.state_dict(keep_vars=True)  # nothing is detached
        stored = on_disk(model, {name: tensor for name, tensor in state.items() if name not in alias})
    found = (addresses or Addresses(model)).of(list(stored))
    tensors = tuple(_spec(name, tensor, found[name], specs) for name, tensor in stored.items())
    return Layout(type(model).__name__, tensors, tuple(_ties(alias, tensors)), _std(model), _depth(model))


def source_tensors(source: Checkpoint, addresses: Addresses, ignored: Iterable[str]) -> tuple[SourceTensor, ...]:
    """The tensors of a checkpoint with the address that the target's loader gives each."""
    found = addresses.of(list(source.entries))
    drops = [re.compile(pattern) for pattern in ignored]
    return tuple(
        SourceTensor(
            name,
            entry.shape,
            entry.dtype,
            found[name],
            any(drop.search(found[name][0]) for drop in drops) and not found[name][0].startswith(NOWHERE),
        )
        for name, entry in source.entries.items()
    )


def _without_unsaved(layout: Layout, unsaved: set[str], source: Iterable[SourceTensor]) -> Layout:
    """The layout without what ``save_pretrained`` leaves out and the library makes anew; what a source holds stays."""
    held = {tensor.address for tensor in source}
    tensors = tuple(t for t in layout.tensors if t.parameter not in unsaved or t.address in held)
    return replace(layout, tensors=tensors)


def second_names(
    own: Callable[[], Own | None], layout: Layout, addresses: Addresses, source: tuple[SourceTensor, ...]
) -> tuple[SourceTensor, ...]:
    """What the source's own architecture ties: stored under one name, and there under another that the target has.

    The source's architecture is built (on meta) only where a target tensor is without a source and has the shape of
    one.
    """
    held = {tensor.address for tensor in source}
    lacking = [tensor for tensor in layout.tensors if tensor.address not in held]
    if {tensor.shape for tensor in lacking}.isdisjoint(tensor.shape for tensor in source):
        return ()
    by_name = {tensor.name: tensor for tensor in source}
    mine = own()
    other = {} if mine is None else dict(_stored_under(mine, list(by_name)))
    found = addresses.of(list(other))
    return tuple(
        replace(by_name[stored], address=found[name], second=True)
        for name, stored in other.items()
        if found[name] not in held
    )


def _own(target: Target) -> Own | None:
    """The checkpoint's own class with its own config, on meta; None where the class isn't at hand."""
    kind = target.origin.kind
    mine = next((cls for cls in target.cls.__mro__ if cls.__name__ == kind), None)
    try:
        own = resolve(target.folder, mine)
        if mine is target.cls:
            own = replace(own, model_args=target.model_args, model_kwargs=target.model_kwargs)
        model = on_meta(own)
    except HfInitError:  # such a class has nothing to tell
        return None
    addresses = Addresses(model)
    return Own(type(model).__name__, layout_of(model, addresses), addresses, model.base_model_prefix)


def _stored_under(own: Own, names: list[str]) -> Iterable[tuple[str, str]]:
    """Names that the source's own architecture has and the files don't, with the name that they have instead."""
    layout = own.layout
    at = {address: name for name, address in own.addresses.of(names).items()}
    address_of = {tensor.name: tensor.address for tensor in layout.tensors}
    for tie in layout.ties:
        stored = next((at[a] for a in (address_of[tie.of], *tie.addresses) if a in at), None)
        if stored is not None:
            yield from ((name, stored) for name in (tie.of, tie.name) if name != stored)


def on_meta(target: Target, names: Iterable[str] | None = None) -> PreTrainedModel:
    """The target's model, without values.

    Args:
        names: of the tensors that it is loaded from; by default, the source's.

    Raises:
        PlanError: the class can't be built with this config.
    """
    return _made(target, names)[0]


def _made(target: Target, names: Iterable[str] | None = None) -> tuple[PreTrainedModel, Addresses | None]:
    """The target's model; with its addresses, if it is as its constructor made it."""
    try:
        return _built(target, names) or (_load(target, _empty(target.source.entries.values())), None)
    except UNBUILDABLE as error:
        raise PlanError(
            f"{target.cls.__name__} can't be built with this config: {one_line(error)}. Give values that fit together"
        ) from error


def _twin(target: Target, config: PreTrainedConfig) -> PreTrainedModel:
    """The target's model on meta under another config, for its shapes: what a load would rename isn't asked."""
    return on_meta(replace(target, config=config), names=())


def _built(target: Target, names: Iterable[str] | None) -> tuple[PreTrainedModel, Addresses] | None:
    """The model by its constructor, unless an option asks for more."""
    if target.model_args or not target.load.keys() <= WITHOUT_LOADING:
        return None
    shape = {key: target.load[key] for key in IMPLEMENTATIONS if key in target.load}
    names = target.source.entries if names is None else names
    return build_on_meta(target.cls, target.config, names, target.dtype, **shape, **target.model_kwargs)


def _empty(tensors: Iterable[Entry | TensorPlan]) -> dict[str, torch.Tensor]:
    return {t.name: torch.empty(t.shape, dtype=getattr(torch, t.dtype), device="meta") for t in tensors}


def _load(target: Target, tensors: Mapping[str, torch.Tensor], **options: Any) -> Any:
    options |= {key: value for key, value in target.load.items() if key not in NOT_ON_META}
    return load_on_meta(
        target.cls,
        target.config,
        tensors,
        dtype=target.dtype,
        model_args=target.model_args,
        **options,
        **target.model_kwargs,
    )


def _aliases(model: PreTrainedModel) -> dict[str, str]:
    """Second names of tensors: tied by the config's word, or one object under two names."""
    declared = ties(model)
    same = {name: of for name, of in shared(model).items() if name not in declared and of not in declared}
    return {**declared, **{name: of for name, of in same.items() if name not in declared.values()}}


def _std(model: PreTrainedModel) -> float:
    """The standard deviation that the architecture starts its weights with."""
    config = model.config.get_text_config()
    found = (getattr(config, name, None) for name in ("initializer_range", "init_std"))
    return next((float(std) for std in found if std), 0.02)


def _depth(model: PreTrainedModel) -> int | None:
    """How many blocks the residual stream passes."""
    config = model.config.get_text_config()
    found = (getattr(config, name, None) for name in ("num_hidden_layers", "n_layer", "num_layers"))
    return next((depth for depth in found if isinstance(depth, int) and depth > 0), None)


def _ties(alias: Mapping[str, str], tensors: Iterable[TensorSpec]) -> Iterable[Tie]:
    by_parameter = {tensor.parameter: tensor.name for tensor in tensors}
    for name, of in alias.items():
        if of in by_parameter:
            yield Tie(name, by_parameter[of], ((name,),))


def _spec(name: str, tensor: torch.Tensor, address: Address, specs: Mapping[str, TensorSpec]) -> TensorSpec:
    """The description of a tensor on disk: that of its parameter, with its own shape where it is only a piece of it."""
    parameter = specs.get(address[0])
    shape, dtype = tuple(tensor.shape), str(tensor.dtype).removeprefix("torch.")
    if parameter is None:
        return TensorSpec(name, shape, dtype, parameter=name, address=address)
    if (name, shape, dtype, address) == (parameter.name, parameter.shape, parameter.dtype, parameter.address):
        return parameter
    geometry = parameter.geometry if len(address) == 1 else _matrix(shape)
    return replace(parameter, name=name, shape=shape, dtype=dtype, geometry=geometry, address=address)


def _matrix(shape: tuple[int, ...]) -> Geometry | None:
    return Geometry(fan_in=shape[1], fan_out=shape[0]) if len(shape) == 2 else None


def refuse_unloadable(target: Target, plan: Plan, model: PreTrainedModel | None = None) -> None:
    """The library must take the planned files without a word: asked on meta, before anything is made.

    A load into memory needs no such question: the library says there what it found.

    Args:
        model: of the target, on meta; where it leaves no doubt, nothing is loaded.
    """
    if model is not None and takes_as_they_are(model, {tensor.name: tensor.shape for tensor in plan.stored}):
        return
    _, info = _load(target, _empty(plan.stored), output_loading_info=True)
    left_out = {tensor.parameter for tensor in plan.tensors if tensor.left_out}
    problems = {
        "missing": sorted(set(info["missing_keys"]) - left_out),
        "unexpected": sorted(info["unexpected_keys"]),
        "mismatched": sorted(name for name, *_ in info["mismatched_keys"]),
    }
    if any(problems.values()):
        said = "; ".join(f"{what}: {several(names)}" for what, names in problems.items() if names)
        raise PlanError(
            f"{plan.architecture}: transformers wouldn't load the planned result whole ({said}); this architecture "
            "can't be extended folder to folder with this version"
        )
