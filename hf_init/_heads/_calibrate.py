"""The scale at which a layer's logits are probabilities."""

from __future__ import annotations

import torch

from hf_init._heads._labelled import Labelled
from hf_init._heads._solutions import Layer, solve

FOLDS = 5
STEPS = 60
LARGEST = 1e4  # examples that are told apart without error would have it grow for ever
FAINT = 0.01  # the least spread of logits: of a layer that guesses, the directions are kept all the same


def calibrated(method: str, examples: Labelled, *, bias: bool = True) -> Layer:
    """The layer of a method, its logits scaled so that they say how sure they may be.

    The scale minimises the cross-entropy of logits for examples that a layer hasn't seen: each fold's by the layer of
    the others. With a single example of some class there is nothing to leave out, and the layer stays as it is. Numbers
    to regress on need no scale.

    Source: Guo et al., "On Calibration of Modern Neural Networks", 2017.
    """
    layer = solve(method, examples, bias=bias)
    folds = 0 if examples.is_regression else min(FOLDS, int(examples.counts.min()))
    if folds < 2:
        return layer
    logits, targets = _unseen(method, examples, folds, bias)
    return layer.scaled(temperature(logits, targets))


def temperature(logits: torch.Tensor, targets: torch.Tensor) -> float:
    """The factor on logits that minimises their cross-entropy, by bisection of its derivative, which is monotonic.

    Example:
        >>> logits = torch.tensor([[4.0, 0.0], [4.0, 0.0], [4.0, 0.0], [4.0, 0.0]], dtype=torch.float64)
        >>> round(4 * temperature(logits, torch.tensor([0, 0, 0, 1])), 6) == round(float(torch.tensor(3.0).log()), 6)
        True
    """
    low, high = 0.0, 1.0
    while high < LARGEST and _slope(logits, targets, high) < 0:
        high *= 2
    for _ in range(STEPS):
        middle = (low + high) / 2
        low, high = (middle, high) if _slope(logits, targets, middle) < 0 else (low, middle)
    return max(high, FAINT / max(float(logits.std()), FAINT))


def _slope(logits: torch.Tensor, targets: torch.Tensor, factor: float) -> float:
    """The derivative of the mean cross-entropy by the factor."""
    expected = ((logits * factor).softmax(1) * logits).sum(1)
    return float((expected - logits.gather(1, targets[:, None])[:, 0]).mean())


def _unseen(method: str, examples: Labelled, folds: int, bias: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits of every example by a layer that was made without it, and their classes."""
    fold = _fold_of(examples, folds)
    parts = []
    for number in range(folds):
        inside, outside = (fold != number).nonzero()[:, 0], (fold == number).nonzero()[:, 0]
        rest = examples.of(outside)
        parts.append((solve(method, examples.of(inside), bias=bias)(rest.features), rest.targets))
    return torch.cat([logits for logits, _ in parts]), torch.cat([targets for _, targets in parts])


def _fold_of(examples: Labelled, folds: int) -> torch.Tensor:
    """The fold of each example: every class is dealt out in turn, in the order of the examples."""
    fold = torch.empty_like(examples.targets)
    for label in range(examples.classes):
        mine = (examples.targets == label).nonzero()[:, 0]
        fold[mine] = torch.arange(len(mine)) % folds
    return fold
