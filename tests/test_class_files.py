"""A class that is named by its file: written with its code, checked and listed once it is trusted."""

from __future__ import annotations

import json
import math
import sys

import pytest
import torch
import transformers
from bases import TEXT
from headed_classes import sets
from torch import nn
from transformers import BertModel, PreTrainedModel

import hf_init
from hf_init import HfInitError, Recipe, Rule
from hf_init.cli import main

# Named by a file, verified, checked and listed.


CODE = """
import torch
from {sibling} import WIDTH
from transformers import {trunk}, {base}


class Own({base}):
    def __init__(self, config, width=WIDTH):
        super().__init__(config)
        self.trunk = {trunk}(config)
        self.classifier = torch.nn.Linear(config.hidden_size, config.num_labels)
        self.more = torch.nn.ModuleDict({{"task[a]": torch.nn.Linear(config.hidden_size, width)}})
        self.post_init()

    def forward(self, input_ids, labels, attention_mask=None, **others):
        logits = self.classifier(self.trunk(input_ids, attention_mask).last_hidden_state.mean(1))
        return {{"loss": torch.nn.functional.cross_entropy(logits, labels), "logits": logits}}


Own.register_for_auto_class("AutoModelForSequenceClassification")
"""


@pytest.fixture
def own_file(tmp_path, request):
    """A file with a class and what it imports from beside it; each has a name of its own, as modules must."""
    stem = f"own_{tmp_path.parent.name}_{tmp_path.name}".replace("-", "_")
    (tmp_path / f"{stem}_sizes.py").write_text("WIDTH = 3\n")
    file = tmp_path / f"{stem}.py"
    file.write_text(
        CODE.format(
            sibling=f"{getattr(request, 'param', '')}{stem}_sizes", trunk="BertModel", base="BertPreTrainedModel"
        )
    )
    return file


def test_a_class_named_by_its_file_is_written_with_its_code(bases, own_file, tmp_path, capsys, monkeypatch):
    out, keys = tmp_path / "out", ["--key-mapping", "^bert=trunk", "--key-mapping", "^(?!trunk)=trunk."]
    command = ["extend", str(bases("bert")), str(out), "--architecture", f"{own_file}:Own", "--num-labels", "3"]
    assert main([*command, *keys, "--model-kwargs", "width=4"]) == 0
    raw = json.loads((out / "config.json").read_text())
    assert raw["auto_map"] == {"AutoModelForSequenceClassification": f"{own_file.stem}.Own"}
    assert (out / own_file.name).read_text() == own_file.read_text()
    for argv, code in (
        (["verify", str(out)], 0),
        (["verify", str(out), "--recompute"], 2),
        (["verify", str(out), "--recompute", "--architecture", f"{own_file}:Own"], 0),
        (["verify", str(out), "--recompute", "--trust-remote-code"], 0),
    ):
        assert main(argv) == code, argv
    assert "--trust-remote-code" in capsys.readouterr().err
    with pytest.raises(HfInitError, match="trust_remote_code=True"):
        hf_init.verify(out, recompute=True)
    cls = sys.modules[own_file.stem].Own
    report = hf_init.verify(out, recompute=True, architecture=cls)
    assert report.ok and hf_init.verify(out, recompute=True, architecture=f"{own_file}:Own").ok
    listing = hf_init.heads(out)
    assert listing.backbone == "BertModel" and [head.name for head in listing.heads] == ["classifier", "more"]
    assert [head.parameters for head in listing.heads] == [3 * 33, 4 * 33]


WRONG_FILES = {
    "nowhere/model.py:Own": "there is no file .*nowhere/model.py",
    "{file}:Owm": r"no PreTrainedModel class 'Owm' \(did you mean 'Own'\?\); its classes of models: Own",
    "{file}:WIDTH": "no PreTrainedModel class 'WIDTH'",
    "{file}:": "no PreTrainedModel class ''",
    "{broken}:Own": "can't be imported: SyntaxError",
    "{json}:Own": "its name is that of another module",
}


