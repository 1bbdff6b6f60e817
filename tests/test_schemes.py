"""Schemes as values: names, settings, JSON; and pure: the same slot gives the same values, anywhere."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from dataclasses import FrozenInstanceError, replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scheme_checks import DRAWN, SAMPLES, slot_for

from hf_init import schemes
from hf_init._plan.recipe_text import parse_scheme
from hf_init._tensors import Box, Geometry, Slot
from hf_init.schemes import ALIASES, REGISTRY, RowScheme, Scheme, build, finish, from_json, settings_of, whole_slot

each_drawn = pytest.mark.parametrize("scheme", DRAWN, ids=lambda scheme: scheme.name)
each_sample = pytest.mark.parametrize("scheme", SAMPLES, ids=lambda scheme: scheme.name)


def test_the_samples_are_all():
    assert sorted(scheme.name for scheme in SAMPLES) == sorted(REGISTRY)


def test_names_are_those_of_the_classes():
    assert {name: kind.name for name, kind in REGISTRY.items()} == {name: name for name in REGISTRY}
    assert set(ALIASES.values()) <= set(REGISTRY)
    assert len(ALIASES) == sum(len(kind.aliases) for kind in REGISTRY.values()), "an alias stands for one scheme"
    assert not set(ALIASES) & set(REGISTRY)


def named_schemes(kind: type[Scheme]) -> list[type[Scheme]]:
    """Every class of the package below this one that has a name of its own."""
    mine = [kind] if vars(kind).get("name") and kind.__module__.startswith("hf_init.") else []
    return mine + [each for below in kind.__subclasses__() for each in named_schemes(below)]


def test_every_class_is_public():
    assert {kind.__name__ for kind in named_schemes(schemes.Scheme)} <= set(schemes.__all__)
    assert all(hasattr(schemes, name) for name in schemes.__all__)


@each_sample
def test_a_scheme_survives_json(scheme):
    text = json.dumps(scheme.to_json())
    again = from_json(json.loads(text))
    assert again == scheme and hash(again) == hash(scheme) and json.dumps(again.to_json()) == text


@each_sample
def test_a_scheme_prints_as_a_recipe_spells_it(scheme):
    assert parse_scheme(str(scheme)) == unbound(scheme)


def unbound(scheme: Scheme) -> Scheme:
    """Without what a plan binds, which a recipe doesn't spell."""
    bound = scheme.bound
    return replace(scheme, **{name: default for name, default in settings_of(type(scheme)).items() if name in bound})


@pytest.mark.parametrize(
    ("scheme", "text"),
    [
        (schemes.Normal(std=0.02), "normal(std=0.02)"),
        (schemes.Normal(), "normal"),
        (schemes.Constant(0), "constant(val=0)"),
        (schemes.ScaledResidual(layers=12), "scaled_residual(layers=12)"),
        (schemes.KaimingNormal(mode="fan_out"), "kaiming_normal(mode=fan_out)"),
        (schemes.Normal(std=1 / 3), "normal(std=0.3333333333333333)"),
    ],
)
def test_only_settings_that_are_not_the_default_are_shown(scheme, text):
    assert str(scheme) == text


def test_a_scheme_is_frozen():
    scheme: Any = schemes.Normal()
    with pytest.raises(FrozenInstanceError):
        scheme.std = 2.0


def test_whole_numbers_are_numbers():
    assert schemes.Normal(0, 1) == schemes.Normal(0.0, 1.0)
    assert json.dumps(schemes.Normal(0, 1).to_json()) == json.dumps(schemes.Normal(0.0, 1.0).to_json())


@pytest.mark.parametrize("alias", ALIASES)
def test_an_alias_is_its_scheme(alias):
    assert build(alias) == build(ALIASES[alias])
    assert build(alias).to_json()["name"] == ALIASES[alias]


# --- purity ---


@each_drawn
def test_values_are_new_float32_contiguous_and_of_the_slot_s_shape(scheme):
    slot = slot_for(scheme)
    values, again = scheme(slot), scheme(slot)
    assert values.dtype == torch.float32 and values.shape == slot.shape and values.is_contiguous()
    assert values.device.type == "cpu" and not values.requires_grad
    assert torch.equal(values, again) and values.data_ptr() != again.data_ptr()


@each_drawn
def test_the_global_generator_is_neither_read_nor_advanced(scheme):
    slot = slot_for(scheme)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        before = torch.get_rng_state()
        first = finish(scheme, slot)
        assert torch.equal(torch.get_rng_state(), before)
        torch.manual_seed(2)
        assert torch.equal(finish(scheme, slot), first)


