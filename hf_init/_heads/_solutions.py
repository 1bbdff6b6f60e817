"""Weight and bias of a last layer, from labelled features."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

from hf_init._errors import HfInitError, PlanError
from hf_init._heads._labelled import Labelled

STRENGTHS = tuple(10.0**power for power in range(-4, 5))
"""Ridge penalties that are tried, in units of the features' mean variance."""


@dataclass(frozen=True, eq=False)
class Layer:
    """A linear layer: ``logits = features @ weight.T + bias``.

    Attributes:
        weight: ``(classes, width)``, float64. bias: ``(classes,)``; None for a layer without one.
        facts: what was chosen on the way (a penalty, a temperature), as plain values.
    """

    weight: torch.Tensor
    bias: torch.Tensor | None
    facts: dict[str, Any] = field(default_factory=dict)

    def __call__(self, features: torch.Tensor) -> torch.Tensor:
        logits = features @ self.weight.T
        return logits if self.bias is None else logits + self.bias

    def scaled(self, factor: float) -> Layer:
        """The layer whose logits are those of this one times a factor."""
        bias = None if self.bias is None else self.bias * factor
        return Layer(self.weight * factor, bias, {**self.facts, "scale": factor})


def solve(method: str, examples: Labelled, *, bias: bool = True) -> Layer:
    """The layer that a method gives for labelled features.

    Args:
        method: a key of ``METHODS``.
        bias: whether the layer has a bias. Without one, what the bias would add is put along the direction in which
            the features are nearest to a constant.

    Raises:
        PlanError: an unknown method, too few examples, regression where classes are needed.

    Example:
        >>> features = torch.tensor([[0.0, 1.0], [1.0, 0.0], [0.1, 0.9]], dtype=torch.float64)
        >>> layer = solve("class_means", Labelled(features, torch.tensor([0, 1, 0]), ("a", "b")))
        >>> layer(features).argmax(1).tolist()
        [0, 1, 0]
    """
    if method not in METHODS:
        raise PlanError(f"head: unknown method {method!r}; known: {', '.join(METHODS)}")
    if examples.is_regression and method != "ridge":
        raise PlanError(f"head: {method} is for classes, and the examples hold numbers; use ridge")
    return METHODS[method](examples.checked(), bias)


def class_means(examples: Labelled, bias: bool) -> Layer:
    """The nearest class mean: ``w_c = mu_c``, ``b_c = -|mu_c|^2 / 2``.

    Source: Snell et al., "Prototypical Networks", 2017; Qi et al., "Low-Shot Learning with Imprinted Weights", 2018.
    """
    means = _means(examples)
    return _with_constant(means, -(means**2).sum(1) / 2, examples, bias)


def lda(examples: Labelled, bias: bool) -> Layer:
    """Linear discriminant analysis: ``w_c = S^-1 mu_c``, ``b_c = -mu_c' S^-1 mu_c / 2 + log(n_c / n)``.

    S is the covariance within the classes, shrunk towards a multiple of the identity by the amount that minimises the
    expected squared error.

    Source: Fisher, 1936; Ledoit and Wolf, "A well-conditioned estimator for large-dimensional covariance matrices",
    2004, for the shrinkage.
    """
    means = _means(examples)
    within = examples.features - means[examples.targets]
    covariance, shrinkage = _shrunk_covariance(within)
    weight = torch.linalg.solve(covariance, means.T).T
    prior = (examples.counts / len(examples.targets)).log()
    layer = _with_constant(weight, prior - (weight * means).sum(1) / 2, examples, bias)
    return Layer(layer.weight, layer.bias, {"shrinkage": shrinkage})


