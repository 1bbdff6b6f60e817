"""New rows of a last layer beside trained ones, which stay as they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from hf_init._heads.calibrate import FOLDS
from hf_init._heads.labelled import LabelledFeatures
from hf_init._heads.solutions import LOOSENESS, SolvedLayer, simplex_frame

LBFGS_STEPS = 500


def solve_new_rows(trained: SolvedLayer, new: Sequence[int], examples: LabelledFeatures) -> SolvedLayer:
    """Solve some rows of a layer by multinomial logistic regression, while the other rows stay fixed.

    The trained rows' logits are part of every probability, so the new rows come on their scale and need no other. The
    L2 penalty on the new rows is chosen by the cross-entropy of unseen examples.

    Args:
        trained: the whole layer; what its new rows hold doesn't matter.
        new: their numbers.
        examples: of every class, those of the trained rows included: else nothing says where the new ones must not win.

    Raises:
        PlanError: a class without an example, or features that can't be used.

    Source: Hastie, Tibshirani and Friedman, "The Elements of Statistical Learning", 2009, sections 4.4 and 7.10, for
    the regression and the choice of the penalty; the trained logits are its offset.
    """
    rows = _NewRowFit.of(trained, tuple(new), examples.checked())
    folds = min(FOLDS, int(examples.counts.min()))
    losses = [rows.unseen(looseness, examples.fold(folds), folds) for looseness in LOOSENESS] if folds > 1 else []
    best = LOOSENESS[losses.index(min(losses))] if losses else LOOSENESS[0]
    weight, level = rows.weights(*rows.fit(best, torch.arange(len(examples.targets))))
    weights, bias = trained.weight.clone(), None if trained.bias is None else trained.bias.clone()
    weights[list(new)] = weight
    if bias is not None:
        bias[list(new)] = level
    return SolvedLayer(weights, bias, {"C": best})


@dataclass(frozen=True, eq=False)
class _NewRowFit:
    """The regression in the directions in which the examples differ: a penalised row has no part in others.

    Attributes:
        positions: ``(examples, directions)`` of the examples. axes: ``(directions, width)``.
        fixed: ``(examples, classes)`` logits of the trained layer.
        centre, spread: what was taken off the features and divided out.
    """

    positions: torch.Tensor
    axes: torch.Tensor
    fixed: torch.Tensor
    targets: torch.Tensor
    new: tuple[int, ...]
    centre: torch.Tensor
    spread: float
    bias: bool

    @classmethod
    def of(cls, trained: SolvedLayer, new: tuple[int, ...], examples: LabelledFeatures) -> _NewRowFit:
        bias = trained.bias is not None
        centre, spread = simplex_frame(examples, bias)
        left, singular, axes = torch.linalg.svd((examples.features - centre) / spread, full_matrices=False)
        fixed = trained(examples.features)
        return cls(left * singular, axes, fixed, examples.targets, new, centre, spread, bias)

    def logits(self, slopes: torch.Tensor, level: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        new = self.positions[rows] @ slopes.T + level
        return self.fixed[rows].index_copy(1, torch.tensor(self.new), new)

    def fit(self, looseness: float, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return slopes and levels that minimise ``looseness`` times cross-entropy plus half the slopes' square."""
        slopes = self.positions.new_zeros(len(self.new), self.positions.shape[1], requires_grad=True)
        level = self.positions.new_zeros(len(self.new), requires_grad=self.bias)
        optimizer = torch.optim.LBFGS(
            [slopes, level] if self.bias else [slopes], max_iter=LBFGS_STEPS, tolerance_grad=1e-9,
            tolerance_change=1e-12, line_search_fn="strong_wolfe",
        )  # fmt: skip

        def closure() -> torch.Tensor:
            optimizer.zero_grad()
            loss = self._loss(self.logits(slopes, level, rows), rows) * looseness + slopes.square().sum() / 2
            loss.backward()
            return loss

        with torch.enable_grad():
            optimizer.step(closure)
        return slopes.detach(), level.detach()

    def unseen(self, looseness: float, fold: torch.Tensor, folds: int) -> float:
        """Sum the cross-entropy of every fold by the fit to the others."""
        total = 0.0
        for number in range(folds):
            inside, outside = (fold != number).nonzero()[:, 0], (fold == number).nonzero()[:, 0]
            total += float(self._loss(self.logits(*self.fit(looseness, inside), outside), outside))
        return total

    def weights(self, slopes: torch.Tensor, level: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the rows, and their biases, for the features before centring and scaling."""
        weight = slopes @ self.axes / self.spread
        return weight, level - weight @ self.centre

    def _loss(self, logits: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.cross_entropy(logits, self.targets[rows], reduction="sum")
