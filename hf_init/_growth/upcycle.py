"""Upcycling: a dense model becomes a mixture, each expert a copy of its feed-forward block, the router new."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

from transformers import PreTrainedConfig, PreTrainedModel

from hf_init._architecture import BAD_VALUE, Target, class_of
from hf_init._block_names import stack_blocks
from hf_init._change import Change, ChangePlan, TargetContext, TargetRequest
from hf_init._checkpoint import BaseCheckpoint
from hf_init._errors import PlanError, option
from hf_init._growth.axis import own_target, path_of
from hf_init._options import Upcycle, parse_experts
from hf_init._plan import ROUNDING, no_claim, weakest_claim
from hf_init._roles import matches
from hf_init._text import join_names, one_line

COUNTS = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts")
CHOSEN = ("num_experts_per_tok", "moe_top_k", "top_k")
MIXTURES = {"Llama": "Mixtral", "Mistral": "Mixtral", "Qwen3": "Qwen3Moe"}
"""What a class of this family becomes: one that differs by its feed-forward blocks alone."""
PLACES = {"gate_proj": ("gate_proj", "w1"), "up_proj": ("up_proj", "w3"), "down_proj": ("down_proj", "w2")}
"""What a dense block's matrices are called in an expert."""
NORMALIZED = ("mixtral",)
"""Model types that share a whole among the chosen experts, whatever their config says."""
OF_THE_TYPE = ("model_type", "architectures", "transformers_version", "auto_map")


@dataclass(frozen=True)
class UpcycleChange(Change):
    """A mixture that the user wants of a dense model."""

    wanted: Upcycle

    OPTIONS = ("experts",)

    @classmethod
    def of(cls, base: BaseCheckpoint, options: Mapping[str, object]) -> UpcycleChange | None:
        wanted = parse_experts(options.get("experts"))
        return cls(wanted) if isinstance(wanted, Upcycle) else None

    def retarget(self, request: TargetRequest) -> TargetRequest:
        chosen = class_of(request.architecture, request.base.config, request.base.folder, request.trust)
        named = request.architecture is not None and issubclass(chosen, PreTrainedModel)
        own = own_target(replace(request, architecture=None) if named else request, "experts")
        if path_of(own.config, own.config, COUNTS):
            raise PlanError(f"{option('experts')}: a {own.config.model_type} is a mixture already: give a number")
        cls = chosen if named else _mixture_like(own, request)
        known = {name: value for name, value in request.values.items() if name in own.config.to_dict()}
        if other := [name for name, value in known.items() if value != getattr(own.config, name)]:
            raise PlanError(f"{option('experts')} and {join_names(other)}: one after the other, each by itself")
        config = self._config(cls, own.config, request.values)
        rest = {name: value for name, value in request.values.items() if name not in config.to_dict()}
        return replace(request, architecture=cls, config=config, values=rest)

    def _config(
        self, cls: type[PreTrainedModel], dense: PreTrainedConfig, given: Mapping[str, object]
    ) -> PreTrainedConfig:
        """Return the config of a mixture that is like a dense model.

        Raises:
            PlanError: the class is no mixture, or can't have such values.
        """
        kind = cls.config_class
        own: Mapping[str, object] = vars(kind()) if kind else {}
        count, chosen = (next((name for name in names if name in own), "") for names in (COUNTS, CHOSEN))
        if kind is None or not count or not chosen:
            raise PlanError(
                f"{option('experts')}: {cls.__name__} is no mixture: its config has no {' or '.join(COUNTS)}"
            )
        taken = {*own, "head_dim"} - {*OF_THE_TYPE}  # a mixture may read a size of heads that it doesn't declare
        values = {name: value for name, value in dense.to_dict().items() if name in taken}
        values |= {count: self.wanted.experts, chosen: self.wanted.top_k}
        values |= {"norm_topk_prob": True} if "norm_topk_prob" in own else {}
        if "moe_intermediate_size" in own and (width := getattr(dense, "intermediate_size", None)):
            values["moe_intermediate_size"] = width
        try:
            return kind(**{**values, **{name: value for name, value in given.items() if name in own}})
        except BAD_VALUE as error:
            raise PlanError(f"{option('experts')}: the config of a {kind.model_type}: {one_line(error)}") from error

    def place(self, target: Target) -> Target:
        copies: dict[str, tuple[str, ...]] = {}
        there = target.saved_names()
        for name in target.base.source.entries:
            if places := tuple(place for place in there if _is_expert_of(place, name)):
                copies[name] = places
        if not copies:
            raise PlanError(f"{option('experts')}: {target.cls.__name__} has no place for experts one by one")
        return replace(target, copies=copies)

    def plan(self, context: TargetContext) -> ChangePlan:
        target = context.target
        config, reasons = target.config, list[str]()
        if config.model_type not in NORMALIZED and not getattr(config, "norm_topk_prob", False):
            reasons.append("the weights of the chosen experts don't add up to 1 (norm_topk_prob)")
        if (getattr(config, "routed_scaling_factor", None) or 1) != 1:
            reasons.append(f"what the experts give is scaled (routed_scaling_factor={config.routed_scaling_factor})")
        num_blocks = len({stack_blocks(name)[0] for name in target.copies})
        claim = weakest_claim([ROUNDING, *map(no_claim, reasons)])
        experts, chosen = self.wanted.experts, self.wanted.top_k
        notes = [f"{num_blocks} feed-forward blocks become {experts} experts each, {chosen} for a token"]
        if not reasons and hasattr(config, "norm_topk_prob"):
            notes.append("weights of the chosen experts add up to 1 by norm_topk_prob=True: False is another function")
        return ChangePlan(
            notes=tuple(notes),
            new=frozenset(tensor.name for tensor in target.layout.tensors if matches(tensor.role, "router")),
            claim=lambda plan: claim,
            config=frozenset(["model_type"]),
        )


def experts_of(config: PreTrainedConfig) -> tuple[int, int]:
    """Return how many experts a config says there are, and how many are chosen; 0 where it has no such number."""
    values = [next((v for n in names if isinstance(v := vars(config).get(n), int)), 0) for names in (COUNTS, CHOSEN)]
    return values[0], values[1]


def _mixture_like(own: Target, request: TargetRequest) -> type[PreTrainedModel]:
    """Return the class of a mixture that differs from a dense one by its feed-forward blocks alone.

    Raises:
        PlanError: none is known.
    """
    name = own.cls.__name__
    family = next((family for family in MIXTURES if re.match(f"{family}(For|Model)", name)), None)
    if family is None:
        known = "; ".join(f"{dense} becomes {mixture}" for dense, mixture in MIXTURES.items())
        raise PlanError(
            f"{option('experts')}: no mixture is known that differs from {name} by its feed-forward blocks alone "
            f"({known})"
        )
    mixture = name.replace(family, MIXTURES[family], 1)
    return class_of(mixture, request.base.config, request.base.folder, request.trust)


def _is_expert_of(place: str, name: str) -> bool:
    """Return whether a name in the mixture is that of a dense tensor in one of the experts of its block."""
    block, *_ = stack_blocks(name) or ("",)
    *_, matrix, kind = name.removeprefix(block).split(".") if block and name.count(".") > 1 else ("", "")
    there, *_ = stack_blocks(place) or ("",)
    same = bool(block and there) and (there.endswith(block) or block.endswith(there))
    return same and any(re.search(rf"\.experts\.\d+\.{word}\.{kind}$", place) for word in PLACES.get(matrix, ()))
