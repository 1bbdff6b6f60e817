"""A config that names no labels: nobody guesses how many the trained rows are for, or what they are called."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from bases import DECODER
from safetensors.torch import load_file, save_file
from transformers import PreTrainedConfig, PreTrainedModel

import hf_init
from hf_init import HfInitError

SINGLE, FORMAT = "model.safetensors", {"format": "pt"}
PVT: dict[str, Any] = {
    "image_size": 32, "hidden_sizes": [8] * 4, "depths": [1] * 4, "num_attention_heads": [1] * 4,
    "mlp_ratios": [1] * 4, "sequence_reduction_ratios": [2, 2, 1, 1],
}  # fmt: skip


class CountedConfig(PreTrainedConfig):
    """Of a type that transformers doesn't know: three labels unless it is said otherwise, or those of ``classes``."""

    model_type = "counted_of_tests"

    def __init__(self, num_labels=3, classes=None, **others):
        named = {"num_labels": num_labels} if classes is None else {"id2label": dict(enumerate(classes))}
        super().__init__(**{**named, **others})
        self.classes = classes


class Counted(PreTrainedModel):
    config_class, base_model_prefix = CountedConfig, "counted"

    def __init__(self, config):
        super().__init__(config)
        self.body = torch.nn.Linear(8, 8)
        self.head = torch.nn.Linear(8, config.num_labels)
        self.post_init()


def counted(folder: Path, **raw: Any) -> Path:
    """A trained head of three rows, or of one for each of ``classes``, and a config.json of these fields alone."""
    torch.manual_seed(0)
    Counted(CountedConfig(classes=raw.get("classes"))).save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps(raw))
    return folder


def pvt(folder: Path, **config: Any) -> Path:
    torch.manual_seed(0)
    transformers.PvtForImageClassification(transformers.PvtConfig(**PVT, **config)).save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    "raw",
    [
        {"model_type": "counted_of_tests"},
        {"architecture": "resnet", "num_classes": 3},
        {"classes": ["cat", "dog", "car"]},
        {"classes": ["cat", "dog"]},
        {"num_labels": 3},
        {"model_type": "counted_of_tests", "id2label": {"0": "a", "1": "b", "2": "c"}},
    ],
    ids=str,
)
def test_the_class_and_the_rows_say_how_many_there_are(tmp_path, raw):
    base = counted(tmp_path / "base", **raw)
    assert hf_init.plan(base, Counted).counts["kept"] == 4
    model = hf_init.from_pretrained(Counted, base)
    assert model.config.id2label == Counted.from_pretrained(base).config.id2label
    assert model.head.weight.equal(load_file(base / SINGLE)["head.weight"])


REFUSED = [
    ({"labels": ["a", "b", "c"]}, r"\['LABEL_0', 'LABEL_1', 'LABEL_2'\], not \['a', 'b', 'c'\], and only one side"),
    ({"num_labels": 4}, r"\['LABEL_0', 'LABEL_1', 'LABEL_2'\].*neither side names them"),
    ({"num_labels": 2}, r"\['LABEL_0', 'LABEL_1', 'LABEL_2'\].*neither side names them"),
    ({"rename_labels": {"LABEL_0": "a"}}, r"names no labels, and the trained head has 3 rows.*labels_keep='leading'"),
    ({"config": CountedConfig(classes=["a", "b", "c"])}, "only one side names them"),
]


@pytest.mark.parametrize(("options", "message"), REFUSED, ids=str)
def test_which_row_is_whose_is_not_guessed(tmp_path, options, message):
    base = counted(tmp_path / "base", model_type="counted_of_tests")
    with pytest.raises(HfInitError, match=message):
        hf_init.plan(base, Counted, **options)


@pytest.mark.parametrize("options", [{"labels": ["a", "b", "c"]}, {"num_labels": 4}, {"labels": ["a", "b"]}], ids=str)
def test_the_advice_works(tmp_path, options):
    base = counted(tmp_path / "base", model_type="counted_of_tests")
    model = hf_init.from_pretrained(Counted, base, **options, labels_keep="leading")
    rows = min(3, model.config.num_labels)
    assert model.head.weight[:rows].equal(load_file(base / SINGLE)["head.weight"][:rows])
    assert len(model.head.weight) == options.get("num_labels", len(options.get("labels", ())))


