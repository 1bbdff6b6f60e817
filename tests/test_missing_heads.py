"""What should have been in the checkpoint and isn't: an error with the closest names, unless it is expected."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
import transformers
from refusals import refusal
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import BertForSequenceClassification

import hf_init
from hf_init import HfInitError, InitMixin, Recipe, Rule
from hf_init._architecture.classes import has_same_head

LABELS = ["neg", "neu", "pos"]
HEAD = {"classifier.weight", "classifier.bias"}


@pytest.fixture(scope="module")
def whole(tiny, tmp_path_factory):
    """A tiny BERT with a head for three labels."""
    out = tmp_path_factory.mktemp("whole") / "out"
    hf_init.extend(tiny("bert"), out, BertForSequenceClassification, labels=LABELS)
    return out


@pytest.fixture
def changed(whole, tmp_path):
    """A function that gives a copy with other tensors and config values."""

    def copy(rename=None, drop=(), base=whole, **config):
        folder = tmp_path / "changed"
        shutil.copytree(base, folder)
        for file in folder.iterdir():
            file.chmod(0o644)
        (folder / "hf_init.json").unlink(missing_ok=True)
        tensors = load_file(folder / "model.safetensors")
        tensors = {(rename or {}).get(name, name): t.clone() for name, t in tensors.items() if name not in drop}
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})
        raw = {**json.loads((folder / "config.json").read_text()), **config}
        raw = {key: value for key, value in raw.items() if value is not None}
        (folder / "config.json").write_text(json.dumps(raw))
        return folder

    return copy


def new_in(plan):
    return {tensor.name for tensor in plan.tensors if tensor.new}


WRONG = {"classifier.weight": "head.out.weight", "classifier.bias": "head.out.bias"}


@pytest.mark.parametrize("recipe", [None, "auto", {"default": "zeros"}], ids=str)
@pytest.mark.parametrize("architecture", [None, "AutoModelForSequenceClassification", BertForSequenceClassification])
def test_a_head_under_a_wrong_name_stops_with_the_closest(changed, architecture, recipe):
    with pytest.raises(HfInitError) as error:
        hf_init.plan(changed(WRONG), architecture, recipe=recipe)
    message = str(error.value)
    assert "says that it is a BertForSequenceClassification, and lacks 2 of its tensors" in message
    assert "classifier.weight (3x32; closest: head.out.weight)" in message
    assert "Left over in the checkpoint: head.out.bias (3), head.out.weight (3x32)" in message
    assert "key_mapping" in message and "--allow-new" in message


def test_a_head_that_is_nowhere_stops_too(changed):
    base = changed(drop=HEAD)
    with pytest.raises(HfInitError, match=r"lacks 2 of its tensors.*Nothing in the checkpoint is left over"):
        hf_init.plan(base)
    with pytest.raises(HfInitError, match="lacks 2 of its tensors"):
        hf_init.from_pretrained(BertForSequenceClassification, base)


def test_any_other_tensor_is_missed_as_much(changed):
    with pytest.raises(HfInitError, match=r"lacks 1 of its tensors, which would start anew: bert\.pooler\.dense\.bias"):
        hf_init.plan(changed(drop={"bert.pooler.dense.bias"}))


@pytest.mark.parametrize(
    "words",
    [
        {"allow_new": ["classifier.*"]},
        {"allow_new": "classifier.*"},
        {"recipe": Recipe([Rule("normal(std=0.02)", name="classifier.*")])},
        {"recipe": Recipe([Rule("auto", name="classifier.*")])},
        {"labels": ["a", "b"], "labels_keep": "none"},
    ],
    ids=str,
)
def test_what_is_expected_to_be_new_may_be(changed, words):
    assert new_in(hf_init.plan(changed(WRONG), **words)) == HEAD


def test_the_names_in_the_files_are_a_way_out(changed):
    plan = hf_init.plan(changed(WRONG), key_mapping={r"^head\.out\.": "classifier."})
    kept = {tensor.parameter: tensor.source for tensor in plan.tensors}
    assert plan.counts["new"] == 0 and kept["classifier.weight"] == "head.out.weight"


# What is new because it was asked for.


def test_a_head_that_was_asked_for_is_fine(tiny, changed):
    assert new_in(hf_init.plan(tiny("bert"), "BertForSequenceClassification")) == HEAD
    pretrained = transformers.BertForPreTraining(transformers.BertConfig.from_pretrained(tiny("bert")))
    folder = changed()
    pretrained.save_pretrained(folder)
    plan = hf_init.plan(folder, "BertForSequenceClassification", num_labels=2)  # beside a seq_relationship of 2x32
    assert new_in(plan) == HEAD and "cls.seq_relationship.weight" in {unused.name for unused in plan.unused}


def test_more_layers_were_asked_for(whole):
    plan = hf_init.plan(whole, config={"num_hidden_layers": 3})
    assert new_in(plan) and all(name.startswith("bert.encoder.layer.2.") for name in new_in(plan))


def test_a_buffer_that_the_class_computes_is_not_missed(tmp_path):
    cls = transformers.ResNetForImageClassification
    model = cls(transformers.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1]))
    model.save_pretrained(tmp_path / "base")
    tensors = load_file(tmp_path / "base" / "model.safetensors")
    counters = {name for name in tensors if name.endswith("num_batches_tracked")}
    kept = {name: t.clone() for name, t in tensors.items() if name not in counters}
    save_file(kept, tmp_path / "base" / "model.safetensors", {"format": "pt"})
    assert counters and new_in(hf_init.plan(tmp_path / "base")) == counters


class Tolerant(BertForSequenceClassification):
    _keys_to_ignore_on_load_missing = (r"^classifier\.bias$",)


def test_what_the_class_itself_does_without_is_not_missed(changed):
    base = changed(drop={"classifier.bias"}, architectures=["Tolerant"])
    assert new_in(hf_init.plan(base, Tolerant)) == {"classifier.bias"}
    with pytest.raises(HfInitError, match=r"lacks 2 of its tensors"):
        hf_init.plan(_without(base, "bert.pooler.dense.weight", "bert.pooler.dense.bias"), Tolerant)


def _without(folder, *names):
    tensors = {n: t.clone() for n, t in load_file(folder / "model.safetensors").items() if n not in names}
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    return folder


# A head that another takes the place of.


class Renamed(BertForSequenceClassification):
    """The same head under another name."""

    def __init__(self, config):
        super().__init__(config)
        del self.classifier
        self.scores = nn.Linear(config.hidden_size, config.num_labels)


class Adapted(BertForSequenceClassification):
    """Something besides the head."""

    def __init__(self, config):
        super().__init__(config)
        self.adapter = nn.Linear(config.hidden_size, 2)


@pytest.mark.parametrize("words", [{}, {"labels": ["neg", "pos"]}], ids=str)
def test_a_class_for_the_same_task_does_not_start_its_head_anew_unasked(whole, words):
    with pytest.raises(HfInitError, match=r"scores\.weight .*, and the checkpoint has classifier\.weight \(3x32\)"):
        hf_init.plan(whole, Renamed, **words)
    plan = hf_init.plan(whole, Renamed, allow_new=["scores.*"], **words)
    assert new_in(plan) == {"scores.weight", "scores.bias"}


def test_what_a_class_of_one_s_own_adds_is_new(whole):
    assert new_in(hf_init.plan(whole, Adapted)) == {"adapter.weight", "adapter.bias"}


def test_fewer_layers_leave_no_head_over(whole):
    plan = hf_init.plan(whole, Adapted, config={"num_hidden_layers": 1})
    assert new_in(plan) == {"adapter.weight", "adapter.bias"} and len(plan.unused) == 16


def test_a_head_that_the_checkpoint_s_own_class_does_not_know_is_not_passed_over(changed):
    base = changed(WRONG, architectures=["BertModel"])
    with pytest.raises(HfInitError, match=r"classifier\.weight \(3x32\), and the checkpoint has head\.out\.weight"):
        hf_init.plan(base, "BertForSequenceClassification")


@pytest.mark.parametrize("architectures", [None, ["SomebodysClassifier"], [], "x"])
def test_nor_is_one_of_a_class_that_nobody_knows(changed, architectures):
    base = changed(WRONG, architectures=architectures)
    with pytest.raises(HfInitError, match=r"head\.out\.weight \(3x32\)"):
        hf_init.plan(base, "BertForSequenceClassification")
    assert new_in(hf_init.plan(base, "BertForSequenceClassification", allow_new=["classifier.*"])) == HEAD


class Mixed(InitMixin, BertForSequenceClassification):
    init_recipe = Recipe([Rule("zeros", name="adapter.*", optional=True)])


def test_a_class_with_its_own_recipe_loads_what_it_saved(whole, tmp_path):
    Mixed.from_pretrained(whole).save_pretrained(tmp_path / "saved")
    assert Mixed.from_pretrained(tmp_path / "saved").init_plan.counts["new"] == 0
    base = _without(tmp_path / "saved", *HEAD)
    with pytest.raises(HfInitError, match="says that it is a Mixed, and lacks 2 of its tensors"):
        Mixed.from_pretrained(base)


@pytest.mark.parametrize(
    ("name", "same"),
    [
        ("BertForSequenceClassification", True),
        ("RobertaForSequenceClassification", True),
        ("BertForTokenClassification", False),
        ("BertForPreTraining", False),
        ("BertModel", False),
        ("", False),
    ],
)
def test_kin_by_name(name, same):
    assert has_same_head(Renamed, name) is same


# The list.


def test_with_a_list_only_what_it_names_is_new(whole, tiny):
    base, head = tiny("bert"), "BertForSequenceClassification"
    assert new_in(hf_init.plan(base, head, allow_new=["classifier.*"])) == HEAD
    with pytest.raises(HfInitError, match=r"1 tensors would be new.*classifier\.bias$"):
        hf_init.plan(base, head, allow_new=["classifier.weight"])
    with pytest.raises(HfInitError, match=r"doesn't name them.*nothing new is named by 'clasifier\.\*'"):
        hf_init.plan(base, head, allow_new=["clasifier.*"])
    with pytest.raises(HfInitError, match="2 tensors would be new"):
        hf_init.plan(base, head, allow_new=["classifier.*"][:0])
    assert hf_init.plan(whole, allow_new=[]).counts["new"] == 0


def test_new_rows_are_on_the_list_too(whole):
    with pytest.raises(HfInitError, match=r"wholly or in part.*classifier\.bias, classifier\.weight"):
        hf_init.plan(whole, labels=[*LABELS, "x"], allow_new=["bert.*"])
    assert new_in(hf_init.plan(whole, labels=[*LABELS, "x"], allow_new=["classifier.*"])) == HEAD


def test_a_rule_puts_nothing_on_the_list(tiny):
    recipe = Recipe([Rule("zeros", name="classifier.*")])
    with pytest.raises(HfInitError, match="allow_new"):
        hf_init.plan(tiny("bert"), "BertForSequenceClassification", recipe=recipe, allow_new=[])


@pytest.mark.parametrize("given", [3, [1], [""], {"a": 1}, [None]])
def test_what_is_no_list(whole, given):
    with pytest.raises(HfInitError, match="allow_new: expected a list of globs"):
        hf_init.plan(whole, allow_new=given)


def test_nothing_is_written(changed, tmp_path, capsys):
    base = changed(WRONG)
    message = refusal(tmp_path, capsys, "extend", base, tmp_path / "out")
    assert "lacks 2 of its tensors" in message


def test_the_values_are_the_files_own_where_names_were_given(changed, whole):
    model = hf_init.from_pretrained(
        BertForSequenceClassification, changed(WRONG), key_mapping={r"^head\.out\.": "classifier."}
    )
    assert torch.equal(model.classifier.weight, load_file(whole / "model.safetensors")["classifier.weight"])


def test_names_that_were_mapped_are_written_as_the_class_knows_them(changed, tmp_path):
    mapping = {r"^head\.out\.": "classifier."}
    source = changed(WRONG)
    report = hf_init.extend(source, tmp_path / "out", "BertForSequenceClassification", key_mapping=mapping)
    assert report.ok and hf_init.verify(tmp_path / "out", source).ok
    model, info = BertForSequenceClassification.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not any(info.values())
    memory = hf_init.from_pretrained(BertForSequenceClassification, source, key_mapping=mapping)
    assert torch.equal(memory.classifier.weight, model.classifier.weight)
    memory.save_pretrained(tmp_path / "saved")
    assert "classifier.weight" in load_file(tmp_path / "saved" / "model.safetensors")
