"""Schemes as values: names, settings, JSON, the catalogue; pure; and what they refuse."""

from __future__ import annotations

import hashlib
import json
import math
import re
import subprocess
import sys
from dataclasses import FrozenInstanceError, replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scheme_checks import (
    DRAWN,
    SAMPLES,
    Architecture,
    Box,
    Geometry,
    Rows,
    Slot,
    assert_same_on_any_number_of_threads,
    by_name,
    slot_for,
)

from hf_init import HfInitError, Rule, schemes
from hf_init.cli import _catalogue as pages
from hf_init.schemes import ALIASES, REGISTRY, RowScheme, Scheme, build, finish, from_json, settings_of, whole_slot


def named_schemes(kind: type[Scheme]) -> list[type[Scheme]]:
    """Every class of the package below this one that has a name of its own."""
    mine = [kind] if vars(kind).get("name") and kind.__module__.startswith("hf_init.") else []
    return mine + [each for below in kind.__subclasses__() for each in named_schemes(below)]


def test_every_class_is_public_has_one_name_and_is_in_the_catalogue():
    assert sorted(scheme.name for scheme in SAMPLES) == sorted(REGISTRY), "the samples of the tests are all"
    assert {name: kind.name for name, kind in REGISTRY.items()} == {name: name for name in REGISTRY}
    assert set(ALIASES.values()) <= set(REGISTRY) and not set(ALIASES) & set(REGISTRY)
    assert len(ALIASES) == sum(len(kind.aliases) for kind in REGISTRY.values()), "an alias stands for one scheme"
    assert {kind.__name__ for kind in named_schemes(schemes.Scheme)} <= set(schemes.__all__)
    assert all(hasattr(schemes, name) for name in schemes.__all__)
    assert [entry.name for entry in pages.catalogue()] == list(REGISTRY)


@pytest.mark.parametrize("name", [*REGISTRY, *ALIASES])
def test_an_entry_is_complete_and_its_page_says_it_on_a_terminal(name):
    page, entry, kind = pages.describe_scheme(name), pages.catalogue_entry(name), REGISTRY[ALIASES.get(name, name)]
    assert entry.idea and entry.formula and entry.when and entry.group
    assert all(setting.meaning for setting in entry.settings)
    assert [setting.name for setting in entry.settings] == [*settings_of(kind)]
    assert json.loads(json.dumps(entry.to_json()))["name"] == kind.name
    function = entry.torch_function.partition(",")[0].removeprefix("torch.nn.init.")
    assert not function or callable(getattr(torch.nn.init, function))
    assert max(map(len, page.splitlines())) <= 100 and ">>>" in (kind.__doc__ or "")
    for text in (entry.name, entry.idea, entry.formula, entry.when, entry.source, *map(str, entry.settings)):
        assert " ".join(text.split()) in " ".join(page.split())


def test_the_table_of_the_catalogue_fits_a_terminal():
    lines = pages.catalogue_table().splitlines()
    assert max(map(len, lines)) <= 100 and not any(line.endswith(" ") for line in lines)
    assert all(re.search(rf"^  {name}\b", pages.catalogue_table(), re.MULTILINE) for name in REGISTRY)
    with pytest.raises(HfInitError, match="did you mean 'eye'"):
        pages.describe_scheme("eyes")


@by_name(SAMPLES)
def test_a_scheme_survives_json_and_prints_as_a_recipe_spells_it(scheme):
    text = json.dumps(scheme.to_json())
    again = from_json(json.loads(text))
    assert again == scheme and hash(again) == hash(scheme) and json.dumps(again.to_json()) == text
    known, bound = settings_of(type(scheme)), scheme.bound  # what a plan binds, a recipe doesn't spell
    unbound = replace(scheme, **{name: default for name, default in known.items() if name in bound})
    assert Rule(str(scheme), name="*").scheme == unbound


@pytest.mark.parametrize(
    ("scheme", "text"),
    [
        (schemes.Normal(std=0.02), "normal(std=0.02)"),
        (schemes.Normal(), "normal"),
        (schemes.Constant(0), "constant(val=0)"),
        (schemes.ScaledResidual(layers=12), "scaled_residual(layers=12)"),
        (schemes.KaimingNormal(mode="fan_out"), "kaiming_normal(mode=fan_out)"),
        (schemes.Normal(std=1 / 3), "normal(std=0.3333333333333333)"),
        (schemes.LogPrior(counts=[1] * 1000), "log_prior(counts=1000 numbers)"),
    ],
)
def test_only_settings_that_are_not_the_default_are_shown(scheme, text):
    assert str(scheme) == text


def test_a_scheme_is_frozen_and_whole_numbers_are_numbers():
    scheme: Any = schemes.Normal(0, 1)
    with pytest.raises(FrozenInstanceError):
        scheme.std = 2.0
    assert scheme == schemes.Normal(0.0, 1.0)
    assert json.dumps(scheme.to_json()) == json.dumps(schemes.Normal(0.0, 1.0).to_json())
    assert all(build(alias) == build(name) and build(alias).name == name for alias, name in ALIASES.items())