@pytest.fixture
def value_head(tmp_path) -> Path:
    """A language model with one more row, for a value, as reinforcement learning leaves it."""
    torch.manual_seed(0)
    transformers.LlamaForCausalLM(transformers.LlamaConfig(**DECODER)).save_pretrained(tmp_path / "base")
    state = load_file(tmp_path / "base" / SINGLE)
    save_file({**state, "v_head.summary.weight": torch.ones(1, 32)}, tmp_path / "base" / SINGLE, FORMAT)
    return tmp_path / "base"


CLASSIFIER = {"architecture": "LlamaForSequenceClassification", "drop": ["lm_head.*", "v_head.*"]}
REWARD = {**CLASSIFIER, "drop": ["lm_head.*"], "key_mapping": {r"^v_head\.summary": "score"}}


@pytest.mark.parametrize("options", [{}, {"labels_keep": "leading"}], ids=str)
def test_a_value_head_becomes_a_reward_model(value_head, options):
    plan = hf_init.plan(value_head, **REWARD, num_labels=1, **options)
    assert plan["score.weight"].source == "v_head.summary.weight" and plan.counts["new"] == 0


def test_a_value_head_is_trained_for_one_label_and_no_language_model_for_two(value_head):
    with pytest.raises(HfInitError, match=r"for the labels \['LABEL_0'\], not \['LABEL_0', 'LABEL_1'\], and neither"):
        hf_init.plan(value_head, **REWARD, num_labels=2)
    plan = hf_init.plan(value_head, **CLASSIFIER, labels=["a", "b", "c"], allow_new=["score.weight"])
    assert plan["score.weight"].shape == (3, 32) and not any("label" in note for note in plan.notes)


PVTS = [
    ({"num_labels": 3}, {"num_labels": 5}, 5, None),
    ({"num_labels": 3}, {"num_labels": 2}, 2, None),
    ({"num_labels": 3}, {"labels": ["a", "b", "c"]}, 3, ["a", "b", "c"]),
    ({"num_labels": 3}, {"labels": ["a", "b"]}, 2, ["a", "b"]),
    ({}, {}, 1000, None),
    ({"num_labels": 3}, {}, 3, None),
    ({"id2label": {0: "a", 1: "b"}, "label2id": {"a": 0, "b": 1}}, {}, 1000, ["a", "b"]),
    (
        {"num_labels": 3, "id2label": {0: "a", 1: "b", 2: "c"}, "label2id": {"a": 0, "b": 1, "c": 2}},
        {"num_labels": 5}, 5, ["a", "b", "c", "LABEL_3", "LABEL_4"],
    ),
]  # fmt: skip


@pytest.mark.parametrize(("config", "options", "rows", "names"), PVTS, ids=str)
def test_a_config_that_counts_its_labels_in_a_field_of_its_own(tmp_path, config, options, rows, names):
    base, out = pvt(tmp_path / "base", **config), tmp_path / "out"
    hf_init.extend(base, out, **options, labels_keep="leading")
    source, written = load_file(base / SINGLE), load_file(out / SINGLE)
    kept = min(rows, len(source["classifier.bias"]))
    assert all(written[name][:kept].equal(source[name][:kept]) for name in ("classifier.weight", "classifier.bias"))
    plain = transformers.PvtForImageClassification.from_pretrained(out)
    assert plain.classifier.out_features == plain.config.num_labels == rows == len(written["classifier.bias"])
    assert names is None or list(plain.config.id2label.values()) == names
    if not options:
        assert hf_init.plan(base).counts["resized"] == hf_init.plan(base).counts["new"] == 0


def test_names_in_such_a_config_are_followed(tmp_path):
    names = {"id2label": {0: "a", 1: "b", 2: "c"}, "label2id": {"a": 0, "b": 1, "c": 2}}
    base = pvt(tmp_path / "base", num_labels=3, **names)
    model = hf_init.from_pretrained(transformers.PvtForImageClassification, base, labels=["c", "x"])
    assert model.classifier.weight[0].equal(load_file(base / SINGLE)["classifier.weight"][2])
    with pytest.raises(HfInitError, match="neither side names them"):
        hf_init.plan(pvt(tmp_path / "unnamed", num_labels=3), num_labels=5)
