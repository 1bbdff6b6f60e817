"""What a planned target is refused for."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from transformers import PreTrainedModel

from hf_init._architecture import (
    Address,
    takes_as_they_are,
    tolerated,
)
from hf_init._change import ChangePlan, TargetContext
from hf_init._checkpoint import Checkpoint
from hf_init._errors import PlanError, RecipeError
from hf_init._plan import Keep, Plan, Recipe, Rule, matches_glob, sources_of
from hf_init._prepare.allow_new import SourceArchitecture, check_missing, check_unlisted
from hf_init._prepare.build import _empty, _load
from hf_init._prepare.target import Target
from hf_init._tensors import Layout, SourceTensor, TensorSpec, Tie
from hf_init._text import join_names

TIED_WAY_OUT = (
    "Say it of the first name, which the files hold, or untie the two and they are tensors of their own: "
    "tie_word_embeddings=False (--config tie_word_embeddings=false)"
)


def check_second_names(recipe: Recipe, keep: Keep | None, layout: Layout) -> None:
    """A rule or a correspondence must not be for the second name of a tied tensor alone: there is nothing to fill.

    Raises:
        RecipeError, PlanError: all of them, each with the tensor that it is tied to.
    """
    ties = [(tie, _as_tensor(tie, layout)) for tie in layout.ties]
    rules = [said for number, rule in enumerate(recipe.rules, 1) for said in _of_rule(number, rule, ties, layout)]
    if rules:
        raise RecipeError(f"{'; '.join(rules)}. {TIED_WAY_OUT}")
    globs = [f"{glob!r}: {_spelled(tie)}" for glob in keep or () for tie in _of_glob(glob, ties, layout)]
    if globs:
        raise PlanError(f"keep: {'; '.join(globs)}. {TIED_WAY_OUT}")


def _as_tensor(tie: Tie, layout: Layout) -> TensorSpec:
    return replace(
        next(tensor for tensor in layout.tensors if tensor.name == tie.of), name=tie.name, parameter=tie.name
    )


def _of_rule(number: int, rule: Rule, ties: list[tuple[Tie, TensorSpec]], layout: Layout) -> Iterator[str]:
    if rule.name is None or rule.optional or any(map(rule.matches, layout.tensors)):
        return
    for tie, tensor in ties:
        if rule.matches(tensor):
            yield f"rule {number} ({rule.conditions}): {_spelled(tie)}"


def _of_glob(glob: str, ties: list[tuple[Tie, TensorSpec]], layout: Layout) -> Iterator[Tie]:
    if not any(matches_glob(tensor, glob) for tensor in layout.tensors):
        yield from (tie for tie, tensor in ties if matches_glob(tensor, glob))


def _spelled(tie: Tie) -> str:
    return f"{tie.name} is tied to {tie.of}, one tensor under two names"


def check_unloadable(target: Target, plan: Plan, model: PreTrainedModel | None = None) -> None:
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
        said = "; ".join(f"{what}: {join_names(names)}" for what, names in problems.items() if names)
        raise PlanError(
            f"{plan.architecture}: transformers wouldn't load the planned result whole ({said}); this architecture "
            "can't be extended folder to folder with this version"
        )


def check_two_claims(checkpoint: Checkpoint, source: Iterable[SourceTensor]) -> None:
    """Of several checkpoints, two must not hold one tensor of the target: neither would go before the other."""
    claims: dict[Address, dict[Path, str]] = {}
    for tensor in source if checkpoint.parts else ():
        folder = checkpoint.local(checkpoint.entries[tensor.name].shard).parent
        claims.setdefault(tensor.address, {})[folder] = tensor.name
    twice = [held for held in claims.values() if len(held) > 1]
    if twice:
        said = [" and ".join(f"{name} of {folder}" for folder, name in held.items()) for held in twice]
        raise PlanError(
            f"{len(twice)} tensors are claimed by two checkpoints: {join_names(said)}. Give a folder "
            "without the one that "
            "isn't meant, or prefixes under which they don't meet"
        )


def check_stranger(plan: Plan, target: Target, keep: Keep | None) -> None:
    """A checkpoint of which nothing would be kept, unasked, is another architecture's."""
    if not keep and not any(tensor.kept or tensor.source for tensor in plan.tensors):
        raise PlanError(
            f"nothing of {target.base} ({join_names(sorted(target.source.entries))}) has a place in "
            f"{plan.architecture} "
            f"with this config ({join_names([tensor.name for tensor in plan.tensors])}): they belong "
            "to different models; "
            "give the class and the config of the checkpoint's own architecture, or of one that contains it"
        )


def check_unexpected(
    plan: Plan,
    context: TargetContext,
    recipe: Recipe,
    changes: Iterable[ChangePlan],
    own: Callable[[], SourceArchitecture | None],
) -> None:
    """What is new must be known to be: by a rule of the recipe, a change, or the list of what may be new."""
    lists = [change.allowed for change in changes if change.allowed is not None]
    globs = [glob for allowed in lists for glob in allowed]
    if lists:
        check_unlisted(plan, context.layout, globs)
    expected = {name for change in changes for name in (*change.new, *change.keep)}
    expected |= {
        tensor.name
        for tensor in context.layout.tensors
        if any(rule.matches(tensor) for rule in recipe.rules) or any(matches_glob(tensor, glob) for glob in globs)
    }
    expected |= {name for name, held in sources_of(context.source, context.layout).items() if held is not None}
    patterns = [re.compile(pattern) for pattern in tolerated(context.model)]
    check_missing(plan, context, expected, own, lambda name: any(pattern.search(name) for pattern in patterns))
