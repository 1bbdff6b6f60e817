"""A head whose labels change: trained rows follow their names, on disk and in memory, and new ones start right."""

from __future__ import annotations

import json
import math

import pytest
import torch
import transformers
from safetensors.torch import load_file
from torch import nn
from transformers import AutoTokenizer, BertForSequenceClassification, PreTrainedConfig, PreTrainedModel

import hf_init
from hf_init import HfInitError, Recipe, Rule
from hf_init._checkpoint.checkpoint import Checkpoint
from hf_init._tensors import Status

OLD, NEW = ["neg", "neu", "pos"], ["pos", "mixed", "neg", "irony", "neu"]
PLACES = [NEW.index(name) for name in OLD]
TRAINED = {"default": "normal(std=0.5)"}
TEXTS = ["fine", "what a mess of a film", "I love it, though the end is long"]


@pytest.fixture(scope="module")
def three(minilm, tmp_path_factory):
    """MiniLM with a head for three labels, its rows all different."""
    out = tmp_path_factory.mktemp("three") / "out"
    hf_init.extend(minilm, out, BertForSequenceClassification, labels=OLD, recipe=TRAINED, seed=1)
    return out


@pytest.fixture(scope="module")
def five(three, tmp_path_factory):
    out = tmp_path_factory.mktemp("five") / "out"
    hf_init.extend(three, out, labels=NEW)
    return out


@pytest.fixture(scope="module")
def small(tiny, tmp_path_factory):
    """A tiny BERT with a head for three labels."""
    out = tmp_path_factory.mktemp("small") / "out"
    hf_init.extend(tiny("bert"), out, BertForSequenceClassification, labels=OLD, recipe=TRAINED, seed=1)
    return out


def head(folder):
    tensors = load_file(folder / "model.safetensors")
    return tensors["classifier.weight"], tensors["classifier.bias"]


# Rows follow names.


def test_trained_rows_are_at_their_labels_new_places(three, five):
    for before, after in zip(head(three), head(five), strict=True):
        assert torch.equal(after[PLACES].view(torch.int32), before.view(torch.int32))
        assert not bool((after[[1, 3]] == before[0]).all())
    plan = hf_init.Plan.load(five)
    assert {plan[name].status for name in ("classifier.weight", "classifier.bias")} == {Status.RESIZED}
    assert hf_init.verify(five, base=three, recompute=True).ok


def test_old_logits_stay(three, five):
    """To the last bits: for five rows the matrix product adds in another order than for three."""
    before, after = (BertForSequenceClassification.from_pretrained(folder) for folder in (three, five))
    batch = AutoTokenizer.from_pretrained(three)(TEXTS, padding=True, return_tensors="pt")
    with torch.no_grad():
        trunks = [model.bert(**batch).pooler_output for model in (before, after)]
        old, new = before(**batch).logits, after(**batch).logits[:, PLACES]
    assert torch.equal(*trunks)
    by_row = [(trunk[:, None] * w).sum(-1) + b for trunk, (w, b) in zip(trunks, map(head, (three, five)), strict=True)]
    assert torch.equal(by_row[1][:, PLACES], by_row[0])
    torch.testing.assert_close(new, old, rtol=0, atol=2e-6)


def test_memory_is_what_is_on_disk(three, five):
    model = hf_init.from_pretrained(BertForSequenceClassification, three, labels=NEW)
    for mine, theirs in zip((model.classifier.weight, model.classifier.bias), head(five), strict=True):
        assert torch.equal(mine, theirs)
    assert model.init_plan == hf_init.Plan.load(five)
    assert model.config.id2label == dict(enumerate(NEW)) and model.config.num_labels == 5


def test_the_names_are_in_the_config(five):
    config = json.loads((five / "config.json").read_text())
    assert config["id2label"] == {str(k): name for k, name in enumerate(NEW)}
    assert config["label2id"] == {name: k for k, name in enumerate(NEW)}


