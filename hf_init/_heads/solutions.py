"""Weight and bias of a last layer, from labelled features."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeAlias

import torch

from hf_init._errors import HfInitError, PlanError
from hf_init._heads.labelled import LabelledFeatures

STRENGTHS = tuple(10.0**power for power in range(-4, 5))
"""Ridge penalties that are tried, in units of the features' mean variance."""
SHARES = (1.0, 0.3, 0.1, 0.03, 0.01, 0.003, 0.001)
"""Of a sphere in the distance to a class mean that are tried; 1 is the plain distance."""
LOOSENESS = (1.0, 0.01, 0.1, 10.0, 100.0)
"""Inverse penalties of a logistic regression that are tried, on features of about unit spread."""


@dataclass(frozen=True, eq=False)
class SolvedLayer:
    """A linear layer: ``logits = features @ weight.T + bias``.

    Attributes:
        weight: ``(classes, width)``, float64. bias: ``(classes,)``; None for a layer without one.
        facts: what was chosen on the way (a penalty, a temperature), as plain values.
    """

    weight: torch.Tensor
    bias: torch.Tensor | None
    facts: dict[str, float] = field(default_factory=dict)

    def __call__(self, features: torch.Tensor) -> torch.Tensor:
        logits = features @ self.weight.T
        return logits if self.bias is None else logits + self.bias

    def scaled(self, factor: float) -> SolvedLayer:
        """Return the layer whose logits are those of this one times a factor."""
        bias = None if self.bias is None else self.bias * factor
        return SolvedLayer(self.weight * factor, bias, {**self.facts, "scale": factor})


CandidateLayers: TypeAlias = tuple[SolvedLayer, ...]
"""Those among which examples that a layer hasn't seen choose; the first one where there are none."""


def solve_layer(method: str, examples: LabelledFeatures, *, bias: bool = True) -> SolvedLayer:
    """Solve a layer from labelled features by a method, without calibration on unseen examples.

    Args:
        method: a key of ``METHODS``.
        bias: whether the layer has a bias. Without one, what the bias would add is put along the direction in which
            the features are nearest to a constant.

    Raises:
        PlanError: an unknown method, too few examples, regression where classes are needed.

    Example:
        >>> features = torch.tensor([[0.0, 1.0], [1.0, 0.0], [0.1, 0.9]], dtype=torch.float64)
        >>> layer = solve_layer("class_means", LabelledFeatures(features, torch.tensor([0, 1, 0]), ("a", "b")))
        >>> layer(features).argmax(1).tolist()
        [0, 1, 0]
    """
    return candidates(method, examples, bias=bias)[0]


def candidates(method: str, examples: LabelledFeatures, *, bias: bool = True) -> CandidateLayers:
    """Return a method's layers, equally many and in one order for every set of examples; raises as ``solve_layer``."""
    if method not in METHODS:
        raise PlanError(f"head: unknown method {method!r}; known: {', '.join(METHODS)}")
    if examples.kind == "regression" and method != "ridge":
        raise PlanError(f"head: {method} is for classes, and the examples hold numbers; use ridge")
    return METHODS[method](examples.checked(), bias)


def class_means(examples: LabelledFeatures, bias: bool) -> CandidateLayers:
    """Take the nearest class mean: ``w_c = M^-1 m_c``, ``b_c = -m_c' M^-1 m_c / 2``, with ``M = (1-a) S/s + a I``.

    S is the covariance within the classes and s its mean variance: a direction in which examples of one class differ
    anyway counts for less. For each share a of ``SHARES`` there is a layer; a = 1 is the plain distance, where
    ``w_c = m_c``, ``b_c = -|m_c|^2 / 2``. Features that were trained on other classes vary within a new one along the
    few axes that parted the old ones, and there the plain distance sees little else.

    Source: Snell et al., "Prototypical Networks", 2017, for the means; Friedman, "Regularized Discriminant Analysis",
    1989, for M and its choice by unseen examples; Bateni et al., "Improved Few-Shot Visual Classification" (Simple
    CNAPS), 2020, for such a distance to the means of a few examples.
    """
    means = _class_means(examples)
    _, singular, axes = torch.linalg.svd(examples.features - means[examples.targets], full_matrices=False)
    tiny = torch.finfo(singular.dtype).tiny
    variances = singular.square() / (singular.square().sum() / examples.features.shape[1]).clamp_min(tiny)
    along = means @ axes.T
    layers = []
    for share in SHARES:
        weight = means / share + (along * (1 / ((1 - share) * variances + share) - 1 / share)) @ axes
        layer = _with_constant(weight, -(weight * means).sum(1) / 2, examples, bias)
        layers.append(SolvedLayer(layer.weight, layer.bias, {"share": share}))
    return tuple(layers)


def lda(examples: LabelledFeatures, bias: bool) -> CandidateLayers:
    """Solve by linear discriminant analysis: ``w_c = S^-1 m_c``, ``b_c = -m_c' S^-1 m_c / 2 + log(n_c / n)``.

    S is the covariance within the classes, shrunk towards a multiple of the identity by the amount that minimises the
    expected squared error.

    Source: Fisher, 1936; Ledoit and Wolf, "A well-conditioned estimator for large-dimensional covariance matrices",
    2004, for the shrinkage.
    """
    means = _class_means(examples)
    within = examples.features - means[examples.targets]
    covariance, shrinkage = _shrunk_covariance(within)
    weight = torch.linalg.solve(covariance, means.T).T
    prior = (examples.counts / len(examples.targets)).log()
    layer = _with_constant(weight, prior - (weight * means).sum(1) / 2, examples, bias)
    return (SolvedLayer(layer.weight, layer.bias, {"shrinkage": shrinkage}),)


