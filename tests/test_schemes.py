"""Schemes as values: names, settings, JSON, the catalogue; pure; and what they refuse."""

from __future__ import annotations

import hashlib
import io
import json
import math
import re
import subprocess
import sys
from contextlib import redirect_stdout
from dataclasses import FrozenInstanceError, replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scheme_checks import (
    DRAWN,
    SAMPLES,
    Box,
    Geometry,
    Rows,
    Slot,
    assert_same_on_any_number_of_threads,
    by_name,
    slot_for,
)

from hf_init import Rule, schemes
from hf_init.cli import main
from hf_init.schemes import ALIASES, REGISTRY, RowScheme, Scheme, build, finish, from_json, settings_of, whole_slot


def named_schemes(kind: type[Scheme]) -> list[type[Scheme]]:
    """Every class of the package below this one that has a name of its own."""
    mine = [kind] if vars(kind).get("name") and kind.__module__.startswith("hf_init.") else []
    return mine + [each for below in kind.__subclasses__() for each in named_schemes(below)]


def shown(*argv: str) -> str:
    """What a command prints."""
    with redirect_stdout(io.StringIO()) as printed:
        assert main([*argv]) == 0
    return printed.getvalue()


def test_every_class_is_public_has_one_name_and_is_in_the_catalogue():
    assert sorted(scheme.name for scheme in SAMPLES) == sorted(REGISTRY), "the samples of the tests are all"
    assert {name: kind.name for name, kind in REGISTRY.items()} == {name: name for name in REGISTRY}
    assert set(ALIASES.values()) <= set(REGISTRY) and not set(ALIASES) & set(REGISTRY)
    assert len(ALIASES) == sum(len(kind.aliases) for kind in REGISTRY.values()), "an alias stands for one scheme"
    assert {kind.__name__ for kind in named_schemes(schemes.Scheme)} <= set(schemes.__all__)
    assert all(hasattr(schemes, name) for name in schemes.__all__)
    assert [entry["name"] for entry in json.loads(shown("schemes", "--json"))["schemes"]] == list(REGISTRY)
    lines = shown("schemes").splitlines()
    assert max(map(len, lines)) <= 100 and not any(line.endswith(" ") for line in lines)
    assert all(any(re.match(rf"  {name}\b", line) for line in lines) for name in REGISTRY)


@pytest.mark.parametrize("name", [*REGISTRY, *ALIASES])
def test_an_entry_is_complete_and_its_page_says_it_on_a_terminal(name):
    page, entry, kind = (
        shown("schemes", name),
        json.loads(shown("schemes", name, "--json")),
        REGISTRY[ALIASES.get(name, name)],
    )
    assert entry["idea"] and entry["formula"] and entry["when"] and entry["group"] and entry["name"] == kind.name
    assert all(setting["meaning"] for setting in entry["settings"])
    assert [setting["name"] for setting in entry["settings"]] == [*settings_of(kind)]
    function = entry["torch_function"].partition(",")[0].removeprefix("torch.nn.init.")
    assert not function or callable(getattr(torch.nn.init, function))
    assert max(map(len, page.splitlines())) <= 100 and ">>>" in (kind.__doc__ or "")
    settings = (f"{each['name']}={each['default']}".removesuffix("=") for each in entry["settings"])
    for text in (*(entry[key] for key in ("name", "idea", "formula", "when", "source")), *settings):
        assert " ".join(text.split()) in " ".join(page.split())


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
from hf_init.cli import main
main(["schemes", "--quiet"]), main(["schemes", "--json"])
print("---")
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
    assert done.stdout.partition("---")[2].split() == here


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


@given(COUNTS)
def test_a_softmax_over_it_is_the_share_of_each_label_and_its_loss_the_entropy(counts):
    bias = schemes.LogPrior(counts=counts)(whole_slot("b", (len(counts),)))
    shares = torch.tensor(counts, dtype=torch.float64) / sum(counts)
    torch.testing.assert_close(bias.softmax(0), shares.float(), rtol=1e-5, atol=1e-7)
    loss = -(shares * bias.double().log_softmax(0)).sum()
    assert float(loss) == pytest.approx(float(-(shares * shares.log()).sum()), rel=1e-5, abs=1e-6)


@given(st.lists(st.floats(1e-6, 1 - 1e-6), min_size=1, max_size=20))
def test_a_sigmoid_of_it_is_the_share_of_positives(shares):
    bias = schemes.LogPrior(pi=shares)(whole_slot("b", (len(shares),)))
    torch.testing.assert_close(bias.sigmoid(), torch.tensor(shares, dtype=torch.float32), rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize(
    ("scheme", "slot", "expected"),
    [
        (schemes.LogPrior(pi=0.01), whole_slot("b", (3,)), [-math.log(0.99 / 0.01)] * 3),
        (schemes.LogPrior(pi=[0.01] * 3), whole_slot("b", (3,)), [-math.log(0.99 / 0.01)] * 3),
        (schemes.LogPrior(mean=-2.5), whole_slot("b", (2,)), [-2.5, -2.5]),
        (schemes.LogPrior(mean=(1, 0)), Slot("b", Box((1,), (2,)), (2,)), [0.0]),
        # A part of a bias has the shares among all rows; a row that is kept needs no count.
        (schemes.LogPrior((1, 2, 3, 4)), Slot("b", Rows(0, (3, 1), (4,)), (4,)), [math.log(0.4), math.log(0.2)]),
        (schemes.LogPrior((1, 2, 3, 4)), Slot("b", Box((1,), (3,)), (4,)), [math.log(0.2), math.log(0.3)]),
        (schemes.LogPrior((0, 3, 1)), Slot("b", Box((1,), (3,)), (3,)), [math.log(0.75), math.log(0.25)]),
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