@pytest.mark.parametrize("tensor", ["classifier.weight", "classifier.bias"])
def test_a_changed_bit_in_a_moved_row_is_found(three, five, tensor):
    entry = Checkpoint.open(five).entries[tensor]
    path, row = five / entry.shard, 4
    data = bytearray(path.read_bytes())
    width = entry.nbytes // 5
    data[entry.start + row * width] ^= 1
    path.write_bytes(data)
    report = hf_init.verify(five, base=three)
    assert not report.ok and [difference["name"] for difference in report.differences] == [tensor]
    data[entry.start + row * width] ^= 1
    path.write_bytes(data)
    assert hf_init.verify(five, base=three).ok


def test_the_plan_says_which_row_comes_from_where(small):
    text = str(hf_init.plan(small, labels=["pos", "mixed", "neg"]))
    assert "labels kept, 2 of 3: pos (row 2 -> 0), neg (row 0 -> 2)" in text
    assert "labels new, 1 of 3: mixed" in text and "labels removed with their rows, 1 of 3: neu" in text
    assert "every element is kept, at its new place" in str(hf_init.plan(small, labels=["pos", "neu", "neg"]))


@pytest.mark.parametrize(
    ("words", "rows"),
    [
        ({"labels": ["pos", "neg"]}, [2, 0]),
        ({"labels": ["pos", "neg", "neu"], "labels_keep": "names"}, [2, 0, 1]),
        ({"rename_labels": {"neg": "bad"}}, [0, 1, 2]),
        ({"rename_labels": {"neg": "pos", "pos": "neg"}}, [0, 1, 2]),
        ({"rename_labels": {"neg": "bad"}, "labels": ["x", "bad"]}, [None, 0]),
        ({"labels": ["a", "b", "c"], "labels_keep": "leading"}, [0, 1, 2]),
        ({"labels": ["a", "b"], "labels_keep": "leading"}, [0, 1]),
        ({"num_labels": 5, "labels_keep": "leading"}, [0, 1, 2, None, None]),
        ({"num_labels": 3}, [0, 1, 2]),
        ({"labels": ["a", "b"], "labels_keep": "none"}, [None, None]),
        ({"labels": OLD, "labels_keep": "none"}, [None, None, None]),
    ],
    ids=str,
)
def test_every_word_for_what_becomes_of_the_rows(small, words, rows):
    recipe = None if None not in rows else {"default": "zeros"}
    model = hf_init.from_pretrained(BertForSequenceClassification, small, recipe=recipe, **words)
    for after, before in zip((model.classifier.weight, model.classifier.bias), head(small), strict=True):
        expected = [torch.zeros_like(before[0]) if row is None else before[row] for row in rows]
        assert torch.equal(after, torch.stack(expected))


@pytest.mark.parametrize(
    ("words", "names"),
    [
        ({"rename_labels": {"neg": "bad"}}, ["bad", "neu", "pos"]),
        ({"num_labels": 4, "labels_keep": "leading"}, [*OLD, "LABEL_3"]),
        ({"num_labels": 2, "labels_keep": "leading"}, OLD[:2]),
        ({"num_labels": 3}, OLD),
        ({"num_labels": 2, "labels_keep": "none"}, ["LABEL_0", "LABEL_1"]),
    ],
    ids=str,
)
def test_known_names_stay_known(small, tmp_path, words, names):
    hf_init.extend(small, tmp_path / "out", **words)
    assert list(BertForSequenceClassification.from_pretrained(tmp_path / "out").config.id2label.values()) == names


def test_a_config_object_is_a_word_for_labels_too(small):
    config = transformers.AutoConfig.from_pretrained(small)
    config.id2label, config.label2id = {0: "pos", 1: "neg"}, {"pos": 0, "neg": 1}
    model = hf_init.from_pretrained(BertForSequenceClassification, small, config=config)
    assert torch.equal(model.classifier.weight, head(small)[0][[2, 0]])


