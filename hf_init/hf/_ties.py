"""What is said of a tied tensor under its second name, where it can't be obeyed: refused, with the way out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from hf_init._diff import Keep, named
from hf_init._errors import PlanError, RecipeError
from hf_init._recipe import Recipe, Rule
from hf_init._spec import Layout, TensorSpec, Tie

OUT = (
    "Say it of the first name, which the files hold, or untie the two and they are tensors of their own: "
    "tie_word_embeddings=False (--config tie_word_embeddings=false)"
)


def refuse_second_names(recipe: Recipe, keep: Keep | None, layout: Layout) -> None:
    """A rule or a correspondence must not be for the second name of a tied tensor alone: there is nothing to fill.

    Raises:
        RecipeError, PlanError: all of them, each with the tensor that it is tied to.
    """
    ties = [(tie, _as_tensor(tie, layout)) for tie in layout.ties]
    rules = [said for number, rule in enumerate(recipe.rules, 1) for said in _of_rule(number, rule, ties, layout)]
    if rules:
        raise RecipeError(f"{'; '.join(rules)}. {OUT}")
    globs = [f"{glob!r}: {_spelled(tie)}" for glob in keep or () for tie in _of_glob(glob, ties, layout)]
    if globs:
        raise PlanError(f"keep: {'; '.join(globs)}. {OUT}")


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
    if not any(named(tensor, glob) for tensor in layout.tensors):
        yield from (tie for tie, tensor in ties if named(tensor, glob))


def _spelled(tie: Tie) -> str:
    return f"{tie.name} is tied to {tie.of}, one tensor under two names"
