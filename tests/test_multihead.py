"""Named heads on one trunk, folder to folder and in memory: what goes where, what is new, and that the rest stays."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import transformers
from bases import HEADS, SENTIMENTS
from refusals import refusal
from results import tensors
from transformers import AutoModel, BertForSequenceClassification, BertForTokenClassification

import hf_init
from hf_init.cli import main

TOPIC, ENTITIES = HEADS["topic"], HEADS["entities"]
IDS = torch.tensor([[2, 5, 9, 7], [3, 8, 4, 6]])


@pytest.fixture
def base(bases) -> Path:
    return bases("bert")


@pytest.fixture
def plain(bases) -> Path:
    """A classifier of three labels."""
    return bases("sentiment")


@pytest.fixture
def multi(results) -> Path:
    return results("several heads on a trunk").out


def test_the_result_loads_plainly_and_computes(base, multi):
    model = AutoModel.from_pretrained(multi).eval()
    with torch.no_grad():
        found, trunk = model(input_ids=IDS), AutoModel.from_pretrained(base).eval()(input_ids=IDS)
    assert type(model) is hf_init.MultiHead
    assert torch.equal(found.last_hidden_state, trunk.last_hidden_state)
    assert {name: tuple(logits.shape) for name, logits in found.logits.items()} == {
        "topic": (2, 3), "entities": (2, 4, 3), "meaning": (2, 32),
    }  # fmt: skip


def test_the_code_travels_as_save_pretrained_writes_it(multi, tmp_path):
    hf_init.MultiHead.from_pretrained(multi).save_pretrained(tmp_path)
    code = {file.name: file.read_bytes() for file in multi.glob("*.py")}
    assert {"configuration_multi_head.py", "modeling_multi_head.py", "data_multi_head.py"} <= code.keys()
    assert code == {file.name: file.read_bytes() for file in tmp_path.glob("*.py")}
    config = json.loads((multi / "config.json").read_text())
    assert config["auto_map"] == {
        "AutoConfig": "configuration_multi_head.MultiHeadConfig",
        "AutoModel": "modeling_multi_head.MultiHead",
    }


def test_heads_are_removed(multi, tmp_path):
    plan = hf_init.plan(multi, remove_heads=["topic", "meaning"])
    assert {tensor.name for tensor in plan.unused} == {"heads.topic.classifier.weight", "heads.topic.classifier.bias"}
    hf_init.extend(multi, tmp_path / "out", remove_heads=["topic", "meaning"])
    assert list(AutoModel.from_pretrained(tmp_path / "out").heads) == ["entities"]


def test_a_plain_head_becomes_the_first(plain, tmp_path):
    hf_init.extend(plain, tmp_path / "out", name_head="mood", add_heads={"entities": ENTITIES})
    with torch.no_grad():
        ours = AutoModel.from_pretrained(tmp_path / "out").eval()(input_ids=IDS).logits["mood"]
        theirs = BertForSequenceClassification.from_pretrained(plain).eval()(input_ids=IDS).logits
    assert torch.equal(ours, theirs)
    named = hf_init.plan(plain, add_heads={"entities": ENTITIES})
    assert "heads.sequence_classification.classifier.weight" in {tensor.name for tensor in named.tensors}


def test_export_gives_back_what_was_brought(plain, tmp_path):
    hf_init.extend(plain, tmp_path / "multi", name_head="mood", add_heads={"entities": ENTITIES})
    hf_init.extend(tmp_path / "multi", tmp_path / "out", export_head="mood")
    assert tensors(plain) == tensors(tmp_path / "out")
    assert not list((tmp_path / "out").glob("*.py"))
    config = BertForSequenceClassification.from_pretrained(tmp_path / "out").config
    assert config.id2label == dict(enumerate(SENTIMENTS)) and "auto_map" not in json.loads(
        (tmp_path / "out" / "config.json").read_text()
    )


def test_an_export_computes_what_the_head_did(multi, tmp_path):
    hf_init.extend(multi, tmp_path / "out", export_head="entities")
    model = BertForTokenClassification.from_pretrained(tmp_path / "out").eval()
    with torch.no_grad():
        assert torch.equal(model(IDS).logits, AutoModel.from_pretrained(multi).eval()(IDS).logits["entities"])
    assert model.config.id2label == {0: "O", 1: "B-PER", 2: "I-PER"}


def test_heads_are_taken_from_elsewhere(multi, plain, tmp_path):
    hf_init.extend(multi, tmp_path / "out", take_heads={"mood": plain, "other": (multi, "topic")})
    assert "which isn't compared" in str(hf_init.plan(multi, take_heads={"mood": plain}))
    config = AutoModel.from_pretrained(tmp_path / "out").config
    assert config.heads["mood"]["labels"] == SENTIMENTS and config.heads["other"]["labels"] == TOPIC["labels"]


def test_each_head_follows_its_own_recipe(base):
    recipe = {"rules": [{"name": "classifier.bias", "scheme": "constant(val=2)"}], "default": "zeros"}
    model = hf_init.from_pretrained(
        hf_init.MultiHead, base, add_heads={"topic": {**TOPIC, "recipe": recipe}, "other": TOPIC}, recipe="auto"
    )
    state = model.state_dict()
    assert state["heads.topic.classifier.bias"].eq(2).all() and state["heads.topic.classifier.weight"].eq(0).all()
    assert state["heads.other.classifier.bias"].eq(0).all() and state["heads.other.classifier.weight"].ne(0).any()


def test_a_pooler_is_there_only_if_it_is_known_or_read(bases, tmp_path):
    hf_init.extend(bases("tags"), tmp_path / "out", add_heads={"more": ENTITIES})
    assert not any("pooler" in name for name in tensors(tmp_path / "out"))
    assert AutoModel.from_pretrained(tmp_path / "out").trunk.pooler is None
    plan = hf_init.plan(tmp_path / "out", add_heads={"topic": TOPIC})
    new = {tensor.name for tensor in plan.tensors if tensor.new}
    assert {"trunk.pooler.dense.weight", "trunk.pooler.dense.bias"} < new
    assert "trunk.pooler is new" in str(plan)


@pytest.mark.parametrize(
    ("name", "kind"), [("llama", "value"), ("gpt2", "token-classification"), ("mixtral", "sequence-classification")]
)
def test_a_language_model_of_any_kin(bases, tmp_path, name, kind):
    """Conv1D, tied and untied, and experts that are converted on the way in and out."""
    labels = {} if kind == "value" else {"labels": ["a", "b"]}
    hf_init.extend(bases(name), tmp_path / "out", name_head="lm", add_heads={"more": {"kind": kind, **labels}})
    with torch.no_grad():
        model = AutoModel.from_pretrained(tmp_path / "out").eval()
        theirs = transformers.AutoModelForCausalLM.from_pretrained(bases(name)).eval()(IDS[:1]).logits
        assert torch.equal(model(input_ids=IDS[:1], heads=["lm"]).logits["lm"], theirs)
    hf_init.extend(tmp_path / "out", tmp_path / "back", export_head="lm")
    assert tensors(bases(name)) == tensors(tmp_path / "back")


@pytest.mark.parametrize(
    ("name", "kinds", "batch", "shapes"),
    [
        ("vit", ("image-classification", "per-patch"), {"pixel_values": torch.ones(2, 3, 16, 16)}, [(2, 2), (2, 4, 3)]),
        (
            "wav2vec2", ("audio-classification", "frame-classification"),
            {"input_values": torch.arange(800.0).view(2, 400) % 7}, [(2, 2), (2, 25, 3)],
        ),
    ],
)  # fmt: skip
def test_vision_and_speech(bases, tmp_path, name, kinds, batch, shapes):
    heads = {f"head{k}": {"kind": kind, "labels": list("abc")[: k + 2]} for k, kind in enumerate(kinds)}
    hf_init.extend(bases(name), tmp_path / "out", add_heads=heads)
    with torch.no_grad():
        found = AutoModel.from_pretrained(tmp_path / "out").eval()(**batch)
        trunk = AutoModel.from_pretrained(bases(name)).eval()(**batch)
    assert torch.equal(found.last_hidden_state, trunk.last_hidden_state)
    assert [tuple(logits.shape) for logits in found.logits.values()] == shapes


@pytest.mark.slow
def test_check_makes_labels_for_every_head(minilm, tmp_path, capsys):
    heads = {
        **HEADS, "several": {"kind": "multi-label", "labels": ["a", "b"]}, "number": "regression", "reward": "reward",
        "span": "question-answering", "words": "language-model", "choice": "multiple-choice", "value": "value",
    }  # fmt: skip
    hf_init.extend(minilm, tmp_path / "out", add_heads=heads)
    assert main(["check", str(tmp_path / "out"), "--json"]) in (0, 1)
    report = json.loads(capsys.readouterr().out)
    assert "heads.number.classifier" in json.dumps(report) and "heads.words.cls" in json.dumps(report)
    assert "takes none by text" in refusal(tmp_path, capsys, "check", tmp_path / "out", "--labels", "1,2")


@pytest.mark.slow
def test_pipelines_take_what_is_exported(minilm, tmp_path):
    """The kinds for which the library has a pipeline, on text; each in the memory of the one model."""
    heads = {
        **HEADS, "number": "regression", "span": "question-answering", "words": "language-model",
        "several": {"kind": "multi-label", "labels": ["a", "b"]},
    }  # fmt: skip
    model = hf_init.from_pretrained(hf_init.MultiHead, minilm, add_heads=heads)
    tokenizer = transformers.AutoTokenizer.from_pretrained(minilm)

    def run(task, head, *given):
        return transformers.pipeline(task, model=model.export(head), tokenizer=tokenizer, device="cpu")(*given)

    assert run("text-classification", "topic", "a goal")[0]["label"] in TOPIC["labels"]
    assert run("text-classification", "several", "a goal")[0]["label"] in ("a", "b")
    assert {word["entity"] for word in run("token-classification", "entities", "Acme")} <= set(ENTITIES["labels"])
    assert len(run("fill-mask", "words", "a [MASK] goal")) == 5
    with torch.no_grad():
        logits = model(**tokenizer("a goal", return_tensors="pt"), heads=["topic"]).logits["topic"]
    assert run("text-classification", "topic", "a goal")[0]["score"] == pytest.approx(float(logits.softmax(-1).max()))
    weight = model.heads["topic"].classifier.weight
    assert model.export("topic").classifier.weight.data_ptr() == weight.data_ptr()


EDITED = {
    "kind": ({"heads": {"x": {"kind": "nope"}}}, "'nope' is no kind of head"),
    "a list": ({"heads": [1]}, "expected a mapping from each name"),
    "no heads": ({"heads": {}}, "at least one head"),
    "outputs": ({"heads": {"x": {"kind": "regression", "outputs": "a"}}}, "outputs 'a': expected a whole number"),
    "weight": ({"heads": {"x": {"kind": "similarity", "weight": "a"}}}, "weight 'a': expected a number"),
    "class": ({"heads": {"x": {"kind": "regression", "plain": "os.system"}}}, "transformers has no such model class"),
    "no module": ({"left_out": ["zzz"]}, "BertModel has no module 'zzz'"),
    "no modules": ({"left_out": 5}, "left_out 5: expected a list"),
    "trunk": ({"trunk": {"model_type": "nope"}}, "nope"),
}


@pytest.mark.parametrize("case", EDITED)
def test_an_edited_config_is_refused(multi, tmp_path, case):
    values, said = EDITED[case]
    folder = shutil.copytree(multi, tmp_path / "edited")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **values}))
    with pytest.raises(hf_init.HfInitError, match=re.escape(said)):
        hf_init.plan(folder)
    if case != "no module":  # what is left out is settled anew where heads change
        with pytest.raises(hf_init.HfInitError, match=re.escape(said)):
            hf_init.plan(folder, add_heads={"y": "similarity"})


def test_a_donor_must_have_the_head(base, multi, plain):
    with pytest.raises(hf_init.HfInitError, match="has not one head; its heads: none"):
        hf_init.plan(multi, take_heads={"x": base})
    with pytest.raises(hf_init.HfInitError, match="has not one head; its heads: entities, meaning, topic"):
        hf_init.plan(plain, take_heads={"x": multi})
    with pytest.raises(hf_init.HfInitError, match="has no head 'nope'"):
        hf_init.plan(plain, take_heads={"x": (multi, "nope")})


def test_the_command_line_adds_lists_and_exports(base, tmp_path, capsys):
    out = tmp_path / "out"
    argv = ["extend", str(base), str(out), "--add-heads", "topic=sequence-classification:news,sport"]
    argv += ["--add-heads", "deep=regression(pooling=attention, depth=2, dropout=0.1)"]
    assert main([*argv, "--add-heads", "kind=token-classification:3", "--rules", "heads.topic.*=zeros"]) == 0
    capsys.readouterr()
    assert main(["heads", str(out), "--json"]) == 0
    heads = {head["name"]: head for head in json.loads(capsys.readouterr().out)["heads"]}
    assert heads["topic"] == {
        "name": "topic", "kind": "sequence-classification", "plain": "BertForSequenceClassification", "outputs": 2,
        "labels": ["news", "sport"], "tensors": 2, "parameters": 66,
    }  # fmt: skip
    assert heads["deep"]["plain"] is None and heads["deep"]["parameters"] == 32 + 32 * 32 + 32 + 32 + 1
    assert heads["kind"]["labels"] == ["LABEL_0", "LABEL_1", "LABEL_2"]
    assert main(["heads", str(out)]) == 0
    assert (
        "topic  sequence-classification  BertForSequenceClassification  2        news, sport" in capsys.readouterr().out
    )
    argv = ["extend", str(out), str(tmp_path / "next"), "--remove-heads", "kind", "--rename-heads", "topic=theme"]
    assert main([*argv, "--take-heads", f"again={out}#topic"]) == 0
    assert main(["extend", str(tmp_path / "next"), str(tmp_path / "plain"), "--export-head", "again"]) == 0
    assert tensors(tmp_path / "plain")["classifier.weight"] == tensors(out)["heads.topic.classifier.weight"]


def test_the_command_line_refuses(base, tmp_path, capsys):
    out = tmp_path / "out"
    assert "--add-heads 'a b c': expected" in refusal(tmp_path, capsys, "extend", base, out, "--add-heads", "x=a b c")
    assert "given twice" in refusal(
        tmp_path, capsys, "extend", base, out, "--add-heads", "x=similarity", "--add-heads", "x=reward"
    )
    assert "no such folder" in refusal(tmp_path, capsys, "heads", tmp_path / "none")


def test_the_list_of_a_plain_class(plain, base, capsys):
    assert main(["heads", str(plain), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["schema"], found["ok"]) == ("hf_init.heads/1", True)
    listing = hf_init.heads(plain)
    assert (
        repr(listing)
        == f"<HeadListing: {plain}: 1 head on a BertModel of {found['backbone']['parameters']:,} parameters>"
    )
    assert "BertForSequenceClassification" in listing._repr_html_() and listing.ok
    assert [(head["kind"], head["labels"], head["parameters"]) for head in found["heads"]] == [
        ("sequence-classification", SENTIMENTS, 99)
    ]
    assert found["backbone"]["parameters"] == sum(tensor.bits.size for tensor in tensors(base).values())


OURS_FIRST = """
import sys, hf_init
from transformers import CONFIG_MAPPING as known