@each_drawn
def test_the_caller_s_defaults_do_not_matter(scheme):
    slot = slot_for(scheme)
    expected, threads = scheme(slot), torch.get_num_threads()
    if not scheme.needs_model:  # whose values are the context's
        with torch.device("meta"), torch.inference_mode():
            assert scheme(slot).device.type == "cpu"
        torch.set_default_dtype(torch.float64)
        try:
            assert torch.equal(scheme(slot), expected)
        finally:
            torch.set_default_dtype(torch.float32)
    assert torch.get_num_threads() == threads


@pytest.mark.parametrize("shape", [(300, 300), (130, 700), (700, 130)])
def test_orthogonal_bytes_do_not_depend_on_the_number_of_threads(shape):
    before, seen = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            seen.append(schemes.Orthogonal()(whole_slot("w", shape)))
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert torch.equal(seen[0], seen[1]) and torch.equal(seen[0], seen[2])


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float64", "float8_e4m3fn"])
@each_drawn
def test_values_are_those_of_float32_rounded_once(scheme, dtype):
    stored = finish(scheme, slot_for(scheme, dtype=dtype))
    assert stored.dtype == getattr(torch, dtype) and stored.is_contiguous()
    expected = scheme(slot_for(scheme)).to(stored.dtype)
    assert torch.equal(stored.view(torch.uint8), expected.view(torch.uint8))


FRESH = """
import hashlib, sys
from hf_init.schemes import from_json, whole_slot
import json, torch
torch.manual_seed(7); torch.rand(3)
for line in sys.stdin:
    scheme, name, shape = json.loads(line)
    print(hashlib.sha256(from_json(scheme)(whole_slot(name, tuple(shape))).numpy().tobytes()).hexdigest())
"""


def test_another_process_gives_the_same_bytes():
    reads = (RowScheme, schemes.MatchedNormal)
    alone = [scheme for scheme in DRAWN if not scheme.needs_model and not isinstance(scheme, reads)]
    jobs = [(scheme, slot_for(scheme)) for scheme in alone]
    lines = "\n".join(json.dumps([scheme.to_json(), slot.name, slot.whole]) for scheme, slot in jobs)
    done = subprocess.run([sys.executable, "-c", FRESH], input=lines, capture_output=True, text=True, check=True)
    here = [hashlib.sha256(scheme(slot).numpy().tobytes()).hexdigest() for scheme, slot in jobs]
    assert done.stdout.split() == here


@pytest.mark.parametrize("place", ["name", "seed", "region"])
@pytest.mark.parametrize("scheme", [schemes.Normal(), schemes.Orthogonal(), schemes.XavierUniform()], ids=str)
def test_another_place_gives_other_values(scheme, place):
    slot = Slot("a", Box((0, 0), (4, 6)), (8, 6))
    other = replace(
        slot, **{"name": {"name": "b"}, "seed": {"seed": 1}, "region": {"region": Box((4, 0), (8, 6))}}[place]
    )
    assert not bool((scheme(slot) == scheme(other)).any())


# --- shapes without elements, and without dimensions ---

SHAPELESS = ["zeros", "ones", "uniform", "normal", "trunc_normal", "trunc_normal_absolute"]


@pytest.mark.parametrize("name", SHAPELESS)
@pytest.mark.parametrize("shape", [(), (0,), (3, 0), (1,)])
def test_any_shape_has_elementwise_values(name, shape):
    assert finish(build(name), whole_slot("t", shape, dtype="bfloat16")).shape == shape


# What each of these needs doesn't go with a first dimension of 0.
NEEDS_ROWS = ("delta_orthogonal", "embedding")


@each_drawn
@pytest.mark.parametrize("dim", [0, 1])
def test_a_tensor_without_elements_has_no_values(scheme, dim):
    full = slot_for(scheme).whole
    dim = min(dim, len(full) - 1) if scheme.name not in NEEDS_ROWS else 1
    shape = (*full[:dim], 0, *full[dim + 1 :])
    slot = replace(slot_for(scheme), whole=shape, region=Box.whole(shape))
    assert finish(scheme, slot).shape == shape


def test_a_region_without_elements_has_no_values():
    slot = Slot("w", Box((3, 0), (3, 4)), (8, 4), geometry=Geometry(4, None, parts=(4, 4)))
    assert schemes.XavierNormal()(slot).shape == (0, 4)
    assert schemes.XavierNormal().moments(slot) is None


@given(st.sampled_from(DRAWN), st.integers(0, 2**64 - 1), st.text(max_size=20))
def test_any_seed_and_name_will_do(scheme, seed, name):
    slot = slot_for(scheme)
    slot = replace(slot, seed=seed, name=slot.name if "bias" in scheme.name else name)
    assert torch.equal(scheme(slot), scheme(slot))
