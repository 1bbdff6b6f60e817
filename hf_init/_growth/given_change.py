"""What values of the config bring when they are given: more kinds of tokens, and cross-attention in old blocks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch

from hf_init._architecture import Target, copy_config, nested_configs
from hf_init._change import Change, ChangePlan, TargetContext
from hf_init._checkpoint import BaseCheckpoint
from hf_init._function import BATCH, TOKENS, block_outputs
from hf_init._growth.axis import changed_tensors, other_values, other_ways, path_of, planned_fills, value_at
from hf_init._growth.closers import PROJECTIONS, close
from hf_init._growth.new_blocks import NEAR
from hf_init._plan import EXACT, RowMap, no_claim, weakest_claim
from hf_init._roles import matches
from hf_init._tensors import TensorSpec
from hf_init.schemes import NearIdentity, Scheme

ADDS_NOTHING = "0: what an encoder gives adds nothing at first"
TYPES, CROSS, CAUSAL = "type_vocab_size", "add_cross_attention", "is_decoder"
OWN_ATTENTION = (("crossattention", "attention"), ("encoder_attn", "self_attn"))
"""What a branch that reads an encoder is called, and the one beside it."""


@dataclass(frozen=True)
class GivenChange(Change):
    """Values of the config that are more than the base's, and that add to what is there."""

    @classmethod
    def of(cls, base: BaseCheckpoint, options: Mapping[str, object]) -> GivenChange | None:
        return None if base.source.parts else cls()

    def plan(self, context: TargetContext) -> ChangePlan:
        target, base = context.target, context.target.base_config
        if base is None or type(base) is not type(target.config):  # a trunk of named heads is in a config of its own
            return ChangePlan()
        own: dict[str, object] = {}
        for part in nested_configs(target.config):
            for path in filter(None, (path_of(part, target.config, (name,)) for name in (TYPES, CROSS, CAUSAL))):
                if value_at(base, path) != value_at(target.config, path):
                    own[path] = value_at(base, path)
        crosses = [path for path in own if path.endswith(CROSS) and value_at(target.config, path)]
        keep: dict[str, RowMap] = {}
        for tensor, source in changed_tensors(target) if any(path.endswith(TYPES) for path in own) else ():
            rows, more = source.shape[0], tensor.shape[0]
            if matches(tensor.role, "embedding.token_type") and more > rows and source.shape[1:] == tensor.shape[1:]:
                keep[tensor.name] = RowMap((*range(rows), *[None] * (more - rows)))
        if not keep and not crosses:
            return ChangePlan()
        own = {path: value for path, value in own.items() if crosses or path.endswith(TYPES)}
        new, schemes, said = _branches(target, own) if crosses else ((), {}, "")
        reasons = list(other_ways(target, own))
        if reasons and any(path.endswith(CAUSAL) for path in own):
            reasons = [f"with {CAUSAL}=True a token sees none behind it"]
        claim = weakest_claim([EXACT, *map(no_claim, reasons)])
        return ChangePlan(
            keep=keep,
            fills=partial(planned_fills, schemes),
            notes=tuple(f"{path}: {was} -> {value_at(target.config, path)}" for path, was in own.items()),
            notes_on=lambda plan: [said] if said and not other_values(plan, schemes) else [],
            new=frozenset([*keep, *(tensor.name for tensor in new)]),
            claim=lambda plan: claim,
            config=frozenset(own),
        )


def _branches(
    target: Target, own: Mapping[str, object]
) -> tuple[tuple[TensorSpec, ...], dict[str, tuple[Scheme, str]], str]:
    """Return the tensors that a target has only with its values of the config, what closes them, and what is then so.

    Args:
        own: the base's values, by path.
    """
    before, model = target.rebuilt(copy_config(target.config, own)), target.build()
    held, modules = before.state_dict(), {path for path, _ in before.named_modules()}
    whole = tuple(f"{stack}{k}." for stack, blocks in target.blocks.items() if "*" not in stack for k in blocks.new)
    missing = (tensor for tensor in target.layout.tensors if tensor.parameter not in held)
    new = tuple(tensor for tensor in missing if not tensor.parameter.startswith(whole))
    ends = close(new, PROJECTIONS)
    zeros = {tensor.parameter: 0.0 for tensor in new if tensor.name in ends}
    added = (path for path, _ in model.named_modules() if path not in modules and path.rpartition(".")[0] in modules)
    branches = [path for path in added if any(name.startswith(f"{path}.") for name in zeros)]
    states = torch.empty(BATCH, TOKENS, getattr(model.config, "hidden_size", 1), device="meta")
    given = block_outputs(model, branches, zeros, {"encoder_hidden_states": states})
    schemes: dict[str, tuple[Scheme, str]] = {name: (scheme, ADDS_NOTHING) for name, scheme in ends.items()}
    if all(given.get(path) in (0.0, "input") for path in branches):
        return new, schemes, "what an encoder gives adds nothing at first"
    schemes |= {name: (scheme, NEAR) for name, scheme in _near_norms(target, new)}
    return new, schemes, "what an encoder gives adds nothing at first, but a norm of the sum ends each new branch"


def _near_norms(target: Target, new: Sequence[TensorSpec]) -> Iterator[tuple[str, Scheme]]:
    """Yield the norms of new branches, made after that of the branch beside each."""
    held = {tensor.name for tensor in target.source}
    for tensor in new:
        for branch, beside in OWN_ATTENTION:
            place, _, part = tensor.name.replace(f".{branch}.", f".{beside}.").rpartition(".")
            known = place != tensor.name.rpartition(".")[0] and f"{place}.weight" in held
            if known and matches(tensor.role, f"norm.{part}"):
                bias = f"{place}.bias"
                kind = "gain" if part == "weight" else "shift"
                yield tensor.name, NearIdentity(kind, f"{place}.weight", bias if bias in held else "")
