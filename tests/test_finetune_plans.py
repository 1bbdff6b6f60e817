"""Which plan a model goes by: one of another model is refused, one without a manifest is made from the base."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
import transformers
from finetuned import CLASSIFIER, GROWN, new_names, take_steps, words
from safetensors.torch import load_file
from torch import nn

import hf_init
from hf_init import HfInitError, Plan, finetune
from hf_init.finetune import freeze, parameter_groups, plan_against


@pytest.fixture
def model(tiny):
    """BERT with a new head and a new third layer."""
    return hf_init.from_pretrained(CLASSIFIER, tiny("bert"), **GROWN)


@pytest.fixture(scope="module")
def result(tiny, tmp_path_factory):
    out = tmp_path_factory.mktemp("finetune") / "out"
    hf_init.extend(tiny("bert"), out, CLASSIFIER, **GROWN)
    return out


# Bad input.


def test_a_plan_of_another_model_is_refused_and_nothing_changes(model, tiny):
    other = hf_init.plan(tiny("gpt2"))
    with pytest.raises(
        HfInitError, match=r"(?s)isn't the model of this plan, which is of GPT2.*h.0.attn.c_attn.bias .kept.*75 more"
    ):
        freeze(model, other)
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_a_model_changed_since_the_plan_is_named(model, result):
    changed = CLASSIFIER.from_pretrained(result)
    changed.resize_token_embeddings(100)
    with pytest.raises(HfInitError, match=r"(?s)changed since.*word_embeddings.weight is 100x32 in the model, 96x32"):
        freeze(changed, result)
    model.extra = nn.Linear(2, 2)
    with pytest.raises(HfInitError, match=r"extra.weight is in the model and not in the plan"):
        freeze(model)
    del model.extra
    model.bert.pooler.dense.weight.data[2, 1] += 1
    with pytest.raises(HfInitError, match=r"(?s)changed since.*pooler.dense.weight: differs from the files at row 2"):
        freeze(model)
    assert freeze(model, check=False).verify().ok


def test_files_of_another_checkpoint_are_refused(result, tmp_path):
    """The manifest of one result beside the weights of another."""
    model = CLASSIFIER.from_pretrained(result)
    transformers.BertForSequenceClassification(
        transformers.BertConfig(**{**model.config.to_diff_dict(), "hidden_size": 16, "intermediate_size": 32})
    ).save_pretrained(tmp_path)
    freeze(model).save_manifest(tmp_path)
    with pytest.raises(HfInitError, match=r"another one than the plan's:\n.*word_embeddings.weight in .* is 96x16"):
        freeze(CLASSIFIER.from_pretrained(result), tmp_path)


def test_a_tie_that_was_cut_or_made_is_named(tiny):
    model = hf_init.from_pretrained(transformers.LlamaForCausalLM, tiny("llama"))
    model.lm_head.weight = nn.Parameter(model.lm_head.weight.clone())
    with pytest.raises(
        HfInitError, match=r"lm_head.weight is tied to model.embed_tokens.weight in the plan, and a tensor"
    ):
        freeze(model)
    other = hf_init.from_pretrained(transformers.MixtralForCausalLM, tiny("mixtral"))
    other.lm_head.weight = other.model.embed_tokens.weight
    with pytest.raises(HfInitError, match="are one tensor in the model, and two in the plan"):
        freeze(other)


def test_quantized_offloaded_and_rescaling_models_are_refused(model):
    model.hf_quantizer = object()
    with pytest.raises(HfInitError, match="is quantized"):
        freeze(model)
    del model.hf_quantizer
    model.bert.embeddings.word_embeddings.max_norm = 1.0
    with pytest.raises(HfInitError, match="max_norm rescales rows"):
        freeze(model)
    model.bert.embeddings.word_embeddings.max_norm = None
    model.bert.pooler.to("meta")
    with pytest.raises(HfInitError, match=r"bert.pooler.dense.weight, bert.pooler.dense.bias: on meta or offloaded"):
        freeze(model)


def test_parameters_put_together_when_loading_are_kept_new_or_mixed(tiny):
    """Mixtral's experts: one tensor each on disk, all of a layer in one tensor in memory."""
    keep = {"*.gate.weight": "leading"}
    model = hf_init.from_pretrained(transformers.MixtralForCausalLM, tiny("mixtral"), keep=keep, num_local_experts=6)
    with pytest.raises(HfInitError, match=r"experts.gate_up_proj is put together from \d+ tensors on disk"):
        finetune.train_only_new(model)
    frozen = freeze(model, resized="none")
    assert "model.layers.0.mlp.experts.gate_up_proj" in frozen.names and frozen.verify().ok


