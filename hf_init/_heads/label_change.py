"""The labels of a head: their names and number, the trained rows that follow them, the start of new ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial
from typing import Any, cast

from transformers import CONFIG_MAPPING, PreTrainedConfig

from hf_init._architecture import BAD_VALUE, Target, label_classes, label_values
from hf_init._change import Change, ChangePlan, TargetContext
from hf_init._checkpoint import BaseCheckpoint
from hf_init._errors import PlanError, option
from hf_init._heads.label_names import (
    LabelNames,
    generic_names,
    list_labels,
    numbered_labels,
    read_labels,
    rename_labels,
    tag_labels,
    unpaired_tags,
)
from hf_init._heads.label_priors import LabelNumbers, LabelStarts, check_starts, is_bias, is_last, label_numbers
from hf_init._heads.label_rows import (
    KEEP_MODES,
    RowIndex,
    TrainedHead,
    TrainedLabels,
    describe_rows,
    head_of,
    vocabulary_of,
)
from hf_init._options import LabelOptions
from hf_init._plan import EXACT, ROUNDING, Choice, Fill, Match, Plan, no_claim, sources_of
from hf_init._roles import matches
from hf_init._tensors import Status
from hf_init._text import join_names

SOLVING = ("examples", "verbalizer", "head")
"""Options of other changes, which have no meaning where no row is new."""


@dataclass(frozen=True)
class LabelChange(Change):
    """The requested labels; without any, those of the base stay.

    Attributes:
        before: the base's own; numbered where its config names none.
        named: whether it names them. What it doesn't say, the rows of its tensors do.
        names, number: of those requested; None: not given.
        renames: of the base's own, before anything else.
        mode: how trained rows follow, one of ``KEEP_MODES``; None: by name.
        counts: how often each occurs. mean: of the targets of a regression.
        solved: the option by which examples or words give the last layer's new rows; empty without one.
    """

    before: LabelNames
    names: LabelNames | None = None
    number: int | None = None
    renames: Mapping[str, str] = field(default_factory=dict)
    mode: str | None = None
    counts: LabelNumbers | None = None
    mean: LabelNumbers | None = None
    solved: str = ""
    named: bool = True

    OPTIONS = (
        "labels",
        "num_labels",
        "entities",
        "rename_labels",
        "labels_keep",
        "label_counts",
        "target_mean",
        *SOLVING,
    )

    @classmethod
    def of(cls, base: BaseCheckpoint, options: Mapping[str, object]) -> LabelChange:
        given = cast("LabelOptions", options)
        (before, named), number = read_config_labels(base.config), given.get("num_labels")
        renames: object = given.get("rename_labels")
        if not isinstance(renames, Mapping | None):
            raise PlanError(f"rename_labels: expected {{OLD: NEW}}, not {renames!r}")
        renames = {str(old): new for old, new in (renames or {}).items()}
        known = rename_labels(before, renames)
        labels, entities, mode = given.get("labels"), given.get("entities"), given.get("labels_keep")
        if labels is not None and entities is not None:
            raise PlanError("labels and entities: give one of the two")
        if entities is not None:
            labels = tag_labels(entities, known)
        label_values(labels, number)  # raises for what can't be labels
        if mode is not None and mode not in KEEP_MODES:
            raise PlanError(f"labels_keep: expected one of {', '.join(KEEP_MODES)}, not {mode!r}")
        change = cls(before, None if labels is None else tuple(labels), number, renames, mode, named=named)
        counts, mean = given.get("label_counts"), given.get("target_mean")
        change = replace(change, names=change._known_names(known) if labels is None else change.names)
        change._check_renames()
        return replace(
            change,
            counts=None if counts is None else label_numbers("label_counts", counts, least=0.0),
            mean=None
            if mean is None
            else label_numbers("target_mean", (mean,) if isinstance(mean, (int, float)) else mean),
            solved=next((word for word in SOLVING if options.get(word) is not None), ""),
        )

    def _known_names(self, known: LabelNames) -> LabelNames | None:
        """Return the names of the result where the user gave none: those that are known already."""
        if self.number is None:
            return known if self.renames else None
        if self.number == len(known):
            return known if self.renames else None
        if self.mode == "leading" and not generic_names(known):
            return (*known, *numbered_labels(self.number)[len(known) :])[: self.number]
        return None

    def _check_renames(self) -> None:
        lost = [new for new in self.renames.values() if self.names is not None and new not in self.names]
        if lost:
            raise PlanError(
                f"rename_labels: {', '.join(map(repr, lost))} is none of the requested labels, "
                f"{list_labels(self.names or ())}; a label that goes needs no new name"
            )

    def config_values(self) -> Mapping[str, object]:
        names = self.names
        if names is None and self.number is not None and self.named and self.number != len(self.before):
            names = numbered_labels(self.number)  # said outright: not every config forgets the old names by itself
        if names is None:
            return label_values(None, self.number)
        by_name = {name: k for k, name in enumerate(names)}
        return {"num_labels": len(names), "id2label": dict(enumerate(names)), "label2id": by_name}

    @property
    def _is_requested(self) -> bool:
        """Return whether the user gave an option that has no meaning without a head for labels."""
        given = (self.names, self.number, self.mode, self.counts, self.mean)
        return bool(self.renames or self.solved) or any(value is not None for value in given)

    def plan(self, context: TargetContext) -> ChangePlan:
        target = context.target
        after = labels_of_config(target.config)
        head = cache(lambda: head_of(target))
        starts = cache(lambda: check_starts(LabelStarts.of(target, after, head(), counts=self.counts, mean=self.mean)))
        plan = ChangePlan(fills=self._filler(head, starts))
        if not self._is_requested and self._has_no_effect(target, after):
            return replace(plan, notes_on=partial(_unnamed_notes, target, after))
        self._check_head(target, head())
        trained = TrainedLabels.of(target, head(), context.keep)
        change = self._by_rows(target, trained, trained.num_labels(head()))
        known = rename_labels(change.before, self.renames)
        index = trained.index(known, after, self.mode) if trained else (None,) * len(after)
        self._check_effect(target, head(), trained, index)
        starts()  # raises for what this kind of head can't start with
        new = frozenset(head()) if self.mode == "none" else frozenset()
        plan = replace(plan, new=new)
        return change._with_trained_rows(plan, target, head(), trained, index, after) if trained else plan

    def _has_no_effect(self, target: Target, after: LabelNames) -> bool:
        """Return whether names, or shapes, tell that no trained row of a label changes."""
        same = self.before == after
        if same and self.named:
            return True
        if not same and len(self.before) == len(after):
            return False
        sources, lengths = sources_of(target.source, target.layout), {len(after), len(after) + 1}
        pairs = ((tensor.shape, source.shape) for tensor in target.layout.tensors if (source := sources[tensor.name]))
        if same:
            return all(shape == before or not lengths & set(shape) for shape, before in pairs)
        return all(shape == before and not lengths & set(shape) for shape, before in pairs)

    def _by_rows(self, target: Target, trained: TrainedLabels, rows: int | None) -> LabelChange:
        """Return the change with the labels that the base's trained rows are for, where its config names none.

        What they are called is the word of the target's config class; by number, where it has another one. A head that
        the base's own class has, and not for labels, has no rows for any.

        Raises:
            PlanError: labels were renamed by a number that isn't theirs.
        """
        if self.named or rows is None:
            return self
        own = target.own if trained.kind and rows != len(self.before) else None
        if own is not None and trained.sources & {t.name for t in own.whole_layout.tensors} - head_of(own).keys():
            return self
        try:
            names = labels_of_config(type(target.config).from_dict(dict(target.base.config)))
        except BAD_VALUE:  # of another class than the base's own
            names = ()
        before = names if len(names) == rows else numbered_labels(rows)
        if self.renames and before != self.before:
            raise PlanError(
                f"rename_labels: the config names no labels, and the trained head has {rows} rows, not "
                f"{len(self.before)}; give the names of all, in order, with {option('labels', ['A', 'B'])} and "
                + option("labels_keep", "leading")
            )
        return replace(self, before=before)

    def _with_trained_rows(
        self,
        plan: ChangePlan,
        target: Target,
        head: TrainedHead,
        trained: TrainedLabels,
        index: RowIndex,
        after: LabelNames,
    ) -> ChangePlan:
        """Return the plan with what becomes of the trained rows."""
        stays = index == tuple(range(len(self.before)))
        notes = [*describe_rows(self.before, after, index)] if not stays or self.before != after else []
        if trained.kind:
            notes.append(f"the trained head ({trained}) is that of {trained.kind}")
        if lacking := unpaired_tags(after):
            notes.append(f"labels without {join_names(lacking)}, though most types have that tag")
        if getattr(target.config, "problem_type", None) == "regression" and len(after) > 1:
            notes.append(f"problem_type is 'regression', with {len(after)} labels")
        gone = [name for row, name in enumerate(self.before) if row not in index]
        claim = no_claim(f"labels go: {join_names(gone)}") if gone else EXACT if stays else ROUNDING
        return replace(
            plan,
            claim=lambda plan: claim,
            keep=trained.keep(head, index, len(self.before)),
            notes=tuple(notes),
            record={"labels": {"before": list(self.before), "after": list(after), "rows": list(index)}},
        )

    def _filler(
        self, head: Callable[[], TrainedHead], starts: Callable[[], LabelStarts]
    ) -> Callable[[Match, Choice], Sequence[Fill] | None]:
        requested = self.counts is not None or self.mean is not None

        def fills(match: Match, choice: Choice) -> Sequence[Fill] | None:
            if not match.new or not (choice.advised or requested) or matches(match.target.role, "embedding"):
                return None  # an embedding has a row for each token, and needs no second model to tell
            axes = head().get(match.target.name, ())
            return starts().fills(match, choice, axes) if axes else None

        return fills

    def _check_head(self, target: Target, head: TrainedHead) -> None:
        """Raise PlanError if the user gave labels and no tensor has a row for each."""
        if head or not self._is_requested:
            return
        vocabulary = vocabulary_of(target)
        hint = (
            f"; its {join_names(vocabulary)} has a row for each token instead, and follows the tokenizer: give another "
            f"({option('tokenizer', 'DIR')}) or new tokens ({option('add_tokens')}); without a tokenizer, the "
            f"vocabulary's size with {option('config', {'vocab_size': 'N'})} and the row of each token with "
            + option("keep", {"GLOB": "HOW"})
            if vocabulary
            else ""
        )
        classes = " or ".join(option("architecture", name) for name in label_classes(target.config))
        meant = f"; say which class with a head is meant: {classes}" if classes else ""
        raise PlanError(f"{target.cls.__name__} has no tensor with a row for each label{hint}{meant}")

    def _check_effect(self, target: Target, head: TrainedHead, trained: TrainedLabels, index: RowIndex) -> None:
        """Raise PlanError for options that would change nothing."""
        if self.renames and not trained:
            raise PlanError(
                "rename_labels: the checkpoint has no trained row for any label of this head; name them with labels"
            )
        last = {t.name for t in target.layout.tensors if is_last(t, head.get(t.name, ()))}
        if self.solved and last <= {target.name for target, _ in trained.tensors} and None not in index:
            raise PlanError(
                f"{self.solved}: no label is new, and trained rows stay as they are; leave it out, or say "
                f"{option('labels_keep', 'none')} for a new head"
            )
        if self.counts is None and self.mean is None:
            return
        given = "target_mean" if self.counts is None else "label_counts"
        biases = {t.name for t in target.layout.tensors if is_bias(t) and is_last(t, head.get(t.name, ()))}
        if not biases:
            raise PlanError(f"{given}: the head of {target.cls.__name__} has no bias to put it into")
        if biases <= {target.name for target, _ in trained.tensors} and None not in index:
            raise PlanError(f"{given}: no label is new, and trained biases stay as they are; leave it out")


def names_of(raw: Mapping[str, Any]) -> LabelNames:
    """Return the labels of a checkpoint by its ``config.json``; numbered where it names none."""
    return read_config_labels(raw)[0]


def read_config_labels(raw: Mapping[str, Any]) -> tuple[LabelNames, bool]:
    """Return the labels of a checkpoint by its ``config.json``, and whether it, or its class by default, names them."""
    named, kind, number = raw.get("id2label"), raw.get("model_type"), raw.get("num_labels")
    names = read_labels(named) if isinstance(named, Mapping) else ()
    count = number if isinstance(number, int) and number > 0 else None
    if names and count in (None, len(names)):
        return names, True
    try:
        own = CONFIG_MAPPING[kind].from_dict(dict(raw)) if isinstance(kind, str) and kind in CONFIG_MAPPING else None
    except BAD_VALUE:  # such a config is refused when it is made
        own = None
    if own is None:
        return (names, True) if names else (numbered_labels(count or 2), False)
    names = labels_of_config(own)
    return names, not generic_names(names)


def labels_of_config(config: PreTrainedConfig) -> LabelNames:
    """Return the labels of a config; numbered where it counts others than it names, in a field of its own."""
    names, number = read_labels(getattr(config, "id2label", None) or {}), getattr(config, "num_labels", None)
    return numbered_labels(number) if isinstance(number, int) and number != len(names) else names


def _unnamed_notes(target: Target, after: LabelNames, plan: Plan) -> Sequence[str]:
    """Return a note on the labels of a new classifier that nobody has named."""
    rows = {tensor.shape[:1] for tensor in plan.tensors if tensor.status is Status.NEW}
    is_new = "Classification" in target.cls.__name__ and len(after) > 1 and (len(after),) in rows
    advice = f"the {len(after)} labels have no names ({join_names(after)}): give labels to name them"
    return [advice] if is_new and generic_names(after) else []