@pytest.mark.parametrize("text", WRONG_FILES)
def test_a_class_that_its_file_does_not_give_is_refused(bases, own_file, tmp_path, text):
    broken, taken = tmp_path / f"{own_file.stem}_broken.py", tmp_path / "json.py"
    broken.write_text("class Own(:")
    taken.write_text("class Own: ...")
    with pytest.raises(HfInitError, match=WRONG_FILES[text]):
        hf_init.plan(bases("bert"), text.format(file=own_file, broken=broken, json=taken))


@pytest.mark.parametrize("own_file", ["."], indirect=True, ids=["relative imports"])
def test_a_folder_with_its_own_code_is_checked_once_it_is_trusted(bases, own_file, tmp_path, capsys):
    base = bases("llama with tokens")
    own_file.write_text(own_file.read_text().replace("Bert", "Llama"))
    out, keys = tmp_path / "out", {r"^model\.": "trunk."}
    hf_init.extend(base, out, f"{own_file}:Own", num_labels=3, key_mapping=keys, allow_new=["classifier.*", "more.*"])
    assert main(["check", str(out)]) == 2 and "--trust-remote-code" in capsys.readouterr().err
    for way in (["--trust-remote-code"], ["--architecture", f"{own_file}:Own"]):
        assert main(["check", str(out), "--json", *way]) == 1  # nothing reads the second head
        assert json.loads(capsys.readouterr().out)["loss"] == pytest.approx(math.log(3), abs=0.2)


def test_a_class_with_a_config_of_its_own_is_listed_by_its_largest_part(tmp_path):
    Mine(MineConfig()).save_pretrained(tmp_path)
    listing = hf_init.heads(tmp_path)
    assert listing.backbone == "Mine.encoder" and [head.name for head in listing.heads] == ["fc"]


def test_a_backbone_that_is_nested_is_in_the_largest_part(bases, tmp_path):
    class Nested(PreTrainedModel):
        config_class = transformers.BertConfig

        def __init__(self, config):
            super().__init__(config)
            self.answer = torch.nn.Linear(config.hidden_size, 2)
            self.inner = torch.nn.ModuleDict({"bert": transformers.BertModel(config)})
            self.post_init()

    Nested(transformers.AutoConfig.from_pretrained(bases("bert"))).save_pretrained(tmp_path)
    listing = hf_init.heads(tmp_path)
    assert listing.backbone == "Nested.inner" and [head.name for head in listing.heads] == ["answer"]


class MineConfig(transformers.PreTrainedConfig):
    model_type = "mine_of_tests"


class Mine(PreTrainedModel):
    config_class, base_model_prefix = MineConfig, "encoder"

    def __init__(self, config):
        super().__init__(config)
        self.encoder = BertModel(transformers.BertConfig(**TEXT))
        self.fc = nn.Linear(32, 2)
        self.post_init()


def test_a_name_with_brackets_is_itself(bases):
    cls = sets("heads", lambda: nn.ModuleDict({"task[a]": nn.Linear(32, 2)}))
    name = "heads.task[a].weight"
    for glob in (name, "heads.task[[]a].weight"):
        recipe = Recipe([Rule("constant(val=0.5)", name=glob)])
        assert str(hf_init.plan(bases("bert"), cls, recipe=recipe)[name].new[0].scheme) == "constant(val=0.5)"
    with pytest.raises(HfInitError, match=r"did you mean 'heads\.task\[\[\]a\]\.weight'\?"):
        hf_init.plan(bases("bert"), cls, recipe=Recipe([Rule("zeros", name="heads.task[[]b].weight")]))


def test_what_a_rule_can_not_start_anew_is_started_by_the_advice(bases):
    recipe = Recipe([Rule("zeros", name="pooler.*")])
    with pytest.raises(HfInitError, match=r"keep=\{'pooler\.\*': 'none'\}"):
        hf_init.plan(bases("bert"), recipe=recipe)
    assert hf_init.plan(bases("bert"), recipe=recipe, keep={"pooler.*": "none"}).counts["new"] == 2


def test_a_plain_module_is_told_its_function(bases):
    with pytest.raises(HfInitError, match=r"hf_init\.initialize\(module, base\)"):
        hf_init.plan(bases("bert"), nn.Linear)
