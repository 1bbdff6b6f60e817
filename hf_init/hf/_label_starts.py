"""What the last layer of a head starts with, where its labels are known and the recipe leaves it open."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hf_init import _labels as pure
from hf_init import schemes
from hf_init._diff import Match
from hf_init._errors import PlanError
from hf_init._plan import Fill
from hf_init._recipe import Choice
from hf_init._spec import Region, Rows, TensorSpec
from hf_init.hf._label_rows import Head
from hf_init.hf._wish import Scene

Numbers = Mapping[str, float] | tuple[float, ...]

SHARE = 0.01
"""Of positives, where nobody says: Lin et al., Focal Loss (RetinaNet), 2017."""

LEVEL = "a head starts level: 0 for every label, and at the first step nothing flows back through it"
NEW_ROWS = "new labels start level: 0"


@dataclass(frozen=True)
class Starts:
    """The start of a last layer.

    Attributes:
        names: of the target's labels.
        kind: ``"softmax"``, ``"sigmoid"`` or ``"regression"``.
        queries: whether a detector scores queries by it: they must not all be level.
        share: of positives, for a sigmoid without counts.
        counts, mean: what the user knows of the labels, of the targets.
    """

    names: pure.Names
    kind: str
    queries: bool = False
    share: float = SHARE
    counts: Numbers | None = None
    mean: Numbers | None = None

    @classmethod
    def of(cls, scene: Scene, names: pure.Names, head: Head, **known: Numbers | None) -> Starts:
        """Reads the kind off the class, the config and the shapes of the head."""
        problem = getattr(scene.config, "problem_type", None)
        last = [head[t.name] for t in scene.layout.tensors if is_last(t, head.get(t.name, ()))]
        extra = any(axis.extra for axes in last for axis in axes)
        detects = "Detection" in scene.cls.__name__
        if problem == "regression" or (problem is None and len(names) == 1 and not detects):
            kind = "regression"
        else:
            kind = "sigmoid" if problem == "multi_label_classification" or (detects and not extra) else "softmax"
        share = getattr(scene.config, "initializer_bias_prior_prob", None) or SHARE
        return cls(names, kind, detects or extra, share, **known)

    @property
    def asked(self) -> bool:
        return self.counts is not None or self.mean is not None

    def fills(self, match: Match, choice: Choice, axes: Sequence[pure.Axis]) -> Sequence[Fill] | None:
        """The new regions of a tensor; None where it is none of the last layer, or the recipe's choice stands."""
        if not is_last(match.target, axes):
            return None
        stands = not choice.advised and choice.why != "default"
        if is_bias(match.target):
            if stands and self.asked:
                raise PlanError(
                    f"{match.target.name}: {choice.why} gives it {choice.scheme}, so label_counts or target_mean would "
                    "have no effect; leave out one of the two, or give the rule the scheme auto"
                )
            return None if stands else self._bias(match, axes[0])
        return None if stands or self.queries else self._weight(match)

    def _weight(self, match: Match) -> list[Fill]:
        return [Fill(region, schemes.Zeros(), NEW_ROWS if match.copies else LEVEL) for region in match.new]

    def _bias(self, match: Match, axis: pure.Axis) -> list[Fill]:
        if self.counts is not None:
            scheme, why = self._prior(match, axis, self.counts)
        elif self.mean is not None:
            scheme = schemes.LogPrior(mean=pure.by_row("target_mean", self.mean, self.names))
            why = "a regression starts at the mean of its targets"
        elif self.kind == "sigmoid":
            scheme = schemes.LogPrior(pi=self.share)
            why = f"a sigmoid for each label: {self.share:g} of it at first (Lin et al., 2017)"
        else:
            scheme, why = schemes.Zeros(), NEW_ROWS if match.copies else LEVEL
        return [Fill(region, scheme, why) for region in match.new]

    def _prior(self, match: Match, axis: pure.Axis, counts: Numbers) -> tuple[schemes.Scheme, str]:
        extra = [pure.NO_OBJECT] * (axis.extra == 1)
        each = pure.by_row("label_counts", counts, self.names, extra)
        rows = (*self.names, *extra)
        empty = [rows[row] for region in match.new for row in rows_of(region) if each[row] <= 0]
        if empty:
            raise PlanError(f"label_counts: {_why_empty(empty)}")
        if self.kind == "sigmoid":
            _refuse_no_shares(each)
            return schemes.LogPrior(pi=each), "the log odds of how often each label occurs"
        why = "the logarithm of how often each label occurs"
        return schemes.LogPrior(counts=each), f"{why}, among all labels; trained biases stay" if match.copies else why


def checked(starts: Starts) -> Starts:
    """The same, if what the user knows is what this kind of head starts with.

    Raises:
        PlanError: counts for a regression, a mean for anything else, both.
    """
    if starts.counts is not None and starts.kind == "regression":
        raise PlanError("label_counts: the head regresses, and its targets have a mean; say target_mean=NUMBER")
    if starts.mean is not None and starts.kind != "regression":
        raise PlanError("target_mean: the head doesn't regress; say problem_type='regression', or give label_counts")
    return starts


def is_last(tensor: TensorSpec, axes: Sequence[pure.Axis]) -> bool:
    """Whether the labels are the outputs of a layer: not the entries of a table, nor both sides of a matrix."""
    if [(axis.dim, axis.each) for axis in axes] != [(0, 1)]:
        return False
    return is_bias(tensor) or (tensor.geometry is not None and tensor.geometry.order == "out_in")


def is_bias(tensor: TensorSpec) -> bool:
    return len(tensor.shape) == 1 and tensor.parameter.endswith("bias")


def rows_of(region: Region) -> Sequence[int]:
    """The rows of a region that is cut along the first dimension."""
    if isinstance(region, Rows):
        return region.index
    return range(region.start[0], region.stop[0])


def _why_empty(names: Sequence[str]) -> str:
    if names == [pure.NO_OBJECT]:
        return (
            f"the head has a row for no object after those of the labels; say how often it is right, by the name "
            f"{pure.NO_OBJECT!r} or as the last number"
        )
    return f"no example of {', '.join(map(repr, names))}: leave the label out, or count it once"


def _refuse_no_shares(each: Sequence[float]) -> None:
    wrong = [value for value in each if not 0 < value < 1]
    if wrong:
        raise PlanError(
            f"label_counts: {wrong[0]:g}: every label is a question of its own here, so give the share of the examples "
            "that have it, between 0 and 1"
        )
