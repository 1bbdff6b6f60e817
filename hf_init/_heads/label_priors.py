"""What the last layer of a head starts with, where its labels are known and the recipe leaves it open."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Real

from hf_init import schemes
from hf_init._architecture import Target
from hf_init._errors import PlanError
from hf_init._heads.label_names import LabelNames, closest_labels, list_labels
from hf_init._heads.label_rows import LabelAxis, TrainedHead
from hf_init._plan import Choice, Fill, Match
from hf_init._tensors import Region, Rows, TensorSpec

NO_OBJECT = "no object"
"""The name of a detector's last row, which belongs to no label."""


def label_numbers(what: str, given: object, least: float = -math.inf) -> Mapping[str, float] | tuple[float, ...]:
    """Read numbers for labels: by name, or in order.

    Raises:
        PlanError: they are not finite numbers of at least ``least``, or none.

    Example:
        >>> label_numbers("label_counts", [3, 1])
        (3.0, 1.0)
    """
    if isinstance(given, Mapping):
        return {str(name): _finite_number(what, value, least) for name, value in given.items()}
    if isinstance(given, str) or not isinstance(given, Sequence) or not given:
        raise PlanError(f"{what}: expected a number for each label, by name or in order, not {given!r}")
    return tuple(_finite_number(what, value, least) for value in given)


def _finite_number(what: str, value: object, least: float) -> float:
    if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value) or value < least:
        bound = f" of at least {least:g}" if math.isfinite(least) else ""
        raise PlanError(f"{what}: expected finite numbers{bound}, not {value!r}")
    return float(value)


def counts_by_row(
    what: str, given: Mapping[str, float] | tuple[float, ...], names: LabelNames, extra: Sequence[str] = ()
) -> tuple[float, ...]:
    """Return one number for each row.

    Args:
        names: of the labels. extra: names of the rows after them, which may be left out: they get 0.

    Raises:
        PlanError: labels without a number, numbers without a label.

    Example:
        >>> counts_by_row("label_counts", {"pos": 1.0, "neg": 3.0}, ("neg", "pos"))
        (3.0, 1.0)
    """
    rows = (*names, *extra)
    if isinstance(given, tuple):
        if not len(names) <= len(given) <= len(rows):
            raise PlanError(f"{what}: {len(given)} numbers for {len(names)} labels ({list_labels(names)})")
        return (*given, *(0.0,) * (len(rows) - len(given)))
    unknown = [f"{name!r}{closest_labels(name, rows)}" for name in given if name not in rows]
    missing = tuple(name for name in names if name not in given)
    problems = [f"no label is named {', '.join(unknown)}"] * bool(unknown)
    problems += [f"{list_labels(missing)} have no number"] * bool(missing)
    if problems:
        raise PlanError(f"{what}: {'; '.join(problems)}; give one for each of {list_labels(names)}")
    return tuple(given.get(name, 0.0) for name in rows)


LabelNumbers = Mapping[str, float] | tuple[float, ...]

SHARE = 0.01
"""Of positives, where nobody says: Lin et al., Focal Loss (RetinaNet), 2017."""

LEVEL = "the logits start at the biases, and at the first step no gradient flows back through the head"
NEW_ROWS = "new labels start with equal logits: 0"