def test_problem_type_is_written_back(small, tmp_path):
    hf_init.extend(small, tmp_path / "out", labels=NEW, config={"problem_type": "multi_label_classification"})
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["problem_type"] == "multi_label_classification"


def test_a_user_s_own_map_comes_first(small):
    rows = [1, None, 0, 2, None]
    plan = hf_init.plan(small, labels=NEW, keep={"classifier.*": rows})
    assert "labels kept" not in str(plan)
    (copy,) = plan["classifier.bias"].kept
    assert copy.source_region.index == (1, 0, 2)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            {"labels": ["cat", "dog"]},
            r"trained for the labels \['neg', 'neu', 'pos'\], and none of \['cat', 'dog'\]",
        ),
        ({"num_labels": 5}, "only one side names them.*labels_keep='leading'"),
        ({"labels_keep": "all"}, "labels_keep: expected one of names, leading, none, not 'all'"),
        ({"rename_labels": {"ng": "x"}}, "no label 'ng' .did you mean 'neg'"),
        ({"rename_labels": {"neg": "x"}, "labels": ["pos"]}, "'x' is none of the requested labels"),
        ({"rename_labels": ["neg"]}, "rename_labels: expected"),
        ({"labels": ["a", "a"]}, "labels: named twice: a"),
        ({"labels": ["neg"], "entities": ["PER"]}, "labels and entities: give one"),
        ({"architecture": "BertModel", "labels": ["a"]}, "BertModel has no tensor with a row for each label"),
        ({"architecture": "BertForMaskedLM", "labels": ["a"]}, "cls.predictions.*has a row for each token instead"),
        ({"labels": OLD, "label_counts": [1, 2, 3]}, "no label is new, and trained biases stay"),
        ({"labels": NEW, "label_counts": [1, 2, 3]}, "3 numbers for 5 labels"),
        ({"labels": ["neg", "x"], "label_counts": [1, 0]}, "no example of 'x'"),
        ({"labels": ["neg", "x"], "label_counts": [1, -1]}, "label_counts: expected finite numbers of at least 0"),
        ({"labels": ["neg", "x"], "target_mean": 1.0}, "target_mean: the head doesn't regress"),
        (
            {"labels": ["neg", "x"], "label_counts": [1, 9], "config": {"problem_type": "multi_label_classification"}},
            "give the share of the examples",
        ),
        (
            {"labels": ["neg", "x"], "label_counts": [1, 9], "recipe": Recipe([Rule("ones", name="classifier.bias")])},
            "rule 1.*gives it ones, so label_counts or target_mean would have no effect",
        ),
    ],
    ids=str,
)
def test_what_can_t_be_meant(small, words, message):
    with pytest.raises(HfInitError, match=message):
        hf_init.plan(small, **words)


def test_numbers_for_names_are_not_guessed_over(tiny, tmp_path):
    hf_init.extend(tiny("bert"), tmp_path / "out", BertForSequenceClassification, num_labels=3)
    for words in ({"num_labels": 4}, {"labels": OLD}):
        with pytest.raises(HfInitError, match=r"classifier\.weight.*labels_keep='leading'"):
            hf_init.plan(tmp_path / "out", **words)
    assert hf_init.plan(tmp_path / "out", num_labels=3).counts["resized"] == 0
    named = hf_init.plan(tmp_path / "out", rename_labels={f"LABEL_{k}": name for k, name in enumerate(OLD)})
    assert named.counts["resized"] == 0


def test_nothing_to_rename(tiny):
    with pytest.raises(HfInitError, match="no trained row for any label of this head"):
        hf_init.plan(tiny("bert"), "BertForSequenceClassification", rename_labels={"LABEL_0": "x"})


# Heads of other kinds.