def ridge(examples: LabelledFeatures, bias: bool) -> CandidateLayers:
    """Solve least squares on the classes' indicators (or on numbers) with an L2 penalty.

    The penalty is the one of ``STRENGTHS`` with the smallest leave-one-out error, which has a closed form.

    Source: Hoerl and Kennard, "Ridge Regression", 1970; Golub, Heath and Wahba, 1979, for the leave-one-out error.
    """
    features, wanted = examples.features, examples.one_hot
    centre, level = (features.mean(0), wanted.mean(0)) if bias else (0 * features[0], 0 * wanted[0])
    left, singular, right = torch.linalg.svd(features - centre, full_matrices=False)
    unit = singular.square().mean().clamp_min(torch.finfo(singular.dtype).tiny)
    errors = [_leave_one_out_error(left, singular, wanted - level, strength * unit, bias) for strength in STRENGTHS]
    best = STRENGTHS[int(torch.stack(errors).argmin())]
    shrink = singular / (singular.square() + best * unit)
    weight = ((left.T @ (wanted - level)) * shrink[:, None]).T @ right
    return (SolvedLayer(weight, level - weight @ centre if bias else None, {"penalty": best}),)


def logistic(examples: LabelledFeatures, bias: bool) -> CandidateLayers:
    """Fit multinomial logistic regression with an L2 penalty by scikit-learn: a layer for each of ``LOOSENESS``.

    Raises:
        HfInitError: scikit-learn isn't installed (extra ``probe``).
    """
    try:
        from sklearn.linear_model import LogisticRegression
        from threadpoolctl import threadpool_limits
    except ImportError as error:
        raise HfInitError("logistic needs scikit-learn: pip install 'hf_init[probe]'") from error
    centre, spread = simplex_frame(examples, bias)  # the solver's steps are short without
    rows, labels = ((examples.features - centre) / spread).numpy(), examples.targets.numpy()
    with threadpool_limits(1):  # many small products: threads would only wait for each other
        models = [LogisticRegression(C=C, max_iter=2000, fit_intercept=bias).fit(rows, labels) for C in LOOSENESS]
    layers = []
    for model in models:
        weight, level = torch.from_numpy(model.coef_) / spread, torch.from_numpy(model.intercept_)
        if len(weight) == 1 < examples.classes:  # two classes share one row there
            weight, level = torch.cat([-weight, weight]) / 2, torch.cat([-level, level]) / 2
        layers.append(SolvedLayer(weight, level - weight @ centre if bias else None, {"C": float(model.C)}))
    return tuple(layers)


METHODS: dict[str, Callable[[LabelledFeatures, bool], CandidateLayers]] = {
    "class_means": class_means,
    "lda": lda,
    "ridge": ridge,
    "logistic": logistic,
}


def simplex_frame(examples: LabelledFeatures, bias: bool) -> tuple[torch.Tensor, float]:
    """Return a centre and a spread that bring features to about 1; without a bias nothing can be centred."""
    centre = examples.features.mean(0) if bias else 0 * examples.features[0]
    return centre, float(examples.features.std(0).mean()) or 1.0


def constant(features: torch.Tensor) -> torch.Tensor:
    """Return the direction in which features are nearest to 1: what a layer without a bias has in place of one."""
    ones = features.new_ones(len(features), 1)
    return torch.linalg.lstsq(features, ones, driver="gelsd").solution[:, 0]


def _class_means(examples: LabelledFeatures) -> torch.Tensor:
    return (examples.one_hot.T @ examples.features) / examples.counts[:, None]


def _shrunk_covariance(centred: torch.Tensor) -> tuple[torch.Tensor, float]:
    """Return the covariance of centred rows, shrunk by Ledoit and Wolf's estimate, and how much it was shrunk."""
    rows, width = centred.shape
    sample = centred.T @ centred / rows
    level = sample.diagonal().mean()
    target = level * torch.eye(width, dtype=sample.dtype)
    distance = (sample - target).square().sum()
    noise = (centred.square().sum(1).square().sum() / rows - sample.square().sum()) / rows
    amount = float((noise / distance).clamp(1e-6, 1)) if distance > 0 else 1.0
    if not level > 0:
        raise PlanError("examples: those of each label all have the same features; give different ones")
    return (1 - amount) * sample + amount * target, amount


def _leave_one_out_error(
    left: torch.Tensor, singular: torch.Tensor, wanted: torch.Tensor, penalty: torch.Tensor, bias: bool
) -> torch.Tensor:
    """Return the mean squared error on each example by the fit to all others: ``e_i / (1 - h_ii)``."""
    kept = singular.square() / (singular.square() + penalty)
    residual = wanted - (left * kept) @ (left.T @ wanted)
    leverage = (left.square() * kept).sum(1) + (1 / len(left) if bias else 0)
    return (residual / (1 - leverage).clamp_min(1e-8)[:, None]).square().mean()


def _with_constant(weight: torch.Tensor, level: torch.Tensor, examples: LabelledFeatures, bias: bool) -> SolvedLayer:
    """Return the layer with its constants in the bias, or, without one, in the weight.

    What all classes have in common changes no probability and is taken off: in half precision it would round away
    what tells the classes apart.
    """
    weight, level = weight - weight.mean(0), level - level.mean()
    if bias:
        return SolvedLayer(weight, level)
    return SolvedLayer(weight + level[:, None] * constant(examples.features), None)
