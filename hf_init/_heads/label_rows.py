"""A target's head: the tensors with a slice for each label, and how their trained slices follow the labels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from itertools import product
from typing import TypeAlias

from transformers import PreTrainedConfig

from hf_init._architecture import Target, has_same_head
from hf_init._errors import PlanError, option
from hf_init._heads.label_names import MOST, LabelNames, closest_labels, generic_names, list_labels
from hf_init._plan import Boxes, Nothing, RowMap, RowMapping, format_shape, matches_glob, neighbour_runs, sources_of
from hf_init._roles import matches
from hf_init._tensors import Box, Shape, SourceTensor, TensorSpec
from hf_init._text import join_names

RowIndex: TypeAlias = tuple[int | None, ...]
"""For each label the source's row that it gets, or None where it is new."""

KEEP_MODES = ("names", "leading", "none")


def follow_labels(before: LabelNames, after: LabelNames, mode: str | None = None) -> RowIndex:
    """Return the trained row of every label.

    Args:
        before: the labels of the source, already renamed.
        after: those of the target.
        mode: ``"names"``: by name; ``"leading"``: by position; ``"none"``: none is kept; None: by name where both
            sides have names, or nothing changes.

    Raises:
        ValueError: names that say nothing, or not which row; it reads on from "the checkpoint's head".

    Example:
        >>> follow_labels(("neg", "neu", "pos"), ("pos", "mixed", "neg"))
        (2, None, 0)
    """
    if mode == "none":
        return (None,) * len(after)
    if mode == "leading" or before == after:
        return tuple(row if row < len(before) else None for row in range(len(after)))
    _check_unnamed(before, after)
    for what, names in (("has", before), ("would have", after)):
        counts = Counter(names)
        twice = [name for name in sorted(set(before) & set(after)) if counts[name] > 1]
        if twice:
            raise ValueError(
                f"{what} more than one label named {', '.join(map(repr, twice))}: give each a name of its own, or say "
                f"{option('labels_keep', 'leading')}, or a list of rows with {option('keep')}"
            )
    row_of = {name: row for row, name in enumerate(before)}
    index = tuple(row_of.get(name) for name in after)
    if any(row is not None for row in index):
        return index
    hints = [f"{name!r}{hint}" for name in after if (hint := closest_labels(name, before))]
    raise ValueError(
        f"was trained for the labels {list_labels(before)}, and none of {list_labels(after)} is among them"
        f"{': ' + join_names(hints) if hints else ''}. Say what becomes of its rows: "
        f"{option('labels_keep', 'none')} makes the head new, 'leading' keeps each row where it is, under the new "
        f"name, and {option('rename_labels', {'OLD': 'NEW'})} names them one by one"
    )


def _check_unnamed(before: LabelNames, after: LabelNames) -> None:
    if not (generic_names(before) or generic_names(after)):
        return
    without = (
        "neither side names them" if generic_names(before) and generic_names(after) else "only one side names them"
    )
    raise ValueError(
        f"was trained for the labels {list_labels(before)}, not {list_labels(after)}, and {without}: which row is "
        f"whose would be guessed. Give the names ({option('labels', ['A', 'B'])}; "
        f"{option('rename_labels', {'LABEL_0': 'NAME'})} names the trained ones), or say "
        f"{option('labels_keep', 'leading')} (each row stays where it is, what is beyond them is new) or "
        f"{option('labels_keep', 'none')} (the head is new)"
    )


def describe_rows(before: LabelNames, after: LabelNames, index: RowIndex) -> Iterator[str]:
    """Yield sentences for the plan: where each row comes from, which labels are new, which are gone.

    Args:
        before: the labels of the source under their own names.
    """
    kept: list[str] = []
    for row, (name, at) in enumerate(zip(after, index, strict=True)):
        if at is not None:
            where = f"row {at}" if at == row else f"row {at} -> {row}"
            kept.append(f"{name} ({where})" if name == before[at] else f"{name} ({where}, was {before[at]})")
    new = [name for name, at in zip(after, index, strict=True) if at is None]
    gone = [name for at, name in enumerate(before) if at not in index]
    if kept:
        yield f"labels kept, {len(kept)} of {len(before)}: {join_names(kept, MOST)}"
    if new:
        yield f"labels new, {len(new)} of {len(after)}: {join_names(new, MOST)}"
    if gone:
        yield f"labels removed with their rows, {len(gone)} of {len(before)}: {join_names(gone, MOST)}"


