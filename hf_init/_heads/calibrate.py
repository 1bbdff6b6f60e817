"""The scale at which a layer's logits are probabilities, by examples that it hasn't seen."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from hf_init._heads.labelled import LabelledFeatures
from hf_init._heads.solutions import SolvedLayer, candidates, constant

FOLDS = 5
BISECTION_STEPS = 60
LARGEST = 1e4  # examples that are told apart without error would have it grow for ever
FAINT = 0.01  # the least spread of logits: of a layer that guesses, the directions are kept all the same


def calibrate(method: str, examples: LabelledFeatures, *, bias: bool = True) -> SolvedLayer:
    """Return the layer of a method, its logits scaled so that they say how sure they may be.

    The scale minimises the cross-entropy of logits for examples that a layer hasn't seen: each fold's by the layer of
    the others; where a method has several layers to offer, the one with the least is taken. With a single example of
    some class there is nothing to leave out, and the layer stays as it is. Numbers to regress on need no scale.

    Where an example may have several labels, each is a question of its own, answered by the difference of the two
    logits that the method has for it, with a scale and an offset.

    Source: Guo et al., "On Calibration of Modern Neural Networks", 2017; Platt, "Probabilistic Outputs for Support
    Vector Machines", 1999, for scale and offset of a sigmoid.
    """
    if examples.kind == "sigmoid":
        examples.checked()
        rows = [_answer_row(method, examples.asking(label), bias) for label in range(examples.classes)]
        level = torch.cat([row.bias for row in rows if row.bias is not None]) if bias else None
        return SolvedLayer(torch.cat([row.weight for row in rows]), level)
    layers, unseen = _cross_validated(method, examples, bias)
    if unseen is None:
        return layers[0]
    logits, targets = unseen
    best = _best_index(logits, targets)
    return layers[best].scaled(temperature(logits[best], targets))


def temperature(logits: torch.Tensor, targets: torch.Tensor) -> float:
    """Return the factor on logits that minimises their cross-entropy, by bisection of its monotonic derivative.

    Example:
        >>> logits = torch.tensor([[4.0, 0.0], [4.0, 0.0], [4.0, 0.0], [4.0, 0.0]], dtype=torch.float64)
        >>> round(4 * temperature(logits, torch.tensor([0, 0, 0, 1])), 6) == round(float(torch.tensor(3.0).log()), 6)
        True
    """
    low, high = 0.0, 1.0
    while high < LARGEST and _entropy_slope(logits, targets, high) < 0:
        high *= 2
    for _ in range(BISECTION_STEPS):
        middle = (low + high) / 2
        low, high = (middle, high) if _entropy_slope(logits, targets, middle) < 0 else (low, middle)
    return max(high, _least_factor(logits))


def scale_and_offset(logits: torch.Tensor, truth: torch.Tensor) -> tuple[float, float]:
    """Return the line ``a z + b`` whose sigmoid minimises the cross-entropy with what is true of each logit z.

    As if one more example of each answer had been seen in doubt, which keeps the line finite where the logits part
    the answers without error.

    Args:
        logits: ``(examples,)``, float64. truth: ``(examples,)``, bool.

    Example:
        >>> logits = torch.tensor([-1.0, -1.0, 1.0, 1.0], dtype=torch.float64)
        >>> scale, offset = scale_and_offset(logits, logits > 0)
        >>> round(scale, 4), abs(round(offset, 4))
        (1.0986, 0.0)
    """
    yes, no = int(truth.sum()), int((~truth).sum())
    seldom, often = 1 / (no + 2), (yes + 1) / (yes + 2)
    wanted = seldom + truth.to(logits) * (often - seldom)
    unit = float(logits.std()) or 1.0
    inputs = torch.stack([logits / unit, torch.ones_like(logits)], 1)
    scale, offset = _fit_line(inputs, wanted).tolist()
    if scale / unit >= _least_factor(logits):
        return scale / unit, offset
    return _least_factor(logits), float(wanted.mean().logit() - _least_factor(logits) * logits.mean())


def _fit_line(inputs: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """Fit a logistic regression on two inputs by Newton's method; a step that makes it worse is halved."""
    weights = inputs.new_zeros(2)
    loss = torch.nn.functional.binary_cross_entropy_with_logits
    for _ in range(BISECTION_STEPS):
        share = (inputs @ weights).sigmoid()
        curvature = (inputs.T * (share * (1 - share))) @ inputs + 1e-12 * torch.eye(2, dtype=inputs.dtype)
        step = torch.linalg.solve(curvature, inputs.T @ (share - wanted))
        now = loss(inputs @ weights, wanted)
        while loss(inputs @ (weights - step), wanted) > now and float(step.abs().max()) > 1e-12:
            step = step / 2
        weights = weights - step
    return weights


def _answer_row(method: str, question: LabelledFeatures, bias: bool) -> SolvedLayer:
    """Return one row: the logit of the second of two classes over the first."""
    layers, unseen = _cross_validated(method, question, bias)
    if unseen is None:
        return _second_over_first(layers[0])
    logits, targets = unseen
    best = _best_index(logits, targets)
    scale, offset = scale_and_offset(logits[best][:, 1] - logits[best][:, 0], targets == 1)
    row = _second_over_first(layers[best]).scaled(scale)
    if row.bias is None:
        return SolvedLayer(row.weight + offset * constant(question.features), None, row.facts)
    return SolvedLayer(row.weight, row.bias + offset, row.facts)


def _second_over_first(layer: SolvedLayer) -> SolvedLayer:
    bias = None if layer.bias is None else layer.bias[1:] - layer.bias[:1]
    return SolvedLayer(layer.weight[1:] - layer.weight[:1], bias, layer.facts)


def _cross_validated(
    method: str, examples: LabelledFeatures, bias: bool
) -> tuple[Sequence[SolvedLayer], tuple[Sequence[torch.Tensor], torch.Tensor] | None]:
    """Return a method's layers, and for unseen examples the logits by each of them with the examples' classes.

    The latter are None where no example can be left out.
    """
    layers = candidates(method, examples, bias=bias)
    folds = 0 if examples.kind == "regression" else min(FOLDS, int(examples.counts.min()))
    if folds < 2:
        return layers, None
    fold = examples.fold(folds)
    logits, targets = [], []
    for number in range(folds):
        rest = examples.of((fold == number).nonzero()[:, 0])
        layers_of_fold = candidates(method, examples.of((fold != number).nonzero()[:, 0]), bias=bias)
        logits.append([layer(rest.features) for layer in layers_of_fold])
        targets.append(rest.targets)
    return layers, ([torch.cat(each) for each in zip(*logits, strict=True)], torch.cat(targets))


def _best_index(logits: Sequence[torch.Tensor], targets: torch.Tensor) -> int:
    """Return the index of the logits that predict the targets best, each at its own best scale."""
    if len(logits) == 1:
        return 0
    entropy = torch.nn.functional.cross_entropy
    losses = [float(entropy(each * temperature(each, targets), targets)) for each in logits]
    return losses.index(min(losses))


def _entropy_slope(logits: torch.Tensor, targets: torch.Tensor, factor: float) -> float:
    """Return the derivative of the mean cross-entropy by the factor."""
    expected = ((logits * factor).softmax(1) * logits).sum(1)
    return float((expected - logits.gather(1, targets[:, None])[:, 0]).mean())


def _least_factor(logits: torch.Tensor) -> float:
    """Return the least factor on logits."""
    return FAINT / max(float(logits.std()), FAINT)
