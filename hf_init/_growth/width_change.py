"""Width: more neurons in feed-forward blocks, and an output matrix of its own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from hf_init._architecture import Target
from hf_init._change import Change, ChangePlan, TargetContext, TargetRequest
from hf_init._checkpoint import BaseCheckpoint
from hf_init._errors import PlanError, option
from hf_init._growth.attention_change import HEAD_FIELDS
from hf_init._growth.axis import (
    changed_tensors,
    followers,
    other_values,
    other_ways,
    own_target,
    part_sizes,
    planned_fills,
    value_at,
    width_of,
    width_path,
)
from hf_init._growth.hidden_change import HIDDEN
from hf_init._plan import EXACT, ROUNDING, RowMap, RowMapping, no_claim, weakest_claim
from hf_init._roles import matches
from hf_init._tensors import SourceTensor, TensorSpec
from hf_init._text import join_names
from hf_init.schemes import Scheme, Zeros

UPWARD = ("mlp.up", "mlp.gate", "mlp.gate_up", "expert.up", "expert.gate", "expert.gate_up")
DOWNWARD = ("mlp.down.weight", "expert.down.weight")


@dataclass(frozen=True)
class WidthChange(Change):
    """The widths that the user wants.

    Attributes:
        widths: config values of feed-forward blocks; a number, or a factor such as ``"x2"``.
        untie: whether the output matrix becomes a tensor of its own.
    """

    widths: Mapping[str, object] = field(default_factory=dict)
    untie: bool = False

    OPTIONS = ("widen", "untie")

    @classmethod
    def of(cls, base: BaseCheckpoint, options: Mapping[str, object]) -> WidthChange | None:
        widths, untie = (options.get(name) for name in cls.OPTIONS)
        if widths is not None and (not isinstance(widths, Mapping) or not widths):
            raise PlanError(
                f"{option('widen')}: expected widths by config value, such as {{'intermediate_size': 'x2'}}"
            )
        if untie not in (None, True, False):
            raise PlanError(f"{option('untie')}: expected True or False, not {untie!r}")
        given = {str(name): value for name, value in widths.items()} if isinstance(widths, Mapping) else {}
        known = {name: each for name, each in given.items() if name.rpartition(".")[2] not in (*HIDDEN, *HEAD_FIELDS)}
        return cls(known, bool(untie)) if known or untie else None

    def retarget(self, request: TargetRequest) -> TargetRequest:
        own = own_target(request, "widen" if self.widths else "untie")
        values: dict[str, object] = {}
        for name, wanted in self.widths.items():
            path = width_path(own, (name,), "widen")
            values[path] = width_of(name, wanted, value_at(own.config, path))
        if self.untie:
            path = width_path(own, ("tie_word_embeddings",), "untie")
            if not value_at(own.config, path):
                raise PlanError(f"{option('untie')}: the base's output matrix is a tensor of its own ({path}=False)")
            values[path] = False
        return request.with_values(values)

    def plan(self, context: TargetContext) -> ChangePlan:
        target, base = context.target, context.target.base_config
        if base is None:
            return ChangePlan()
        paths = [width_path(target, (name,), "widen") for name in self.widths]
        changed = list(self._changed(target, {path: value_at(base, path) for path in paths}))
        placed = {tensor.name: _neurons(tensor, source, target) for tensor, source in changed}
        keep = {name: rows for name, rows in placed.items() if rows is not None}
        down = [t.name for t, _ in changed if t.name in keep and any(matches(t.role, role) for role in DOWNWARD)]
        schemes: dict[str, tuple[Scheme, str]] = dict.fromkeys(down, (Zeros(), "0: a new neuron adds nothing at first"))
        unpaired = set(_unpaired([pair for pair in changed if pair[0].name in keep]))
        left = [tensor.name for tensor, _ in changed if tensor.name not in keep.keys() - unpaired]
        if left and not context.keep:
            raise PlanError(
                f"{join_names(left)} change shape, too, and what is kept of them isn't known: {option('widen')} knows "
                "the neurons of feed-forward blocks, heads of queries, and hidden units"
            )
        claims = [ROUNDING if keep else EXACT]
        if self.untie:
            tied = width_path(target, ("tie_word_embeddings",), "untie")
            claims += map(no_claim, other_ways(target, {tied: value_at(base, tied)}))
        claim = weakest_claim(claims)
        return ChangePlan(
            keep=keep,
            fills=partial(planned_fills, schemes),
            notes=tuple(f"{path}: {value_at(base, path)} -> {value_at(target.config, path)}" for path in paths),
            new=frozenset(keep),
            drop=frozenset(source.name for tensor, source in changed if tensor.name in keep),
            claim=lambda plan: other_values(plan, schemes) or claim,
            config=frozenset(paths),
        )

    def _changed(self, target: Target, own: Mapping[str, object]) -> Iterator[tuple[TensorSpec, SourceTensor]]:
        """Yield the tensors whose shapes follow the values that this change sets, each with its source.

        Raises:
            PlanError: none follows one of them: it is another kind of value.
        """
        follow = {path: followers(target, {path: value}) for path, value in own.items()}
        for path, names in follow.items():
            if not names and own[path] != value_at(target.config, path):
                raise PlanError(
                    f"{option('widen')}: no tensor changes shape with {path}; leave it out, or give it in config"
                )
        all_names = frozenset().union(*follow.values())
        yield from (pair for pair in changed_tensors(target) if pair[0].parameter in all_names)


def _neurons(tensor: TensorSpec, source: SourceTensor, target: Target) -> RowMapping | None:
    """Return where the old neurons stand: each at its place in its part, so that gate and up stay apart."""
    dims = [dim for dim, (old, new) in enumerate(zip(source.shape, tensor.shape, strict=True)) if old != new]
    down = any(matches(tensor.role, role) for role in DOWNWARD)
    if len(dims) != 1 or not (down or any(matches(tensor.role, role) for role in UPWARD)):
        return None
    before, after = source.shape[dims[0]], tensor.shape[dims[0]]
    parts = 1 if down else max(1, len(part_sizes(tensor, target)))
    if before % parts or after % parts or before > after:
        return None
    old, new = before // parts, after // parts
    index = [*(part * old + k if k < old else None for part in range(parts) for k in range(new))]
    return RowMap(tuple(index), dims[0])


def _unpaired(changed: Sequence[tuple[TensorSpec, SourceTensor]]) -> Iterator[str]:
    """Yield the matrices whose parts aren't known: those of which none has the neurons that the matrix after reads."""
    sizes: dict[str, set[int]] = {}
    for tensor, source in changed:
        if any(matches(tensor.role, role) for role in DOWNWARD):
            size = next(new for old, new in zip(source.shape, tensor.shape, strict=True) if old != new)
            for prefix in _prefixes_of(tensor.name):
                sizes.setdefault(prefix, set()).add(size)
    for tensor, _ in changed:
        if tensor.geometry and any(matches(tensor.role, f"{role}.weight") for role in UPWARD):
            nearest = next((prefix for prefix in _prefixes_of(tensor.name) if prefix in sizes), "")
            if tensor.geometry.fan_out not in sizes.get(nearest, ()):
                yield tensor.name


def _prefixes_of(name: str) -> Iterator[str]:
    """Yield what a name begins with, dot by dot, the longest first."""
    words = name.split(".")
    yield from (".".join(words[:count]) for count in range(len(words) - 1, -1, -1))