# --- purity ---


@by_name(DRAWN)
def test_values_depend_on_the_slot_alone(scheme):
    """Float32, contiguous, of the slot's shape; whatever the caller's generator, device, mode and dtype are."""
    slot, threads = slot_for(scheme), torch.get_num_threads()
    values, again = scheme(slot), scheme(slot)
    assert values.dtype == torch.float32 and values.shape == slot.shape and values.is_contiguous()
    assert values.device.type == "cpu" and not values.requires_grad
    assert torch.equal(values, again) and values.data_ptr() != again.data_ptr()
    with torch.random.fork_rng(devices=[]):
        for seed in (1, 2):
            torch.manual_seed(seed)
            before = torch.get_rng_state()
            assert torch.equal(finish(scheme, slot), values) and torch.equal(torch.get_rng_state(), before)
    if not scheme.needs_model:  # whose values are the context's
        with torch.device("meta"), torch.inference_mode():
            assert scheme(slot).device.type == "cpu"
        torch.set_default_dtype(torch.float64)
        assert torch.equal(scheme(slot), values)
    assert torch.get_num_threads() == threads


@pytest.mark.parametrize("shape", [(300, 300), (130, 700), (700, 130)])
def test_orthogonal_bytes_do_not_depend_on_the_number_of_threads(shape):
    assert_same_on_any_number_of_threads(lambda: schemes.Orthogonal()(whole_slot("w", shape)))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float64", "float8_e4m3fn"])
@by_name(DRAWN)
def test_values_are_those_of_float32_rounded_once(scheme, dtype):
    stored = finish(scheme, slot_for(scheme, dtype=dtype))
    assert stored.dtype == getattr(torch, dtype) and stored.is_contiguous()
    expected = scheme(slot_for(scheme)).to(stored.dtype)
    assert torch.equal(stored.view(torch.uint8), expected.view(torch.uint8))


FRESH = """
import hashlib, json, sys
from hf_init.cli import _catalogue
_catalogue.catalogue_table(), _catalogue.catalogue_json()
assert "torch" not in sys.modules, "the catalogue needs none"
from hf_init.schemes import from_json, whole_slot
import torch
torch.manual_seed(7); torch.rand(3)
for line in sys.stdin:
    scheme, name, shape = json.loads(line)
    print(hashlib.sha256(from_json(scheme)(whole_slot(name, tuple(shape))).numpy().tobytes()).hexdigest())
"""


@pytest.mark.slow
def test_another_process_gives_the_same_bytes_and_needs_no_torch_for_the_catalogue():
    reads = (RowScheme, schemes.MatchedNormal)
    alone = [scheme for scheme in DRAWN if not scheme.needs_model and not isinstance(scheme, reads)]
    jobs = [(scheme, slot) for scheme in alone if (slot := slot_for(scheme)).source is None]
    lines = "\n".join(json.dumps([scheme.to_json(), slot.name, slot.whole]) for scheme, slot in jobs)
    done = subprocess.run([sys.executable, "-c", FRESH], input=lines, capture_output=True, text=True, check=True)
    here = [hashlib.sha256(scheme(slot).numpy().tobytes()).hexdigest() for scheme, slot in jobs]
    assert done.stdout.split() == here


@pytest.mark.parametrize("other", [{"name": "b"}, {"seed": 1}, {"region": Box((4, 0), (8, 6))}], ids=str)
@pytest.mark.parametrize("scheme", [schemes.Normal(), schemes.Orthogonal(), schemes.XavierUniform()], ids=str)
def test_another_place_gives_other_values(scheme, other):
    slot = Slot("a", Box((0, 0), (4, 6)), (8, 6))
    assert not bool((scheme(slot) == scheme(replace(slot, **other))).any())


@given(st.sampled_from(DRAWN), st.integers(0, 2**64 - 1), st.text(max_size=20))
def test_any_seed_and_name_will_do(scheme, seed, name):
    slot = slot_for(scheme)
    slot = replace(slot, seed=seed, name=slot.name if "bias" in scheme.name else name)
    assert torch.equal(scheme(slot), scheme(slot))


@pytest.mark.parametrize("name", ["zeros", "ones", "uniform", "normal", "trunc_normal", "trunc_normal_absolute"])
@pytest.mark.parametrize("shape", [(), (0,), (3, 0), (1,)])
def test_any_shape_has_elementwise_values(name, shape):
    assert finish(build(name), whole_slot("t", shape, dtype="bfloat16")).shape == shape


@by_name(DRAWN)
@pytest.mark.parametrize("dim", [0, 1])
def test_a_tensor_without_elements_has_no_values(scheme, dim):
    full = slot_for(scheme).whole
    # What these need doesn't go with a first dimension of 0.
    dim = min(dim, len(full) - 1) if scheme.name not in ("delta_orthogonal", "embedding") else 1
    shape = (*full[:dim], 0, *full[dim + 1 :])
    assert finish(scheme, replace(slot_for(scheme), whole=shape, region=Box.whole(shape))).shape == shape


