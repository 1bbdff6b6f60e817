"""A head whose labels change: which row a name has, what the plan says of it, and what new labels start with."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import transformers
from bases import ALPHABET, SENTIMENTS, Anchored, Tagger
from changes import NEW_SENTIMENTS
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoConfig, BertForSequenceClassification

import hf_init
from hf_init import HfInitError, Recipe, Rule

PLACES = [NEW_SENTIMENTS.index(name) for name in SENTIMENTS]
BIAS = "classifier.bias"


def rows_of(plan: Any, name: str = BIAS) -> list[int | None]:
    """For each row of a tensor of one dimension, the row that it has in the base."""
    (entry,) = (each for each in plan.to_json()["tensors"] if each["name"] == name)
    if entry["status"] == "kept":
        return list(range(entry["shape"][0]))
    found: list[int | None] = [None] * entry["shape"][0]
    for copy in entry.get("kept", ()):
        for row, origin in zip(_listed(copy["region"]), _listed(copy["source_region"]), strict=True):
            found[row] = origin
    return found


def _listed(region: dict[str, Any]) -> list[int]:
    return region["index"] if "index" in region else list(range(region["start"][0], region["stop"][0]))


# Rows follow names.


@settings(max_examples=30)
@given(st.lists(st.sampled_from("abcdefghijklmno"), min_size=1, max_size=13, unique=True))
def test_rows_follow_names_and_stay_where_places_are_asked_for(bases, after):
    base = bases("eleven labels")
    if not set(after) & set(ALPHABET):
        with pytest.raises(HfInitError, match="none of"):
            hf_init.plan(base, labels=after)
    else:
        places = [ALPHABET.index(name) if name in ALPHABET else None for name in after]
        assert rows_of(hf_init.plan(base, labels=after)) == places
    leading = [row if row < len(ALPHABET) else None for row in range(len(after))]
    assert rows_of(hf_init.plan(base, labels=after, labels_keep="leading")) == leading
    assert rows_of(hf_init.plan(base, labels=after, labels_keep="none")) == [None] * len(after)


def test_old_logits_stay(bases):
    """To the last bits: for five rows the matrix product adds in another order than for three."""
    before = BertForSequenceClassification.from_pretrained(bases("sentiment"))
    after = hf_init.from_pretrained(BertForSequenceClassification, bases("sentiment"), labels=NEW_SENTIMENTS)
    ids = torch.randint(96, (4, 12), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        trunks = [model.bert(ids).pooler_output for model in (before, after)]
        old, new = before(ids).logits, after(ids).logits[:, PLACES]
        heads = [model.classifier for model in (before, after)]
        by_row = [(trunk[:, None] * head.weight).sum(-1) + head.bias for trunk, head in zip(trunks, heads, strict=True)]
    assert torch.equal(*trunks) and torch.equal(by_row[1][:, PLACES], by_row[0])
    torch.testing.assert_close(new, old, rtol=0, atol=2e-6)


def test_the_plan_says_which_row_comes_from_where(bases):
    def said(**options):
        return str(hf_init.plan(bases("sentiment"), **options))

    text = said(labels=["pos", "mixed", "neg"])
    assert "labels kept, 2 of 3: pos (row 2 -> 0), neg (row 0 -> 2)" in text
    assert "labels new, 1 of 3: mixed" in text and "labels removed with their rows, 1 of 3: neu" in text
    assert "every element is kept, at its new place" in said(labels=["pos", "neu", "neg"])
    assert "bad (row 0 -> 1, was neg)" in said(labels=["x", "bad"], rename_labels={"neg": "bad"})
    assert "labels kept" not in said(labels=NEW_SENTIMENTS, keep={"classifier.*": [1, None, 0, 2, None]})


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({"labels": NEW_SENTIMENTS}, NEW_SENTIMENTS),
        ({"rename_labels": {"neg": "bad"}}, ["bad", "neu", "pos"]),
        ({"rename_labels": {"neg": "pos", "pos": "neg"}}, ["pos", "neu", "neg"]),
        ({"num_labels": 4, "labels_keep": "leading"}, [*SENTIMENTS, "LABEL_3"]),
        ({"num_labels": 2, "labels_keep": "leading"}, SENTIMENTS[:2]),
        ({"num_labels": 3}, SENTIMENTS),
        ({"num_labels": 2, "labels_keep": "none"}, ["LABEL_0", "LABEL_1"]),
    ],
    ids=str,
)
def test_the_config_has_the_names_and_known_ones_stay_known(bases, tmp_path, options, names):
    hf_init.extend(bases("sentiment"), tmp_path / "out", config={"problem_type": "regression"}, **options)
    config = AutoConfig.from_pretrained(tmp_path / "out")
    assert config.id2label == dict(enumerate(names)) and config.problem_type == "regression"
    assert config.label2id == {name: k for k, name in enumerate(names)}


def test_a_config_object_says_labels_too(bases):
    config = AutoConfig.from_pretrained(bases("sentiment"))
    config.id2label, config.label2id = {0: "pos", 1: "neg"}, {"pos": 0, "neg": 1}
    assert rows_of(hf_init.plan(bases("sentiment"), BertForSequenceClassification, config=config)) == [2, 0]


def test_numbers_can_be_named(bases):
    plan = hf_init.plan(bases("numbered"), rename_labels={f"LABEL_{k}": name for k, name in enumerate(SENTIMENTS)})
    assert plan.counts["resized"] == hf_init.plan(bases("numbered"), num_labels=3).counts["resized"] == 0


def test_a_name_that_many_rows_have_goes_with_its_rows(bases):
    plan = hf_init.plan(bases("labels of one name"), Tagger, labels=["dog"])
    assert "dog (row 1 -> 0)" in str(plan) and rows_of(plan, "scores.bias") == [1]
    assert hf_init.plan(bases("labels of one name"), Tagger, rename_labels={"dog": "cat"}).counts["kept"] == 3


def test_more_than_a_slice_for_each_label_may_be_mapped(bases):
    keep = {"anchors.*": {"index": [2, 0, 5, 3, 8, 6], "drop": True}}
    assert hf_init.plan(bases("anchored"), Anchored, labels=["car", "cat"], keep=keep).counts["resized"] == 5


@pytest.mark.parametrize(
    ("base", "entities", "names"),
    [
        ("tags", ["LOC", "DRUG"], ["O", "B-LOC", "I-LOC", "B-DRUG", "I-DRUG"]),
        ("tags of one type", ["PER", "DRUG"], [
            "O", "B-PER", "I-PER", "E-PER", "S-PER", "B-DRUG", "I-DRUG", "E-DRUG", "S-DRUG"]),
    ],
)  # fmt: skip
def test_entity_types_take_over_the_tags_that_are_there(bases, base, entities, names):
    cls = transformers.BertForTokenClassification
    model = hf_init.from_pretrained(cls, bases(base), entities=entities)
    assert list(model.config.id2label.values()) == names
    first = hf_init.from_pretrained(cls, bases("bert"), entities=["X"], drop=["pooler.*"])
    assert list(first.config.id2label.values()) == ["O", "B-X", "I-X"]


def test_labels_that_nobody_names_are_noticed(tiny):
    cls = BertForSequenceClassification
    said = "the 2 labels have no names (LABEL_0, LABEL_1): give labels to name them"
    options = ({}, {"labels": ["a", "b"]}, {"num_labels": 2})
    notes = [hf_init.plan(tiny("bert"), cls, **given).notes for given in options]
    assert [len(each) for each in notes] == [1, 0, 0] and notes[0][0] == said
    assert not hf_init.plan(tiny("bert"), transformers.BertForQuestionAnswering, drop=["pooler.*"]).notes


def test_a_type_without_a_tag_that_the_others_have_is_noticed(bases):
    tags = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]
    assert "labels without I-DRUG" in str(hf_init.plan(bases("tags"), labels=[*tags, "B-DRUG"]))
    assert "labels without" not in str(hf_init.plan(bases("tags"), labels=[*tags[:3], "B-DRUG"]))  # half have it


def test_a_trained_head_of_another_kind_is_named(bases):
    plan = hf_init.plan(bases("tags"), "BertForSequenceClassification", labels=["O", "x"])
    assert "the trained head (classifier.bias, classifier.weight) is that of BertForTokenClassification" in str(plan)
    options = {"labels": ["b", "c"], "labels_keep": "none"}
    assert hf_init.plan(bases("choice"), "BertForSequenceClassification", **options).counts["new"] == 2


# What new labels start with.


def first_step(model, labels):
    """The loss on rows with these labels, and the gradients that reach the backbone."""
    ids = torch.randint(96, (len(labels), 12), generator=torch.Generator().manual_seed(0))
    loss = model(input_ids=ids, labels=torch.tensor(labels)).loss
    loss.backward()
    trunk = [parameter.grad for name, parameter in model.named_parameters() if name.startswith("bert.")]
    return float(loss.detach()), [grad for grad in trunk if grad is not None and bool(grad.any())]


def ulps(value: float, exact: float) -> float:
    """How many steps of float32 lie between two numbers."""
    return abs(value - exact) / torch.finfo(torch.float32).eps / exact


COUNTS = {"pos": 4, "neg": 2, "neu": 1, "mixed": 1}
ENTROPY = -sum(count / 8 * math.log(count / 8) for count in COUNTS.values())
SHARES = [0.5, 0.25, 0.125]
SHARED = -sum(p * math.log(p) + (1 - p) * math.log(1 - p) for p in SHARES) / 3
EACH_BY_ITSELF = {"problem_type": "multi_label_classification"}


@pytest.mark.parametrize(
    ("options", "labels", "loss", "within"),
    [
        ({"labels": NEW_SENTIMENTS, "label_counts": [1] * 5}, [0, 1, 2, 3, 4, 0], math.log(5), 1),
        ({"labels": list(COUNTS), "label_counts": COUNTS}, [0, 0, 0, 0, 1, 1, 2, 3], ENTROPY, 2),
        (
            {"labels": SENTIMENTS, "label_counts": SHARES, **EACH_BY_ITSELF},
            [[1.0, 1.0, 1.0], *[[1.0, k < 1, 0.0] for k in range(3)], *[[0.0] * 3] * 4], SHARED, 4,
        ),
        ({"num_labels": 1, "target_mean": 3.0}, [1.0, 2.0, 6.0], 14 / 3, 2),
    ],
    ids=["level", "counts", "several labels", "a mean"],
)  # fmt: skip
def test_the_first_loss_is_what_guessing_costs_and_moves_no_backbone(bases, options, labels, loss, within):
    model = hf_init.from_pretrained(BertForSequenceClassification, bases("bert"), **options)
    found, trunk = first_step(model, labels)
    assert ulps(found, loss) <= within
    assert trunk == [] and bool(model.classifier.weight.grad.any())


def test_starts_that_ask_no_example(bases):
    def classifier(**options):
        return hf_init.from_pretrained(BertForSequenceClassification, bases("bert"), **options).classifier

    rare = classifier(labels=SENTIMENTS, recipe="auto", **EACH_BY_ITSELF)
    torch.testing.assert_close(rare.bias.sigmoid(), torch.full((3,), 0.01))
    shares = classifier(labels=SENTIMENTS, label_counts=SHARES, **EACH_BY_ITSELF)
    torch.testing.assert_close(shares.bias.sigmoid(), torch.tensor(SHARES))
    means = {"target_mean": {"neg": -1.0, "neu": 0.5, "pos": 2.0}, "problem_type": "regression"}
    regressed = classifier(labels=SENTIMENTS, **means)
    assert regressed.bias.tolist() == [-1.0, 0.5, 2.0] and not bool(regressed.weight.any())


def test_new_labels_beside_trained_ones(bases):
    counts = dict(zip(NEW_SENTIMENTS, (4, 1, 3, 2, 6), strict=True))
    plan = hf_init.plan(bases("sentiment"), labels=NEW_SENTIMENTS, label_counts=counts)
    assert str(plan[BIAS].new[0].scheme) == "log_prior(counts=[4, 1, 3, 2, 6])"
    options = {"labels": NEW_SENTIMENTS, "label_counts": counts}
    model = hf_init.from_pretrained(BertForSequenceClassification, bases("sentiment"), **options)
    assert model.classifier.bias[[1, 3]].tolist() == [pytest.approx(math.log(c / 16)) for c in (1, 2)]
    assert not bool(model.classifier.weight[[1, 3]].any())
    options = {"labels": NEW_SENTIMENTS, "recipe": "auto"}
    level = hf_init.from_pretrained(BertForSequenceClassification, bases("sentiment"), **options)
    assert not bool(level.classifier.bias[[1, 3]].any()) and not bool(level.classifier.weight[[1, 3]].any())


def test_which_scheme_a_new_row_has(bases):
    plan = hf_init.plan(bases("sentiment"), labels=NEW_SENTIMENTS)
    assert {str(fill.scheme) for tensor in plan.tensors for fill in tensor.new} == {"model"}
    recipe = Recipe([Rule("normal(std=0.01)", name="classifier.weight")])
    plan = hf_init.plan(bases("sentiment"), labels=NEW_SENTIMENTS, label_counts=[1] * 5, recipe=recipe)
    assert str(plan["classifier.weight"].new[0].scheme) == "normal(std=0.01)"
    assert plan[BIAS].new[0].scheme.name == "log_prior"


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"labels": ["a", "b"], "labels_keep": "none", "label_counts": [3, 1, 96]}, (3.0, 1.0, 96.0)),
        (
            {"labels": ["a", "b"], "labels_keep": "none", "label_counts": {"a": 3, "b": 1, "no object": 96}},
            (3.0, 1.0, 96.0),
        ),
        ({"labels": ["cat", "x"], "label_counts": [3, 1]}, (3.0, 1.0, 0.0)),  # here its row is kept
    ],
    ids=str,
)
def test_a_detector_s_row_for_no_object_has_a_count_too(bases, options, expected):
    plan = hf_init.plan(bases("yolos"), **options)
    assert plan["class_labels_classifier.layers.2.bias"].new[0].scheme.counts == expected


def test_of_two_layers_only_the_last_starts_level_and_only_for_counts(bases):
    cls = transformers.RobertaForSequenceClassification
    of_roberta = {"labels": SENTIMENTS, "drop": ["pooler.*"]}
    plan = hf_init.plan(bases("roberta"), cls, recipe="auto", **of_roberta)
    assert plan["classifier.out_proj.weight"].new[0].scheme.name == "normal"
    model = hf_init.from_pretrained(cls, bases("roberta"), recipe="auto", label_counts=[1, 1, 1], **of_roberta)
    assert bool(model.classifier.dense.weight.any()) and not bool(model.classifier.out_proj.weight.any())
    open_bias = Recipe([Rule("constant(val=0.1)", name="classifier.dense.bias")], default="zeros")
    assert hf_init.plan(bases("roberta"), cls, recipe=open_bias, **of_roberta).counts["new"] == 4
    shut = Recipe([Rule("zeros", name="*classifier.*")])
    assert hf_init.plan(bases("masked"), "BertForSequenceClassification", recipe=shut, drop="cls.*").counts["new"] == 4
