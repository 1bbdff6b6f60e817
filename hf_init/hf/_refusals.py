"""What a planned target is refused for."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from pathlib import Path

from hf_init._checkpoint import Checkpoint
from hf_init._diff import Keep, named, sources
from hf_init._errors import PlanError
from hf_init._plan import Plan
from hf_init._recipe import Recipe
from hf_init._spec import SourceTensor
from hf_init._text import several
from hf_init.hf._library import Address, tolerated
from hf_init.hf._missing import Own, refuse_missing, refuse_unlisted
from hf_init.hf._target import Target
from hf_init.hf._wish import Scene, Terms


def refuse_two_claims(checkpoint: Checkpoint, source: Iterable[SourceTensor]) -> None:
    """Of several checkpoints, two must not hold one tensor of the target: neither would go before the other."""
    claims: dict[Address, dict[Path, str]] = {}
    for tensor in source if checkpoint.parts else ():
        folder = checkpoint.local(checkpoint.entries[tensor.name].shard).parent
        claims.setdefault(tensor.address, {})[folder] = tensor.name
    twice = [held for held in claims.values() if len(held) > 1]
    if twice:
        said = [" and ".join(f"{name} of {folder}" for folder, name in held.items()) for held in twice]
        raise PlanError(
            f"{len(twice)} tensors are claimed by two checkpoints: {several(said)}. Give a folder without the one that "
            "isn't meant, or prefixes under which they don't meet"
        )


def refuse_stranger(plan: Plan, target: Target, keep: Keep | None) -> None:
    """A checkpoint of which nothing would be kept, unasked, is another architecture's."""
    if not keep and not any(tensor.kept or tensor.source for tensor in plan.tensors):
        raise PlanError(
            f"nothing of {target.base} ({several(sorted(target.source.entries))}) has a place in {plan.architecture} "
            f"with this config ({several([tensor.name for tensor in plan.tensors])}): they belong to different models; "
            "give the class and the config of the checkpoint's own architecture, or of one that contains it"
        )


def refuse_unexpected(
    plan: Plan, scene: Scene, recipe: Recipe, terms: Iterable[Terms], own: Callable[[], Own | None]
) -> None:
    """What is new must be known to be: by a rule of the recipe, a wish, or the list of what may be new."""
    lists = [term.allowed for term in terms if term.allowed is not None]
    globs = [glob for allowed in lists for glob in allowed]
    if lists:
        refuse_unlisted(plan, scene.layout, globs)
    expected = {name for term in terms for name in (*term.new, *term.keep)}
    expected |= {
        tensor.name
        for tensor in scene.layout.tensors
        if any(rule.matches(tensor) for rule in recipe.rules) or any(named(tensor, glob) for glob in globs)
    }
    expected |= {name for name, held in sources(scene.source, scene.layout).items() if held is not None}
    patterns = [re.compile(pattern) for pattern in tolerated(scene.model)]
    refuse_missing(plan, scene, expected, own, lambda name: any(pattern.search(name) for pattern in patterns))
