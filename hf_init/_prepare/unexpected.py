"""What would be new without anybody's having said so, and isn't in the checkpoint or is under another name there."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

from hf_init._architecture import Target, has_same_head, tolerated
from hf_init._change import ChangePlan
from hf_init._errors import option
from hf_init._plan import DROPPED, Plan, TensorPlan, format_shape, matches_glob, sources_of
from hf_init._prepare.checks import PlanInputs, Problem
from hf_init._roles import matches
from hf_init._tensors import Shape, Status
from hf_init._text import join_names

WAY_OUT = (
    f"Give the names that the files have with {option('key_mapping', {'REGEX': 'REPLACEMENT'})}, or the class that the "
    f"checkpoint is of ({option('architecture', 'CLASS')}), or say what is new: {option('allow_new', ['GLOB'])}, or a "
    "rule of the recipe"
)
NESTING = ("model", "language_model", "text_model", "base_model", "tracker_model")


@dataclass(frozen=True)
class PlanDraft(PlanInputs):
    """A plan before it is checked, with what it was made from."""

    change_plans: tuple[ChangePlan, ...]
    plan: Plan

    @cached_property
    def allowed(self) -> tuple[str, ...] | None:
        """Return the globs of all that may be new; None where there is no such list."""
        lists = [change.allowed for change in self.change_plans if change.allowed is not None]
        return tuple(glob for globs in lists for glob in globs) if lists else None

    @cached_property
    def unasked(self) -> tuple[TensorPlan, ...]:
        """Return the new tensors that no rule, no change and no list says are new."""
        if self.allowed is not None:
            return ()  # the list says it of all, see `unlisted`
        layout = self.target.layout
        expected = {name for change in self.change_plans for name in (*change.new, *change.keep)}
        expected |= {t.name for t in layout.tensors if any(rule.matches(t) for rule in self.recipe.rules)}
        expected |= {name for name, source in sources_of(self.target.source, layout).items() if source is not None}
        new = (tensor for tensor in self.plan.tensors if tensor.status is Status.NEW and not tensor.left_out)
        return tuple(tensor for tensor in new if tensor.name not in expected)

    @cached_property
    def unused(self) -> Mapping[str, Shape]:
        """Return the shapes of what is left over in the source, and not because the user dropped it."""
        entries = self.target.base.source.entries
        return {tensor.name: entries[tensor.name].shape for tensor in self.plan.unused if tensor.reason != DROPPED}

    @cached_property
    def renamed(self) -> Mapping[str, str]:
        """Return unasked tensors with the left over one that has nearly the same name and the same shape."""
        prefix = self.target.model.base_model_prefix
        spare = {(_without_nesting(name, prefix), shape): name for name, shape in self.unused.items()}
        keys = {tensor.name: (_without_nesting(tensor.name, prefix), tensor.shape) for tensor in self.unasked}
        return {name: spare[key] for name, key in keys.items() if key in spare}

    @cached_property
    def missing(self) -> tuple[TensorPlan, ...]:
        """Return unasked tensors that the checkpoint's own class has, where the target is of that class."""
        patterns = [re.compile(pattern) for pattern in tolerated(self.target.model)]
        new = [
            tensor
            for tensor in self.unasked
            if tensor.name not in self.renamed
            and tensor.role != "buffer"  # what was never trained, the class computes again
            and not matches(tensor.role, "norm.num_batches_tracked")
            and not any(pattern.search(tensor.parameter) for pattern in patterns)
        ]
        if not new or self.target.base.class_name not in (cls.__name__ for cls in self.target.cls.__mro__):
            return ()
        own = self.target.own
        whole = {tensor.name for tensor in own.whole_layout.tensors} if own else set()
        return tuple(tensor for tensor in new if tensor.name in whole)


def unlisted(draft: PlanDraft) -> Iterator[Problem]:
    """Yield a problem if something is new, wholly or in part, that no glob of the list names."""
    if draft.allowed is None:
        return
    specs = {tensor.name: tensor for tensor in draft.target.layout.tensors}
    new = [specs[tensor.name] for tensor in draft.plan.tensors if tensor.new and tensor.name in specs]
    names = [spec.name for spec in new if not any(matches_glob(spec, glob) for glob in draft.allowed)]
    if names:
        idle = [glob for glob in draft.allowed if not any(matches_glob(spec, glob) for spec in new)]
        hint = f"; nothing new is named by {', '.join(map(repr, idle))}" if idle else ""
        yield Problem(
            f"{draft.plan.architecture}: {len(names)} tensors would be new, wholly or in part, and "
            f"{option('allow_new')} doesn't name them: {', '.join(names)}{hint}"
        )


