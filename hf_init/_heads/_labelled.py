"""Features with their labels, checked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from hf_init._errors import PlanError


@dataclass(frozen=True, eq=False)
class Labelled:
    """Features of labelled examples.

    Attributes:
        features: ``(examples, width)``, float64.
        targets: ``(examples,)`` class numbers, int64; or ``(examples, outputs)`` numbers to regress on, float64.
        names: of the classes or outputs.
    """

    features: torch.Tensor
    targets: torch.Tensor
    names: tuple[str, ...]

    @property
    def classes(self) -> int:
        return len(self.names)

    @property
    def is_regression(self) -> bool:
        return self.targets.is_floating_point()

    @property
    def counts(self) -> torch.Tensor:
        """How many examples each class has."""
        return torch.bincount(self.targets, minlength=self.classes)

    @property
    def one_hot(self) -> torch.Tensor:
        """``(examples, classes)``: 1 at an example's own class, else 0; numbers to regress on stay as they are."""
        if self.is_regression:
            return self.targets
        return torch.nn.functional.one_hot(self.targets, self.classes).to(self.features)

    def of(self, rows: torch.Tensor) -> Labelled:
        """Some of the examples."""
        return replace(self, features=self.features[rows], targets=self.targets[rows])

    def checked(self, least: int = 1) -> Labelled:
        """Itself, if a layer can be computed from it.

        Args:
            least: how many examples each class must have.

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
        if self.is_regression:
            return [] if len(self.features) > 1 else ["one alone says nothing of a slope; give more"]
        few = [f"{name} ({n})" for name, n in zip(self.names, self.counts.tolist(), strict=True) if n < least]
        return [f"labels with fewer than {least}: {', '.join(few)}; give more of each"] if few else []

    def _flat(self) -> Sequence[str]:
        if not self.features.isfinite().all():
            return ["the features hold values that are not finite; check the inputs and the checkpoint"]
        if len(self.features) > 1 and not (self.features != self.features[0]).any():
            return ["the features of all are the same, so no layer on them can tell labels apart; check the inputs"]
        return []