def test_entity_types_add_their_pairs_of_rows(tiny, tmp_path):
    cls = transformers.BertForTokenClassification
    tags = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]
    hf_init.extend(tiny("bert"), tmp_path / "ner", cls, labels=tags, recipe=TRAINED)
    model = hf_init.from_pretrained(cls, tmp_path / "ner", entities=["DRUG", "LOC"])
    assert list(model.config.id2label.values()) == ["O", "B-DRUG", "I-DRUG", "B-LOC", "I-LOC"]
    before = head(tmp_path / "ner")[0]
    assert torch.equal(model.classifier.weight[[0, 3, 4]], before[[0, 3, 4]])
    same = hf_init.plan(tmp_path / "ner", labels=[*tags, "B-DRUG", "I-DRUG"])
    assert "labels new, 2 of 7: B-DRUG, I-DRUG" in str(same)
    assert "labels without I-DRUG" in str(hf_init.plan(tmp_path / "ner", labels=[*tags, "B-DRUG"]))


def test_a_trained_head_of_another_kind_is_named(tiny, tmp_path):
    hf_init.extend(tiny("bert"), tmp_path / "ner", "BertForTokenClassification", labels=["a", "b"])
    plan = hf_init.plan(tmp_path / "ner", "BertForSequenceClassification", labels=["b", "c"])
    assert "the trained head (classifier.bias, classifier.weight) is that of BertForTokenClassification" in str(plan)
    hf_init.extend(tiny("bert"), tmp_path / "choice", "BertForMultipleChoice")
    with pytest.raises(HfInitError, match=r"another kind, that of BertForMultipleChoice:\n.*\n.*1x32 in the"):
        hf_init.plan(tmp_path / "choice", "BertForSequenceClassification", labels=["b", "c"], labels_keep="leading")
    words = {"labels": ["b", "c"], "labels_keep": "none"}
    assert hf_init.plan(tmp_path / "choice", "BertForSequenceClassification", **words).counts["new"] == 2


def saved(cls, folder, **config):
    """A model with random weights everywhere and three labels, as a checkpoint."""
    names = ["cat", "dog", "car"]
    config["id2label"], config["label2id"] = dict(enumerate(names)), {name: k for k, name in enumerate(names)}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = cls(cls.config_class(**config))
        for parameter in model.parameters():
            nn.init.normal_(parameter, std=0.1)
        model.save_pretrained(folder)
    return folder


VIT = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
SEGFORMER = {
    "num_encoder_blocks": 2, "depths": [1, 1], "sr_ratios": [2, 1], "hidden_sizes": [8, 16], "patch_sizes": [7, 3],
    "strides": [4, 2], "num_attention_heads": [1, 2], "mlp_ratios": [2, 2], "decoder_hidden_size": 16,
}  # fmt: skip
SWIN = {"embed_dim": 8, "depths": [1, 1], "num_heads": [1, 1], "window_size": 2, "image_size": 32}
EOMT = {**VIT, "image_size": 32, "patch_size": 16, "num_queries": 4, "num_blocks": 1, "num_upscale_blocks": 1}
RESNET = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1]}
DETR = {
    "d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2, "num_queries": 4,
    "decoder_attention_heads": 2, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16, "use_timm_backbone": False,
    "use_pretrained_backbone": False, "backbone": None,
    "backbone_config": transformers.ResNetConfig(**RESNET, out_features=["stage2"]),
}  # fmt: skip
HEADS = [
    ("ResNetForImageClassification", RESNET, 0),
    ("SegformerForSemanticSegmentation", SEGFORMER, 0),
    ("YolosForObjectDetection", {**VIT, "image_size": [32, 32], "patch_size": 16, "num_detection_tokens": 4}, 1),
    ("EomtForUniversalSegmentation", EOMT, 1),
    ("DetrForObjectDetection", DETR, 1),
]


