"""InitMixin: whose recipe and whose `_init_weights` counts, and that what has a value keeps it whatever is run."""

from __future__ import annotations

import copy
import random

import numpy as np
import pytest
import torch
import transformers
from mixed_classes import SMALL, Right, by_numpy, init_weights, is_all, own_init
from safetensors.torch import load_file
from torch import nn

import hf_init
from hf_init import HfInitError, InitMixin, Recipe, Rule


class Outer(InitMixin, transformers.BertPreTrainedModel):
    """Another class with a recipe of its own is a part of it."""

    base_model_prefix = "inner"

    def __init__(self, config):
        super().__init__(config)
        self.inner = Right(config)
        self.top = nn.Linear(2, 2)
        self.post_init()


class Decided(Outer):
    init_recipe = Recipe([Rule("ones", name="inner.fc.weight"), Rule("zeros", name="top.*")])


# One class, one recipe.


@pytest.mark.parametrize("make", ["class", "function", "disk", "config"])
def test_every_verb_obeys_the_recipe_of_the_class(bases, tmp_path, make):
    base = bases("bert")
    if make == "disk":
        hf_init.extend(base, tmp_path / "out", Right)
        assert is_all(load_file(tmp_path / "out" / "model.safetensors")["fc.weight"], 0.25)
        hf_init.verify(tmp_path / "out", recompute=True, architecture=Right).raise_if_failed()
        return
    config = transformers.BertConfig.from_pretrained(base)
    makers = {"class": Right.from_pretrained, "function": lambda b: hf_init.from_pretrained(Right, b)}
    model = Right(config) if make == "config" else makers[make](base)
    assert is_all(model.fc.weight, 0.25)
    assert str(hf_init.plan(base, Right)["fc.weight"].new[0].scheme) == "constant(val=0.25)"
    assert is_all(hf_init.from_pretrained(Right, base, recipe={"default": "ones"}).fc.weight, 1)


@pytest.mark.parametrize(("cls", "inner", "why"), [(Outer, 0.25, "of inner"), (Decided, 1.0, "rule 1")])
def test_the_recipe_of_an_inner_model_counts_for_its_part_behind_the_rules_of_the_outer(bases, cls, inner, why):
    options = {"key_mapping": {"^": "inner.bert."}}
    loaded = cls.from_pretrained(bases("bert"), **options)
    built = cls(transformers.BertConfig.from_pretrained(bases("bert")))
    assert is_all(loaded.inner.fc.weight, inner) and is_all(built.inner.fc.weight, inner)
    assert why in loaded.init_plan["inner.fc.weight"].new[0].why
    assert torch.equal(loaded.top.weight, built.top.weight) and torch.equal(loaded.inner.fc.bias, built.inner.fc.bias)


@pytest.mark.parametrize(
    ("bases_of", "line"),
    [
        ((transformers.BertPreTrainedModel, InitMixin), r"class Wrong\(InitMixin, BertPreTrainedModel\):"),
        ((transformers.BertModel, Right), r"class Wrong\(InitMixin, BertModel, Right\):"),
        ((InitMixin, nn.Module), r"class Wrong\(InitMixin, PreTrainedModel\):"),
        ((nn.Linear, InitMixin), r"class Wrong\(InitMixin, Linear\):"),
    ],
)
def test_a_mixin_where_it_has_no_effect_is_an_error_with_the_line_to_write(bases_of, line):
    with pytest.raises(HfInitError, match=line):
        type("Wrong", bases_of, {})


def test_a_mixin_may_be_mixed_into_one_of_the_users_own():
    shared = type("Shared", (InitMixin,), {"init_recipe": {"default": "ones"}})
    cls = type("Own", (shared, transformers.BertModel), {})
    assert is_all(cls(transformers.BertConfig(**SMALL)).pooler.dense.bias, 1)


def assigned(self, module):
    if isinstance(module, nn.Linear):
        module.weight = nn.Parameter(torch.eye(*module.weight.shape))
        module.bias = nn.Parameter(torch.ones(module.out_features))


def before_super(self, module):
    if isinstance(module, nn.Linear):
        nn.init.ones_(module.weight)
    super(Right, self)._init_weights(module)


def after_super(self, module):
    super(Right, self)._init_weights(module)
    if isinstance(module, nn.Linear):
        nn.init.ones_(module.weight)


def looked_at(self, module):
    """It needs a value, which meta has none of."""
    if isinstance(module, nn.Linear):
        module.weight.data.normal_()
        module.weight.data /= module.weight.norm().item()


