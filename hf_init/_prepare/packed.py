"""Extending a quantized checkpoint: only what isn't packed may change, and a quantizer leaves alone what is new."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields
from typing import Any

from hf_init._architecture import Target, unpacked_layers, with_left_alone
from hf_init._checkpoint import SKIP_LISTS, UNPACK_FIRST
from hf_init._errors import PlanError
from hf_init._plan import Plan
from hf_init._prepare.checks import PlanInputs, Problem
from hf_init._prepare.unexpected import PlanDraft
from hf_init._tensors import Status
from hf_init._text import join_names


def changed_packed(inputs: PlanInputs) -> Iterator[Problem]:
    """Yield a problem if packed tensors would get another shape or another place."""
    target, packed = inputs.target, inputs.target.packed
    if target.base.packed is None:
        return
    own = {spec.name: spec.shape for spec in target.own.whole_layout.tensors} if target.own else {}
    changed = [spec.name for spec in packed.held if own.get(spec.name) != spec.shape]
    placed = {*packed.part_of, *(spec.name for spec in target.layout.tensors), *(t.name for t in target.dropped)}
    strange = [name for name in target.base.packed.names if name not in placed]
    moved = [  # those with anything but new blocks behind the base's own
        stack
        for stack, blocks in target.blocks.items()
        if blocks.lost or any(source not in (None, block) for block, source in enumerate(blocks.sources))
    ]
    if target.own is None:
        yield Problem(f"{target.base.name} is quantized, and its own class isn't known here", UNPACK_FIRST)
    elif changed:
        yield Problem(f"packed tensors would change their shape: {join_names(changed)}", UNPACK_FIRST)
    elif strange:
        yield Problem(f"packed tensors have no place in {target.cls.__name__}: {join_names(strange)}", UNPACK_FIRST)
    elif moved:
        yield Problem(f"blocks of packed tensors would move or go: {join_names(moved)}", UNPACK_FIRST)


def rewritten_packed(draft: PlanDraft) -> Iterator[Problem]:
    """Yield a problem if a packed tensor isn't kept as it is, is read as if it were plain, or a new one gets packed."""
    target, plan = draft.target, draft.plan
    if target.base.packed is None:
        return
    kept = {tensor.name for tensor in plan.tensors if tensor.status is Status.KEPT and tensor.source == tensor.name}
    if wrong := [name for name in target.packed.part_of if name not in kept]:
        yield Problem(f"packed tensors would not stay as they are: {join_names(wrong)}", UNPACK_FIRST)
    schemes = {fill.scheme for tensor in plan.tensors for fill in tensor.new}
    read = {
        str(getattr(scheme, field.name)) for scheme in schemes for field in fields(scheme)
    } & target.packed.part_of.keys()
    if read:
        yield Problem(f"new values would be made of packed ones: {join_names(sorted(read))}", UNPACK_FIRST)
    if any(change.values is not None for change in draft.change_plans):
        yield Problem(f"{target.base.name} is quantized: no head is fitted by it in memory", UNPACK_FIRST)
    method = target.base.packed.method
    if method not in SKIP_LISTS and (layers := _new_layers(target, plan)):
        yield Problem(
            f"what {method} leaves unpacked isn't known here, so it might pack {join_names(layers)}", UNPACK_FIRST
        )


def quantization_config(target: Target, plan: Plan) -> dict[str, Any] | None:
    """Return what the result's config says of its packed weights: as the base's, with new layers left alone."""
    packed = target.base.packed
    if packed is None:
        return None
    if packed.method not in SKIP_LISTS or not _new_layers(target, plan):
        return dict(packed.config)
    held = [spec.parameter for spec in target.packed.held]
    return with_left_alone(packed.config, SKIP_LISTS[packed.method], unpacked_layers(target.model, held))


def check_in_memory(target: Target) -> None:
    """Raise PlanError for a quantized base that is to be loaded: only folder to folder it stays as it is."""
    if target.base.packed is not None:
        raise PlanError(
            f"{target.base.name} is quantized ({target.base.packed.method}): extend it folder to folder "
            "(hf_init.extend), and load the result with plain transformers"
        )


def _new_layers(target: Target, plan: Plan) -> list[str]:
    new = {tensor.parameter for tensor in plan.tensors if tensor.status is Status.NEW}
    return [name for name in unpacked_layers(target.model, ()) if f"{name}.weight" in new]


def packed_note(target: Target, plan: Plan) -> Iterator[str]:
    """Yield what is said of packed weights."""
    packed = target.base.packed
    if packed is not None:
        stays: Mapping[str, Any] | None = quantization_config(target, plan)
        key = SKIP_LISTS.get(packed.method, "")
        left = f"; {key} names what is new" if stays != dict(packed.config) else ""
        yield (
            f"quantized by {packed.method}: {len(target.packed.part_of)} tensors of packed weights are kept byte for "
            f"byte, and the config says so{left}"
        )