def test_a_region_without_elements_has_no_values():
    slot = Slot("w", Box((3, 0), (3, 4)), (8, 4), geometry=Geometry(4, None, parts=(4, 4)))
    assert schemes.XavierNormal()(slot).shape == (0, 4) and schemes.XavierNormal().moments(slot) is None


# --- the bias that predicts how often each label occurs ---

COUNTS = st.lists(st.floats(1e-3, 1e6), min_size=1, max_size=20)
LogPrior = schemes.LogPrior


@given(COUNTS)
def test_a_softmax_over_it_is_the_share_of_each_label_and_its_loss_the_entropy(counts):
    bias = LogPrior(counts=counts)(whole_slot("b", (len(counts),)))
    shares = torch.tensor(counts, dtype=torch.float64) / sum(counts)
    torch.testing.assert_close(bias.softmax(0), shares.float(), rtol=1e-5, atol=1e-7)
    loss = -(shares * bias.double().log_softmax(0)).sum()
    assert float(loss) == pytest.approx(float(-(shares * shares.log()).sum()), rel=1e-5, abs=1e-6)


@given(st.lists(st.floats(1e-6, 1 - 1e-6), min_size=1, max_size=20))
def test_a_sigmoid_of_it_is_the_share_of_positives(shares):
    bias = LogPrior(pi=shares)(whole_slot("b", (len(shares),)))
    torch.testing.assert_close(bias.sigmoid(), torch.tensor(shares, dtype=torch.float32), rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize(
    ("scheme", "slot", "expected"),
    [
        (LogPrior(pi=0.01), whole_slot("b", (3,)), [-math.log(0.99 / 0.01)] * 3),
        (LogPrior(pi=[0.01] * 3), whole_slot("b", (3,)), [-math.log(0.99 / 0.01)] * 3),
        (LogPrior(mean=-2.5), whole_slot("b", (2,)), [-2.5, -2.5]),
        (LogPrior(mean=(1, 0)), Slot("b", Box((1,), (2,)), (2,)), [0.0]),
        # A part of a bias has the shares among all rows; a row that is kept needs no count.
        (LogPrior((1, 2, 3, 4)), Slot("b", Rows(0, (3, 1), (4,)), (4,)), [math.log(0.4), math.log(0.2)]),
        (LogPrior((1, 2, 3, 4)), Slot("b", Box((1,), (3,)), (4,)), [math.log(0.2), math.log(0.3)]),
        (LogPrior((0, 3, 1)), Slot("b", Box((1,), (3,)), (3,)), [math.log(0.75), math.log(0.25)]),
        (schemes.LstmBias(), whole_slot("lstm.bias_ih_l0", (8,)), [0, 0, 1, 1, 0, 0, 0, 0]),
        (schemes.LstmBias(2.5), whole_slot("lstm.bias_ih_l1_reverse", (8,)), [0, 0, 2.5, 2.5, 0, 0, 0, 0]),
        (schemes.LstmBias(), whole_slot("lstm.bias_hh_l0", (8,)), [0] * 8),
        (schemes.LstmBias(), Slot("renamed", Box((1,), (3,)), (8,), parameter="encoder.lstm.bias_ih_l0"), [0, 1]),
        (schemes.GruBias(), whole_slot("cell.bias_ih", (6,)), [0, 0, 1, 1, 0, 0]),
        (schemes.GruBias(), whole_slot("gru.bias_hh_l0", (6,)), [0] * 6),
    ],
    ids=lambda value: str(value)[:30] if isinstance(value, Scheme) else "",
)
def test_a_bias_by_a_rule_has_these_values(scheme, slot, expected):
    assert scheme(slot).tolist() == pytest.approx(expected)


# --- what is refused ---

NOT_ABOVE_0, NOT_SHARES = (
    "expected a list of numbers of at least 0, not all of them 0",
    "expected a number between 0 and 1",
)
BAD_SETTINGS: list[tuple[Any, dict[Any, Any], str]] = [
    ("kaiming_norml", {}, "unknown scheme 'kaiming_norml'; did you mean 'kaiming_normal'.*variance_scaling"),
    ("he_norml", {}, "did you mean 'he_normal'"),
    ("zzz", {}, "^unknown scheme 'zzz'; schemes: zeros"),
    (None, {}, "unknown scheme None"),
    ("normal", {"sdt": 1}, "^normal: no setting 'sdt'; did you mean 'std'.; its settings: mean, std"),
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
    (LogPrior(counts=(1, 2)), {"shape": (2, 8)}, "needs a bias, one number a label"),
    (LogPrior(counts=(1, 2)), {"shape": ()}, "needs a bias"),
    (LogPrior(counts=(1, 2)), {"shape": (3,)}, "it has 3 rows, and 2 numbers"),
    (LogPrior(counts=(0, 3, 1)), {"shape": (3,)}, "row 0 has a count of 0, whose logarithm is infinite"),
    (LogPrior(pi=0.5), {"shape": (2,), "dtype": "int64"}, "dtype is int64"),
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
