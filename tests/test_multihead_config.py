"""The config of several heads, what is saved of them, and what is frozen."""

from __future__ import annotations

import copy
import inspect
import json
import pickle
from typing import Any

import pytest
import torch
import transformers
from multihead_heads import THREE, MultiHeadConfig, every_kind
from multihead_heads import bert as bert
from multihead_trunks import LABELS, PICTURES, TEXTS, inputs, multi, same, text, unmapped

from hf_init import MultiHead

# The config


@pytest.mark.parametrize(
    "name", ["two words", "1st", "", "class", "keys", "trunk", "training", "input_ids", "labels", 3]
)
def test_a_name_must_be_one_that_a_module_can_have(name):
    with pytest.raises(ValueError, match="head name"):
        MultiHeadConfig(trunk=TEXTS["bert"](), heads={name: "similarity"})


def test_every_parameter_of_a_forward_is_reserved():
    for name in inspect.signature(MultiHead.forward).parameters:
        with pytest.raises(ValueError, match="head name"):
            MultiHeadConfig(trunk=TEXTS["bert"](), heads={name: "similarity"})


@pytest.mark.parametrize(
    "given, said",
    [
        ("sentiment", "'sentiment' is no kind of head; there are: sequence-classification"),
        ({"kind": "similarity", "width": 3}, "width: no property of a head; there are: kind, labels"),
        ({"kind": "sequence-classification"}, "a sequence-classification head needs labels"),
        ({"kind": "sequence-classification", "labels": ["a", "a"]}, "each needs a name of its own"),
        ({"kind": "sequence-classification", "labels": []}, "each needs a name of its own"),
        ({"kind": "sequence-classification", "labels": "a,b"}, "give a list of names"),
        ({"kind": "regression", "labels": ["a"]}, "a regression head has no labels"),
        ({"kind": "reward", "outputs": 2}, "outputs 2: a reward head has 1"),
        ({"kind": "regression", "outputs": 0}, "outputs 0"),
        (
            {"kind": "regression", "labels": ["a"], "pooling": "max", "dropout": 2},
            "no labels; pooling 'max'.*; dropout 2",
        ),
        ({"kind": "regression", "pooling": "max"}, "pooling 'max'; there are: first, mean, last, attention"),
        ({"kind": "regression", "depth": 3}, "depth 3; there are: 1, 2"),
        ({"kind": "regression", "loss": "cross_entropy"}, "loss 'cross_entropy'; there are: mse, l1, huber"),
        ({"kind": "regression", "activation": "gelu"}, "depth must be 2"),
        ({"kind": "value", "pooling": "mean"}, "a value head answers for every token"),
        ({"kind": "language-model", "depth": 2}, "a language-model head is transformers' own"),
        ({"kind": "multiple-choice", "plain": None}, "a multiple-choice head is transformers' own"),
        ({"kind": "regression", "dropout": 1.0}, "dropout 1.0"),
        ({"kind": "regression", "weight": -1}, "weight -1"),
        ({"kind": "image-classification", "labels": ["a"]}, "BertConfig reads text, and a image-classification head"),
        ({"kind": "frame-classification", "labels": ["a"]}, "reads text"),
    ],
)
def test_a_head_that_cannot_be_is_refused(given, said):
    with pytest.raises(ValueError, match=f"head 'x': .*{said}"):
        MultiHeadConfig(trunk=TEXTS["bert"](), heads={"x": given})


def test_a_trunk_that_heads_cannot_read_is_refused():
    clip = transformers.CLIPConfig()
    with pytest.raises(ValueError, match="CLIPModel gives no last_hidden_state, which heads read"):
        MultiHeadConfig(trunk=clip, heads={"x": "similarity"})
    with pytest.raises(ValueError, match="PerceiverModel reads inputs"):
        MultiHeadConfig(trunk=transformers.PerceiverConfig(), heads={"x": "similarity"})
    with pytest.raises(ValueError, match="the language model of an encoder-decoder"):
        MultiHeadConfig(trunk=TEXTS["t5"](), heads={"x": "language-model"})
    with pytest.raises(ValueError, match=r"needs a backbone's config \(trunk\) and at least one head"):
        MultiHeadConfig(trunk=TEXTS["bert"](), heads={})
    with pytest.raises(ValueError, match="head 'x': plain 'pipeline': transformers has no such model class"):
        MultiHead(MultiHeadConfig(trunk=TEXTS["bert"](), heads={"x": {"kind": "reward", "plain": "pipeline"}}))


