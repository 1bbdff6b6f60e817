"""Heads of attention: more of queries, which add nothing at first; more of keys and values, or fewer by their means."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

from transformers import PreTrainedConfig

from hf_init._architecture import Target
from hf_init._change import Change, ChangePlan, TargetContext, TargetRequest
from hf_init._checkpoint import BaseCheckpoint
from hf_init._errors import PlanError, option
from hf_init._growth.axis import (
    changed_tensors,
    followers,
    other_values,
    own_target,
    part_sizes,
    planned_fills,
    value_at,
    width_of,
    width_path,
)
from hf_init._growth.depths import parent_of
from hf_init._plan import ROUNDING, Nothing, RowMap, RowMapping, no_claim
from hf_init._roles import matches
from hf_init._tensors import SourceTensor, TensorSpec
from hf_init._text import join_names
from hf_init.schemes import MeanOfGroups, Scheme, Zeros

KV_FIELDS = ("num_key_value_heads", "num_kv_heads", "n_head_kv")
HEAD_FIELDS = ("num_attention_heads", "n_head", "num_heads", "n_heads")
SIZE_FIELDS = ("head_dim", "d_kv")
HOLDS = {
    "attention.query": "q", "attention.key": "k", "attention.value": "k", "attention.qkv": "qkk",
    "attention.output.weight": "q", "attention.sink": "q", "embedding.relative": "q",
}  # fmt: skip
"""What a tensor holds along the dimension that changes: heads of queries, and of keys or values."""
Heads: TypeAlias = "Sequence[int | None]"
"""For each head, the base's that it is, or None where it is new."""


