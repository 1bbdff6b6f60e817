"""The values of schemes follow the distributions that they state, those of torch.nn.init, and logical matrices.

Fused, stacked, grouped, stored the other way round, or only some rows of them."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from scheme_checks import (
    DRAWN,
    assert_distribution,
    assert_moments,
    assert_orthogonal,
    assert_same_distribution,
    assert_uncorrelated,
    slot_for,
)
from torch.nn import init

from hf_init import HfInitError, schemes
from hf_init.schemes import Scheme, finish, whole_slot

DTYPES = ["float32", "bfloat16", "float16"]


# Every scheme whose elements are independent of each other.


INDEPENDENT = [
    schemes.Uniform(-0.5, 1.0),
    schemes.Normal(0.1, 0.2),
    schemes.Normal(std=0.02),
    schemes.ScaledResidual(layers=12),
    schemes.TruncNormal(std=0.02),
    schemes.TruncNormal(0.5, 0.25, -1.0, 3.0, correct=True),
    schemes.TruncNormal(a=0.5, b=0.75),
    schemes.TruncNormalAbsolute(std=0.02, a=-0.04, b=0.04),
    schemes.TruncNormalAbsolute(std=0.02),
    schemes.TruncNormalAbsolute(0.0, 0.1, 0.2, 0.5),
    schemes.XavierUniform("tanh"),
    schemes.XavierNormal(0.5),
    schemes.KaimingUniform(a=math.sqrt(5)),
    schemes.KaimingNormal(mode="fan_out", nonlinearity="gelu"),
    schemes.LecunUniform(),
    schemes.LecunNormal(),
    schemes.VarianceScaling(2.0, "fan_avg", "normal"),
    schemes.VarianceScaling(0.5, "fan_out", "uniform"),
    schemes.VarianceScaling(),
]
matrix_shapes = st.sampled_from([(64, 48), (3, 700), (2100, 1), (16, 8, 3, 5), (5, 6, 70), (8, 4, 3, 3, 8), (97, 23)])


@hypothesis_settings(max_examples=80)
@given(st.sampled_from(INDEPENDENT), matrix_shapes, st.sampled_from(DTYPES), st.integers(0, 2**64 - 1))
def test_mean_and_standard_deviation_are_those_of_the_distribution(scheme, shape, dtype, seed):
    assert_distribution(scheme, whole_slot("layer.weight", shape, dtype=dtype, seed=seed))


@pytest.mark.parametrize("scheme", INDEPENDENT, ids=str)
def test_moments_hold_on_a_large_sample(scheme):
    assert_distribution(scheme, whole_slot("layer.weight", (500, 800)))


STATED = [scheme for scheme in [*DRAWN, *INDEPENDENT] if scheme.distribution_of(slot_for(scheme)) is not None]


@pytest.mark.parametrize("scheme", STATED, ids=str)
def test_values_lie_where_the_distribution_says(scheme):
    values, expected = scheme(slot_for(scheme)).to(torch.float64), scheme.distribution_of(slot_for(scheme))
    slack = 1e-6 * (1 + abs(expected.mean))
    assert min(part.low for part in expected.parts) - slack <= values.min()
    assert max(part.high for part in expected.parts) + slack >= values.max()
    for value, share in expected.atoms:
        assert float((values == value).double().mean()) == pytest.approx(share)


@pytest.mark.parametrize("shape", [(30, 200), (200, 30), (8, 5, 3, 3), (40, 40)])
@pytest.mark.parametrize("scheme", [schemes.Orthogonal(0.5), schemes.Sparse(0.3), schemes.DeltaOrthogonal()], ids=str)
def test_the_square_of_a_structured_matrix_is_that_of_the_distribution(scheme, shape):
    slot = whole_slot("w", shape)
    if scheme.unsupported_reason(slot):
        with pytest.raises(HfInitError, match=scheme.name):
            scheme(slot)
        return
    mean, std = scheme.moments(slot)
    values = scheme(slot)
    # An orthogonal matrix's squares have exactly this mean; a sparse matrix's are a sample of it.
    assert mean == 0.0
    assert float(values.pow(2).mean()) == pytest.approx(std**2, rel=1e-5 if scheme.name != "sparse" else 0.1)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("a", "b"), [(-2.0, 2.0), (-0.5, 3.0), (0.3, 0.4), (4.0, 9.0), (-30.0, -29.0), (35.0, 36.0)])
def test_truncation_is_kept(a, b, dtype):
    scheme = schemes.TruncNormal(0.1, 0.02, a, b)
    low, high = (torch.tensor(0.1 + 0.02 * bound, dtype=torch.float64) for bound in (a, b))
    exact = scheme(whole_slot("w", (300, 70))).to(torch.float64)
    assert low <= exact.min() and exact.max() <= high
    stored = finish(scheme, whole_slot("w", (300, 70), dtype=dtype))
    assert low.to(stored.dtype) <= stored.min() and stored.max() <= high.to(stored.dtype)
    assert_moments(exact, *scheme.moments(whole_slot("w", (300, 70))))


def truncated(a: float, b: float) -> tuple[float, float]:
    """The moments that a normal cut at these bounds states."""
    moments = schemes.TruncNormal(a=a, b=b).moments(whole_slot("w", (8,)))
    assert moments is not None
    return moments


@given(st.floats(-6, 6), st.floats(1e-3, 8), st.integers(0, 99))
@hypothesis_settings(max_examples=40)
def test_truncation_is_kept_for_any_bounds(a, width, seed):
    values = schemes.TruncNormal(a=a, b=a + width)(whole_slot("w", (2048,), seed=seed)).to(torch.float64)
    assert a <= values.min() and values.max() <= a + width
    assert_moments(values, *truncated(a, a + width))


@pytest.mark.parametrize(("dtype", "std"), [*zip(DTYPES, (0.001, 0.02, 1.0), strict=True)])
def test_truncated_normal_has_no_outliers(dtype, std):
    values = finish(schemes.TruncNormal(std=std), whole_slot("w", (1000, 1000), dtype=dtype)).to(torch.float64)
    assert values.abs().max() <= 2 * std * (1 + torch.finfo(getattr(torch, dtype)).eps)
    kurtosis = float((values - values.mean()).pow(4).mean() / values.var() ** 2)
    assert kurtosis == pytest.approx(2.37, abs=0.02)


def test_truncated_moments_agree_with_the_closed_form():
    a, b = -0.7, 1.9
    density = [math.exp(-x * x / 2) / math.sqrt(2 * math.pi) for x in (a, b)]
    share = (math.erf(b / math.sqrt(2)) - math.erf(a / math.sqrt(2))) / 2
    mean = (density[0] - density[1]) / share
    variance = 1 + (a * density[0] - b * density[1]) / share - mean**2
    assert truncated(a, b) == pytest.approx((mean, math.sqrt(variance)), rel=1e-12)
    for width in (1e-9, 1e-6, 1e-3):  # a narrow interval's are a uniform's
        assert truncated(0.5, 0.5 + width) == pytest.approx((0.5 + width / 2, width / math.sqrt(12)), rel=1e-3)


def test_corrected_truncation_has_the_std_that_was_asked_for():
    slot = whole_slot("w", (400, 500))
    scheme = schemes.TruncNormal(std=0.02, correct=True)
    assert scheme.moments(slot) == pytest.approx((0.0, 0.02))
    assert_moments(scheme(slot), 0.0, 0.02)


TORCH: list[tuple[Scheme, Callable[..., torch.Tensor], dict[str, object]]] = [
    (schemes.Uniform(-1.0, 2.0), init.uniform_, {"a": -1.0, "b": 2.0}),
    (schemes.Normal(1.0, 2.0), init.normal_, {"mean": 1.0, "std": 2.0}),
    (schemes.XavierUniform(0.7), init.xavier_uniform_, {"gain": 0.7}),
    (schemes.XavierNormal("relu"), init.xavier_normal_, {"gain": math.sqrt(2)}),
    (schemes.KaimingUniform(a=math.sqrt(5)), init.kaiming_uniform_, {"a": math.sqrt(5)}),
    (schemes.KaimingNormal(mode="fan_out"), init.kaiming_normal_, {"mode": "fan_out"}),
    (schemes.KaimingNormal(nonlinearity="tanh"), init.kaiming_normal_, {"nonlinearity": "tanh"}),
    (schemes.Orthogonal(1.5), init.orthogonal_, {"gain": 1.5}),
]


@pytest.mark.usefixtures("one_thread")  # with more, torch's orthogonal matrices change in their last bits
@pytest.mark.parametrize("shape", [(40, 60), (60, 40), (12, 8, 3, 3)])
@pytest.mark.parametrize(
    ("scheme", "function", "arguments"), TORCH, ids=lambda value: getattr(value, "__name__", str(value))[:40]
)
def test_values_are_torch_s_from_the_same_generator(scheme, function, arguments, shape):
    slot = whole_slot("w", shape)
    expected = function(torch.empty(shape), **arguments, generator=slot.generator())
    torch.testing.assert_close(scheme(slot), expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(
    ("scheme", "function", "arguments"),
    [
        *TORCH,
        (schemes.TruncNormal(std=0.5), init.trunc_normal_, {"std": 0.5, "a": -1.0, "b": 1.0}),
        (schemes.TruncNormalAbsolute(0.2, 1.0, 0.0, 0.5), init.trunc_normal_, {"mean": 0.2, "a": 0.0, "b": 0.5}),
        (schemes.Sparse(0.2), init.sparse_, {"sparsity": 0.2}),
        (schemes.VarianceScaling(2.0, "fan_in", "normal"), init.kaiming_normal_, {}),
        (schemes.VarianceScaling(1.0, "fan_avg", "uniform"), init.xavier_uniform_, {}),
    ],
    ids=lambda value: getattr(value, "__name__", str(value))[:40],
)
def test_distribution_is_torch_s(scheme, function, arguments):
    shape = (150, 200)
    generator = torch.Generator().manual_seed(5)
    with torch.random.fork_rng(devices=[]):  # sparse_ draws its zeros from the global generator
        expected = function(torch.empty(shape), **arguments, generator=generator)
    assert_same_distribution(scheme(whole_slot("w", shape)), expected)


@pytest.mark.parametrize("activation", ["linear", "conv2d", "sigmoid", "tanh", "relu", "leaky_relu", "selu"])
def test_gains_are_torch_s(activation):
    assert schemes.GAINS[activation] == init.calculate_gain(activation)


@pytest.mark.parametrize("scheme", INDEPENDENT, ids=str)
def test_other_names_and_seeds_give_independent_values(scheme):
    values = [scheme(whole_slot(name, (60, 70), seed=seed)) for name, seed in [("a", 0), ("b", 0), ("a", 1)]]
    assert_uncorrelated(values[0], values[1])
    assert_uncorrelated(values[0], values[2])


@pytest.mark.parametrize("activation", ["gelu", "silu"])
def test_a_rectified_stack_keeps_its_scale_under_kaiming(activation):
    function = {"gelu": torch.nn.functional.gelu, "silu": torch.nn.functional.silu}[activation]
    scheme = schemes.KaimingNormal(nonlinearity=activation)
    x = torch.randn(256, 200, generator=torch.Generator().manual_seed(0))
    for depth in range(4):
        x = function(x) @ scheme(whole_slot(f"layers.{depth}.weight", (200, 200))).t()
    assert 0.3 < float(x.std()) < 1.5


class Liar(schemes.Normal):
    """Says that its standard deviation is 1."""

    def distribution_of(self, slot):
        return schemes.Distribution.of(schemes.Part.normal(0.0, 1.0))


def test_checks_fail_on_what_is_wrong():
    values = schemes.Normal(std=0.02)(whole_slot("w", (100, 100)))
    wrong = [
        lambda: assert_moments(values, 0.003, 0.02),
        lambda: assert_moments(values, 0.0, 0.022),
        lambda: assert_same_distribution(values, values * 1.3),
        lambda: assert_orthogonal(values),
        lambda: assert_uncorrelated(values, values + values.roll(1)),
        lambda: assert_distribution(Liar(std=0.9), whole_slot("w", (100, 100))),
    ]
    for check in wrong:
        with pytest.raises(AssertionError):
            check()
