"""What schemes refuse, and how: settings, names, slots that don't fit, values that a dtype can't hold."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from scheme_checks import Architecture

from hf_init import schemes
from hf_init._errors import RecipeError
from hf_init._tensors import Geometry, Slot
from hf_init.schemes import Scheme, build, finish, from_json, whole_slot

BAD_SETTINGS = [
    ("normal", {"std": -1}, "std is -1, expected a finite number of at least 0"),
    ("normal", {"std": math.nan}, "std is nan"),
    ("normal", {"mean": math.inf}, "mean is inf, expected a finite number"),
    ("normal", {"std": "0.02"}, "std is '0.02'"),
    ("normal", {"std": True}, "std is True"),
    ("normal", {"std": None}, "std is None"),
    ("normal", {"std": [0.02]}, r"std is \[0.02\]"),
    ("normal", {"std": 10**400}, "expected a finite number"),
    ("constant", {"val": 1e39}, "val is 1e\\+39"),
    ("normal", {"mean": "x", "std": -1}, "mean is 'x', expected a finite number; std is -1"),
    ("uniform", {"a": 1, "b": 1}, "a is 1 and b is 1, expected a below b"),
    ("uniform", {"a": -3e38, "b": 3e38}, "b - a is 6e\\+38"),
    ("trunc_normal", {"a": 2, "b": -2}, "expected a below b"),
    ("trunc_normal", {"a": 50, "b": 60}, "no measurable share between 50 and 60"),
    ("trunc_normal", {"correct": 1}, "correct is 1, expected True or False"),
    ("trunc_normal_absolute", {"std": 0}, "std is 0, expected a finite number above 0"),
    ("trunc_normal_absolute", {"std": 0.01, "a": 1, "b": 2}, "no measurable share"),
    ("sparse", {"sparsity": 1.5}, "sparsity is 1.5, expected a number from 0 to 1"),
    ("dirac", {"groups": 0}, "groups is 0, expected a whole number of at least 1, or None"),
    ("dirac", {"groups": 1.5}, "groups is 1.5"),
    ("scaled_residual", {"layers": 0}, "layers is 0, expected a whole number of at least 1"),
    ("scaled_residual", {"layers": True}, "layers is True"),
    ("embedding", {"padding": -1}, "padding is -1, expected a whole number of at least 0"),
    ("kaiming_normal", {"mode": "fan_inn"}, "did you mean 'fan_in'"),
    ("kaiming_normal", {"mode": "fan_avg"}, "expected one of fan_in, fan_out"),
    ("kaiming_uniform", {"nonlinearity": "rleu"}, "did you mean 'relu'"),
    ("kaiming_uniform", {"a": 0.1, "nonlinearity": "relu"}, "leave one of the two out"),
    ("variance_scaling", {"distribution": "gaussian"}, "expected one of truncated_normal, normal, uniform"),
    ("variance_scaling", {"mode": "fan_sum"}, "expected one of fan_in, fan_out, fan_avg"),
    ("variance_scaling", {"scale": 0}, "scale is 0"),
    ("xavier_uniform", {"gain": "tahn"}, "did you mean 'tanh'"),
    ("xavier_uniform", {"gain": -1}, "gain is -1, expected a number of at least 0 or an activation"),
    ("orthogonal", {"gain": None}, "gain is None"),
]


@pytest.mark.parametrize(("name", "settings", "message"), BAD_SETTINGS)
def test_a_setting_that_can_t_be_used_is_refused(name, settings, message):
    with pytest.raises(RecipeError, match=f"^{name}.*{message}"):
        build(name, settings)


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("kaiming_norml", {}, "unknown scheme 'kaiming_norml'; did you mean 'kaiming_normal'.*variance_scaling"),
        ("he_norml", {}, "did you mean 'he_normal'"),
        ("zzz", {}, "^unknown scheme 'zzz'; schemes: zeros"),
        (None, {}, "unknown scheme None"),
        ("normal", {"sdt": 1}, "normal: no setting 'sdt'; did you mean 'std'.; its settings: mean, std"),
        ("zeros", {"val": 1}, "zeros: no setting 'val'; its settings: none"),
        ("constant", {}, "constant: val is missing; its settings: val"),
        ("sparse", {"std": 1, "x": 2}, "no setting 'x'; sparsity is missing"),
        ("normal", {1: 2}, "no setting 1"),
    ],
)
def test_an_unknown_name_is_refused_with_the_closest(name, settings, message):
    with pytest.raises(RecipeError, match=message):
        build(name, settings)


@pytest.mark.parametrize("data", [None, "zeros", [], {}, {"std": 1}, {"name": ["zeros"]}, {"name": "zeros", "x": 1}])
def test_json_that_is_no_scheme_is_refused(data):
    with pytest.raises(RecipeError):
        from_json(data)


EMBEDDING = {"shape": (50, 8), "role": "embedding"}

BAD_SLOTS = [
    ("xavier_uniform", {"shape": (8,)}, "fans need a matrix, of 2 dimensions or more: use zeros"),
    ("kaiming_normal", {"shape": ()}, "fans need a matrix"),
    ("xavier_normal", EMBEDDING, "fans have no meaning for an embedding.*use normal"),
    ("lecun_normal", {**EMBEDDING, "geometry": Geometry(1, 8)}, "fans have no meaning for an embedding"),
    ("variance_scaling", {"shape": (50, 8), "role": "embedding.token"}, "fans have no meaning"),
    ("orthogonal", {"shape": (8,)}, "needs a matrix .2 dimensions or more., and this has 1"),
    ("orthogonal", {"shape": (3, 8), "geometry": Geometry(8, 8, stack=1)}, "and this has 1"),
    ("eye", {"shape": (8, 4, 3)}, "needs a matrix .2 dimensions., and this has 3: use dirac"),
    ("sparse", {"shape": (8,)}, "needs a matrix"),
    ("dirac", {"shape": (8, 4)}, "needs a convolution's kernel .3 to 5 dimensions., and this has 2: use eye"),
    ("dirac", {"shape": (2,) * 6}, "and this has 6"),
    ("delta_orthogonal", {"shape": (4, 8, 3)}, "4 output channels for 8 input channels.*use orthogonal"),
    ("delta_orthogonal", {"shape": (8, 4)}, "needs a convolution's kernel"),
    ("embedding", {"shape": (2, 3), "role": "embedding"}, "it has 2 rows, and padding is 7"),
    ("lstm_bias", {"shape": (8,)}, "is named 'weight', expected bias_ih or bias_hh"),
    ("normal", {"shape": (8,), "dtype": "int64"}, "its dtype is int64, which holds exact values: use zeros"),
]


@pytest.mark.parametrize(("name", "facts", "message"), BAD_SLOTS)
def test_a_slot_that_does_not_fit_is_refused_by_name(name, facts, message):
    scheme = build(name, {"sparse": {"sparsity": 0.5}, "embedding": {"padding": 7}}.get(name))
    slot = whole_slot("some.weight", **facts)
    for attempt in (scheme.check, scheme, lambda slot: finish(scheme, slot)):
        with pytest.raises(RecipeError, match=f"{name}.*'some.weight'.*{message}"):
            attempt(slot)


def test_an_output_embedding_is_a_layer_with_fans():
    slot = whole_slot("lm_head.weight", (50, 8), role="output_embedding.weight")
    assert schemes.LecunNormal().moments(slot) == (0.0, 1 / math.sqrt(8))
    schemes.LecunNormal().check(slot)


@pytest.mark.parametrize(("shape", "groups"), [((8, 4, 3), 3), ((9, 4, 3), 2)])
def test_dirac_s_groups_divide_the_output_channels(shape, groups):
    with pytest.raises(RecipeError, match=rf"{shape[0]} is not divided by {groups} groups"):
        schemes.Dirac(groups).check(whole_slot("conv", shape))


@pytest.mark.parametrize(("scheme", "size"), [(schemes.LstmBias(), 6), (schemes.GruBias(), 8)])
def test_gates_have_one_size(scheme, size):
    with pytest.raises(RecipeError, match="gates of one size"):
        scheme.check(whole_slot("rnn.bias_hh_l0", (size,)))


def test_model_asks_the_architecture():
    slot = whole_slot("w", (2, 3), dtype="bfloat16")
    assert finish(schemes.Model(), replace(slot, context=Architecture())).unique().tolist() == [0.25]
    schemes.Model().check(slot)
    with pytest.raises(RecipeError, match=r"'w'.*no architecture is at hand"):
        finish(schemes.Model(), slot)


def test_skip_gives_no_values():
    slot = whole_slot("w", (2, 3), dtype="int64")
    schemes.Skip().check(slot)
    with pytest.raises(RecipeError, match="'w' is marked skip"):
        finish(schemes.Skip(), slot)


# --- rounding ---


@pytest.mark.parametrize(
    ("scheme", "dtype", "message"),
    [
        (schemes.Constant(1e5), "float16", "it gives 100000, and float16 ends at 65504"),
        (schemes.Normal(std=1e5), "float16", "float16 ends at 65504"),
        (schemes.Normal(std=3e38), "float32", "not finite"),
        (schemes.Uniform(0, 1000), "float8_e4m3fn", "ends at 448"),
        (schemes.Normal(std=1e-9), "float16", "round to 0 in float16"),
        (schemes.Normal(std=1e-46), "float32", "round to 0 in float32"),
        (schemes.Constant(1e-8), "float16", "round to 0 in float16"),
        (schemes.Constant(0.5), "int64", "int64 can't hold its values exactly"),
        (schemes.Constant(300), "int8", "int8 can't hold"),
        (schemes.Constant(2), "bool", "bool can't hold"),
        (schemes.Constant(2**24 + 1), "int64", "int64 can't hold"),
        (schemes.Zeros(), "float7", "'float7' is none of torch's"),
        (schemes.Zeros(), "nn", "'nn' is none of torch's"),
    ],
    ids=str,
)
def test_values_that_the_dtype_can_t_hold_are_refused(scheme, dtype, message):
    with pytest.raises(RecipeError, match=f"'w'.*{message}"):
        finish(scheme, whole_slot("w", (30, 30), dtype=dtype))


@pytest.mark.parametrize("dtype", ["int64", "uint8", "bool", "float16"])
@pytest.mark.parametrize("value", [0, 1])
def test_exact_values_are_kept_in_any_dtype(value, dtype):
    for scheme in (schemes.Constant(value), schemes.Ones() if value else schemes.Zeros()):
        stored = finish(scheme, whole_slot("steps", (), dtype=dtype))
        assert stored.dtype == getattr(torch, dtype) and stored.item() == value


def test_a_small_spread_that_float16_still_holds_is_kept():
    values = finish(schemes.Normal(std=1e-6), whole_slot("w", (30, 30), dtype="float16"))
    assert bool((values != 0).any())


class Wrong(Scheme):
    """Schemes of somebody else's, each of which breaks the contract."""

    name = "wrong"

    def __init__(self, values: torch.Tensor) -> None:
        object.__setattr__(self, "values", values)

    def draw(self, slot: Slot) -> torch.Tensor:
        return self.__dict__["values"]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (torch.zeros(2, 2), r"gave torch.float32 of shape \(2, 2\) on cpu, expected torch.float32 of shape \(2, 3\)"),
        (torch.zeros(2, 3, dtype=torch.float64), "gave torch.float64"),
        (torch.zeros(2, 3, device="meta"), "on meta"),
        (torch.full((2, 3), math.nan), "not finite"),
        (torch.tensor([[0.0, math.inf, 0], [0, 0, 0]]), "not finite"),
    ],
)
def test_a_scheme_that_breaks_the_contract_is_refused(values, message):
    with pytest.raises(RecipeError, match=message):
        finish(Wrong(values), whole_slot("w", (2, 3)))
