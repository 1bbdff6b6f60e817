"""More experts in a mixture: each several times, chosen together, so that their weights add up to the old ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from hf_init._architecture import BlockMap, Target, nested_configs
from hf_init._change import Change, ChangePlan, TargetContext, TargetRequest
from hf_init._checkpoint import BaseCheckpoint
from hf_init._errors import PlanError, option
from hf_init._growth.axis import changed_tensors, own_target, path_of, value_at
from hf_init._growth.upcycle import CHOSEN, COUNTS
from hf_init._options import parse_experts
from hf_init._plan import ROUNDING, RowMap, no_claim, weakest_claim
from hf_init._roles import matches
from hf_init._text import join_names

SHARING = ("mixtral", "gpt_oss", "qwen2_moe", "qwen3_moe", "qwen3_next", "olmoe", "jamba")
"""Model types whose experts weigh what a softmax over all of them gives: twice the experts, half the weight of each."""
STACKS = "*.experts."
"""The experts of every layer, where the files hold them one by one."""


@dataclass(frozen=True)
class ExpertsChange(Change):
    """The number of experts that the user wants: a multiple of the base's."""

    count: int

    OPTIONS = ("experts",)

    @classmethod
    def of(cls, base: BaseCheckpoint, options: Mapping[str, object]) -> ExpertsChange | None:
        count = parse_experts(options.get("experts"))
        return cls(count) if isinstance(count, int) else None

    def retarget(self, request: TargetRequest) -> TargetRequest:
        own = own_target(request, "experts")
        paths = _expert_paths(own)
        before, chosen = (value_at(own.config, path) for path in paths)
        if not isinstance(before, int) or not isinstance(chosen, int):
            raise PlanError(f"{option('experts')}: {paths[0]} is {before!r} and {paths[1]} {chosen!r}: no numbers")
        if self.count % before or self.count == before:
            raise PlanError(
                f"{option('experts')}: {self.count} is no multiple of the base's {before}; each expert comes equally "
                "often, so that the model computes what it did"
            )
        return request.with_values({paths[0]: self.count, paths[1]: chosen * (self.count // before)})

    def place(self, target: Target) -> Target:
        base = target.base_config
        if base is None:
            return target
        if target.blocks:
            raise PlanError(f"{option('layers')} and {option('experts')}: one after the other, each by itself")
        before = value_at(base, _expert_paths(target)[0])
        assert isinstance(before, int)
        return replace(target, blocks={STACKS: BlockMap(self._experts(before), before)})

    def plan(self, context: TargetContext) -> ChangePlan:
        target, base = context.target, context.target.base_config
        if base is None:
            return ChangePlan()
        paths = _expert_paths(target)
        before = value_at(base, paths[0])
        assert isinstance(before, int)
        keep: dict[str, RowMap] = {}
        for tensor, source in changed_tensors(target):
            pairs = enumerate(zip(source.shape, tensor.shape, strict=True))
            dims = [dim for dim, sizes in pairs if sizes == (before, self.count)]
            if dims and any(matches(tensor.role, role) for role in ("router", "expert")):
                keep[tensor.name] = RowMap(self._experts(before), dims[0])
        if left := [tensor.name for tensor, _ in changed_tensors(target) if tensor.name not in keep]:
            raise PlanError(f"{option('experts')}: {join_names(left)} change shape in a way that isn't known")
        config, reasons = target.config.get_text_config(), list[str]()
        if config.model_type not in SHARING and not getattr(config, "norm_topk_prob", False):
            kind = config.model_type
            reasons.append(f"the weights of the chosen experts of a {kind} aren't shares of a whole (norm_topk_prob)")
        if (getattr(config, "n_group", None) or 1) > 1:
            reasons.append(f"experts are chosen by groups (n_group={config.n_group})")
        claim = weakest_claim([ROUNDING, *map(no_claim, reasons)])
        return ChangePlan(
            keep=keep,
            notes=tuple(f"{path}: {value_at(base, path)} -> {value_at(target.config, path)}" for path in paths),
            claim=lambda plan: claim,
            config=frozenset(paths),
        )

    def _experts(self, before: int) -> tuple[int, ...]:
        return tuple(expert % before for expert in range(self.count))


def _expert_paths(target: Target) -> tuple[str, str]:
    """Return the paths of the number of experts, and of those chosen for a token.

    Raises:
        PlanError: the config has no such values: it is no mixture.
    """
    config = target.config
    for part in (config.get_text_config(), *nested_configs(config)):
        count, chosen = path_of(part, config, COUNTS), path_of(part, config, CHOSEN)
        if count and chosen and value_at(config, count) and value_at(config, chosen):
            return count, chosen
    raise PlanError(
        f"{option('experts')}: a {config.model_type} is no mixture: its config has no {' or '.join(COUNTS)}; "
        f"{option('experts', 'upcycle(8, top_k=2)')} makes one of it"
    )
