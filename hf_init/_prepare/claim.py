"""The claim of a plan: what the changes say of old inputs, and what is said of all that no change answers for."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence, Set

from hf_init._architecture import Target, nested_configs
from hf_init._change import Change, ChangePlan
from hf_init._plan import Plan, no_claim, weakest_claim
from hf_init._prepare.leftover import IGNORED
from hf_init._prepare.unexpected import outside_backbone
from hf_init._roles import matches
from hf_init._tensors import Status
from hf_init._text import join_names

NEUTRAL = re.compile(
    r"_.*|.*(dropout|pdrop|drop_path|layerdrop|initializer|init_std|_token_ids?).*|(output|classifier|gradient)_.*|return_dict"
    r"|use_cache|id2label|label2id|problem_type|vocab_size|max_position_embeddings|n_positions|tie_.*embeddings"
    r"|tokenizer_class|task_specific_params|architectures|transformers_version|(torch_)?dtype|auto_map|finetuning_task"
)
"""Values of a config that no output for old inputs depends on, in evaluation; shapes speak for themselves."""
AFTER_HIDDEN_STATES = "pooler"
"""A part of many backbones that reads the hidden states and that nothing but a head reads."""


def claim_of(target: Target, plan: Plan, changes: Sequence[tuple[Change, ChangePlan]]) -> str:
    """Return what the plan says of old inputs; the weakest of what there is to say.

    It is about what the base's own class computes; where the target is of another class, about the backbone's outputs.
    """
    claims: list[str] = []
    tensors: set[str] = set()
    values: set[str] = set()
    for change, made in changes:
        claim = made.claim(plan)
        if claim is not None:
            claims.append(claim)
            tensors.update(made.keep, made.new, made.drop)
            values.update(change.config_values(), made.config)
    reasons = (*_new_tensors(target, plan, tensors), *_changed_values(target, values))
    return weakest_claim([*claims, *map(no_claim, reasons)])


def _new_tensors(target: Target, plan: Plan, answered: Set[str]) -> Iterator[str]:
    """Yield what is new or gone in what the base computes, and no change speaks of."""
    base, model = target.base, target.model
    same = base.class_name in (cls.__name__ for cls in target.cls.__mro__)
    prefix = "" if same or not model.base_model_prefix or model.base_model is model else model.base_model_prefix + "."
    inside = [tensor for tensor in plan.tensors if tensor.parameter.startswith(prefix) and tensor.name not in answered]
    read = [  # on a counter or an unasked pooler nothing depends
        tensor
        for tensor in inside
        if not matches(tensor.role, "norm.num_batches_tracked") and (same or AFTER_HIDDEN_STATES not in tensor.name)
    ]
    for status, said in ((Status.NEW, "new"), (Status.RESIZED, "new in part")):
        names = [tensor.name for tensor in read if tensor.status is status]
        if names:
            yield f"{join_names(names)} {'are' if len(names) > 1 else 'is'} {said}"
    gone = [each.name for each in plan.unused if each.name not in answered and each.reason != IGNORED]
    outside = {} if same or not gone or not target.own else outside_backbone(target.own, gone)
    gone = [name for name in gone if not outside.get(name) and (same or AFTER_HIDDEN_STATES not in name)]
    if gone:
        yield f"{join_names(gone)} {'go' if len(gone) > 1 else 'goes'}"


def _changed_values(target: Target, answered: Set[str]) -> Iterator[str]:
    """Yield the values of the config that aren't the base's, and no change speaks of."""
    own = target.base_config
    config = next((each for each in nested_configs(target.config) if type(each) is type(own)), None)
    if own is None and "model_type" in answered and target.origins:  # another type that is to do the same
        own, config = target.origins[0][1].config, target.config
    if own is None or config is None:
        yield f"the target is a {target.config.model_type}, the base a {target.base.config.get('model_type')}"
        return
    if type(own) is not type(config):  # what the other type has no value for is as if left out
        config = type(own)(**{name: value for name, value in config.to_dict().items() if name in vars(own)})
    before, after = _flat_values(own.to_dict()), _flat_values(config.to_dict())
    for path in sorted(before.keys() | after.keys()):
        old, new = before.get(path), after.get(path)
        if (
            old != new
            and repr(old) != repr(new)
            and path not in answered
            and not any(map(NEUTRAL.fullmatch, path.split(".")))
        ):
            yield f"{path} changes from {old!r} to {new!r}"


def _flat_values(values: Mapping[str, object], prefix: str = "") -> dict[str, object]:
    """Return the values of nested mappings by their paths."""
    flat: dict[str, object] = {}
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            flat |= _flat_values({str(key): each for key, each in value.items()}, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat
