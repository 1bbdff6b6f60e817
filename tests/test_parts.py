"""Parts of a checkpoint that are missing, left over, from elsewhere, or of something else: what may be all the same."""

from __future__ import annotations

import json
import shutil
from typing import ClassVar

import pytest
import transformers
from bases import SENTIMENTS, Renamed, llava_config
from change import CLASSIFIER
from safetensors.torch import load_file, save_file
from transformers import BertForSequenceClassification

import hf_init
from hf_init import HfInitError, InitMixin, Recipe, Rule

HEAD = "BertForSequenceClassification"


def new_in(plan):
    return {tensor.name for tensor in plan.tensors if tensor.new}


def edited(folder, out, without=(), **config):
    """A copy without some tensors, with other config values; None takes one away."""
    shutil.copytree(folder, out, copy_function=shutil.copyfile)
    tensors = load_file(out / "model.safetensors")
    save_file(
        {name: t for name, t in tensors.items() if name not in without}, out / "model.safetensors", {"format": "pt"}
    )
    values = {**json.loads((out / "config.json").read_text()), **config}
    (out / "config.json").write_text(json.dumps({key: value for key, value in values.items() if value is not None}))
    return out


def test_all_that_is_wrong_is_said_at_once_and_each_tensor_once(bases, tmp_path):
    pooler, moved = "bert.pooler.dense.weight", "language_model.pooler.dense.weight"
    base = edited(bases("sentiment"), tmp_path / "base", without=CLASSIFIER)
    tensors = load_file(base / "model.safetensors")
    save_file({moved if name == pooler else name: t for name, t in tensors.items()}, base / "model.safetensors")
    with pytest.raises(HfInitError) as error:
        hf_init.plan(base)
    renamed, lacking = str(error.value).split("\n")
    assert f"{moved} -> {pooler}. If they are the same" in renamed and pooler not in lacking
    assert "lacks 2 of its tensors, which would start anew: classifier." in lacking


# What is new because it was asked for.


@pytest.mark.parametrize(
    "options",
    [
        {"allow_new": ["classifier.*"]},
        {"recipe": Recipe([Rule("normal(std=0.02)", name="classifier.*")])},
        {"recipe": Recipe([Rule("auto", name="classifier.*")])},
        {"labels": ["a", "b"], "labels_keep": "none"},
    ],
    ids=str,
)
def test_what_is_expected_to_be_new_may_be(bases, options):
    assert new_in(hf_init.plan(bases("misnamed head"), drop="head.*", **options)) == {*CLASSIFIER}


def test_with_a_list_what_it_names_may_be_new_and_nothing_needs_to(bases):
    assert new_in(hf_init.plan(bases("bert"), HEAD, allow_new=["classifier.*"])) == {*CLASSIFIER}
    grown = {"labels": [*SENTIMENTS, "x"]}
    assert new_in(hf_init.plan(bases("sentiment"), allow_new=["classifier.*"], **grown)) == {*CLASSIFIER}
    assert hf_init.plan(bases("sentiment"), allow_new=[]).counts["new"] == 0


@pytest.mark.parametrize(
    "architectures", [["RobertaForSequenceClassification"], ["BertForPreTraining"], ["BertModel"], [], "x", None]
)
def test_a_head_of_the_same_task_or_of_who_knows_what_is_not_passed_over(bases, tmp_path, architectures):
    base = edited(bases("sentiment"), tmp_path / "base", architectures=architectures)
    with pytest.raises(HfInitError, match=r"classifier\.weight -> scores\.weight"):
        hf_init.plan(base, Renamed)


def test_a_head_of_another_task_is_no_other_name_of_the_new_one(bases, tmp_path):
    base = edited(bases("sentiment"), tmp_path / "base", architectures=["BertForTokenClassification"])
    with pytest.raises(HfInitError, match=r"no place for 2 tensors.*say that they go: drop=\['classifier\.\*'\]$"):
        hf_init.plan(base, Renamed)
    assert new_in(hf_init.plan(base, Renamed, drop=["classifier.*"])) == {"scores.weight", "scores.bias"}


class Mixed(InitMixin, BertForSequenceClassification):
    init_recipe: ClassVar = Recipe([Rule("zeros", name="adapter.*", optional=True)])


def test_a_class_with_its_own_recipe_loads_what_it_saved(bases, tmp_path):
    Mixed.from_pretrained(bases("sentiment")).save_pretrained(tmp_path / "saved")
    assert Mixed.from_pretrained(tmp_path / "saved").init_plan.counts["new"] == 0
    with pytest.raises(HfInitError, match="says that it is a Mixed, and lacks 2 of its tensors"):
        Mixed.from_pretrained(edited(tmp_path / "saved", tmp_path / "base", without=CLASSIFIER))


def test_names_that_were_mapped_are_saved_as_the_class_knows_them(bases, tmp_path):
    options = {"key_mapping": {r"^head\.out\.": "classifier."}}
    model = hf_init.from_pretrained(BertForSequenceClassification, bases("misnamed head"), **options)
    model.save_pretrained(tmp_path)
    assert "classifier.weight" in load_file(tmp_path / "model.safetensors")


def test_a_type_said_twice_the_same_is_no_mistake(bases):
    options = {"config": {"model_type": "llama"}}
    assert hf_init.plan(bases("llama trunk"), "LlamaForCausalLM", **options).counts["new"] == 0


def test_an_optional_rule_for_a_second_name_is_no_mistake(bases):
    optional = Recipe([Rule("zeros", name="lm_head.weight", optional=True)])
    assert not hf_init.plan(bases("llama trunk"), "LlamaForCausalLM", recipe=optional)["lm_head.weight"].new


# Several checkpoints.


LLAVA = {"architecture": "LlavaForConditionalGeneration", "config": llava_config()}


@pytest.fixture
def towers(bases, tmp_path):
    folders = {"vision_tower.": bases("clip"), "language_model.": bases("llama untied")}
    return {prefix: shutil.copytree(folder, tmp_path / folder.name) for prefix, folder in folders.items()}


def test_a_tower_that_moved_is_named_and_may_be_given(towers, tmp_path):
    hf_init.extend(towers, tmp_path / "out", **LLAVA)
    moved = {prefix: folder.rename(f"{folder}-moved") for prefix, folder in towers.items()}
    with pytest.raises(HfInitError, match=r"clip\), is not there.*\n.*llama-untied\), is not there"):
        hf_init.verify(tmp_path / "out")
    assert hf_init.verify(tmp_path / "out", moved).ok


def test_one_name_in_two_checkpoints_is_refused(towers, tmp_path):
    """The names of one without their beginning, under a prefix that gives it back."""
    vision = towers["vision_tower."]
    first = min(load_file(vision / "model.safetensors"))
    rest = tmp_path / "rest"
    rest.mkdir()
    save_file({first[2:]: load_file(vision / "model.safetensors")[first]}, rest / "model.safetensors", {"format": "pt"})
    shutil.copy(vision / "config.json", rest)
    with pytest.raises(HfInitError, match=f"{first}.*\n.*prefix of its own"):
        hf_init.plan({"": vision, first[:2]: rest}, **LLAVA)


def test_out_must_not_lie_in_any_of_them(towers):
    inside = towers["language_model."] / "out"
    with pytest.raises(HfInitError, match="lies inside the base"):
        hf_init.extend(towers, inside, **LLAVA)
    assert not inside.exists()


def test_small_files_of_all_come_along(towers, tmp_path):
    (towers["vision_tower."] / "preprocessor_config.json").write_text("{}")
    hf_init.extend(towers, tmp_path / "out", **LLAVA)
    assert {"preprocessor_config.json", "NOTES.md"} <= {path.name for path in (tmp_path / "out").iterdir()}
    assert isinstance(transformers.AutoConfig.from_pretrained(tmp_path / "out"), transformers.LlavaConfig)