@dataclass(frozen=True)
class LabelAxis:
    """A dimension that grows with the labels.

    Attributes:
        each: how many slices a label has.
        extra: slices beyond the labels' own, which come last: DETR's row for no object.
    """

    dim: int
    each: int = 1
    extra: int = 0

    def size(self, labels: int) -> int:
        return self.each * labels + self.extra


def label_axes(shape: Shape, grown: Shape, labels: int) -> tuple[LabelAxis, ...]:
    """Return the dimensions in which a tensor grows with its labels.

    Args:
        shape: with this many labels.
        grown: with one more.

    Example:
        >>> label_axes((4, 256), (5, 256), 3)
        (LabelAxis(dim=0, each=1, extra=1),)
        >>> label_axes((2, 3), (2, 3), 3)
        ()
    """
    if len(shape) != len(grown):
        return ()
    steps = ((dim, more - size, size) for dim, (size, more) in enumerate(zip(shape, grown, strict=True)))
    return tuple(LabelAxis(dim, each, size - each * labels) for dim, each, size in steps if each)


def label_row_map(
    index: RowIndex, axes: Sequence[LabelAxis], before: Shape, after: Shape, labels: int
) -> RowMapping | None:
    """Return how a trained tensor's slices follow their labels; None where all of them stay where they are.

    Args:
        index: for each label its row in the source.
        before: the source tensor's shape. labels: how many the source has.

    Raises:
        ValueError: the tensors don't have one slice for each label, or not in the same way.
    """
    if all(at is None for at in index):
        return Nothing()
    if before == after and index == tuple(range(labels)):
        return None
    if any(axis.each != 1 or axis.extra < 0 for axis in axes):
        raise ValueError(
            f"{format_shape(after)} has not one slice for each of {len(index)} labels; give its map with keep"
        )
    sizes = {axis.dim: axis.size(labels) for axis in axes}
    expected = tuple(sizes.get(dim, size) for dim, size in enumerate(after))
    if before != expected:
        raise ValueError(
            f"{format_shape(before)} in the checkpoint, {format_shape(expected)} expected for its {labels} labels"
        )
    maps = [(*index, *(labels + k for k in range(axis.extra))) for axis in axes]
    drop = any(at not in index for at in range(labels))
    if len(axes) == 1:
        return RowMap(maps[0], axes[0].dim, drop)
    # The rows and columns of a matrix are labels: every run of neighbours of the ones with every run of the others.
    runs = [[(0, 0, size)] for size in before]
    for axis, places in zip(axes, maps, strict=True):
        runs[axis.dim] = list(neighbour_runs(places))
    boxes: list[tuple[Box, Box]] = []
    for each in product(*runs):
        rows, origins, lengths = zip(*each, strict=True)
        boxes.append((_box_from(rows, lengths), _box_from(origins, lengths)))
    return Boxes(tuple(boxes), drop)


def _box_from(start: Shape, lengths: Shape) -> Box:
    return Box(tuple(start), tuple(a + n for a, n in zip(start, lengths, strict=True)))


TrainedHead = Mapping[str, tuple[LabelAxis, ...]]
"""The tensors that grow with the labels, by name on disk, with the dimensions in which they do."""


def head_of(target: Target) -> TrainedHead:
    """Return the tensors of the target that have a slice for each label: their shapes grow with one label more.

    Exact for every class, whatever its tensors are called; nothing is built but a second model on meta.

    Raises:
        PlanError: the class can't be built with one label more.
    """
    count = target.config.num_labels or 0
    return _growing_tensors(target, lambda config: setattr(config, "num_labels", count + 1), count)