# Without a manifest.


def test_the_base_alone_tells_what_is_its_own(tiny, tmp_path, result):
    model = CLASSIFIER.from_pretrained(result)
    plan = plan_against(model, tiny("bert"))
    tensors = [tensor for tensor in Plan.load(result).tensors if tensor.status != "carried"]
    wanted = {tensor.parameter: tensor.status for tensor in tensors}
    assert {tensor.name: tensor.status for tensor in plan.tensors} == wanted
    assert freeze(model, plan).names == freeze(CLASSIFIER.from_pretrained(result), result).names
    assert "by what schemes the new was filled it can't tell" in str(plan)


def test_the_base_alone_can_not_tell_trained_from_new(model, tiny):
    model.bert.pooler.dense.weight.data[0, 0] += 1
    plan = plan_against(model, tiny("bert"))
    assert plan["bert.pooler.dense.weight"].status == "new"
    assert any("with other bytes" in note and "bert.pooler.dense.weight" in note for note in plan.notes)


def test_no_manifest_and_no_base(tiny, tmp_path):
    plain = transformers.BertModel.from_pretrained(tiny("bert"))
    with pytest.raises(HfInitError, match=r"no hf_init.json.*plan_against"):
        freeze(plain)
    with pytest.raises(HfInitError, match=r"has no hf_init.json"):
        freeze(plain, tmp_path)
    with pytest.raises(HfInitError, match=r"nothing in BertModel is of"):
        plan_against(plain, tiny("llama"))


def test_the_manifest_goes_with_what_is_saved(model, result, tmp_path):
    for each, folder in ((model, tmp_path / "a"), (CLASSIFIER.from_pretrained(result), tmp_path / "b")):
        frozen = freeze(each)
        take_steps(each, torch.optim.SGD(parameter_groups(each, lr=0.1)), steps=1)
        each.save_pretrained(folder)
        assert frozen.save_manifest(folder) == folder / "hf_init.json"
        assert Plan.load(folder).counts == Plan.load(result).counts
        report = hf_init.verify(folder)
        # `extend` keeps the position ids that today's BERT doesn't save
        names = {difference["name"] for difference in report.differences} - {"embeddings.position_ids"}
        assert names and names <= new_names(frozen.plan)
        assert freeze(CLASSIFIER.from_pretrained(folder)).names == frozen.names


def test_nothing_of_a_hub_id_is_invented(model, tmp_path):
    model.config.name_or_path = "someone/elses-model"
    assert freeze(model).save_manifest(tmp_path) is None and not list(tmp_path.iterdir())


# The real one.


@pytest.mark.slow
def test_minilm_with_a_new_head(minilm, tmp_path):
    model = hf_init.from_pretrained(CLASSIFIER, minilm, num_labels=3)
    frozen = freeze(model)
    take_steps(model, torch.optim.AdamW(parameter_groups(model, lr=1e-2)), lambda: words(1000), 3)
    frozen.raise_if_moved()
    model.save_pretrained(tmp_path)
    base, saved = (load_file(folder / "model.safetensors") for folder in (minilm, tmp_path))
    for tensor in model.init_plan.tensors:
        if tensor.status == "kept" and tensor.name in saved:
            assert torch.equal(saved[tensor.name], base[tensor.source]), tensor.name


@pytest.mark.slow
def test_importing_it_brings_no_transformers():
    code = "import sys, hf_init.finetune as f; assert 'transformers' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
    assert all(hasattr(finetune, name) for name in finetune.__all__)
    with pytest.raises(AttributeError, match="no attribute 'frieze'"):
        finetune.frieze  # noqa: B018  # reading the attribute is the test
