"""What should have been in the checkpoint and isn't: an error, unless the user expects it to be new."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any

from hf_init._architecture import Addresses, has_same_head
from hf_init._change import Change, ChangePlan, TargetContext
from hf_init._checkpoint import BaseCheckpoint, Checkpoint
from hf_init._errors import PlanError
from hf_init._plan import DROPPED, Plan, TensorPlan, format_shape, matches_glob
from hf_init._roles import matches
from hf_init._tensors import Layout, Shape, Status
from hf_init._text import join_names

WAY_OUT = (
    "Give the names that the files have with key_mapping={REGEX: REPLACEMENT}, or the class that the checkpoint is of "
    "(--architecture CLASS), or say what is new: allow_new=[GLOB] (--allow-new GLOB), or a rule of the recipe"
)
NESTING = ("model", "language_model", "text_model", "base_model", "tracker_model")


@dataclass(frozen=True)
class AllowNew(Change):
    """The list of what may be new; anything else that would be is an error.

    Attributes:
        globs: on names on disk or in memory.
    """

    globs: tuple[str, ...]

    OPTIONS = ("allow_new",)

    @classmethod
    def of(cls, base: BaseCheckpoint, options: Mapping[str, Any]) -> AllowNew | None:
        given = options.get("allow_new")
        if given is None:
            return None
        globs = [given] if isinstance(given, str) else given
        if not isinstance(globs, Sequence) or not all(isinstance(glob, str) and glob.strip() for glob in globs):
            raise PlanError(f"allow_new: expected a list of globs, such as ['classifier.*'], not {given!r}")
        return cls(tuple(globs))

    def plan(self, context: TargetContext) -> ChangePlan:
        return ChangePlan(allowed=self.globs)


@dataclass(frozen=True)
class SourceArchitecture:
    """The checkpoint's own class with the checkpoint's own config: what its files should hold.

    Attributes:
        prefix: of the trunk's names in memory.
    """

    name: str
    layout: Layout
    addresses: Addresses
    prefix: str

    def known(self, names: Sequence[str]) -> dict[str, bool]:
        """Those of a checkpoint's tensors that have a place, and whether it lies outside the trunk."""
        found = self.addresses.of(list(names))
        places = {tensor.address for tensor in self.layout.tensors}
        return {name: not str(found[name][0]).startswith(self.prefix + ".") for name in names if found[name] in places}


@dataclass(frozen=True)
class NewTensors:
    """What would be new without anybody's having said so, and what of the source is left over.

    Attributes:
        unused: their shapes in the source.
    """

    tensors: tuple[TensorPlan, ...]
    unused: Mapping[str, Shape]

    @classmethod
    def of(cls, plan: Plan, source: Checkpoint, expected: AbstractSet[str]) -> NewTensors:
        new = (t for t in plan.tensors if t.status is Status.NEW and t.name not in expected and not t.left_out)
        unused = [tensor.name for tensor in plan.unused if tensor.reason != DROPPED]
        return cls(tuple(new), {name: source.entries[name].shape for name in unused})


def check_missing(
    plan: Plan,
    context: TargetContext,
    expected: AbstractSet[str],
    own: Callable[[], SourceArchitecture | None],
    tolerated: Callable[[str], bool],
) -> None:
    """A tensor must not be drawn anew that the checkpoint should have, or has under another name.

    Args:
        expected: names of tensors that the user knows to be new.
        own: the checkpoint's own class; None where it isn't at hand. Built only where it decides.
        tolerated: whether the class itself says that a parameter may be missing.

    Raises:
        PlanError: it names what is missing, and the closest of what is left over.
    """
    drawn = NewTensors.of(plan, context.base.source, expected)
    _check_renamed(plan, drawn, context.model.base_model_prefix)
    _check_holes(plan, drawn, context, own, tolerated)
    _check_replaced(plan, drawn, context, own)


def check_unlisted(plan: Plan, layout: Layout, globs: Sequence[str]) -> None:
    """Raises PlanError for everything with something new that no glob of the list names."""
    specs = {tensor.name: tensor for tensor in layout.tensors}
    new = [specs[tensor.name] for tensor in plan.tensors if tensor.new and tensor.name in specs]
    unlisted = [spec.name for spec in new if not any(matches_glob(spec, glob) for glob in globs)]
    if unlisted:
        idle = [glob for glob in globs if not any(matches_glob(spec, glob) for spec in new)]
        hint = f"; nothing new is named by {', '.join(map(repr, idle))}" if idle else ""
        raise PlanError(
            f"{plan.architecture}: {len(unlisted)} tensors would be new, wholly or in part, and allow_new "
            f"(--allow-new) doesn't name them: {', '.join(unlisted)}{hint}"
        )