def ridge(examples: Labelled, bias: bool) -> Layer:
    """Least squares on the classes' indicators (or on numbers) with an L2 penalty.

    The penalty is the one of ``STRENGTHS`` with the smallest leave-one-out error, which has a closed form.

    Source: Hoerl and Kennard, "Ridge Regression", 1970; Golub, Heath and Wahba, 1979, for the leave-one-out error.
    """
    features, wanted = examples.features, examples.one_hot
    centre, level = (features.mean(0), wanted.mean(0)) if bias else (0 * features[0], 0 * wanted[0])
    left, singular, right = torch.linalg.svd(features - centre, full_matrices=False)
    unit = singular.square().mean().clamp_min(torch.finfo(singular.dtype).tiny)
    errors = [_left_out(left, singular, wanted - level, strength * unit, bias) for strength in STRENGTHS]
    best = STRENGTHS[int(torch.stack(errors).argmin())]
    shrink = singular / (singular.square() + best * unit)
    weight = ((left.T @ (wanted - level)) * shrink[:, None]).T @ right
    return Layer(weight, level - weight @ centre if bias else None, {"penalty": best})


def logistic(examples: Labelled, bias: bool) -> Layer:
    """Multinomial logistic regression with an L2 penalty chosen by cross-validation; by scikit-learn.

    Raises:
        HfInitError: scikit-learn isn't installed (extra ``probe``).
    """
    try:
        from sklearn.linear_model import LogisticRegression
        from sklearn.model_selection import GridSearchCV, StratifiedKFold
        from threadpoolctl import threadpool_limits
    except ImportError as error:
        raise HfInitError("logistic needs scikit-learn: pip install 'hf_init[probe]'") from error
    spread = float(examples.features.std(0).mean()) or 1.0
    centre = examples.features.mean(0) if bias else 0 * examples.features[0]  # the solver's steps are short without
    rows, labels = ((examples.features - centre) / spread).numpy(), examples.targets.numpy()
    folds = min(5, int(examples.counts.min()))
    search = LogisticRegression(max_iter=2000, fit_intercept=bias)
    if folds > 1:
        split = StratifiedKFold(folds, shuffle=True, random_state=0)
        search = GridSearchCV(search, {"C": [0.03, 0.3, 3.0, 30.0]}, cv=split, scoring="neg_log_loss")
    with threadpool_limits(1):  # many small products: threads would only wait for each other
        found = search.fit(rows, labels)
    model: Any = getattr(found, "best_estimator_", found)
    weight, level = torch.from_numpy(model.coef_) / spread, torch.from_numpy(model.intercept_)
    if len(weight) == 1 < examples.classes:  # two classes share one row there
        weight, level = torch.cat([-weight, weight]) / 2, torch.cat([-level, level]) / 2
    return Layer(weight, level - weight @ centre if bias else None, {"C": float(model.C)})


METHODS: dict[str, Callable[[Labelled, bool], Layer]] = {
    "class_means": class_means,
    "lda": lda,
    "ridge": ridge,
    "logistic": logistic,
}


def _means(examples: Labelled) -> torch.Tensor:
    examples.checked(least=1)
    return (examples.one_hot.T @ examples.features) / examples.counts[:, None]


def _shrunk_covariance(centred: torch.Tensor) -> tuple[torch.Tensor, float]:
    """The covariance of centred rows, shrunk by Ledoit and Wolf's estimate, and how much it was shrunk."""
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


def _left_out(
    left: torch.Tensor, singular: torch.Tensor, wanted: torch.Tensor, penalty: torch.Tensor, bias: bool
) -> torch.Tensor:
    """The mean squared error on each example, by the fit to all others: ``e_i / (1 - h_ii)``."""
    kept = singular.square() / (singular.square() + penalty)
    residual = wanted - (left * kept) @ (left.T @ wanted)
    leverage = (left.square() * kept).sum(1) + (1 / len(left) if bias else 0)
    return (residual / (1 - leverage).clamp_min(1e-8)[:, None]).square().mean()


def _with_constant(weight: torch.Tensor, level: torch.Tensor, examples: Labelled, bias: bool) -> Layer:
    """The layer with its constants in the bias, or, without one, in the weight.

    What all classes have in common changes no probability and is taken off: in half precision it would round away
    what tells the classes apart.
    """
    weight, level = weight - weight.mean(0), level - level.mean()
    if bias:
        return Layer(weight, level)
    ones = examples.features.new_ones(len(examples.features), 1)
    unit = torch.linalg.lstsq(examples.features, ones, driver="gelsd").solution[:, 0]
    return Layer(weight + level[:, None] * unit, None)
