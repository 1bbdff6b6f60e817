"""What a value depends on beside the laws: no device's seed, no order of rules; and it is rounded once."""

from __future__ import annotations

import pytest
import torch
import transformers

import hf_init
from hf_init import Recipe, Rule, schemes
from hf_init.schemes import RowScheme, finish, whole_slot

RECIPE = Recipe([Rule("xavier_uniform", name="classifier.weight")], default="model", seed=11)
DRAWN = Recipe([Rule("model", name="*")])  # a rule counts for more than what closes new blocks
CLS = transformers.BertForSequenceClassification


@pytest.mark.parametrize("scheme", ["model", "declared"])
def test_no_other_device_is_seeded(bases, tmp_path, monkeypatch, scheme):
    seeded, base = [], bases("bert")
    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeded.append)
    hf_init.from_pretrained(CLS, base, recipe={"default": scheme}, num_labels=3)
    hf_init.extend(base, tmp_path / "out", CLS, recipe={"default": scheme}, num_labels=3)
    hf_init.verify(tmp_path / "out", recompute=True).raise_if_failed()
    assert not seeded
    torch.manual_seed(0)
    assert seeded == [0], "what is watched is what torch.manual_seed calls"


def test_more_rules_in_another_order_change_no_value(bases):
    more = Recipe([Rule("zeros", name="classifier.bias"), Rule("xavier_uniform", role="linear.weight")], seed=11)
    models = [hf_init.from_pretrained(CLS, bases("bert"), recipe=recipe, num_labels=3) for recipe in (RECIPE, more)]
    assert torch.equal(models[0].classifier.weight, models[1].classifier.weight)


def test_a_value_is_keyed_by_its_name_whatever_the_class(bases):
    one = hf_init.from_pretrained(transformers.BertForMaskedLM, bases("bert"), seed=3, drop="pooler.*")
    both = hf_init.from_pretrained(transformers.BertForPreTraining, bases("bert"), seed=3)
    name = "cls.predictions.transform.dense.weight"
    assert torch.equal(one.state_dict()[name], both.state_dict()[name])


def test_the_librarys_own_scheme_is_the_librarys(bases):
    """GPT-2 re-draws every residual projection smaller, from the block around it."""
    grown = hf_init.from_pretrained(transformers.GPT2LMHeadModel, bases("gpt2"), n_layer=64, n_embd=32, recipe=DRAWN)
    new = [t for name, t in grown.state_dict().items() if name.endswith("mlp.c_proj.weight") and ".h.0." not in name]
    spread = torch.stack(new[2:]).std()
    assert abs(spread / (0.02 / (2 * 64) ** 0.5) - 1) < 0.02
    plain = torch.stack([t for n, t in grown.state_dict().items() if n.endswith("mlp.c_fc.weight")][2:]).std()
    assert abs(plain / 0.02 - 1) < 0.02


def test_a_new_layer_s_experts_are_drawn_as_the_architecture_draws_them(bases):
    config = {"num_hidden_layers": 3}
    grown = hf_init.from_pretrained(
        transformers.MixtralForCausalLM, bases("mixtral"), config=config, recipe=DRAWN
    ).state_dict()
    experts = [tensor for name, tensor in grown.items() if "layers.2." in name and ".experts." in name]
    assert experts and all(abs(float(tensor.std()) / 0.02 - 1) < 0.1 for tensor in experts)


ASKING = {"model", "skip", "declared", "auto", "matched_normal", "fitted"}
# These read tensors that are there; test_schemes.py rounds samples of theirs.
READING = {name for name, kind in schemes.REGISTRY.items() if issubclass(kind, RowScheme) or kind.group == "derived"}


@pytest.mark.parametrize("name", sorted(set(schemes.REGISTRY) - ASKING - READING))
def test_rounding_happens_once(name):
    """The same seed gives the same values in every dtype, up to the one rounding."""
    settings = {
        "constant": {"val": 0.3},
        "sparse": {"sparsity": 0.5},
        "scaled_residual": {"layers": 12},
        "embedding": {"padding": 0},
        "log_prior": {"counts": [10, 20, 30, 10, 20, 30]},
    }
    scheme = schemes.build(name, settings.get(name, {}))
    shape = {
        "dirac": (6, 6, 3),
        "delta_orthogonal": (6, 6, 3),
        "lstm_bias": (24,),
        "gru_bias": (18,),
        "log_prior": (6,),
    }.get(name, (6, 8))
    leaf = "bias_ih_l0" if name.endswith("_bias") else "w"
    full = finish(scheme, whole_slot(leaf, shape, parameter=leaf))
    for dtype in ("bfloat16", "float16"):
        rounded = finish(scheme, whole_slot(leaf, shape, dtype=dtype, parameter=leaf))
        assert torch.equal(rounded, full.to(getattr(torch, dtype)))
