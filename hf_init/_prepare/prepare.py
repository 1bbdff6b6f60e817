"""Options become a target, and the target with its base a plan: headers and shapes are read, and no value."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from transformers import PreTrainedModel

from hf_init._architecture import Architecture, InitialValues, NotRecordedError, Target
from hf_init._change import ChangePlan, TargetContext
from hf_init._checkpoint import Bases, Checkpoint
from hf_init._plan import (
    Fill,
    Keep,
    Plan,
    RecipeLike,
    RuleLike,
    TensorPlan,
    checked_seed,
    make_plan,
    match_tensors,
    parse_rules,
)
from hf_init._prepare.checks import INPUT_CHECKS, PlanInputs, run_checks
from hf_init._prepare.claim import claim_of
from hf_init._prepare.leftover import unused_with_reasons
from hf_init._prepare.own_recipe import class_recipe
from hf_init._prepare.packed import changed_packed, packed_note, rewritten_packed
from hf_init._prepare.target import resolve_target
from hf_init._prepare.unexpected import PLAN_CHECKS, PlanDraft
from hf_init._tensors import Status
from hf_init._text import join_names
from hf_init.recipes import find_recipe
from hf_init.schemes import Declared


@dataclass(frozen=True)
class Prepared:
    """A plan and what its executors need.

    Attributes:
        change_plans: of every change.
        converted: names on disk of the tensors that the loader makes others of.
    """

    target: Target
    plan: Plan
    initial_values: InitialValues
    change_plans: tuple[ChangePlan, ...] = ()
    converted: frozenset[str] = frozenset()

    @property
    def model(self) -> PreTrainedModel:
        return self.target.model

    @property
    def source(self) -> Checkpoint:
        return self.target.base.source

    def spent(self) -> Prepared:
        """Return the same for when a checkpoint was loaded into the model: the next who asks for a model builds one."""
        target = replace(self.target)
        return replace(self, target=target, initial_values=self.initial_values.on(lambda: target.model))


def prepare_plan(
    base: Bases,
    architecture: Architecture = None,
    *model_args: object,
    recipe: RecipeLike = None,
    seed: int | None = None,
    keep: Keep | None = None,
    rules: Sequence[RuleLike] | None = None,
    **options: Any,
) -> Prepared:
    """Plan what a user's options mean; see ``resolve_target`` for them.

    Raises:
        HfInitError: everything that can be refused without reading a value.
    """
    target, changes = resolve_target(base, architecture, *model_args, **options)
    rules_first = (*parse_rules(rules), *(rule for change in changes for rule in change.rules()))
    standing = class_recipe(target.model) if recipe is None else find_recipe(recipe)
    chosen = standing.with_rules_first(rules_first, None if seed is None else checked_seed(seed))
    inputs = PlanInputs(target, chosen, keep or {})
    run_checks((*INPUT_CHECKS, changed_packed), inputs)
    context = TargetContext(target, tuple(inputs.keep))
    change_plans = tuple(change.plan(context) for change in changes)
    by_changes = {name: mapping for change in change_plans for name, mapping in change.keep.items()}
    match = match_tensors(target.source, target.layout, keep, by_changes)
    plan = make_plan(match, chosen, target.layout, [change.fills for change in change_plans])
    values = InitialValues(lambda: target.model, target.model_args, target.model_kwargs, chosen.function)
    plan = _with_origins(plan, values)
    plan = replace(
        plan,
        unused=unused_with_reasons(target, plan.unused, {name for change in change_plans for name in change.drop}),
        notes=(
            *plan.notes,
            *(
                f"{what} is left over in the base's config, its weights are plain; the result's config is without it"
                for what in target.base.stale
            ),
            *packed_note(target, plan),
            *_untied_notes(target, plan),
            *(note for change in change_plans for note in (*change.notes, *change.notes_on(plan))),
        ),
        record={**_constructor_record(target), **{k: v for change in change_plans for k, v in change.record.items()}},
    )
    run_checks((*PLAN_CHECKS, rewritten_packed), PlanDraft(target, chosen, inputs.keep, change_plans, plan))
    plan = replace(plan, claim=claim_of(target, plan, tuple(zip(changes, change_plans, strict=True))))
    converted = frozenset(tensor.name for tensor in target.layout.tensors if len(tensor.address) > 1)
    return Prepared(target, plan, values, change_plans, converted)


def _with_origins(plan: Plan, values: InitialValues) -> Plan:
    """Return the plan with what the architecture's own values are, and whose, where it gives them."""

    def told(tensor: TensorPlan, fill: Fill) -> Fill:
        origin = values.origin(tensor.parameter, plan.seed, isinstance(fill.scheme, Declared)) or "its own"
        return replace(fill, why=origin if fill.why == "default" else f"{fill.why}; {origin}")

    def entry(tensor: TensorPlan) -> TensorPlan:
        if not any(fill.scheme.as_given for fill in tensor.new):
            return tensor
        return replace(tensor, new=tuple(told(tensor, f) if f.scheme.as_given else f for f in tensor.new))

    try:
        return replace(plan, tensors=tuple(map(entry, plan.tensors)))
    except NotRecordedError:
        return plan  # what can't be recorded is refused when its values are needed, if they are


def _untied_notes(target: Target, plan: Plan) -> Iterator[str]:
    """Yield notes on tensors that the config ties and the files hold twice."""
    if target.untied:
        pairs = join_names([f"{name} and {of}" for name, of in target.untied.items()])
        yield (
            f"{pairs}: tied by the config, and different in the files: each is kept, and loaded untied; a "
            "program that goes by the config would lose one"
        )
    twice = [t for t in plan.tensors if t.status is Status.TIED and t.source] if target.base.source.remote else []
    if twice:
        names = join_names([f"{tensor.name} and {tensor.tied_to}" for tensor in twice])
        yield f"{names}: tied, and held twice in the files: should their values differ, each is kept"


def _constructor_record(target: Target) -> Mapping[str, object]:
    """Return what the class's constructor took besides its config, so that new values can be derived again from it."""
    kwargs = {"model_kwargs": dict(target.model_kwargs)} if target.model_kwargs else {}
    try:
        json.dumps(kwargs, allow_nan=False)
    except (TypeError, ValueError):
        return {}  # objects, which a manifest can't hold
    return kwargs
