"""Source against target: what is kept, resized, new, tied or unused. Pure: names, shapes and addresses only."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, TypeAlias

from hf_init._errors import PlanError
from hf_init._spec import Box, Copy, Layout, Shape, SourceTensor, Status, TensorSpec, Tie, subtract

Keep: TypeAlias = Mapping[str, str]

LEADING, NOTHING = "leading", "none"


@dataclass(frozen=True)
class Match:
    """One target tensor against the source.

    Attributes:
        dtype: on disk in the result: the source's where anything is kept, so that its bytes stay as they are.
        copies: the kept regions; new: the regions to fill. Together they tile the tensor once.
    """

    target: TensorSpec
    status: Status
    dtype: str
    copies: tuple[Copy, ...] = ()
    new: tuple[Box, ...] = ()


@dataclass(frozen=True)
class Alias:
    """A tied target tensor, with the source tensor that repeats its values under the second name, if there is one."""

    tie: Tie
    source: str | None = None


@dataclass(frozen=True)
class Unused:
    """A source tensor without a place in the target, and why."""

    name: str
    reason: str


@dataclass(frozen=True)
class Diff:
    matches: tuple[Match, ...]
    aliases: tuple[Alias, ...]
    carried: tuple[SourceTensor, ...]
    unused: tuple[Unused, ...]


def compare(source: Sequence[SourceTensor], layout: Layout, keep: Keep | None = None) -> Diff:
    """Gives every target tensor its status and every source tensor its place.

    Args:
        source: the checkpoint's tensors, addressed by the target's loader; those under a second name serve only what
            would be new without them.
        layout: the target.
        keep: for tensors whose shape changed, a glob on the name to a declared correspondence: ``"leading"`` (the
            source's elements keep their indices; what lies beyond them is new) or ``"none"`` (nothing is kept).

    Raises:
        PlanError: shapes differ without a declared correspondence, a correspondence would lose elements or names
            no such tensor: all offenders at once.
    """
    claims = _claims(source, layout)
    chosen = {target.name: _choose(target, claims[target.name]) for target in layout.tensors}
    declared = _declared(keep or {}, chosen, layout)
    _refuse_undeclared(layout, chosen, declared)
    matches = tuple(_match(target, chosen[target.name], declared.get(target.name)) for target in layout.tensors)
    used = {copy.source for match in matches for copy in match.copies}
    aliases = tuple(Alias(tie, _repeated(tie, claims[tie.of], used)) for tie in layout.ties)
    placed = used | {alias.source for alias in aliases}
    rest = [tensor for tensor in source if tensor.name not in placed and not tensor.second]
    return Diff(
        matches,
        aliases,
        carried=tuple(tensor for tensor in rest if tensor.ignored),
        unused=tuple(_unused(tensor, declared, chosen) for tensor in rest if not tensor.ignored),
    )


def _claims(source: Sequence[SourceTensor], layout: Layout) -> dict[str, list[SourceTensor]]:
    """For each target tensor, the source tensors that have its address or that of a tensor tied to it."""
    owner = {address: tie.of for tie in layout.ties for address in tie.addresses}
    owner.update({target.address: target.name for target in layout.tensors})
    claims: dict[str, list[SourceTensor]] = {target.name: [] for target in layout.tensors}
    for tensor in sorted(source, key=lambda tensor: tensor.second):
        name = owner.get(tensor.address)
        if name is not None and not (tensor.second and claims[name]):
            claims[name].append(tensor)
    return claims


def _choose(target: TensorSpec, claims: list[SourceTensor]) -> SourceTensor | None:
    """The source of a target tensor: the one under its own address before one under a tied name."""
    return min(claims, key=lambda tensor: tensor.address != target.address, default=None)


def _repeated(tie: Tie, claims: list[SourceTensor], used: set[str]) -> str | None:
    """The source tensor that holds the tied values a second time."""
    return next((t.name for t in claims if t.address in tie.addresses and t.name not in used), None)


def _declared(keep: Keep, chosen: Mapping[str, SourceTensor | None], layout: Layout) -> dict[str, str]:
    unknown = [f"{glob!r}: {how!r}" for glob, how in keep.items() if how not in (LEADING, NOTHING)]
    if unknown:
        raise PlanError(f"keep: unknown correspondence {', '.join(unknown)}; known: {LEADING!r}, {NOTHING!r}")
    declared = {target.name: how for target in layout.tensors for glob, how in keep.items() if _named(target, glob)}
    idle = [glob for glob in keep if not any(_named(t, glob) and chosen[t.name] for t in layout.tensors)]
    if idle:
        raise PlanError(f"keep: {', '.join(map(repr, idle))} names no tensor that the checkpoint and the target share")
    return declared


def _named(target: TensorSpec, glob: str) -> bool:
    return fnmatchcase(target.name, glob) or fnmatchcase(target.parameter, glob)


def _refuse_undeclared(layout: Layout, chosen: Mapping[str, SourceTensor | None], declared: Mapping[str, str]) -> None:
    problems = []
    for target in layout.tensors:
        source = chosen[target.name]
        if source is None or source.shape == target.shape or declared.get(target.name) == NOTHING:
            continue
        if target.name not in declared:
            problems.append(
                f"{target.name}: {_shape(source.shape)} in the checkpoint, {_shape(target.shape)} asked for"
            )
        elif not _grows(source.shape, target.shape):
            problems.append(
                f"{target.name}: 'leading' would lose elements of {_shape(source.shape)} in {_shape(target.shape)}"
            )
    if problems:
        raise PlanError(
            f"{len(problems)} tensor{'s' if len(problems) > 1 else ''} changed shape without a declared "
            "correspondence:\n  " + "\n  ".join(problems) + "\nSay which elements are kept: keep={GLOB: 'leading'} "
            "(--map 'GLOB=leading') keeps each at its index and fills the rest; 'none' keeps nothing and makes the "
            "whole tensor new."
        )


def _grows(source: Shape, target: Shape) -> bool:
    return len(source) == len(target) and all(a <= b for a, b in zip(source, target, strict=True))


def _match(target: TensorSpec, source: SourceTensor | None, how: str | None) -> Match:
    if source is None or (how == NOTHING and source.shape != target.shape):
        return Match(target, Status.NEW, target.dtype, new=(Box.whole(target.shape),))
    whole = Box.whole(source.shape)
    copy = Copy(whole, source.name, whole)
    if source.shape == target.shape:
        return Match(target, Status.KEPT, source.dtype, (copy,))
    return Match(target, Status.RESIZED, source.dtype, (copy,), tuple(subtract(target.shape, [whole])))


def _unused(tensor: SourceTensor, declared: Mapping[str, str], chosen: Mapping[str, SourceTensor | None]) -> Unused:
    dropped = any(how == NOTHING and chosen[name] == tensor for name, how in declared.items())
    return Unused(tensor.name, "dropped as asked" if dropped else "the target has no place for it")


def _shape(shape: Iterable[Any]) -> str:
    return "x".join(map(str, shape)) or "scalar"
