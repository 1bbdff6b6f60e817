"""A diff and a recipe brought together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

from hf_init import schemes
from hf_init._errors import RecipeError
from hf_init._plan.auto import choose_auto
from hf_init._plan.dead_paths import dead_paths
from hf_init._plan.match import Match, MatchResult
from hf_init._plan.plan import Plan
from hf_init._plan.recipe import Choice, Recipe
from hf_init._plan.tensor_plan import Fill, TensorPlan
from hf_init._tensors import Copy, Layout, Status

Filler: TypeAlias = Callable[[Match, Choice], Sequence[Fill] | None]


def make_plan(diff: MatchResult, recipe: Recipe, layout: Layout, fillers: Sequence[Filler] = ()) -> Plan:
    """Bring a match and a recipe together.

    Args:
        fillers: each may give the new regions of a tensor their schemes itself, seeing the recipe's choice; the first
            that does decides.

    Raises:
        RecipeError: the recipe doesn't cover what is new, or covers more, or a scheme doesn't fit its tensor.
    """
    fill = [match.target for match in diff.matches if match.new]
    rest = [match.target for match in diff.matches if not match.new]
    resized = [match.target.name for match in diff.matches if match.status is Status.RESIZED]
    choices = choose_auto(recipe, fill, rest, layout.std, layout.depth, resized)
    tensors = [_plan_tensor(match, choices.get(match.target.name), fillers) for match in diff.matches]
    tensors += [  # the class ignores these when it loads: they stay under their own names
        TensorPlan(
            each.name, Status.CARRIED, each.shape, each.dtype, (Copy.whole(each.name, each.shape),), (), each.name
        )
        for each in diff.carried
    ]
    by_name = {match.target.name: match for match in diff.matches}
    for alias in diff.aliases:
        of = by_name[alias.tie.of]
        tied = TensorPlan(
            name=alias.tie.name,
            status=Status.TIED,
            shape=of.target.shape,
            dtype=of.dtype,
            source=alias.source,
            tied_to=alias.tie.of,
            parameter=alias.tie.name,
            role=of.target.role,
        )
        tensors.append(tied)
    plan = Plan(layout.architecture, recipe.seed, tuple(tensors), diff.unused)
    _check_misfits(plan)
    return plan


def _plan_tensor(match: Match, choice: Choice | None, fillers: Sequence[Filler]) -> TensorPlan:
    target, new = match.target, ()
    if choice is not None:
        default = [Fill(region, choice.scheme, choice.why) for region in match.new]
        new = next((fills for filler in fillers if (fills := filler(match, choice)) is not None), default)
    return TensorPlan(
        name=target.name,
        status=match.status,
        shape=target.shape,
        dtype=match.dtype,
        kept=match.copies,
        new=tuple(new),
        source=match.copies[0].source if match.status is Status.KEPT else None,
        parameter=target.parameter,
        role=target.role,
        geometry=target.geometry if match.new else None,
    )


def _check_misfits(plan: Plan) -> None:
    """Raise if a scheme can't fill its slot, or a path would never get a gradient."""
    problems: list[str] = []
    for tensor in plan.tensors:
        for scheme, slot in tensor.slots(plan.seed):
            if isinstance(scheme, schemes.Skip) and tensor.status is Status.RESIZED:
                problems.append(f"{tensor.name}: skip can't leave out a part of a tensor; choose a scheme")
                continue
            try:
                scheme.check(slot)
            except RecipeError as error:
                problems.append(str(error))
    problems += dead_paths(plan.tensors)
    if problems:
        raise RecipeError("\n".join(problems))