def vocabulary_of(target: Target) -> tuple[str, ...]:
    """Return the tensors that have an output for each token, as the head of a CTC model has."""
    count = getattr(target.config, "vocab_size", None)
    if not isinstance(count, int):
        return ()
    growing = _growing_tensors(target, lambda config: setattr(config, "vocab_size", count + 1), count)
    return tuple(t.name for t in target.layout.tensors if t.name in growing and not matches(t.role, "embedding"))


def _growing_tensors(target: Target, grow: Callable[[PreTrainedConfig], None], count: int) -> TrainedHead:
    config = deepcopy(target.config)
    grow(config)
    here, grown = (
        {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
        for model in (target.model, target.rebuilt(config))
    )
    axes_of = {
        tensor.name: label_axes(tensor.shape, grown.get(tensor.parameter, ()), count)
        for tensor in target.layout.tensors
        if here.get(tensor.parameter) == tensor.shape  # a piece of a tensor in memory isn't measured by it
    }
    return {name: axes for name, axes in axes_of.items() if axes}


@dataclass(frozen=True)
class TrainedLabels:
    """The tensors of a head that the checkpoint has, each with its source, less those that the user's ``keep`` names.

    Attributes:
        kind: the class that the checkpoint names as its own, where its head is another than the target's.
    """

    tensors: tuple[tuple[TensorSpec, SourceTensor], ...]
    kind: str

    @classmethod
    def of(cls, target: Target, head: TrainedHead, keep: Sequence[str]) -> TrainedLabels:
        sources = sources_of(target.source, target.layout)
        pairs = ((t, sources[t.name]) for t in target.layout.tensors if t.name in head)
        kept = tuple((t, s) for t, s in pairs if s is not None and not any(matches_glob(t, g) for g in keep))
        return cls(kept, "" if has_same_head(target.cls, target.base.class_name) else target.base.class_name)

    def __bool__(self) -> bool:
        return bool(self.tensors)

    def __str__(self) -> str:
        return join_names([tensor.name for tensor, _ in self.tensors])

    @property
    def sources(self) -> frozenset[str]:
        """Return the names of the source tensors."""
        return frozenset(source.name for _, source in self.tensors)

    def num_labels(self, head: TrainedHead) -> int | None:
        """Return how many labels the sources have slices for; None where they don't say it, or not all the same."""
        counts = {
            divmod(source.shape[axis.dim] - axis.extra, axis.each)
            for target, source in self.tensors
            for axis in head[target.name]
            if len(source.shape) == len(target.shape)
        }
        count, rest = counts.pop() if len(counts) == 1 else (0, 0)
        return count if count > 0 and not rest else None

    def index(self, before: LabelNames, after: LabelNames, mode: str | None) -> RowIndex:
        """Return the trained row of every label.

        Raises:
            PlanError: the names don't say it.
        """
        try:
            return follow_labels(before, after, mode)
        except ValueError as error:
            raise PlanError(f"the checkpoint's head ({self}){self._kind} {error}") from None

    def keep(self, head: TrainedHead, index: RowIndex, labels: int) -> dict[str, RowMapping]:
        """Return how each tensor's slices follow; nothing for those that stay as they are.

        Raises:
            PlanError: what the checkpoint has there is no head of so many labels.
        """
        mappings: dict[str, RowMapping] = {}
        problems = []
        for target, source in self.tensors:
            try:
                mapping = label_row_map(index, head[target.name], source.shape, target.shape, labels)
            except ValueError as error:
                problems.append(f"{target.name}: {error}")
                continue
            if mapping is not None:
                mappings[target.name] = mapping
        if problems:
            raise PlanError(
                f"the checkpoint has a head of another kind{self._kind.rstrip(',')}:\n  "
                + "\n  ".join(problems)
                + f"\nSay {option('labels_keep', 'none')} for a new head, or which elements are kept with "
                + option("keep", {"GLOB": "HOW"})
            )
        return mappings

    @property
    def _kind(self) -> str:
        return f", that of {self.kind}," if self.kind else ""