@pytest.mark.parametrize(("name", "config", "extra"), HEADS, ids=[name for name, *_ in HEADS])
def test_any_tensor_with_a_slice_for_each_label(tmp_path, name, config, extra):
    cls = getattr(transformers, name)
    base = saved(cls, tmp_path / "base", **config)
    hf_init.extend(base, tmp_path / "out", labels=["car", "bus", "cat", "van"])
    before, after = (load_file(folder / "model.safetensors") for folder in (base, tmp_path / "out"))
    moved = [key for key in after if after[key].shape != before[key].shape]
    assert moved
    for key in moved:
        assert after[key].shape[0] == 4 + extra and torch.equal(after[key][[0, 2]], before[key][[2, 0]])
        assert not extra or torch.equal(after[key][4], before[key][3])  # the row for no object stays the last
    assert all(torch.equal(after[key], before[key]) for key in after if key not in moved)
    assert hf_init.verify(tmp_path / "out", recompute=True).ok
    model, info = cls.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not any(info.values()) and model.config.num_labels == 4


class TaggerConfig(PreTrainedConfig):
    model_type = "tagger_for_labels"
    width: int = 8


class Tagger(PreTrainedModel):
    """Scores of labels, and of each label after each other."""

    config_class, base_model_prefix = TaggerConfig, "tagger"

    def __init__(self, config):
        super().__init__(config)
        self.scores = nn.Linear(config.width, config.num_labels)
        self.transitions = nn.Parameter(torch.zeros(config.num_labels, config.num_labels))
        self.anchors = nn.Linear(config.width, 3)
        self.post_init()


class Anchored(Tagger):
    def __init__(self, config):
        super().__init__(config)
        self.anchors = nn.Linear(config.width, 3 * config.num_labels)
        self.post_init()


def test_a_matrix_of_labels_moves_in_both_directions(tmp_path):
    base = saved(Tagger, tmp_path / "base")
    model = hf_init.from_pretrained(Tagger, base, labels=["car", "bus", "cat"], recipe={"default": "ones"})
    before = load_file(base / "model.safetensors")["transitions"]
    expected = torch.ones(3, 3)
    expected[0, 0], expected[0, 2], expected[2, 0], expected[2, 2] = (
        before[2, 2],
        before[2, 0],
        before[0, 2],
        before[0, 0],
    )
    assert torch.equal(model.transitions, expected)


def test_more_than_a_slice_for_each_label_is_not_guessed(tmp_path):
    base = saved(Anchored, tmp_path / "base")
    with pytest.raises(HfInitError, match=r"anchors.weight: 6x8 has not one slice for each of 2 labels"):
        hf_init.plan(base, Anchored, labels=["car", "cat"])
    rows = {"index": [2, 0, 5, 3, 8, 6], "drop": True}
    assert hf_init.plan(base, Anchored, labels=["car", "cat"], keep={"anchors.*": rows}).counts["resized"] == 5


def test_a_name_that_many_rows_have_goes_with_its_rows(tmp_path):
    base = saved(Tagger, tmp_path / "base")
    config = json.loads((base / "config.json").read_text())
    config["id2label"] = {"0": "N/A", "1": "dog", "2": "N/A"}
    (base / "config.json").write_text(json.dumps(config))
    assert "dog (row 1 -> 0)" in str(hf_init.plan(base, Tagger, labels=["dog"]))
    assert hf_init.plan(base, Tagger, rename_labels={"dog": "cat"}).counts["kept"] == 5
    with pytest.raises(HfInitError, match="has more than one label named 'N/A'"):
        hf_init.plan(base, Tagger, labels=["dog", "N/A"])


# What new labels start with.


def first_step(model, labels, three, **more):
    """The loss on texts with these labels, and its gradients."""
    texts = [TEXTS[k % len(TEXTS)] for k in range(len(labels))]
    batch = AutoTokenizer.from_pretrained(three)(texts, padding=True, return_tensors="pt")
    loss = model(**batch, labels=torch.tensor(labels), **more).loss
    loss.backward()
    trunk = [parameter.grad for name, parameter in model.named_parameters() if name.startswith("bert.")]
    return float(loss.detach()), [grad for grad in trunk if grad is not None and bool(grad.any())]