def test_a_class_that_makes_its_own_input_of_the_rows_is_no_head():
    """Longformer's question answering attends from the question's tokens: no trunk that runs once can serve it."""
    sizes: dict[str, Any] = {"vocab_size": 96, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4}
    trunk = transformers.LongformerConfig(attention_window=4, **sizes)
    heads = {"span": "question-answering", "topic": THREE["topic"], "tags": THREE["entities"]}
    model: Any = MultiHead(MultiHeadConfig(trunk=trunk, heads=heads))
    for name in ("span", "topic"):
        with pytest.raises(ValueError, match="compute"):
            model.export(name)
    assert type(model.export("tags")).__name__ == "LongformerForTokenClassification"


def test_a_config_is_the_same_after_json(bert, tmp_path):
    config = bert.config
    config.save_pretrained(tmp_path)
    again = MultiHeadConfig.from_pretrained(tmp_path)
    assert again.heads == config.heads and again.trunk.to_dict() == config.trunk.to_dict()
    assert again == MultiHeadConfig.from_pretrained(tmp_path)
    assert json.loads(config.to_json_string(use_diff=False)) == json.loads(again.to_json_string(use_diff=False))
    other = MultiHeadConfig(trunk=TEXTS["bert"](), heads=THREE)
    assert other != again and copy.deepcopy(other) == other


def test_copies_answer_alike_and_share_nothing():
    bert = multi(TEXTS["bert"](), every_kind(TEXTS["bert"]()))
    for other in (copy.deepcopy(bert), pickle.loads(pickle.dumps(bert))):
        assert same(other(**text()).logits["reward"], bert(**text()).logits["reward"])
        ready = other.heads.sequence_classification.bert
        assert ready.backbone is other.trunk and ready.backbone is not bert.trunk
    alone = copy.deepcopy(bert.heads.sequence_classification)
    assert alone.bert.backbone is bert.trunk


def test_the_random_state_of_the_caller_is_left_by_a_config():
    torch.manual_seed(3)
    before = torch.get_rng_state()
    MultiHeadConfig(trunk=TEXTS["bert"](), heads=every_kind(TEXTS["bert"]()))
    assert torch.equal(before, torch.get_rng_state())


# On disk


def test_a_dtype_is_that_of_trunk_and_heads(bert, tmp_path):
    bert.save_pretrained(tmp_path)
    half: Any = MultiHead.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in half.parameters()} == {torch.bfloat16}
    assert half(**text(), labels={"reward": torch.tensor([1.0, 0, float("nan")])}).loss.isfinite()
    trunk = TEXTS["llama"]()
    trunk.dtype = "bfloat16"  # as a checkpoint's config says
    assert {each.dtype for each in multi(trunk, {"r": "reward"}).parameters()} == {torch.float32}


def test_attention_is_computed_as_asked(bert, tmp_path):
    bert.save_pretrained(tmp_path)
    eager: Any = MultiHead.from_pretrained(tmp_path, attn_implementation="eager")
    assert eager.trunk.config._attn_implementation == "eager"
    found = eager(**text(), output_attentions=True, output_hidden_states=True)
    assert len(found.attentions) == 2 and len(found.hidden_states) == 3


def test_left_out_modules_are_not_there_and_must_not_be_read(tmp_path):
    heads = {"entities": THREE["entities"], "meaning": "similarity"}
    model = multi(TEXTS["bert"](), heads, left_out=["pooler"])
    assert not any("pooler" in name for name in model.state_dict())
    model.save_pretrained(tmp_path)
    again = unmapped(MultiHead.from_pretrained(tmp_path))
    assert same(model(**text()).logits["meaning"], again(**text()).logits["meaning"])
    with pytest.raises(ValueError, match=r"BertForSequenceClassification reads trunk\.pooler, which left_out names"):
        MultiHead(MultiHeadConfig(trunk=TEXTS["bert"](), heads=THREE, left_out=["pooler"]))


