"""Features with their labels, checked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

import torch

from hf_init._errors import PlanError

TaskKind: TypeAlias = Literal["softmax", "sigmoid", "regression"]
"""What an output is: one of the classes, a question of its own for each label, a number."""


@dataclass(frozen=True, eq=False)
class LabelledFeatures:
    """Features of labelled examples.

    Attributes:
        features: ``(examples, width)``, float64.
        targets: ``(examples,)`` class numbers, int64; or ``(examples, labels)``, bool: which labels each has; or
            ``(examples, outputs)`` numbers to regress on, float64.
        names: of the classes, labels or outputs.
    """

    features: torch.Tensor
    targets: torch.Tensor
    names: tuple[str, ...]

    @property
    def classes(self) -> int:
        return len(self.names)

    @property
    def kind(self) -> TaskKind:
        if self.targets.dtype == torch.bool:
            return "sigmoid"
        return "regression" if self.targets.is_floating_point() else "softmax"

    @property
    def counts(self) -> torch.Tensor:
        """Count the examples of each class."""
        return torch.bincount(self.targets, minlength=self.classes)

    @property
    def one_hot(self) -> torch.Tensor:
        """Return ``(examples, classes)``: 1 at an example's class, else 0; numbers to regress on stay as they are."""
        if self.kind == "regression":
            return self.targets
        return torch.nn.functional.one_hot(self.targets, self.classes).to(self.features)

    def of(self, rows: torch.Tensor) -> LabelledFeatures:
        """Select some of the examples."""
        return replace(self, features=self.features[rows], targets=self.targets[rows])

    def asking(self, label: int) -> LabelledFeatures:
        """Return the question of one label out of several: two classes, examples without it and with it."""
        name = self.names[label]
        return replace(self, targets=self.targets[:, label].long(), names=(f"not {name}", name))

    def fold(self, folds: int) -> torch.Tensor:
        """Return the fold of each example: every class is dealt out in turn, in the order of the examples."""
        fold = torch.empty_like(self.targets)
        for label in range(self.classes):
            mine = (self.targets == label).nonzero()[:, 0]
            fold[mine] = torch.arange(len(mine)) % folds
        return fold

    def checked(self, least: int = 1) -> LabelledFeatures:
        """Return the features themselves if a layer can be computed from them.

        Args:
            least: how many examples each class must have; of several labels, with each and without it.

        Raises:
            PlanError: no example, a class with too few, features that are not finite or all alike.
        """
        problems = [*self._few(least), *self._flat()]
        if problems:
            raise PlanError("examples: " + "; ".join(problems))
        return self

    def _few(self, least: int) -> Sequence[str]:
        if not len(self.features):
            return ["there is none; give at least a few for each label"]
        if self.kind == "regression":
            return [] if len(self.features) > 1 else ["one alone says nothing of a slope; give more"]
        if self.kind == "sigmoid":
            having = self.targets.sum(0).tolist()
            lacking = [len(self.targets) - n for n in having]
            return [*self._rare(having, least, "with"), *self._rare(lacking, least, "without")]
        return self._rare(self.counts.tolist(), least, "of")

    def _rare(self, counts: Sequence[int], least: int, how: str) -> Sequence[str]:
        few = [f"{name} ({n})" for name, n in zip(self.names, counts, strict=True) if n < least]
        return [f"fewer than {least} {how} each of {', '.join(few)}; give more"] if few else []

    def _flat(self) -> Sequence[str]:
        if not self.features.isfinite().all():
            return ["the features hold values that are not finite; check the inputs and the checkpoint"]
        if len(self.features) > 1 and not (self.features != self.features[0]).any():
            return ["the features of all are the same, so no layer on them can tell labels apart; check the inputs"]
        return []