def ulps(value: float, exact: float) -> float:
    """How many steps of float32 lie between two numbers."""
    return abs(value - exact) / torch.finfo(torch.float32).eps / exact


def test_a_level_head_is_as_good_as_guessing(minilm):
    model = hf_init.from_pretrained(BertForSequenceClassification, minilm, labels=NEW, recipe="auto")
    loss, trunk = first_step(model, [0, 1, 2, 3, 4, 0], minilm)
    assert ulps(loss, math.log(5)) <= 1
    assert trunk == [] and bool(model.classifier.weight.grad.any())


def test_with_counts_the_first_loss_is_the_entropy_of_the_labels(minilm):
    counts = {"pos": 4, "neg": 2, "neu": 1, "mixed": 1}
    model = hf_init.from_pretrained(BertForSequenceClassification, minilm, labels=list(counts), label_counts=counts)
    loss, trunk = first_step(model, [0, 0, 0, 0, 1, 1, 2, 3], minilm)
    shares = [count / 8 for count in counts.values()]
    assert ulps(loss, -sum(share * math.log(share) for share in shares)) <= 2
    assert trunk == [] and bool(model.classifier.weight.grad.any())


def test_counts_for_many_labels_of_one_example(minilm):
    shares = [0.5, 0.25, 0.125]
    problem = {"problem_type": "multi_label_classification"}
    model = hf_init.from_pretrained(BertForSequenceClassification, minilm, labels=OLD, label_counts=shares, **problem)
    torch.testing.assert_close(model.classifier.bias.sigmoid(), torch.tensor(shares))
    loss, trunk = first_step(model, [[1.0, 1.0, 1.0], *[[1.0, k < 1, 0.0] for k in range(3)], *[[0.0] * 3] * 4], minilm)
    entropy = -sum(p * math.log(p) + (1 - p) * math.log(1 - p) for p in shares) / 3
    assert ulps(loss, entropy) <= 4 and trunk == []
    without = hf_init.from_pretrained(BertForSequenceClassification, minilm, labels=OLD, recipe="auto", **problem)
    torch.testing.assert_close(without.classifier.bias.sigmoid(), torch.full((3,), 0.01))


def test_a_regression_starts_at_the_mean(minilm):
    targets = [1.0, 2.0, 6.0]
    model = hf_init.from_pretrained(BertForSequenceClassification, minilm, num_labels=1, target_mean=3.0)
    loss, trunk = first_step(model, targets, minilm)
    assert ulps(loss, float(torch.tensor(targets).var(unbiased=False))) <= 2 and trunk == []
    with pytest.raises(HfInitError, match=r"the head regresses.*say target_mean"):
        hf_init.plan(minilm, "BertForSequenceClassification", num_labels=1, label_counts=[1])


def test_several_means(tiny):
    words = {"labels": OLD, "problem_type": "regression", "target_mean": {"neg": -1.0, "neu": 0.5, "pos": 2.0}}
    model = hf_init.from_pretrained(BertForSequenceClassification, tiny("bert"), **words)
    assert model.classifier.bias.tolist() == [-1.0, 0.5, 2.0] and not bool(model.classifier.weight.any())


def test_new_labels_beside_trained_ones(small):
    counts = dict(zip(NEW, (4, 1, 3, 2, 6), strict=True))
    plan = hf_init.plan(small, labels=NEW, label_counts=counts)
    assert str(plan["classifier.bias"].new[0].scheme) == "log_prior(counts=[4, 1, 3, 2, 6])"
    model = hf_init.from_pretrained(BertForSequenceClassification, small, labels=NEW, label_counts=counts)
    assert model.classifier.bias[[1, 3]].tolist() == [pytest.approx(math.log(c / 16)) for c in (1, 2)]
    assert torch.equal(model.classifier.bias[PLACES], head(small)[1])
    assert not bool(model.classifier.weight[[1, 3]].any())
    level = hf_init.from_pretrained(BertForSequenceClassification, small, labels=NEW, recipe="auto")
    assert not bool(level.classifier.bias[[1, 3]].any()) and not bool(level.classifier.weight[[1, 3]].any())