@dataclass(frozen=True)
class AttentionChange(Change):
    """The heads that the user wants.

    Attributes:
        name: of the config value that counts the heads of queries, if it is to change. wanted: a number, or a factor.
        kv_heads: how many heads of keys and values; None: as many as before.
    """

    name: str = ""
    wanted: object = None
    kv_heads: int | None = None

    OPTIONS = ("widen", "kv_heads")

    @classmethod
    def of(cls, base: BaseCheckpoint, options: Mapping[str, object]) -> AttentionChange | None:
        widths, heads = (options.get(name) for name in cls.OPTIONS)
        if heads is not None and (isinstance(heads, bool) or not isinstance(heads, int) or heads < 1):
            raise PlanError(f"{option('kv_heads')}: expected a whole number of at least 1, not {heads!r}")
        given = {str(name): wanted for name, wanted in widths.items()} if isinstance(widths, Mapping) else {}
        name = next((name for name in given if name.rpartition(".")[2] in HEAD_FIELDS), "")
        if name and heads is not None:
            raise PlanError(f"{option('widen')} {name} and {option('kv_heads')}: one after the other, each by itself")
        return cls(name, given.get(name), heads) if name or heads is not None else None

    def retarget(self, request: TargetRequest) -> TargetRequest:
        own = own_target(request, "kv_heads" if self.kv_heads else "widen")
        return request.with_values(self._more_queries(own) if self.name else self._other_keys(own))

    def _more_queries(self, own: Target) -> Mapping[str, object]:
        """Return the config values of more heads of queries, of the size that they have.

        Raises:
            PlanError: heads would become smaller instead, or can't share those of keys and values.
        """
        path = width_path(own, (self.name,), "widen")
        before, part = value_at(own.config, path), parent_of(own.config, path)
        heads, shared = width_of(self.name, self.wanted, before), _counts(own.config, path)[1]
        size = next((name for name in SIZE_FIELDS if name in vars(part) and vars(part)[name]), None)
        if size is None:
            raise PlanError(
                f"{option('widen')} {self.name}: the config of a {part.model_type} has no size of a head, so more of "
                "them would be smaller"
            )
        if heads == before or (shared != before and heads % shared):
            raise PlanError(
                f"{option('widen')} {self.name}: {heads} heads of queries aren't more than the base's {before}, or "
                f"aren't divided by {shared} of keys and values"
            )
        return {path: heads, f"{path.removesuffix(path.rpartition('.')[2])}{size}": vars(part)[size]}

    def _other_keys(self, own: Target) -> Mapping[str, object]:
        """Return the config values of another number of heads of keys and values.

        Raises:
            PlanError: they can't be shared by those of queries, or made of the base's.
        """
        path = width_path(own, KV_FIELDS, "kv_heads")
        before, heads = value_at(own.config, path), value_at(own.config, width_path(own, HEAD_FIELDS, "kv_heads"))
        wanted = self.kv_heads or 0
        if not isinstance(before, int) or not isinstance(heads, int):
            raise PlanError(f"{option('kv_heads')}: {path} is {before!r} for {heads!r} heads of queries, no number")
        if heads % wanted or (before % wanted and wanted % before):
            raise PlanError(
                f"{option('kv_heads')}: {wanted} heads of keys and values don't divide {heads} of queries, or aren't a "
                f"multiple or a part of the base's {before}"
            )
        return {path: wanted}

    def plan(self, context: TargetContext) -> ChangePlan:
        target, base = context.target, context.target.base_config
        if base is None:
            return ChangePlan()
        path = width_path(target, (self.name,) if self.name else KV_FIELDS, "widen" if self.name else "kv_heads")
        before, after = value_at(base, path), value_at(target.config, path)
        follow = followers(target, {path: before})
        if not follow and before != after:
            raise PlanError(
                f"{option('widen')}, {option('kv_heads')}: no tensor changes shape with {path}; leave it out, or give "
                "it as a config value"
            )
        changed = [pair for pair in changed_tensors(target) if pair[0].parameter in follow]
        found = {tensor.name: self._placed(tensor, source, target, path) for tensor, source in changed}
        unknown = [name for name, each in found.items() if each is None]
        if unknown and not context.keep:
            raise PlanError(
                f"{join_names(unknown)} change shape with {path} in a way that isn't known: heads that are fused with "
                "others one by one, or that a norm counts together"
            )
        placed = {name: each for name, each in found.items() if each is not None}
        schemes = {name: each for name, (_, each) in placed.items() if each is not None}
        averaged = any(isinstance(scheme, MeanOfGroups) for scheme, _ in schemes.values())
        claim = no_claim("heads of keys and values are averaged") if averaged else ROUNDING
        return ChangePlan(
            keep={name: rows for name, (rows, _) in placed.items()},
            fills=partial(planned_fills, schemes),
            notes=(f"{path}: {before} -> {after}",),
            new=frozenset(placed),
            drop=frozenset(source.name for tensor, source in changed if tensor.name in placed),
            claim=lambda plan: other_values(plan, schemes) or claim,
            config=frozenset([path]),
        )

    def _placed(
        self, tensor: TensorSpec, source: SourceTensor, target: Target, path: str
    ) -> tuple[RowMapping, tuple[Scheme, str] | None] | None:
        """Return where a tensor's heads come from, and the scheme of new ones; None if it isn't known."""
        held = next((kinds for role, kinds in HOLDS.items() if matches(tensor.role, role)), "")
        dims = [dim for dim, (old, new) in enumerate(zip(source.shape, tensor.shape, strict=True)) if old != new]
        if not held or len(dims) != 1 or (len(held) > 1 and len(part_sizes(tensor, target)) != len(held)):
            return None
        (dim,), heads = dims, dict(zip("qk", self._heads(target, path), strict=True))
        old_heads = sum(heads[kind][0] for kind in held)
        size, rest = divmod(source.shape[dim], old_heads)
        if rest or sum(len(heads[kind][1]) for kind in held) * size != tensor.shape[dim]:
            fewer = self.kv_heads is not None and held == "k" and not source.shape[dim] % heads["k"][0]
            mean = MeanOfGroups(self.kv_heads or 1, dim, size, source.name)
            return (Nothing(), (mean, "the mean of the heads that become one")) if fewer else None
        index: list[int | None] = []
        start = 0
        for kind in held:
            count, places = heads[kind]
            index += [None if head is None else start + head * size + k for head in places for k in range(size)]
            start += count * size
        closing = matches(tensor.role, "attention.output.weight") and None in index
        return RowMap(tuple(index), dim), (Zeros(), "0: a new head adds nothing at first") if closing else None

    def _heads(self, target: Target, path: str) -> Iterator[tuple[int, Heads]]:
        """Yield how many heads of queries the base has, with what each of the target's is; then of keys and values.

        A head of queries stays with the keys that it reads: each group of those that share them grows at its end. Heads
        of keys and values come several times, one for each group that becomes several.
        """
        base = target.base_config
        assert base is not None
        (queries, keys), (more, wanted) = _counts(base, path), _counts(target.config, path)
        group, larger = queries // keys, more // wanted
        places: list[int | None] = [None] * more
        if self.name:
            for head in range(queries):
                places[head // group * larger + head % group] = head
            yield queries, places
            yield keys, [*range(keys), *[None] * (wanted - keys)]
        else:
            yield queries, range(queries)
            yield keys, [head * keys // wanted for head in range(wanted)] if wanted >= keys else []


def _counts(config: PreTrainedConfig, path: str) -> tuple[int, int]:
    """Return how many heads of queries there are, and of keys and values, beside a value of a config."""
    values = vars(parent_of(config, path))
    found = [next((v for n in names if isinstance(v := values.get(n), int)), 0) for names in (HEAD_FIELDS, KV_FIELDS)]
    return found[0], found[1] or found[0]