FOREIGN = """
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "hf_init":
            raise ImportError("hf_init isn't here")

sys.meta_path.insert(0, Refuse())
import torch
from transformers import AutoConfig, AutoModel

torch.set_num_threads(1)
try:
    import hf_init
    raise SystemExit("hf_init could be imported")
except ImportError:
    pass
folder = sys.argv[1]
config = AutoConfig.from_pretrained(folder, trust_remote_code=True)
model = AutoModel.from_pretrained(folder, trust_remote_code=True).eval()
assert type(config).__name__ == "MultiHeadConfig" and type(model).__module__.startswith("transformers_modules")
assert type(config).__module__.endswith(".configuration_multi_head"), type(config).__module__
for parameter in model.parameters():
    parameter.data = parameter.data.clone()
given, expected = torch.load(sys.argv[2])
found = model(**given).logits
assert found.keys() == expected.keys()
for name in expected:  # to the last bits: they depend on how the memory lies
    torch.testing.assert_close(found[name], expected[name], rtol=1e-5, atol=1e-6)
model.save_pretrained(folder + "/again")
again = AutoModel.from_pretrained(folder + "/again", trust_remote_code=True).eval()
plain = again.export("topic")
print(type(plain).__name__, sorted(again.heads), "hf_init" in sys.modules)
"""


@pytest.mark.slow
def test_it_loads_where_hf_init_is_not(warm, tmp_path):
    """Another process, that refuses to import hf_init, and is offline."""
    model = multi(TEXTS["bert"](), THREE)
    model.save_pretrained(tmp_path / "folder")
    torch.save((text(), dict(model(**text()).logits)), tmp_path / "expected.pt")
    done = warm.run(FOREIGN, "folder", "expected.pt", cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.strip() == "BertForSequenceClassification ['entities', 'meaning', 'topic'] False"


def test_a_vocabulary_can_be_resized_under_one_language_model():
    for name in ("bert", "llama"):
        model = multi(TEXTS[name](), {"lm": "language-model", "topic": THREE["topic"]})
        model.resize_token_embeddings(100)
        assert model(**text()).logits["lm"].shape == (3, 9, 100)
        assert model.export("lm").config.vocab_size == 100
    model = multi(TEXTS["llama"](), {"lm": "language-model", "other": "language-model"})
    with pytest.raises(ValueError, match="the vocabulary of 2 language models"):
        model.resize_token_embeddings(100)


# Frozen


def test_what_is_frozen_has_no_gradient_and_what_is_shared_is_the_trunks(bert):
    model = copy.deepcopy(bert)
    assert model.freeze("language_model", "reward") is model
    frozen = {name for name, each in model.named_parameters() if not each.requires_grad}
    assert frozen and all(name.startswith(("heads.language_model.", "heads.reward.")) for name in frozen)
    assert model.trunk.embeddings.word_embeddings.weight.requires_grad
    model.freeze("trunk")
    assert not any(each.requires_grad for each in model.trunk.parameters())


def test_the_statistics_of_a_frozen_trunk_stay():
    model = multi(PICTURES["resnet"](), {"x": {"kind": "image-classification", "labels": LABELS}}).train()
    given, labels = inputs("resnet"), {"x": torch.tensor([0, 1, 2])}
    before = {name: each.clone() for name, each in model.trunk.state_dict().items()}
    free = copy.deepcopy(model)
    free(**given, labels=labels)
    assert any(not torch.equal(each, before[name]) for name, each in free.trunk.state_dict().items())
    model.freeze("trunk").train()
    model(**given, labels=labels).loss.backward()
    assert all(torch.equal(each, before[name]) for name, each in model.trunk.state_dict().items())
    assert model.training and model.trunk.training and model.heads.x.training
