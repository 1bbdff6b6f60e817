"""An axis: a quantity of the config that owns dimensions, and the tensors that are seen to change with it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import reduce

from transformers import PreTrainedConfig

from hf_init._architecture import Target, copy_config, nested_configs, text_config
from hf_init._change import TargetRequest
from hf_init._errors import PlanError, option
from hf_init._function import other_step
from hf_init._plan import Choice, Fill, Match, Plan, no_claim, sources_of
from hf_init._tensors import SourceTensor, TensorSpec
from hf_init._text import join_names
from hf_init.schemes import Scheme


def own_target(request: TargetRequest, name: str) -> Target:
    """Return the target with the base's own config, before the change that the option of this name asks for.

    Raises:
        PlanError: there is a config object, which says all of it already.
    """
    if request.config is not None or request.base.source.parts:
        raise PlanError(f"{option(name)} and a config object, which says it already: give one of the two")
    return Target.of(request.base, request.architecture, values={}, changed={}, trust=request.trust)


def path_of(part: PreTrainedConfig, whole: PreTrainedConfig, names: Sequence[str]) -> str | None:
    """Return the path in a config of the first of these values that a part of it has; None where it has none."""
    inside = next((name for name, value in vars(whole).items() if value is part), None)
    known = [name for name in names if name in vars(part)]
    found = next((name for name in known if vars(part)[name] is not None), known[0] if known else None)
    return None if found is None else found if inside is None or part is whole else f"{inside}.{found}"


def value_at(config: PreTrainedConfig, path: str) -> object:
    """Return the value of a config at a path."""
    return reduce(getattr, path.split("."), config)


def changed_tensors(target: Target) -> Iterator[tuple[TensorSpec, SourceTensor]]:
    """Yield the tensors of a target whose source has another shape, with it."""
    sources = sources_of(target.source, target.layout)
    for tensor in target.layout.tensors:
        source = sources[tensor.name]
        if source is not None and source.shape != tensor.shape and len(source.shape) == len(tensor.shape):
            yield tensor, source


def width_path(target: Target, names: Sequence[str], given: str) -> str:
    """Return the path of a config value of the text's or of any other part.

    Args:
        given: the option that it is asked for by.

    Raises:
        PlanError: there is none.
    """
    config = target.config
    parts = (text_config(config), *nested_configs(config))
    found = next(filter(None, (path_of(part, config, names) for part in parts)), None)
    if found is None:
        raise PlanError(f"{option(given)}: the config of a {config.model_type} has no {' or '.join(names)}")
    return found


def width_of(name: str, wanted: object, before: object) -> int:
    """Return a new width; a factor is one on the old.

    Raises:
        PlanError: it is none, or less than the old.
    """
    text = str(wanted)
    factor = text[1:] if isinstance(wanted, str) and text.startswith("x") else ""
    least = before if isinstance(before, int) else 0  # a width that isn't given follows another, such as GPT-2's
    if isinstance(wanted, bool) or not (factor or text).isdecimal() or (factor and not least):
        raise PlanError(f"{option('widen')} {name}: expected a number or a factor such as 'x2', not {wanted!r}")
    width = least * int(factor) if factor else int(text)
    if width < least:
        raise PlanError(f"{option('widen')} {name}: {width} is less than the base's {before}; units can't go this way")
    return width


def followers(target: Target, own: Mapping[str, object]) -> frozenset[str]:
    """Return the parameters of a target whose shapes follow values of its config.

    Args:
        own: the base's values, by path in the config.
    """
    before = target.rebuilt(copy_config(target.config, own)).state_dict()
    after = target.model.state_dict()
    return frozenset(name for name in before.keys() & after.keys() if before[name].shape != after[name].shape)


def part_sizes(tensor: TensorSpec, target: Target) -> tuple[int, ...]:
    """Return the sizes of the matrices that stand one after the other in a tensor; those of a bias are its weight's."""
    weight = tensor.name.removesuffix(".bias") + ".weight" if tensor.name.endswith(".bias") else tensor.name
    weight = weight.removesuffix("_bias")
    found = next((other for other in target.layout.tensors if other.name == weight), tensor)
    return found.geometry.parts if found.geometry else ()


def other_ways(
    target: Target, own: Mapping[str, object], inputs_follow: bool = False, factor: int = 1
) -> Iterator[str]:
    """Yield, as a reason against a claim, what a target does that it doesn't with the base's own values.

    It is seen in a forward on meta of both. Sizes may differ where parameters or the values themselves do.

    Args:
        own: the base's values, by path in the config.
        inputs_follow: whether the target's inputs are of other shapes, too.
        factor: how many times larger any size may be.
    """
    before, after = target.rebuilt(copy_config(target.config, own)), target.rebuilt(target.config)
    old, new = before.state_dict(), after.state_dict()
    resized = {pair for name in old.keys() & new.keys() for pair in zip(old[name].shape, new[name].shape, strict=False)}
    values = ((was, value_at(target.config, path)) for path, was in own.items())
    resized |= {(was, now) for was, now in values if isinstance(was, int) and isinstance(now, int)}
    if step := other_step(before, after, after if inputs_follow else before, resized, factor):
        yield f"with {', '.join(f'{path}={value_at(target.config, path)!r}' for path in own)}, {step}"


def planned_fills(schemes: Mapping[str, tuple[Scheme, str]], match: Match, choice: Choice) -> Sequence[Fill] | None:
    """Return the fills of a tensor that a change has a scheme for, with why, unless a rule of the user speaks of it."""
    if match.target.name not in schemes or (choice.why != "default" and not choice.advised):
        return None
    scheme, why = schemes[match.target.name]
    return [Fill(region, scheme, why) for region in match.new]


def other_values(plan: Plan, schemes: Mapping[str, tuple[Scheme, str]]) -> str | None:
    """Return the claim where a rule gives what is new other values than those that the claim is made for."""
    planned = {tensor.name: tensor.new for tensor in plan.tensors if tensor.name in schemes}
    other = [name for name, (scheme, _) in schemes.items() if any(fill.scheme != scheme for fill in planned[name])]
    return no_claim(f"rules give {join_names(other)} other values") if other else None