@dataclass(frozen=True)
class LabelStarts:
    """The start of a last layer.

    Attributes:
        names: of the target's labels.
        kind: ``"softmax"``, ``"sigmoid"`` or ``"regression"``.
        queries: whether a detector scores queries by it: their logits must not all be equal.
        share: of positives, for a sigmoid without counts.
        counts, mean: what the user knows of the labels, of the targets.
    """

    names: LabelNames
    kind: str
    queries: bool = False
    share: float = SHARE
    counts: LabelNumbers | None = None
    mean: LabelNumbers | None = None

    @classmethod
    def of(cls, target: Target, names: LabelNames, head: TrainedHead, **known: LabelNumbers | None) -> LabelStarts:
        """Read the kind of start off the class, the config and the shapes of the head."""
        problem = getattr(target.config, "problem_type", None)
        last = [head[t.name] for t in target.layout.tensors if is_last(t, head.get(t.name, ()))]
        extra = any(axis.extra for axes in last for axis in axes)
        detects = "Detection" in target.cls.__name__
        if problem == "regression" or (problem is None and len(names) == 1 and not detects):
            kind = "regression"
        else:
            kind = "sigmoid" if problem == "multi_label_classification" or (detects and not extra) else "softmax"
        share = getattr(target.config, "initializer_bias_prior_prob", None) or SHARE
        return cls(names, kind, detects or extra, share, **known)

    def fills(self, match: Match, choice: Choice, axes: Sequence[LabelAxis]) -> Sequence[Fill] | None:
        """Return the new regions of a tensor; None where it isn't of the last layer, or the recipe's choice stands."""
        if not is_last(match.target, axes):
            return None
        stands = not choice.advised and choice.why != "default"
        if is_bias(match.target):
            if stands and not (self.counts is None and self.mean is None):
                raise PlanError(
                    f"{match.target.name}: {choice.why} gives it {choice.scheme}, so label_counts or target_mean would "
                    "have no effect; leave out one of the two, or give the rule the scheme auto"
                )
            return None if stands else self._bias(match, axes[0])
        # A whole layer of zeros is behind for hundreds of steps: it is for those who want the first loss to be exact.
        exact = self.counts is not None or self.mean is not None
        if stands or self.queries or not (match.copies or exact):
            return None
        return [Fill(region, schemes.Zeros(), NEW_ROWS if match.copies else LEVEL) for region in match.new]

    def _bias(self, match: Match, axis: LabelAxis) -> list[Fill]:
        if self.counts is not None:
            scheme, why = self._prior(match, axis, self.counts)
        elif self.mean is not None:
            scheme = schemes.LogPrior(mean=counts_by_row("target_mean", self.mean, self.names))
            why = "a regression starts at the mean of its targets"
        elif self.kind == "sigmoid":
            scheme = schemes.LogPrior(pi=self.share)
            why = f"a sigmoid for each label: {self.share:g} of it at first (Lin et al., 2017)"
        else:
            scheme, why = schemes.Zeros(), NEW_ROWS if match.copies else "biases start at 0"
        return [Fill(region, scheme, why) for region in match.new]

    def _prior(self, match: Match, axis: LabelAxis, counts: LabelNumbers) -> tuple[schemes.Scheme, str]:
        extra = [NO_OBJECT] * (axis.extra == 1)
        each = counts_by_row("label_counts", counts, self.names, extra)
        rows = (*self.names, *extra)
        empty = [rows[row] for region in match.new for row in rows_of(region) if each[row] <= 0]
        if empty == [NO_OBJECT]:
            raise PlanError(
                "label_counts: the head has a row for no object after those of the labels; say how often it is right, "
                f"by the name {NO_OBJECT!r} or as the last number"
            )
        if empty:
            names = ", ".join(map(repr, empty))
            raise PlanError(f"label_counts: no example of {names}: leave the label out, or count it once")
        if self.kind == "sigmoid":
            if wrong := [value for value in each if not 0 < value < 1]:
                raise PlanError(
                    f"label_counts: {wrong[0]:g}: every label is a question of its own here, so give the share of the "
                    "examples that have it, between 0 and 1"
                )
            return schemes.LogPrior(pi=each), "the log odds of how often each label occurs"
        why = "the logarithm of how often each label occurs"
        return schemes.LogPrior(counts=each), f"{why}, among all labels; trained biases stay" if match.copies else why


def check_starts(starts: LabelStarts) -> LabelStarts:
    """Return the same starts if this kind of head can start with what the user knows.

    Raises:
        PlanError: counts for a regression, a mean for anything else, both.
    """
    if starts.counts is not None and starts.kind == "regression":
        raise PlanError("label_counts: the head regresses, and its targets have a mean; say target_mean=NUMBER")
    if starts.mean is not None and starts.kind != "regression":
        raise PlanError("target_mean: the head doesn't regress; say problem_type='regression', or give label_counts")
    return starts


def is_last(tensor: TensorSpec, axes: Sequence[LabelAxis]) -> bool:
    """Return whether labels are the outputs of a layer: not the entries of a table, nor both sides of a matrix."""
    if [(axis.dim, axis.each) for axis in axes] != [(0, 1)]:
        return False
    return is_bias(tensor) or (tensor.geometry is not None and tensor.geometry.order == "out_in")


def is_bias(tensor: TensorSpec) -> bool:
    return len(tensor.shape) == 1 and tensor.parameter.endswith("bias")


def rows_of(region: Region) -> Sequence[int]:
    """Return the rows of a region that is cut along the first dimension."""
    if isinstance(region, Rows):
        return region.index
    return range(region.start[0], region.stop[0])