INITS = {
    "assigned": (assigned, lambda w: torch.equal(w, torch.eye(2, 32))),
    "before super": (before_super, lambda w: 0.01 < w.std() < 0.03),
    "after super": (after_super, lambda w: is_all(w, 1)),
    "looked at": (looked_at, lambda w: abs(float(w.norm()) - 1) < 1e-6),
    "by numpy": (lambda self, module: by_numpy(module), lambda w: 0.5 < w.std() < 1.5),
}


@pytest.mark.parametrize("name", INITS)
def test_an_init_weights_of_the_users_own_may_do_what_it_likes(bases, tmp_path, name):
    init, right = INITS[name]
    cls, base = own_init(init), bases("bert")
    states = np.random.get_state()[1].tolist(), random.getstate()
    loaded = cls.from_pretrained(base)
    assert (np.random.get_state()[1].tolist(), random.getstate()) == states
    hf_init.extend(base, tmp_path / "out", cls)
    hf_init.verify(tmp_path / "out", recompute=True, architecture=cls).raise_if_failed()
    built = cls(transformers.BertConfig.from_pretrained(base))
    for weight in (loaded.fc.weight, built.fc.weight, load_file(tmp_path / "out" / "model.safetensors")["fc.weight"]):
        assert right(weight.detach()) and torch.equal(weight, loaded.fc.weight)


@pytest.mark.parametrize("nested", [False, True])
def test_it_reaches_new_layers_of_an_inner_model_by_choice(bases, nested):
    model = own_init(after_super, init_nested=nested).from_pretrained(bases("bert"), num_hidden_layers=3)
    query = "bert.encoder.layer.{}.attention.self.query.weight"
    assert is_all(model.state_dict()[query.format(2)], 1) is nested
    assert not is_all(model.state_dict()[query.format(1)], 1)
    whose = "OwnInit's own" if nested else "BertPreTrainedModel's own"
    assert model.init_plan[query.format(2)].new[0].why == f"{'ones' if nested else 'normal(std=0.02)'}, {whose}"


def test_a_plan_says_who_fills_what_with_what(bases):
    class Told(Right):
        init_recipe = None

        def __init__(self, config):
            super().__init__(config)
            self.scale = nn.Parameter(torch.full((2,), 0.5))

        def _init_weights(self, module):
            super()._init_weights(module)
            if module is getattr(self, "fc", None):
                nn.init.xavier_uniform_(module.weight, gain=2.0)

    plan = hf_init.plan(bases("bert"), Told)
    assert {tensor.name: tensor.new[0].why for tensor in plan.tensors if tensor.new} == {
        "fc.weight": "xavier_uniform(gain=2), Told's own",
        "fc.bias": "zeros, BertPreTrainedModel's own",
        "scale": "computed, by the constructor",
    }


# A function of the user's own.


@pytest.mark.parametrize("function", [init_weights, by_numpy])
def test_a_function_of_a_module_is_a_recipe_and_initializes_what_is_new_in_memory(bases, tmp_path, function):
    class Own(Right):
        init_recipe = function

    base = bases("bert")
    loaded = hf_init.from_pretrained(transformers.BertForSequenceClassification, base, recipe=function)
    model = type("Two", (InitMixin, transformers.BertForSequenceClassification), {}).from_pretrained(base)
    before = copy.deepcopy(model.state_dict())
    model.initialize_new(function)
    assert not torch.equal(model.classifier.weight, before.pop("classifier.weight"))
    assert torch.equal(model.classifier.weight, loaded.classifier.weight)
    assert torch.equal(model.classifier.bias, loaded.classifier.bias)
    assert [n for n, t in before.items() if n != "classifier.bias" and not torch.equal(t, model.state_dict()[n])] == []
    assert model.init_plan["classifier.weight"] == loaded.init_plan["classifier.weight"]
    assert function.__name__ in model.init_plan["classifier.weight"].new[0].why
    hf_init.extend(base, tmp_path / "out", Own)
    hf_init.verify(tmp_path / "out", recompute=True, architecture=Own).raise_if_failed()
    with pytest.raises(HfInitError, match="init_recipe, or verify without recompute"):
        hf_init.verify(tmp_path / "out", recompute=True, architecture=type("Plain", (Right,), {"init_recipe": None}))


def test_initialize_new_reaches_what_was_put_there_later_and_all_of_a_model_without_a_checkpoint(bases):
    model = Right.from_pretrained(bases("bert"))
    model.extra = nn.Linear(4, 4)
    trained = model.bert.pooler.dense.weight.detach().clone()
    model.initialize_new(by_numpy)
    first = model.extra.weight.detach().clone()
    model.extra.reset_parameters()
    model.initialize_new(by_numpy)
    assert torch.equal(first, model.extra.weight) and torch.equal(model.bert.pooler.dense.weight, trained)
    built = Right(model.config)
    built.initialize_new(init_weights)
    assert abs(float(built.bert.pooler.dense.weight.detach().std()) - 0.25) < 0.03