def renamed_layers(draft: PlanDraft) -> Iterator[Problem]:
    """Yield a problem if the checkpoint holds layers under nearly the same names, which the loader doesn't know."""
    pairs = [f"{source} -> {name}" for name, source in draft.renamed.items()]
    if pairs:
        yield Problem(
            f"{draft.plan.architecture}: the checkpoint holds {len(pairs)} tensors that transformers' loader finds no "
            "place for, while tensors of the same shapes would be new under nearly the same names: "
            f"{join_names(pairs)}",
            WAY_OUT,
        )


def incomplete_base(draft: PlanDraft) -> Iterator[Problem]:
    """Yield a problem if the checkpoint lacks what its own class has, and the target is of that class."""
    own = draft.target.own if draft.missing else None
    if own is None:
        return
    left = [f"{name} ({format_shape(shape)})" for name, shape in draft.unused.items()]
    yield Problem(
        f"{draft.plan.architecture}: the checkpoint says that it is a {own.cls.__name__}, and lacks "
        f"{len(draft.missing)} of its tensors, which would start anew: "
        f"{join_names([_with_closest(tensor, draft.unused) for tensor in draft.missing])}. "
        + (f"Left over in the checkpoint: {join_names(left)}" if left else "Nothing in the checkpoint is left over"),
        WAY_OUT,
    )


def replaced_heads(draft: PlanDraft) -> Iterator[Problem]:
    """Yield a problem if a head would be new while the checkpoint's own, for the same task or unknown, is left over."""
    target, unused = draft.target, draft.unused
    backbone = target.model.base_model_prefix + "."
    reported = {*draft.renamed, *(tensor.name for tensor in draft.missing)}
    new = [tensor for tensor in draft.unasked if tensor.name not in reported]
    heads = [tensor for tensor in new if len(tensor.shape) > 1 and not tensor.parameter.startswith(backbone)]
    spare = [name for name, shape in unused.items() if any(shape[1:] == head.shape[1:] for head in heads)]
    if not spare:
        return
    own = target.own
    outside = outside_backbone(own, spare) if own else {}
    alike = own is not None and has_same_head(target.cls, own.cls.__name__)
    pairs = [
        f"{head.name} ({format_shape(head.shape)}), and the checkpoint has {name} ({format_shape(unused[name])})"
        for head in heads
        for name in spare
        if (unused[name] == head.shape and name not in outside)
        or (alike and outside.get(name) and unused[name][1:] == head.shape[1:])
    ]
    if pairs:
        yield Problem(
            f"{draft.plan.architecture}: a head would be new while the checkpoint has one that would be left over: "
            f"{join_names(pairs)}",
            WAY_OUT,
        )


def strange_base(draft: PlanDraft) -> Iterator[Problem]:
    """Yield a problem if nothing of the checkpoint would be kept, unasked: it is another architecture's."""
    plan, base = draft.plan, draft.target.base
    if draft.keep or draft.renamed or any(tensor.kept or tensor.source for tensor in plan.tensors):
        return
    yield Problem(
        f"nothing of {base.name} ({join_names(sorted(base.source.entries))}) has a place in {plan.architecture} "
        f"with this config ({join_names([tensor.name for tensor in plan.tensors])}): they belong to different models; "
        "give the class and the config of the checkpoint's own architecture, or of one that contains it"
    )


PLAN_CHECKS = (unlisted, renamed_layers, incomplete_base, replaced_heads, strange_base)


def outside_backbone(own: Target, names: list[str]) -> dict[str, bool]:
    """Return which of a checkpoint's tensors its own class has, and whether each lies outside the backbone."""
    addresses, prefix = own.addresses.of(names), own.model.base_model_prefix + "."
    known = {tensor.address for tensor in own.whole_layout.tensors}
    return {name: not str(addresses[name][0]).startswith(prefix) for name in names if addresses[name] in known}


def _with_closest(tensor: TensorPlan, unused: Mapping[str, Shape]) -> str:
    """Return a missing tensor with what is left over and most like it: of its shape first, then by name."""
    same = [name for name, shape in unused.items() if shape == tensor.shape]
    near = difflib.get_close_matches(tensor.name, same or list(unused), n=1, cutoff=0.0 if same else 0.6)
    return f"{tensor.name} ({format_shape(tensor.shape)}{f'; closest: {near[0]}' if near else ''})"


def _without_nesting(name: str, prefix: str) -> str:
    """Return a name without the words that tell how models are nested: ``model.language_model.norm`` is ``norm``."""
    return ".".join(word for word in name.split(".") if word not in (prefix, *NESTING))
