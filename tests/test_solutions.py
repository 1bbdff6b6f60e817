"""Last layers from labelled features: each method against its own definition, and what can't be solved is refused."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from hf_init import HfInitError
from hf_init._heads.calibrate import calibrate, scale_and_offset, temperature
from hf_init._heads.labelled import LabelledFeatures
from hf_init._heads.new_rows import solve_new_rows
from hf_init._heads.solutions import (
    LOOSENESS,
    METHODS,
    SHARES,
    SolvedLayer,
    _leave_one_out_error,
    candidates,
    solve_layer,
)

NAMES = ("a", "b", "c", "d")

pytestmark = pytest.mark.usefixtures("one_thread")


def sample(examples: int, seed: int = 0, width: int = 12, shift: float = 0.0, apart: float = 1.0) -> LabelledFeatures:
    """Gaussian classes with one common covariance; their means are the same for every seed."""
    means = torch.randn(4, width, dtype=torch.float64, generator=torch.Generator().manual_seed(99)) * apart
    generator = torch.Generator().manual_seed(seed)
    targets = torch.arange(examples) % 4
    noise = torch.randn(examples, width, dtype=torch.float64, generator=generator)
    return LabelledFeatures(means[targets] + noise + shift, targets, NAMES)


def loss(layer, examples) -> float:
    return float(torch.nn.functional.cross_entropy(layer(examples.features), examples.targets))


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("method", METHODS)
def test_a_solved_layer_is_right_and_sure_as_it_may_be(method, bias):
    train, test = sample(240, shift=3.0), sample(2000, seed=1, shift=3.0)
    layer = calibrate(method, train, bias=bias)
    right = (layer(test.features).argmax(1) == test.targets).double().mean()
    assert right > 0.85 and loss(layer, test) < 0.4
    assert (layer.bias is None) == (not bias)
    for factor in (0.3, 3.0):  # any other scale would be worse on what it hasn't seen
        assert loss(layer.scaled(factor), test) > loss(layer, test)


@pytest.mark.parametrize("method", METHODS)
def test_the_order_of_the_classes_is_that_of_the_names(method):
    train = sample(160)
    turned = LabelledFeatures(train.features, (train.targets + 1) % 4, NAMES)
    one, other = solve_layer(method, train), solve_layer(method, turned)
    assert torch.allclose(other.weight[(torch.arange(4) + 1) % 4], one.weight, atol=1e-4)


@pytest.mark.parametrize("width", [3, 60])  # fewer and more directions than examples
def test_class_means_gives_the_nearest_mean_by_every_distance(width):
    train = sample(40, width=width)
    means = torch.stack([train.features[train.targets == k].mean(0) for k in range(4)])
    within = train.features - means[train.targets]
    covariance = within.T @ within / len(within)
    layers = candidates("class_means", train)
    assert torch.equal(solve_layer("class_means", train).weight, layers[0].weight) and SHARES[0] == 1.0
    for share, layer in zip(SHARES, layers, strict=True):
        metric = (1 - share) * covariance / covariance.diagonal().mean() + share * torch.eye(width).double()
        apart = train.features[:, None] - means
        distance = (apart @ torch.linalg.inv(metric) * apart).sum(2)
        assert torch.allclose(layer(train.features).softmax(1), (-distance / 2).softmax(1), atol=1e-6)
    nearest = torch.cdist(train.features, means).argmin(1)
    assert torch.equal(layers[0](train.features).argmax(1), nearest)


@pytest.mark.parametrize(("noise", "width", "plain"), [(0.0, 60, True), (30.0, 6, False)])
def test_unseen_examples_choose_the_distance_to_the_means(noise, width, plain):
    """Where classes vary along an axis that tells nothing of them, the plain distance sees little else."""
    train, test = (_noisy(sample(80 if seed else 4000, seed=seed, width=width), noise) for seed in (1, 0))
    layer = calibrate("class_means", train)
    assert (layer.facts["share"] >= 0.3) == plain
    right = (layer(test.features).argmax(1) == test.targets).double().mean()
    nearest = (solve_layer("class_means", train)(test.features).argmax(1) == test.targets).double().mean()
    assert right > (nearest - 0.02 if plain else nearest + 0.2)


def _noisy(examples, noise):
    """With one axis along which all classes vary alike."""
    generator = torch.Generator().manual_seed(len(examples.targets))
    axis = torch.ones(1, examples.features.shape[1], dtype=torch.float64)
    axis = axis / axis.norm()
    more = noise * torch.randn(len(examples.targets), 1, dtype=torch.float64, generator=generator)
    return replace(examples, features=examples.features + more @ axis)


@pytest.mark.parametrize("method", ["class_means", "lda"])
def test_what_all_features_share_is_not_in_the_weight(method):
    """A large common part, as the features of language models have, would leave half precision no room."""
    train = sample(240, shift=300.0)
    layer = calibrate(method, train)
    assert layer.weight.abs().max() < 10
    half = (train.features @ layer.weight.bfloat16().double().T + layer.bias).argmax(1)
    assert (half == train.targets).double().mean() > 0.8


def test_lda_is_the_posterior_of_its_own_gaussians():
    train = sample(4000, width=3)
    train = replace(train, features=train.features * torch.tensor([1.0, 3.0, 0.6], dtype=torch.float64))
    layer = solve_layer("lda", train)
    means = torch.stack([train.features[train.targets == k].mean(0) for k in range(4)])
    covariance = (train.features - means[train.targets]).T.cov(correction=0)
    gaussians = [torch.distributions.MultivariateNormal(mean, covariance) for mean in means]
    wanted = torch.stack([each.log_prob(train.features) for each in gaussians], 1).log_softmax(1)
    assert torch.allclose(layer(train.features).log_softmax(1), wanted, atol=0.1)


@pytest.mark.parametrize("bias", [True, False])
def test_ridge_solves_its_normal_equations(bias):
    train = sample(60, shift=2.0)
    layer = solve_layer("ridge", train, bias=bias)
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
    closed = _leave_one_out_error(left, singular, wanted - level, penalty, bias)
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
    layer = calibrate("ridge", LabelledFeatures(features, numbers, ("score",)))
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


# Several labels an example.


def answers(examples: int, seed: int = 0) -> LabelledFeatures:
    """Three labels with a hyperplane each, of which the last is rare; their noise is one of the sigmoid."""
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(examples, 5, dtype=torch.float64, generator=generator) + 2
    slopes = torch.tensor([[3.0, 0, 0, 0, 0], [0, 2, -2, 0, 0], [0, 0, 0, 2, 2]], dtype=torch.float64)
    logits = (features - 2) @ slopes.T + torch.tensor([0.0, 0.5, -4.0])
    drawn = torch.rand(examples, 3, dtype=torch.float64, generator=generator) < logits.sigmoid()
    return LabelledFeatures(features, drawn, ("a", "b", "c"))


def entropy(layer, examples) -> float:
    loss = torch.nn.functional.binary_cross_entropy_with_logits
    return float(loss(layer(examples.features), examples.targets.double()))


@pytest.mark.slow
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("method", METHODS)
def test_each_of_several_labels_is_a_question_of_its_own(method, bias):
    train, test = answers(400), answers(4000, seed=1)
    layer = calibrate(method, train, bias=bias)
    assert layer.weight.shape == (3, 5) and (layer.bias is None) == (not bias)
    shares = test.targets.double().mean(0)
    level = SolvedLayer(torch.zeros(3, 5).double(), shares.logit())
    assert entropy(layer, test) < 0.75 * entropy(level, test)
    if bias:
        assert torch.allclose(layer(test.features).sigmoid().mean(0), shares, atol=0.05)
        assert entropy(layer.scaled(0.5), test) > entropy(layer, test) < entropy(layer.scaled(2.0), test)
    one = calibrate(method, LabelledFeatures(train.features, train.targets[:, :1], ("a",)), bias=bias)
    assert torch.equal(one.weight[0], layer.weight[0])


def test_the_line_of_a_sigmoid_minimises_the_cross_entropy():
    generator = torch.Generator().manual_seed(5)
    logits = 3 * torch.randn(2000, dtype=torch.float64, generator=generator) + 7
    truth = torch.rand(2000, dtype=torch.float64, generator=generator) < (0.8 * logits - 6).sigmoid()
    scale, offset = scale_and_offset(logits, truth)
    assert scale == pytest.approx(0.8, abs=0.15) and offset == pytest.approx(-6, abs=1)

    def loss(a, b):
        wanted = truth.double()
        return float(torch.nn.functional.binary_cross_entropy_with_logits(a * logits + b, wanted))

    assert loss(scale, offset) < min(loss(scale * 1.1, offset), loss(scale / 1.1, offset), loss(scale, offset + 0.2))


@pytest.mark.parametrize("flip", [1.0, -1.0])
def test_a_line_stays_finite_and_never_turns(flip):
    logits = torch.linspace(-1, 1, 20, dtype=torch.float64)
    scale, offset = scale_and_offset(logits, logits * flip > 0)
    assert 0 < scale < 100 and abs(offset) < 1e-6


def test_a_label_that_one_example_has_is_left_uncalibrated():
    train = answers(40)
    rare = train.targets.clone()
    rare[:, 2] = torch.arange(40) == 7
    layer = calibrate("ridge", replace(train, targets=rare))
    assert layer.weight.isfinite().all() and layer.bias is not None and layer.bias.isfinite().all()


@pytest.mark.parametrize(("value", "message"), [(True, r"without each of b \(0\)"), (False, r"with each of b \(0\)")])
def test_a_label_that_all_or_none_have_is_refused(value, message):
    train = answers(40)
    targets = train.targets.clone()
    targets[:, 1] = value
    with pytest.raises(HfInitError, match=message):
        calibrate("ridge", replace(train, targets=targets))


# New rows beside trained ones.


@pytest.mark.slow
@pytest.mark.parametrize("bias", [True, False])
def test_new_rows_come_on_the_scale_of_those_that_are_held(bias):
    train, test = sample(320, shift=1.0), sample(4000, seed=1, shift=1.0)
    old = train.of((train.targets < 2).nonzero()[:, 0])
    known = calibrate("lda", replace(old, names=NAMES[:2]), bias=bias)
    blank = torch.zeros(2, 12).double()
    trained = SolvedLayer(torch.cat([known.weight, blank]), torch.cat([known.bias, blank[:, 0]]) if bias else None)
    layer = solve_new_rows(trained, (2, 3), train)
    assert torch.equal(layer.weight[:2], known.weight)
    assert (layer.bias is None) if not bias else torch.equal(layer.bias[:2], known.bias)
    assert (layer(test.features).argmax(1) == test.targets).double().mean() > 0.85
    for factor in (0.5, 2.0):  # any other scale of the new rows would be worse on what they haven't seen
        other = layer.scaled(factor)
        weight = torch.cat([layer.weight[:2], other.weight[2:]])
        level = torch.cat([layer.bias[:2], other.bias[2:]]) if bias else None
        assert loss(SolvedLayer(weight, level), test) > loss(layer, test)


@pytest.mark.slow
def test_rows_beside_trained_ones_are_a_minimum():
    """The gradient of penalised cross-entropy by the new rows is zero, and their biases carry no penalty."""
    train = sample(200)
    trained = SolvedLayer(torch.ones(4, 12).double() * 0.1, torch.zeros(4).double())
    layer = solve_new_rows(trained, (1, 3), train)
    weight, level = layer.weight.clone().requires_grad_(), layer.bias.clone().requires_grad_()
    entropy = torch.nn.functional.cross_entropy
    total = entropy(train.features @ weight.T + level, train.targets, reduction="sum") * layer.facts["C"]
    spread = float(train.features.std(0).mean())
    (total + (weight[[1, 3]] * spread).square().sum() / 2).backward()
    assert layer.facts["C"] in LOOSENESS
    assert level.grad[[1, 3]].abs().max() < 1e-4 and weight.grad[[1, 3]].abs().max() < 1e-3
    assert weight.grad[[0, 2]].abs().max() > 1  # those were held


ALIKE, BROKEN, CLASSES = torch.ones(8, 3).double(), torch.full((8, 3), torch.nan).double(), torch.arange(8) % 4
NUMBERS = LabelledFeatures(torch.randn(9, 3).double(), torch.randn(9, 1).double(), ("score",))
REFUSED = [
    *((method, sample(40).of(torch.arange(40)[torch.arange(40) % 4 != 3]), r"d \(0\)") for method in METHODS),
    *((method, sample(40).of(torch.tensor([], dtype=torch.long)), "there is none") for method in METHODS),
    *((method, LabelledFeatures(ALIKE, CLASSES, NAMES), "are the same") for method in METHODS),
    *((method, LabelledFeatures(BROKEN, CLASSES, NAMES), "not finite") for method in METHODS),
    ("lda", sample(4), "those of each label all have the same features"),
    ("lda", NUMBERS, "use ridge"),
    ("svm", sample(8), "class_means, lda, ridge, logistic"),
]


@pytest.mark.parametrize(("method", "examples", "message"), REFUSED)
def test_what_can_t_be_solved_is_refused(method, examples, message):
    with pytest.raises(HfInitError, match=message):
        solve_layer(method, examples)


def test_the_trained_labels_need_examples_too_and_one_of_each_is_enough():
    blank = SolvedLayer(torch.zeros(4, 12).double(), torch.zeros(4).double())
    with pytest.raises(HfInitError, match=r"a \(0\)"):
        solve_new_rows(blank, (3,), sample(40).of((sample(40).targets != 0).nonzero()[:, 0]))
    train = sample(4)
    for layer in (calibrate("class_means", train), solve_new_rows(blank, (0, 1, 2, 3), train)):
        assert torch.equal(layer(train.features).argmax(1), train.targets)
    apart = sample(80, apart=20.0)
    layer = calibrate("class_means", apart)
    assert layer.weight.isfinite().all() and loss(layer, apart) < 1e-3, "separable examples have a finite scale"
