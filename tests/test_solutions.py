"""Last layers from labelled features: each method against its own definition, and what can't be solved is refused."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from hf_init import HfInitError
from hf_init._heads import METHODS, Labelled, calibrated, solve
from hf_init._heads._calibrate import temperature
from hf_init._heads._solutions import STRENGTHS, _left_out

NAMES = ("a", "b", "c", "d")


def sample(examples: int, seed: int = 0, width: int = 12, shift: float = 0.0, apart: float = 1.0) -> Labelled:
    """Gaussian classes with one common covariance; their means are the same for every seed."""
    means = torch.randn(4, width, dtype=torch.float64, generator=torch.Generator().manual_seed(99)) * apart
    generator = torch.Generator().manual_seed(seed)
    targets = torch.arange(examples) % 4
    noise = torch.randn(examples, width, dtype=torch.float64, generator=generator)
    return Labelled(means[targets] + noise + shift, targets, NAMES)


def loss(layer, examples) -> float:
    return float(torch.nn.functional.cross_entropy(layer(examples.features), examples.targets))


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("method", METHODS)
def test_a_solved_layer_is_right_and_sure_as_it_may_be(method, bias):
    train, test = sample(240, shift=3.0), sample(2000, seed=1, shift=3.0)
    layer = calibrated(method, train, bias=bias)
    right = (layer(test.features).argmax(1) == test.targets).double().mean()
    assert right > 0.85 and loss(layer, test) < 0.4
    assert (layer.bias is None) == (not bias)
    for factor in (0.3, 3.0):  # any other scale would be worse on what it hasn't seen
        assert loss(layer.scaled(factor), test) > loss(layer, test)


@pytest.mark.parametrize("method", METHODS)
def test_the_order_of_the_classes_is_that_of_the_names(method):
    train = sample(160)
    turned = Labelled(train.features, (train.targets + 1) % 4, NAMES)
    one, other = solve(method, train), solve(method, turned)
    assert torch.allclose(other.weight[(torch.arange(4) + 1) % 4], one.weight, atol=1e-4)


def test_class_means_gives_the_nearest_mean():
    train = sample(40)
    layer = solve("class_means", train)
    means = torch.stack([train.features[train.targets == k].mean(0) for k in range(4)])
    nearest = torch.cdist(train.features, means).argmin(1)
    assert torch.equal(layer(train.features).argmax(1), nearest)


@pytest.mark.parametrize("method", ["class_means", "lda"])
def test_what_all_features_share_is_not_in_the_weight(method):
    """A large common part, as the features of language models have, would leave half precision no room."""
    train = sample(240, shift=300.0)
    layer = calibrated(method, train)
    assert layer.weight.abs().max() < 10
    half = (train.features @ layer.weight.bfloat16().double().T + layer.bias).argmax(1)
    assert (half == train.targets).double().mean() > 0.8


def test_lda_is_the_posterior_of_its_own_gaussians():
    train = sample(4000, width=3)
    train = replace(train, features=train.features * torch.tensor([1.0, 3.0, 0.6], dtype=torch.float64))
    layer = solve("lda", train)
    means = torch.stack([train.features[train.targets == k].mean(0) for k in range(4)])
    covariance = (train.features - means[train.targets]).T.cov(correction=0)
    gaussians = [torch.distributions.MultivariateNormal(mean, covariance) for mean in means]
    wanted = torch.stack([each.log_prob(train.features) for each in gaussians], 1).log_softmax(1)
    assert torch.allclose(layer(train.features).log_softmax(1), wanted, atol=0.1)


@pytest.mark.parametrize("bias", [True, False])
def test_ridge_solves_its_normal_equations(bias):
    train = sample(60, shift=2.0)
    layer = solve("ridge", train, bias=bias)
    level = train.features.mean(0) if bias else 0 * train.features[0]
    centred = train.features - level
    singular = torch.linalg.svdvals(centred)
    penalty = layer.facts["penalty"] * singular.square().mean()
    wanted = train.one_hot - (train.one_hot.mean(0) if bias else 0)
    gram = centred.T @ centred + penalty * torch.eye(12, dtype=torch.float64)
    assert torch.allclose(layer.weight.T, torch.linalg.solve(gram, centred.T @ wanted), atol=1e-8)


@pytest.mark.parametrize("bias", [True, False])
def test_the_closed_form_of_leaving_one_out_is_what_leaving_one_out_gives(bias):
    train = sample(16, width=5)
    penalty = torch.tensor(0.7, dtype=torch.float64)
    features, wanted = train.features, train.one_hot
    centre = features.mean(0) if bias else 0 * features[0]
    level = wanted.mean(0) if bias else 0 * wanted[0]
    left, singular, _ = torch.linalg.svd(features - centre, full_matrices=False)
    closed = _left_out(left, singular, wanted - level, penalty, bias)
    errors = []
    for out in range(16):
        rest = torch.arange(16) != out
        middle = features[rest].mean(0) if bias else 0 * features[0]
        mean = wanted[rest].mean(0) if bias else 0 * wanted[0]
        x = features[rest] - middle
        gram = x.T @ x + penalty * torch.eye(5, dtype=torch.float64)
        weight = torch.linalg.solve(gram, x.T @ (wanted[rest] - mean))
        errors.append(wanted[out] - mean - (features[out] - middle) @ weight)
    assert float(closed) == pytest.approx(float(torch.stack(errors).square().mean()), rel=1e-9)


def test_regression_predicts_numbers():
    generator = torch.Generator().manual_seed(3)
    features = torch.randn(200, 6, dtype=torch.float64, generator=generator)
    slope = torch.arange(6, dtype=torch.float64)
    noise = 0.01 * torch.randn(200, dtype=torch.float64, generator=generator)
    numbers = (features @ slope + 5 + noise)[:, None]
    layer = calibrated("ridge", Labelled(features, numbers, ("score",)))
    assert torch.allclose(layer.weight[0], slope, atol=0.02)
    assert layer.bias is not None and float(layer.bias) == pytest.approx(5, abs=0.02)


def test_the_temperature_minimises_the_cross_entropy():
    generator = torch.Generator().manual_seed(5)
    logits = torch.randn(300, 4, dtype=torch.float64, generator=generator)
    targets = torch.distributions.Categorical(logits=logits * 2.5).sample()
    best = temperature(logits, targets)
    losses = [torch.nn.functional.cross_entropy(logits * s, targets) for s in (best * 0.99, best, best * 1.01)]
    assert losses[1] < losses[0] and losses[1] < losses[2]
    assert 1.5 < best < 4


def test_separable_examples_have_a_finite_scale():
    train = sample(80, apart=20.0)
    layer = calibrated("class_means", train)
    assert layer.weight.isfinite().all() and loss(layer, train) < 1e-3


def test_one_example_a_class_is_enough_for_means():
    train = sample(4)
    assert torch.equal(calibrated("class_means", train)(train.features).argmax(1), train.targets)


def no_example_of_d(method):
    train = sample(40)
    return solve(method, train.of((train.targets != 3).nonzero()[:, 0]))


REFUSED = {
    "a class without an example": (no_example_of_d, r"d \(0\)"),
    "no example": (lambda method: solve(method, sample(40).of(torch.tensor([], dtype=torch.long))), "there is none"),
    "all features alike": (
        lambda method: solve(method, Labelled(torch.ones(8, 3).double(), torch.arange(8) % 4, NAMES)),
        "are the same",
    ),
    "not finite": (
        lambda method: solve(method, Labelled(torch.full((8, 3), torch.nan).double(), torch.arange(8) % 4, NAMES)),
        "not finite",
    ),
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("case", REFUSED)
def test_what_can_t_be_solved_is_refused(case, method):
    make, message = REFUSED[case]
    with pytest.raises(HfInitError, match=message):
        make(method)


def test_numbers_are_no_classes():
    train = Labelled(torch.randn(9, 3).double(), torch.randn(9, 1).double(), ("score",))
    with pytest.raises(HfInitError, match="use ridge"):
        solve("lda", train)


def test_an_unknown_method_names_the_known():
    with pytest.raises(HfInitError, match="class_means, lda, ridge, logistic"):
        solve("svm", sample(8))


def test_penalties_span_what_features_need():
    assert len(STRENGTHS) > 5 and STRENGTHS[0] < 1e-3 and STRENGTHS[-1] > 1e3
