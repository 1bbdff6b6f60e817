"""Parts that don't belong together are refused in one message that says why; parts that do keep their bytes."""

from __future__ import annotations

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

import hf_init
from hf_init import HfInitError, Recipe, Rule, schemes
from hf_init._tensors import Status

TINY = {"vocab_size": 60, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
SIGHT = {**TINY, "image_size": 8, "patch_size": 4}
LLAMA = {**TINY, "num_key_value_heads": 2, "max_position_embeddings": 32}


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    """A base model whose config ties the head to the embedding."""
    folder = tmp_path_factory.mktemp("llama")
    transformers.LlamaModel(transformers.LlamaConfig(**LLAMA, tie_word_embeddings=True)).save_pretrained(folder)
    return folder


def rule(**conditions):
    return Recipe([Rule(schemes.Normal(std=0.02), **conditions)], default="model")


TIED = (
    r"lm_head\.weight is tied to model\.embed_tokens\.weight, one tensor under two names\. Say it of the first name.*"
    r"--config tie_word_embeddings=false"
)


@pytest.mark.parametrize("options", [{}, {"tie_word_embeddings": True}])
def test_a_rule_for_the_second_name_of_a_tied_tensor(llama, options):
    with pytest.raises(HfInitError, match=r"^rule 1 \(name='lm_head\.weight'\): " + TIED):
        hf_init.plan(llama, transformers.LlamaForCausalLM, recipe=rule(name="lm_head.weight"), **options)


def test_every_rule_and_every_correspondence_for_second_names_at_once(llama):
    recipe = Recipe([Rule("zeros", name="lm_*"), Rule("zeros", name="lm_head.weight")], default="model")
    with pytest.raises(HfInitError, match=r"rule 1 \(name='lm_\*'\): .*; rule 2 \(name='lm_head\.weight'\): "):
        hf_init.plan(llama, transformers.LlamaForCausalLM, recipe=recipe)
    with pytest.raises(HfInitError, match=r"^keep: 'lm_head\.weight': " + TIED):
        hf_init.plan(llama, transformers.LlamaForCausalLM, keep={"lm_head.weight": "none"})


def test_what_the_message_says_to_do_works(llama):
    untied = hf_init.plan(
        llama, transformers.LlamaForCausalLM, recipe=rule(name="lm_head.weight"), config={"tie_word_embeddings": False}
    )
    assert untied["lm_head.weight"].new[0].scheme == schemes.Normal(std=0.02)
    assert untied["model.embed_tokens.weight"].status is Status.KEPT
    first = hf_init.plan(
        llama,
        transformers.LlamaForCausalLM,
        recipe=rule(name="model.embed_tokens.weight"),
        keep={"model.embed_tokens.weight": "none"},
    )
    assert first["lm_head.weight"].tied_to == "model.embed_tokens.weight" == first["model.embed_tokens.weight"].name


def test_a_rule_that_names_both_or_that_may_find_nothing_is_no_mistake(llama):
    whole = hf_init.plan(
        llama, transformers.LlamaForCausalLM, recipe=rule(name="*"), keep={"model.embed_tokens.weight": "none"}
    )
    assert whole["lm_head.weight"].status is Status.TIED
    optional = rule(name="lm_head.weight", optional=True)
    assert not hf_init.plan(llama, transformers.LlamaForCausalLM, recipe=optional)["lm_head.weight"].new


class Unfinished(transformers.LlamaPreTrainedModel):
    """A class that leaves out the end of its constructor."""

    def __init__(self, config):
        super().__init__(config)
        self.model = transformers.LlamaModel(config)
        self.score = torch.nn.Linear(config.hidden_size, 3)


def test_a_class_without_post_init(llama, tmp_path):
    with pytest.raises(AttributeError, match="all_tied_weights_keys"):
        Unfinished.from_pretrained(llama)
    said = r"^Unfinished doesn't end its __init__ with self\.post_init\(\).*; add it$"
    with pytest.raises(HfInitError, match=said):
        hf_init.from_pretrained(Unfinished, llama)
    with pytest.raises(HfInitError, match=said):
        hf_init.extend(llama, tmp_path / "out", Unfinished)
    assert not (tmp_path / "out").exists()


BERT = transformers.BertConfig(**TINY)
DISAGREE = [
    (
        transformers.BertForMaskedLM,
        {},
        "BertForMaskedLM is a class for model_type 'bert', and the checkpoint is 'llama'",
    ),
    (transformers.LlamaForCausalLM, {"config": BERT}, "LlamaForCausalLM is a class for model_type 'llama'"),
    (None, {"config": BERT}, "LlamaModel is a class for model_type 'llama'"),
    (
        transformers.BertForMaskedLM,
        {"config": BERT},
        r"nothing of .* has a place in BertForMaskedLM .*different models",
    ),
    (transformers.LlamaForCausalLM, {"config": {"model_type": "bert"}}, "model_type: 'bert' can't be made of"),
    ("AutoModelForObjectDetection", {}, "AutoModelForObjectDetection has no class for model_type 'llama'; these fit: "),
]


@pytest.mark.parametrize(("cls", "options", "said"), DISAGREE)
def test_class_config_and_checkpoint_must_belong_together(llama, cls, options, said):
    with pytest.raises(HfInitError, match=said):
        hf_init.plan(llama, cls, **options)


def test_a_type_said_twice_the_same_is_no_mistake(llama):
    plan = hf_init.plan(llama, transformers.LlamaForCausalLM, config={"model_type": "llama"})
    assert plan.counts["new"] == 0


def llava():
    config = transformers.LlavaConfig(
        vision_config=transformers.CLIPVisionConfig(**SIGHT),
        text_config=transformers.LlamaConfig(**LLAMA),
        image_token_index=3,
    )
    return transformers.LlavaForConditionalGeneration(config)


def dual():
    towers = transformers.ViTConfig(**SIGHT), transformers.BertConfig(**TINY)
    config = transformers.VisionTextDualEncoderConfig.from_vision_text_configs(*towers, projection_dim=8)
    return transformers.VisionTextDualEncoderModel(config)


PROJECTORS = [
    (
        llava,
        "multi_modal_projector",
        ("language_model.", "vision_tower."),
        {"default": "error", "*projector*.weight": "xavier_uniform", "*projector*.bias": "zeros"},
    ),
    (dual, "_projection.", ("text_model.", "vision_model."), {"default": "error", "*_projection.weight": "orthogonal"}),
]


@pytest.mark.parametrize(("build", "projector", "towers", "recipe"), PROJECTORS)
def test_a_new_projector_between_two_pretrained_towers(tmp_path, build, projector, towers, recipe):
    model, base, out = build(), tmp_path / "base", tmp_path / "out"
    model.save_pretrained(base)
    before = load_file(base / "model.safetensors")
    without = {name: tensor for name, tensor in before.items() if projector not in name}
    (base / "model.safetensors").unlink()
    save_file(without, base / "model.safetensors", {"format": "pt"})

    rules = [Rule(scheme, name=name) for name, scheme in recipe.items() if name != "default"]
    words = {"recipe": Recipe(rules, default=recipe["default"]), "seed": 3}
    assert hf_init.extend(base, out, type(model), **words).ok
    plan, after = hf_init.Plan.load(out), load_file(out / "model.safetensors")
    new = {tensor.parameter: tensor.name for tensor in plan.tensors if tensor.new}
    assert new.keys() == {name for name in model.state_dict() if projector in name}
    assert set(new.values()) == after.keys() - without.keys()
    assert all(any(tower in name for name in without) for tower in towers), "both towers are there"
    for name, tensor in without.items():
        assert torch.equal(after[name], tensor), name
    assert hf_init.verify(out, base, recompute=True).ok
    memory = hf_init.from_pretrained(type(model), base, **words).state_dict()
    again = type(model).from_pretrained(out).state_dict()
    assert memory.keys() == again.keys() and all(torch.equal(memory[name], again[name]) for name in again)
