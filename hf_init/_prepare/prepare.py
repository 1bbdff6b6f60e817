"""A target becomes a layout, a checkpoint becomes its source tensors: both in the names on disk, on meta."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any

from transformers import PreTrainedModel

from hf_init._architecture import (
    Addresses,
    InitialValues,
    ignored_on_load,
    layout_of,
    not_saved,
)
from hf_init._change import ChangePlan, TargetContext
from hf_init._checkpoint import Checkpoint
from hf_init._errors import HfInitError
from hf_init._multihead import NOWHERE
from hf_init._plan import Keep, Plan, RecipeLike, checked_seed, make_plan, match_tensors
from hf_init._prepare.allow_new import SourceArchitecture
from hf_init._prepare.build import _made, _twin, on_meta
from hf_init._prepare.checks import check_second_names, check_stranger, check_two_claims, check_unexpected
from hf_init._prepare.target import Target, resolve_target
from hf_init._tensors import Layout, SourceTensor
from hf_init.recipes import find_recipe


@dataclass(frozen=True)
class Prepared:
    """A plan and what its executors need.

    Attributes:
        change_plans: of every change.
        converted: names on disk of the tensors that the loader makes others of.
        bare: whether the model is as its constructor made it, so that a checkpoint can be loaded into it.
    """

    target: Target
    plan: Plan
    model: PreTrainedModel
    initial_values: InitialValues
    change_plans: tuple[ChangePlan, ...] = ()
    converted: frozenset[str] = frozenset()
    bare: bool = False

    @property
    def source(self) -> Checkpoint:
        return self.target.source

    def spent(self) -> Prepared:
        """The same, for when a checkpoint was loaded into the model: its initial values build another."""
        return replace(self, initial_values=self.initial_values.on(partial(on_meta, self.target)), bare=False)


def prepare_plan(
    target: Target, recipe: RecipeLike = None, *, seed: int | None = None, keep: Keep | None = None, rules: Any = ()
) -> Prepared:
    """Plans a target: reads headers and shapes only.

    Raises:
        PlanError, RecipeError: see ``match_tensors`` and ``make_plan``.
    """
    first = (*rules, *(rule for change in target.changes for rule in change.rules()))
    chosen = find_recipe(recipe).with_rules_first(first, None if seed is None else checked_seed(seed))
    model, found = _made(target)
    plainly = found or Addresses(model)
    layout = layout_of(model, plainly)
    mapping = target.load.get("key_mapping")  # renames what the source holds, not what is written
    addresses = Addresses(model, mapping) if mapping else plainly
    source = source_tensors(target.source, addresses, ignored_on_load(model))
    check_two_claims(target.source, source)
    own = cache(partial(_own, target))
    source += second_names(own, layout, addresses, source)
    layout = _without_unsaved(layout, not_saved(model), source)
    check_second_names(chosen, keep, layout)
    arguments = (target.model_args, target.model_kwargs)
    rebuilt = partial(_twin, target)
    context = TargetContext(
        target.origin, target.cls, target.config, model, layout, source, rebuilt, tuple(keep or ()), arguments
    )
    change_plans = tuple(change.plan(context) for change in target.changes)
    wanted = {name: how for change in change_plans for name, how in change.keep.items()}
    plan = make_plan(
        match_tensors(source, layout, keep, wanted), chosen, layout, [change.fills for change in change_plans]
    )
    record = {name: said for change in change_plans for name, said in change.record.items()}
    plan = replace(
        plan, notes=(*plan.notes, *(note for change in change_plans for note in change.notes)), record=record
    )
    check_unexpected(plan, context, chosen, change_plans, own)
    check_stranger(plan, target, keep)
    converted = frozenset(tensor.name for tensor in layout.tensors if len(tensor.address) > 1)
    initial_values = InitialValues(lambda: model, target.model_args, target.model_kwargs)
    return Prepared(target, plan, model, initial_values, change_plans, converted, bare=found is not None)


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
    own: Callable[[], SourceArchitecture | None], layout: Layout, addresses: Addresses, source: tuple[SourceTensor, ...]
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


def _own(target: Target) -> SourceArchitecture | None:
    """The checkpoint's own class with its own config, on meta; None where the class isn't at hand."""
    kind = target.origin.class_name
    mine = next((cls for cls in target.cls.__mro__ if cls.__name__ == kind), None)
    try:
        own = resolve_target(target.folder, mine)
        if mine is target.cls:
            own = replace(own, model_args=target.model_args, model_kwargs=target.model_kwargs)
        model = on_meta(own)
    except HfInitError:  # such a class has nothing to tell
        return None
    addresses = Addresses(model)
    return SourceArchitecture(type(model).__name__, layout_of(model, addresses), addresses, model.base_model_prefix)


def _stored_under(own: SourceArchitecture, names: list[str]) -> Iterable[tuple[str, str]]:
    """Names that the source's own architecture has and the files don't, with the name that they have instead."""
    layout = own.layout
    at = {address: name for name, address in own.addresses.of(names).items()}
    address_of = {tensor.name: tensor.address for tensor in layout.tensors}
    for tie in layout.ties:
        stored = next((at[a] for a in (address_of[tie.of], *tie.addresses) if a in at), None)
        if stored is not None:
            yield from ((name, stored) for name in (tie.of, tie.name) if name != stored)