def brought():
    return "hf_init._multihead" in sys.modules

before = brought(), "multi_head" in known, known["bert"].__name__, brought()
assert before == (False, True, "BertConfig", False), before
more = known._extra_content  # what `known.values()` has besides the library's own, which it would import all
assert [each.__name__ for each in more.values()] == ["MultiHeadConfig"] and brought()
assert known["multi_head"] is more["multi_head"]
from transformers import AutoConfig, AutoModel
import hf_init
for config in (AutoModel.from_pretrained(sys.argv[1]).config, AutoConfig.from_pretrained(sys.argv[1])):
    print(type(config).__name__)
"""
OURS_LAST = """
import sys
from transformers import AutoConfig, AutoModel
import hf_init
for config in (AutoConfig.from_pretrained(sys.argv[1]), AutoModel.from_pretrained(sys.argv[1]).config):
    print(type(config).__name__)
"""


@pytest.mark.slow
@pytest.mark.parametrize("program", [OURS_FIRST, OURS_LAST], ids=["first", "last"])
def test_auto_classes_know_it_after_the_import_and_bring_it_when_it_is_asked_for(multi, warm, program):
    if program is OURS_LAST:
        done = warm.run(program, multi)
    else:
        done = subprocess.run([sys.executable, "-c", program, multi], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.split() == ["MultiHeadConfig"] * 2
