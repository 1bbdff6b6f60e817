"""An axis: a quantity of the config that owns dimensions, and the tensors that are seen to change with it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import reduce

from transformers import PreTrainedConfig

from hf_init._architecture import Target
from hf_init._change import TargetRequest
from hf_init._errors import PlanError, option
from hf_init._plan import sources_of
from hf_init._tensors import SourceTensor, TensorSpec


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
