"""Source against target: what is kept, resized, new, tied or unused. Pure: names, shapes and addresses only."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from hf_init._errors import PlanError, option
from hf_init._globs import closest_glob
from hf_init._plan.mapping import Leading, RowMapping, RowMappingLike, format_shape, parse_mapping
from hf_init._tensors import Box, Copy, Layout, Region, SourceTensor, Status, TensorSpec, Tie
from hf_init._text import fits_glob

Keep: TypeAlias = Mapping[str, RowMappingLike]
Place: TypeAlias = tuple[Any, ...]

DROPPED = "dropped as asked"
NO_PLACE = "the target has no place for it"


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
    new: tuple[Region, ...] = ()


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
class MatchResult:
    matches: tuple[Match, ...]
    aliases: tuple[Alias, ...]
    carried: tuple[SourceTensor, ...]
    unused: tuple[Unused, ...]


def match_tensors(
    source: Sequence[SourceTensor],
    layout: Layout,
    keep: Keep | None = None,
    wished: Mapping[str, RowMapping] | None = None,
) -> MatchResult:
    """Give every target tensor its status and every source tensor its place.

    Args:
        source: the checkpoint's tensors, addressed by the target's loader; those under a second name serve only what
            would be new without them.
        layout: the target.
        keep: a glob on the name to a declared correspondence: ``"leading"`` (the source's elements keep their indices;
            what lies beyond them is new), ``"none"`` (nothing is kept), a source row or None for each target row, or
            boxes; see ``hf_init._plan.mapping``.
        wished: correspondences by the target tensor's name, for what ``keep`` doesn't speak of.

    Raises:
        PlanError: shapes differ without a declared correspondence, a correspondence would lose elements or names
            no such tensor: all offenders at once.
    """
    claims = _sources_by_target(source, layout)
    chosen = _chosen_sources(claims, layout)
    declared = {**(wished or {}), **_declared_mappings(keep or {}, chosen, layout)}
    matches = tuple(_matches(layout, chosen, declared))
    used = {copy.source for match in matches for copy in match.copies}
    aliases = tuple(
        Alias(tie, next((t.name for t in claims[tie.of] if t.address in tie.addresses and t.name not in used), None))
        for tie in layout.ties
    )
    placed = used | {alias.source for alias in aliases}
    dropped = [chosen[name] for name in declared]
    rest = [tensor for tensor in source if tensor.name not in placed and not tensor.second]
    return MatchResult(
        matches,
        aliases,
        carried=tuple(tensor for tensor in rest if tensor.ignored),
        unused=tuple(
            Unused(tensor.name, DROPPED if tensor in dropped else NO_PLACE) for tensor in rest if not tensor.ignored
        ),
    )


def sources_of(source: Sequence[SourceTensor], layout: Layout) -> dict[str, SourceTensor | None]:
    """Return, for each target tensor by name, the source tensor that it is compared with."""
    return _chosen_sources(_sources_by_target(source, layout), layout)


def owners(layout: Layout) -> dict[Place, str]:
    """Return, for each place that a loader has for a tensor, the name of the target tensor that it is, tied or not."""
    tied = {address: tie.of for tie in layout.ties for address in tie.addresses}
    return {**tied, **{target.address: target.name for target in layout.tensors}}


def matches_glob(target: TensorSpec, glob: str) -> bool:
    """Return whether a glob is for this tensor, by its name on disk or in memory."""
    return fits_glob(target.name, glob) or fits_glob(target.parameter, glob)


def _chosen_sources(claims: Mapping[str, list[SourceTensor]], layout: Layout) -> dict[str, SourceTensor | None]:
    """Return the source of each target tensor: the one under its own address before one under a tied name."""
    return {
        target.name: min(claims[target.name], key=lambda tensor: tensor.address != target.address, default=None)
        for target in layout.tensors
    }


def _sources_by_target(source: Sequence[SourceTensor], layout: Layout) -> dict[str, list[SourceTensor]]:
    """Return, for each target tensor, the source tensors that have its address or that of a tensor tied to it."""
    owner = owners(layout)
    claims: dict[str, list[SourceTensor]] = {target.name: [] for target in layout.tensors}
    for tensor in sorted(source, key=lambda tensor: tensor.second):
        name = owner.get(tensor.address)
        if name is not None and not (tensor.second and claims[name]):
            claims[name].append(tensor)
    return claims


def _declared_mappings(keep: Keep, chosen: Mapping[str, SourceTensor | None], layout: Layout) -> dict[str, RowMapping]:
    said = {glob: parse_mapping(how, repr(glob)) for glob, how in keep.items()}
    idle = [glob for glob in said if not any(matches_glob(t, glob) and chosen[t.name] for t in layout.tensors)]
    if idle:
        common = [tensor.name for tensor in layout.tensors if chosen[tensor.name]]
        hints = ", ".join(f"{glob!r}{closest_glob(glob, common)}" for glob in idle)
        raise PlanError(f"{option('keep')}: {hints} names no tensor that the checkpoint and the target share")
    return {target.name: how for target in layout.tensors for glob, how in said.items() if matches_glob(target, glob)}


def _matches(
    layout: Layout, chosen: Mapping[str, SourceTensor | None], declared: Mapping[str, RowMapping]
) -> Iterator[Match]:
    """Match every target tensor; what can't be matched is refused all at once."""
    undeclared: list[str] = []
    misfits: list[str] = []
    for target in layout.tensors:
        source, how = chosen[target.name], declared.get(target.name)
        if source is not None and source.shape != target.shape and how is None:
            shapes = f"{format_shape(source.shape)} in the checkpoint, {format_shape(target.shape)} asked for"
            undeclared.append(f"{target.name}: {shapes}")
            continue
        try:
            yield _match_one(target, source, how)
        except ValueError as error:
            misfits.append(f"{target.name}: {error}")
    if misfits:
        raise PlanError("keep doesn't fit:\n  " + "\n  ".join(misfits))
    if undeclared:
        raise PlanError(
            f"{len(undeclared)} tensor{'s' if len(undeclared) > 1 else ''} changed shape without a declared "
            "correspondence:\n  " + "\n  ".join(undeclared) + "\nSay which elements are kept: "
            f"{option('keep', {'GLOB': 'leading'})} keeps each at its index and fills the rest; 'none' keeps nothing "
            "and makes the whole tensor new; a list of rows or boxes says it one by one."
        )


def _match_one(target: TensorSpec, source: SourceTensor | None, how: RowMapping | None) -> Match:
    if source is None:
        return Match(target, Status.NEW, target.dtype, new=(Box.whole(target.shape),))
    if how is None or (isinstance(how, Leading) and source.shape == target.shape):
        return Match(target, Status.KEPT, source.dtype, (Copy.whole(source.name, source.shape),))
    copies, new = how.regions(source.name, source.shape, target.shape)
    if not copies:
        return Match(target, Status.NEW, target.dtype, new=(Box.whole(target.shape),))
    return Match(target, Status.RESIZED, source.dtype, copies, new)