def _check_renamed(plan: Plan, drawn: NewTensors, prefix: str) -> None:
    """A layer that the checkpoint holds under nearly the same name, which the loader doesn't know."""
    unused = {(_bare(name, prefix), shape): name for name, shape in drawn.unused.items()}
    keys = {tensor.name: (_bare(tensor.name, prefix), tensor.shape) for tensor in drawn.tensors}
    pairs = [f"{unused[key]} -> {name}" for name, key in keys.items() if key in unused]
    if pairs:
        raise PlanError(
            f"{plan.architecture}: the checkpoint holds {len(pairs)} tensors that transformers' loader finds no place "
            f"for, while tensors of the same shapes would be new under nearly the same names: {join_names(pairs)}. "
            f"{WAY_OUT}"
        )


def _check_holes(
    plan: Plan,
    drawn: NewTensors,
    context: TargetContext,
    own: Callable[[], SourceArchitecture | None],
    tolerated: Callable[[str], bool],
) -> None:
    """What the checkpoint's own class has, when that is the target, and the checkpoint hasn't."""
    kind = context.base.class_name
    new = [t for t in drawn.tensors if not _is_computed(t) and not tolerated(t.parameter)]
    if not new or kind not in (base.__name__ for base in context.cls.__mro__):
        return
    found = own()
    if found is None:
        return
    whole = {tensor.name for tensor in found.layout.tensors}
    missing = [tensor for tensor in new if tensor.name in whole]
    if missing:
        raise PlanError(
            f"{plan.architecture}: the checkpoint says that it is a {found.name}, and lacks {len(missing)} of its "
            f"tensors, which would start anew: {join_names(list(_closest(missing, drawn.unused)))}. "
            f"{_left(drawn.unused)}. {WAY_OUT}"
        )


def _check_replaced(
    plan: Plan, drawn: NewTensors, context: TargetContext, own: Callable[[], SourceArchitecture | None]
) -> None:
    """A head that would be new while the checkpoint's own, for the same task or of no known class, is left over."""
    trunk = context.model.base_model_prefix + "."
    heads = [t for t in drawn.tensors if len(t.shape) > 1 and not t.parameter.startswith(trunk)]
    spare = [name for name, shape in drawn.unused.items() if any(shape[1:] == t.shape[1:] for t in heads)]
    if not spare:
        return
    found = own()
    known = found.known(spare) if found else {}
    alike = found is not None and has_same_head(context.cls, found.name)
    pairs = [
        f"{tensor.name} ({format_shape(tensor.shape)}), and the checkpoint has {name} "
        f"({format_shape(drawn.unused[name])})"
        for tensor in heads
        for name in spare
        if (drawn.unused[name] == tensor.shape and name not in known)
        or (alike and known.get(name) and drawn.unused[name][1:] == tensor.shape[1:])
    ]
    if pairs:
        raise PlanError(
            f"{plan.architecture}: a head would be new while the checkpoint has one that would be left over: "
            f"{join_names(pairs)}. {WAY_OUT}"
        )


def _closest(missing: Sequence[TensorPlan], unused: Mapping[str, Shape]) -> Iterator[str]:
    """Each missing tensor with what is left over and most like it: of its shape first, then by name."""
    for tensor in missing:
        same = [name for name, shape in unused.items() if shape == tensor.shape]
        near = difflib.get_close_matches(tensor.name, same or list(unused), n=1, cutoff=0.0 if same else 0.6)
        yield f"{tensor.name} ({format_shape(tensor.shape)}{f'; closest: {near[0]}' if near else ''})"


def _left(unused: Mapping[str, Shape]) -> str:
    if not unused:
        return "Nothing in the checkpoint is left over"
    return (
        "Left over in the checkpoint: "
        f"{join_names([f'{name} ({format_shape(shape)})' for name, shape in unused.items()])}"
    )


def _is_computed(tensor: TensorPlan) -> bool:
    """Whether nothing of it was ever trained, and the class computes it again."""
    return tensor.role == "buffer" or matches(tensor.role, "norm.num_batches_tracked")


def _bare(name: str, prefix: str) -> str:
    """A name without the words that tell only how models are nested: ``model.language_model.norm`` is ``norm``."""
    return ".".join(word for word in name.split(".") if word not in (prefix, *NESTING))
