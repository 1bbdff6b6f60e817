"""A class with the mixin obeys its recipe however it is made: loaded, built from a config, or resized."""

from __future__ import annotations

from typing import ClassVar

import pytest
import torch
import transformers
from safetensors.torch import load_file

import hf_init
from hf_init import HfInitError, InitMixin, Recipe, Rule

SMALL = transformers.BertConfig(
    vocab_size=96, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64, num_labels=3
)


class Classifier(InitMixin, transformers.BertForSequenceClassification):
    init_recipe = Recipe([Rule("constant(val=0.25)", name="classifier.weight")], seed=3)


class Nested(InitMixin, transformers.BertForSequenceClassification):
    """A rule for modules that live in the inner model, whose own `_init_weights` the library would ask."""

    init_recipe: ClassVar = {"rules": [{"name": "*.query.weight", "scheme": "orthogonal"}], "seed": 3}


class Decoder(InitMixin, transformers.LlamaForCausalLM):
    init_recipe: ClassVar = {"rules": [{"role": "embedding", "scheme": "constant(val=0.5)"}]}


def test_loading_fills_what_is_new_and_keeps_the_rest(tiny):
    model = Classifier.from_pretrained(tiny("bert"), num_labels=3)
    assert type(model) is Classifier
    assert bool((model.classifier.weight == 0.25).all())
    before = load_file(tiny("bert") / "model.safetensors")
    assert all(torch.equal(tensor, model.bert.state_dict()[name]) for name, tensor in before.items())


def test_it_is_the_function_by_another_name(tiny):
    mine = Classifier.from_pretrained(tiny("bert"), num_labels=3)
    theirs = hf_init.from_pretrained(
        transformers.BertForSequenceClassification, tiny("bert"), recipe=Classifier.init_recipe, num_labels=3
    )
    assert mine.init_plan.tensors == theirs.init_plan.tensors
    assert all(torch.equal(a, b) for a, b in zip(mine.state_dict().values(), theirs.state_dict().values(), strict=True))


def test_another_recipe_for_one_load(tiny):
    model = Classifier.from_pretrained(tiny("bert"), num_labels=3, recipe={"default": "zeros"})
    assert not bool(model.classifier.weight.any())


def test_without_a_checkpoint_everything_is_new_and_nested_models_obey_the_root():
    model = Nested(SMALL)
    for layer in model.bert.encoder.layer:
        weight = layer.attention.self.query.weight.detach()
        assert torch.allclose(weight @ weight.T, torch.eye(32), atol=1e-5)
    assert abs(float(model.bert.pooler.dense.weight.detach().std()) / 0.02 - 1) < 0.2


def test_the_same_seed_builds_the_same_model_after_any_manual_seed():
    torch.manual_seed(1)
    first = Nested(SMALL).state_dict()
    torch.manual_seed(2)
    second = Nested(SMALL).state_dict()
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())


def test_everything_new_in_memory_is_what_a_plan_without_a_source_would_make(tiny):
    """From a config and into a larger architecture, one tensor of one name has one value."""
    built = Nested(transformers.BertConfig.from_pretrained(tiny("bert"), num_labels=3))
    loaded = Nested.from_pretrained(tiny("bert"), num_labels=3, num_hidden_layers=2, recipe={"seed": 3})
    assert torch.equal(built.classifier.weight, loaded.classifier.weight)


def test_a_resized_matrix_obeys_the_rules_that_know_its_kind():
    config = transformers.LlamaConfig(
        vocab_size=64, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32
    )
    model = Decoder(config)
    with torch.no_grad():
        model.model.embed_tokens.weight[:64] = 2.0
    model.resize_token_embeddings(80, mean_resizing=False, pad_to_multiple_of=1)
    rows = model.model.embed_tokens.weight.detach()
    assert bool((rows[:64] == 2.0).all()) and bool((rows[64:] == 0.5).all())


def test_auto_as_a_default_serves_construction_too():
    class Auto(InitMixin, transformers.BertForSequenceClassification):
        init_recipe = "auto"

    model = Auto(SMALL)
    assert bool((model.bert.encoder.layer[0].output.LayerNorm.weight == 1).all())
    assert model.bert.embeddings.word_embeddings.weight[0].abs().max() == 0  # the padding row


def test_a_recipe_that_covers_too_little_is_refused_in_construction():
    class Strict(InitMixin, transformers.BertForSequenceClassification):
        init_recipe = Recipe([Rule("zeros", name="classifier.*")], default="error")

    with pytest.raises(HfInitError, match=r"no rule covers bert\.embeddings"):
        Strict(SMALL)


def test_saving_and_plain_loading(tiny, tmp_path):
    model = Classifier.from_pretrained(tiny("bert"), num_labels=3)
    model.save_pretrained(tmp_path)
    plain, info = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values())
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), plain.state_dict().values(), strict=True))


def test_loading_info_as_the_library_gives_it(tiny):
    model, info = Classifier.from_pretrained(tiny("bert"), num_labels=3, output_loading_info=True)
    assert not info["missing_keys"] and isinstance(model, Classifier)


def test_a_saved_model_loads_again_though_nothing_is_new(tiny, tmp_path):
    Classifier.from_pretrained(tiny("bert"), num_labels=3).save_pretrained(tmp_path)
    again = Classifier.from_pretrained(tmp_path)
    assert not again.init_plan.counts["new"] and bool((again.classifier.weight == 0.25).all())


def test_a_rule_that_no_tensor_has_is_a_mistake_all_the_same(tiny):
    class Misspelt(InitMixin, transformers.BertForSequenceClassification):
        init_recipe = Recipe([Rule("zeros", name="clasifier.*")])

    with pytest.raises(HfInitError, match="matches no tensor"):
        Misspelt.from_pretrained(tiny("bert"), num_labels=3)
