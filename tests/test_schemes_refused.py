"""What schemes refuse: names, settings, slots, values that a dtype can't hold; and schemes that break the contract."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from typing import Any

import pytest
import torch
from scheme_checks import Architecture, Geometry, Slot

from hf_init import HfInitError, schemes
from hf_init.schemes import REGISTRY, Scheme, build, finish, from_json, whole_slot

# --- what is refused ---


NOT_ABOVE_0, NOT_SHARES = (
    "expected a list of numbers of at least 0, not all of them 0",
    "expected a number between 0 and 1",
)
BAD_SETTINGS: list[tuple[Any, dict[Any, Any], str]] = [
    ("kaiming_norml", {}, "unknown scheme 'kaiming_norml' .did you mean 'kaiming_normal'.*variance_scaling"),
    ("he_norml", {}, "did you mean 'he_normal'"),
    ("zzz", {}, "^unknown scheme 'zzz'; schemes: zeros"),
    (None, {}, "unknown scheme None"),
    ("normal", {"sdt": 1}, "^normal: no setting 'sdt' .did you mean 'std'..; its settings: mean, std"),
    ("zeros", {"val": 1}, "^zeros: no setting 'val'; its settings: none"),
    ("constant", {}, "^constant: val is missing; its settings: val"),
    ("sparse", {"std": 1, "x": 2}, "no setting 'x'; sparsity is missing"),
    ("normal", {1: 2}, "no setting 1"),
    ("normal", {"std": -1}, "^normal.*std is -1, expected a finite number of at least 0"),
    ("normal", {"mean": math.inf}, "mean is inf, expected a finite number"),
    *(("normal", {"std": std}, f"std is {re.escape(repr(std))}") for std in (math.nan, "0.02", True, None, [0.02])),
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
    ("log_prior", {}, r"give counts .for a softmax over the labels., pi"),
    ("log_prior", {"counts": [1], "pi": 0.1}, "give counts"),
    ("log_prior", {"mean": 0, "pi": 0.1}, "give counts"),
    *(("log_prior", {"mean": mean}, "expected a finite number, a list") for mean in ("a", [1, math.inf])),
    *(
        ("log_prior", {"counts": counts}, NOT_ABOVE_0)
        for counts in ([], [0, 0], [1, -1], "12", 3, [1, math.nan], [True])
    ),
    *(("log_prior", {"pi": pi}, "expected a number between 0 and 1") for pi in (0, 1.0, [0.5, 2], "0.5", [])),
    ("subtokens", {"weights": "expfirst"}, "did you mean 'exp_first'"),
    ("subtokens", {"norm": "max"}, "norm is 'max', expected one of median, mean, centred"),
    ("subtokens", {"pieces": [[1], []]}, "expected a list of lists of row numbers, none of them empty"),
    ("subtokens", {"pieces": [[-1]]}, "expected a list of lists of row numbers"),
    ("subtokens", {"pieces": [[1, 2]], "lengths": [[1]]}, "lengths don't belong to pieces"),
    ("subtokens", {"trained": [[3, 3]]}, "pairs .start, stop. of rows, in order and apart"),
    ("subtokens", {"trained": [[0, 3], [2, 4]]}, "in order and apart"),
    ("mean", {"noise": -1}, "noise is -1"),
    ("mean", {"keys": "abc"}, "keys is 'abc', expected a list of texts"),
    ("copy", {"rows": [True]}, "expected a list of row numbers"),
    ("copy", {"token": 5}, "token is 5, expected a text"),
    ("interpolate", {"pairs": [[1, 2, 3]]}, "expected a list of pairs"),
    ("interpolate", {"t": 1.5}, "t is 1.5, expected a number from 0 to 1"),
    ("interpolate", {"tokens": ["a"]}, "expected two"),
    ("from_file", {}, "path is missing"),
    ("from_file", {"path": "rows.bin"}, "expected a file ending in .safetensors or .npy"),
    ("from_tensor", {"values": [1, 2]}, "values are list, expected a tensor of rows"),
    ("omp", {"donor": "d", "k": 0}, "k is 0"),
]


@pytest.mark.parametrize(("name", "settings", "message"), BAD_SETTINGS)
def test_a_name_or_setting_that_can_t_be_used_is_refused(name, settings, message):
    with pytest.raises(HfInitError, match=message) as refused:
        build(name, settings)
    assert name not in REGISTRY or str(refused.value).startswith(name)


@pytest.mark.parametrize("data", [None, "zeros", [], {}, {"std": 1}, {"name": ["zeros"]}, {"name": "zeros", "x": 1}])
def test_json_that_is_no_scheme_is_refused(data):
    with pytest.raises(HfInitError, match=r"a scheme is written as|unknown scheme|no setting"):
        from_json(data)


EMBEDDING = {"shape": (50, 8), "role": "embedding"}
BAD_SLOTS: list[tuple[Scheme, dict[str, Any], str]] = [
    (build("xavier_uniform"), {"shape": (8,)}, "fans need a matrix, of 2 dimensions or more: use zeros"),
    (build("kaiming_normal"), {"shape": ()}, "fans need a matrix"),
    (build("xavier_normal"), EMBEDDING, "fans have no meaning for an embedding.*use normal"),
    (build("lecun_normal"), {**EMBEDDING, "geometry": Geometry(1, 8)}, "fans have no meaning for an embedding"),
    (build("variance_scaling"), {"shape": (50, 8), "role": "embedding.token"}, "fans have no meaning"),
    (build("orthogonal"), {"shape": (8,)}, "needs a matrix .2 dimensions or more., and this has 1"),
    (build("orthogonal"), {"shape": (3, 8), "geometry": Geometry(8, 8, stack=1)}, "and this has 1"),
    (build("eye"), {"shape": (8, 4, 3)}, "needs a matrix .2 dimensions., and this has 3: use dirac"),
    (schemes.Sparse(0.5), {"shape": (8,)}, "needs a matrix"),
    (build("dirac"), {"shape": (8, 4)}, "needs a convolution's kernel .3 to 5 dimensions., and this has 2: use eye"),
    (build("dirac"), {"shape": (2,) * 6}, "and this has 6"),
    (schemes.Dirac(3), {"shape": (8, 4, 3)}, "8 is not divided by 3 groups"),
    (schemes.Dirac(2), {"shape": (9, 4, 3)}, "9 is not divided by 2 groups"),
    (build("delta_orthogonal"), {"shape": (4, 8, 3)}, "4 output channels for 8 input channels.*use orthogonal"),
    (build("delta_orthogonal"), {"shape": (8, 4)}, "needs a convolution's kernel"),
    (schemes.Embedding(padding=7), {"shape": (2, 3), "role": "embedding"}, "it has 2 rows, and padding is 7"),
    (build("lstm_bias"), {"shape": (8,)}, "is named 'weight', expected bias_ih or bias_hh"),
    (build("lstm_bias"), {"name": "rnn.bias_hh_l0", "shape": (6,)}, "gates of one size"),
    (build("gru_bias"), {"name": "rnn.bias_hh_l0", "shape": (8,)}, "gates of one size"),
    (build("normal"), {"shape": (8,), "dtype": "int64"}, "its dtype is int64, which holds exact values: use zeros"),
    (schemes.LogPrior(counts=(1, 2)), {"shape": (2, 8)}, "needs a bias, one number a label"),
    (schemes.LogPrior(counts=(1, 2)), {"shape": ()}, "needs a bias"),
    (schemes.LogPrior(counts=(1, 2)), {"shape": (3,)}, "it has 3 rows, and 2 numbers"),
    (schemes.LogPrior(counts=(0, 3, 1)), {"shape": (3,)}, "row 0 has a count of 0, whose logarithm is infinite"),
    (schemes.LogPrior(pi=0.5), {"shape": (2,), "dtype": "int64"}, "dtype is int64"),
    *(
        (build("xavier_normal"), {"shape": (8, 4), "geometry": geometry}, message)
        for message, geometry in {
            "add up to 10": Geometry(4, None, parts=(4, 6)),
            "not divided by 3": Geometry(4, 8, groups=3),
            "neither a fan_out nor parts": Geometry(4, None),
            "the order 'io'": Geometry(4, 8, "io"),
            "fused and grouped": Geometry(4, 8, parts=(4, 4), groups=2),
            "fan of 0": Geometry(0, 8),
            "leaves none for a matrix": Geometry(4, 8, stack=2),
        }.items()
    ),
]


@pytest.mark.parametrize(("scheme", "facts", "message"), BAD_SLOTS)
def test_a_slot_that_does_not_fit_is_refused_by_name(scheme, facts, message):
    slot = whole_slot(**{"name": "some.weight", **facts})
    for attempt in (scheme.check, scheme, lambda slot: finish(scheme, slot)):
        with pytest.raises(HfInitError, match=f"{scheme.name}.*'{slot.name}'.*{message}"):
            attempt(slot)


def test_model_asks_the_architecture_and_skip_gives_no_values():
    slot = whole_slot("w", (2, 3), dtype="bfloat16")
    assert finish(schemes.Model(), replace(slot, context=Architecture())).unique().tolist() == [0.25]
    for scheme, message in (
        (schemes.Model(), "'w'.*no architecture is at hand"),
        (schemes.Skip(), "'w' is marked skip"),
    ):
        scheme.check(slot)
        with pytest.raises(HfInitError, match=message):
            finish(scheme, slot)


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
    with pytest.raises(HfInitError, match=f"'w'.*{message}"):
        finish(scheme, whole_slot("w", (30, 30), dtype=dtype))


@pytest.mark.parametrize("dtype", ["int64", "uint8", "bool", "float16"])
@pytest.mark.parametrize("value", [0, 1])
def test_exact_values_are_kept_in_any_dtype(value, dtype):
    for scheme in (schemes.Constant(value), schemes.Ones() if value else schemes.Zeros()):
        stored = finish(scheme, whole_slot("steps", (), dtype=dtype))
        assert stored.dtype == getattr(torch, dtype) and stored.item() == value
    small = finish(schemes.Normal(std=1e-6), whole_slot("w", (30, 30), dtype="float16"))
    assert bool((small != 0).any()), "a small spread that float16 still holds is kept"


class Wrong(Scheme):
    """A scheme of somebody else's that breaks the contract."""

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
    with pytest.raises(HfInitError, match=message):
        finish(Wrong(values), whole_slot("w", (2, 3)))