def test_the_default_recipe_stays_the_model_s_own(small):
    plan = hf_init.plan(small, labels=NEW)
    assert {str(fill.scheme) for tensor in plan.tensors for fill in tensor.new} == {"model"}


def test_a_recipe_s_own_rule_for_a_weight_stands_beside_counts(small):
    recipe = Recipe([Rule("normal(std=0.01)", name="classifier.weight")])
    plan = hf_init.plan(small, labels=NEW, label_counts=[1] * 5, recipe=recipe)
    assert str(plan["classifier.weight"].new[0].scheme) == "normal(std=0.01)"
    assert plan["classifier.bias"].new[0].scheme.name == "log_prior"


def test_a_head_without_a_bias_has_no_place_for_counts(tiny):
    with pytest.raises(HfInitError, match="the head of LlamaForSequenceClassification has no bias"):
        hf_init.plan(tiny("llama"), "LlamaForSequenceClassification", labels=OLD, label_counts=[1, 2, 3])


def test_a_detector_s_row_for_no_object_has_a_count_too(tmp_path):
    name, config, _ = HEADS[2]
    base = saved(transformers.YolosForObjectDetection, tmp_path / "base", **config)
    words = {"labels": ["a", "b"], "labels_keep": "none"}
    with pytest.raises(HfInitError, match="a row for no object after those of the labels"):
        hf_init.plan(base, name, **words, label_counts=[3, 1])
    for counts in ([3, 1, 96], {"a": 3, "b": 1, "no object": 96}):
        plan = hf_init.plan(base, name, **words, label_counts=counts)
        bias = plan["class_labels_classifier.layers.2.bias"].new[0].scheme
        assert bias.counts == (3.0, 1.0, 96.0)
    grown = hf_init.plan(base, name, labels=["cat", "x"], label_counts=[3, 1])  # here it is kept
    assert grown["class_labels_classifier.layers.2.bias"].new[0].scheme.counts == (3.0, 1.0, 0.0)


ROBERTA = {**VIT, "vocab_size": 60, "max_position_embeddings": 40}


def test_of_two_layers_only_the_last_starts_level(tmp_path):
    cls = transformers.RobertaForSequenceClassification
    base = tmp_path / "base"
    transformers.RobertaModel(transformers.RobertaConfig(**ROBERTA)).save_pretrained(base)
    model = hf_init.from_pretrained(cls, base, labels=OLD, recipe="auto")
    assert bool(model.classifier.dense.weight.any()) and not bool(model.classifier.out_proj.weight.any())
    with pytest.raises(
        HfInitError, match=r"classifier\.dense\.weight and classifier\.out_proj\.weight are both closed"
    ):
        hf_init.plan(base, cls, labels=OLD, recipe={"default": "zeros"})
    open_bias = Recipe([Rule("constant(val=0.1)", name="classifier.dense.bias")], default="zeros")
    assert hf_init.plan(base, cls, labels=OLD, recipe=open_bias).counts["new"] == 4


@pytest.mark.parametrize("shut", [("pooler.dense", "classifier"), ("classifier",)])
def test_a_pooler_and_the_layer_after_it_are_not_both_closed(tiny, tmp_path, shut):
    hf_init.extend(tiny("bert"), tmp_path / "mlm", "BertForMaskedLM")  # without a pooler
    recipe = Recipe([Rule("zeros", name=f"*{name}.*") for name in shut])
    if len(shut) == 1:
        assert hf_init.plan(tmp_path / "mlm", "BertForSequenceClassification", recipe=recipe).counts["new"] == 4
        return
    with pytest.raises(HfInitError, match=r"bert\.pooler\.dense\.weight and classifier\.weight are both closed"):
        hf_init.plan(tmp_path / "mlm", "BertForSequenceClassification", recipe=recipe)
