"""What has no place: it is named with the cure, and whoever does what the message says gets all that is pretrained."""

from __future__ import annotations

import ast
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import BertForSequenceClassification

import hf_init
from hf_init import HfInitError, Recipe, Rule
from hf_init.cli import main

TAGS = "BertForTokenClassification"


def edited(folder: Path, out: Path, change: Callable[[str], str | None], **config: Any) -> Path:
    """A copy with other names, less those that become None, and with other config values."""
    shutil.copytree(folder, out, copy_function=shutil.copyfile)
    tensors = {new: t for name, t in load_file(out / "model.safetensors").items() if (new := change(name)) is not None}
    save_file(tensors, out / "model.safetensors", {"format": "pt"})
    values = json.loads((out / "config.json").read_text())
    (out / "config.json").write_text(json.dumps({**values, **config}))
    return out


def advised(message: str) -> dict[str, Any]:
    """The options that a message says, in Python."""
    found: dict[str, Any] = {}
    for name, value in re.findall(r"(key_mapping|drop|allow_new)=(\{.*?\}|\[.*?\])(?=;|\n|$)", message):
        if "REGEX" not in value:
            given = ast.literal_eval(value)
            found[name] = given if isinstance(given, dict) else [*found.get(name, []), *given]
    return found


def sources(plan: hf_init.Plan) -> set[str]:
    return {tensor.name for tensor in plan.tensors if tensor.source}


OTHER_NAMES = [
    ("compiled inside", lambda n: n.replace("layer.0.", "layer.0._orig_mod."), "_orig_mod is what torch.compile puts"),
    ("compiled whole", lambda n: f"_orig_mod.{n}", "torch.compile"),
    ("DDP", lambda n: f"module.{n}", "DataParallel or DDP"),
    ("DDP, compiled", lambda n: f"_orig_mod.module.{n}", "torch.compile puts into names; module is what DataParallel"),
    ("DDP of a compiled DDP", lambda n: f"module._orig_mod.module.{n}", "torch.compile"),
    (
        "FSDP of each layer",
        lambda n: "_fsdp_wrapped_module." + re.sub(r"(layer\.\d+\.)", r"\1_fsdp_wrapped_module.", n), "FSDP",
    ),
    (
        "checkpointed under FSDP",
        lambda n: re.sub(r"(layer\.\d+\.)", r"\1_fsdp_wrapped_module._checkpoint_wrapped_module.", n), "activation",
    ),
    ("unmerged", lambda n: n.replace("query.weight", "query.base_layer.weight"), "an adapter that isn't merged"),
    ("inside an adapter", lambda n: f"base_model.model.{n}", ""),
    ("another attribute", lambda n: n.replace("bert.", "backbone."), ""),
    ("a distilled student", lambda n: n.replace("bert.", "student.encoder."), ""),
    ("layers by another word", lambda n: n.replace(".layer.", ".blocks."), ""),
    ("a layer by another word", lambda n: n.replace(".layer.1.", ".extra.1."), ""),
    ("a layer by another number", lambda n: n.replace(".layer.1.", ".layer.7."), ""),
    ("a module in each layer", lambda n: n.replace("attention.output", "attention.out"), ""),
    ("a module in one layer", lambda n: n.replace("layer.1.attention.output", "layer.1.attention.out"), ""),
    ("without a module", lambda n: n.replace("attention.self.", "attention."), ""),
]  # fmt: skip


@pytest.mark.parametrize("target", [None, TAGS])
@pytest.mark.parametrize(("change", "says"), [row[1:] for row in OTHER_NAMES], ids=[row[0] for row in OTHER_NAMES])
def test_tensors_under_other_names_are_found_by_who_does_what_the_message_says(bases, tmp_path, change, says, target):
    base = edited(bases("sentiment"), tmp_path / "base", change)
    with pytest.raises(HfInitError, match=f"(?s)have no place under their names.*{says}") as refused:
        hf_init.plan(base, target)
    options = {key: value for key, value in advised(str(refused.value)).items() if key == "key_mapping"}
    left = {"drop": ["*pooler*"]} if target else {}
    found, good = hf_init.plan(base, target, **options, **left), hf_init.plan(bases("sentiment"), target, **left)
    assert sources(found) == sources(good) and found.counts == good.counts


class Elsewhere(transformers.BertPreTrainedModel):
    """The backbone under an attribute of its own."""

    def __init__(self, config):
        super().__init__(config)
        self.backbone = transformers.BertModel(config)
        self.classifier = torch.nn.Linear(config.hidden_size, config.num_labels)
        self.post_init()


class Encoder(transformers.T5PreTrainedModel):
    def __init__(self, config):
        super().__init__(config)
        self.t5 = transformers.T5EncoderModel(config)
        self.head = torch.nn.Linear(config.d_model, 3)
        self.post_init()


class Valued(transformers.LlamaPreTrainedModel):
    def __init__(self, config):
        super().__init__(config)
        self.llama = transformers.LlamaModel(config)
        self.lm_head = torch.nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.value = torch.nn.Linear(config.hidden_size, 1)
        self.post_init()


class Seeing(transformers.ViTPreTrainedModel):
    """The loader has its own names for half of what the files hold, whatever the attribute."""

    def __init__(self, config):
        super().__init__(config)
        self.vision = transformers.ViTModel(config)
        self.head = torch.nn.Linear(config.hidden_size, 3)
        self.post_init()


class Mixed(transformers.MixtralPreTrainedModel):
    def __init__(self, config):
        super().__init__(config)
        self.lm = transformers.MixtralModel(config)
        self.head = torch.nn.Linear(config.hidden_size, 3)
        self.post_init()


@pytest.mark.parametrize(
    ("base", "cls", "new"),
    [
        ("sentiment", Elsewhere, []), ("bert", Elsewhere, ["classifier"]), ("t5 with tokens", Encoder, ["head"]),
        ("llama untied", Valued, ["value"]), ("vit", Seeing, ["head"]), ("mixtral", Mixed, ["head"]),
    ],
)  # fmt: skip
def test_a_backbone_under_another_attribute_is_found(bases, base, cls, new):
    with pytest.raises(HfInitError, match="have no place under their names") as refused:
        hf_init.plan(bases(base), cls)
    options = advised(str(refused.value))
    drop = [glob for glob in options.get("drop", []) if not any(re.match(r, glob) for r in options["key_mapping"])]
    plan = hf_init.plan(bases(base), cls, key_mapping=options["key_mapping"], drop=drop or None)
    assert sorted({tensor.name.partition(".")[0] for tensor in plan.tensors if tensor.new}) == new


class Towers(transformers.BertPreTrainedModel):
    def __init__(self, config):
        super().__init__(config)
        self.towers = torch.nn.ModuleList([transformers.BertModel(config) for _ in range(2)])
        self.post_init()


def test_a_whole_that_is_there_twice_is_no_other_model(bases):
    with pytest.raises(
        HfInitError, match=r"all of it is there under towers\.0\., towers\.1\.: .* base=\{'towers\.0\.'"
    ):
        hf_init.plan(bases("bert"), Towers)
    assert hf_init.plan({f"towers.{k}.": bases("bert") for k in (0, 1)}, Towers).counts["new"] == 0


def test_numbers_that_may_all_have_moved_are_not_guessed(bases, tmp_path):
    """Layers that are counted from 1: the first would be new, the last left over."""
    moved = {".layer.1.": ".layer.2.", ".layer.0.": ".layer.1."}
    base = edited(
        bases("sentiment"), tmp_path / "base", lambda n: next((n.replace(*p) for p in moved.items() if p[0] in n), n)
    )
    with pytest.raises(HfInitError, match=r"(?s)lacks 16 of its tensors.*has no place for 16 tensors") as refused:
        hf_init.plan(base)
    assert "key_mapping" not in advised(str(refused.value))


# What is lacking.


@pytest.mark.parametrize("target", [None, BertForSequenceClassification, TAGS, "BertModel", Elsewhere])
@pytest.mark.parametrize("lacking", ["encoder.layer.1.", "embeddings.word_embeddings.weight", "0.output.dense.bias"])
def test_what_its_own_class_has_is_never_drawn_unasked(bases, tmp_path, target, lacking):
    base = edited(bases("bert"), tmp_path / "base", lambda n: None if lacking in n else n)
    mapping = {"key_mapping": {"^(?=[a-z])": "backbone."}} if target is Elsewhere else {}
    drop = {"drop": ["pooler.*"]} if target == TAGS else {}
    for recipe in (None, "classic", Recipe([Rule("zeros", name="*")])):
        with pytest.raises(HfInitError, match=rf"lacks \d+ of its tensors.*{lacking}") as refused:
            hf_init.plan(base, target, recipe=recipe, **mapping, **drop)
    allowed = advised(str(refused.value))["allow_new"]
    assert hf_init.plan(base, target, allow_new=allowed, **mapping, **drop).counts["new"]
    named = Recipe([Rule("zeros", name=f"*{lacking}*")])
    assert hf_init.plan(base, target, recipe=named, **mapping, **drop).counts["new"]


def test_named_heads_and_several_checkpoints_lack_nothing_unasked(bases, tmp_path):
    heads = {"add_heads": {"x": "similarity"}}
    base = edited(bases("bert"), tmp_path / "base", lambda n: None if "layer.1." in n else n)
    with pytest.raises(HfInitError, match="lacks 16 of its tensors"):
        hf_init.plan(base, **heads)
    donor = edited(bases("sentiment"), tmp_path / "donor", lambda n: None if n == "classifier.bias" else n)
    with pytest.raises(HfInitError, match=r"lacks 1 of its tensors.*heads\.mood\.classifier\.bias"):
        hf_init.plan(bases("several heads"), take_heads={"mood": donor})
    from bases import llava_config

    tower = edited(bases("clip"), tmp_path / "tower", lambda n: None if "layers.0.mlp.fc1" in n else n)
    towers = {"vision_tower.": tower, "language_model.": bases("llama untied")}
    with pytest.raises(HfInitError, match=r"lacks 2 of its tensors.*layers\.0\.mlp\.fc1"):
        hf_init.plan(towers, "LlavaForConditionalGeneration", config=llava_config())


def test_an_expert_that_is_not_there_moves_no_other_into_its_place(bases, tmp_path):
    gone = "model.layers.1.block_sparse_moe.experts.1.w2.weight"
    base = edited(bases("mixtral"), tmp_path / "base", lambda n: None if n == gone else n)
    for options in ({}, {"allow_new": ["*experts*"]}):
        with pytest.raises(HfInitError, match=rf"lacks {gone}, and the loader.*experts\.2\.w2"):
            hf_init.plan(base, **options)


# What is left over.


@pytest.mark.parametrize(
    ("base", "target", "config", "drop"),
    [
        ("llama untied", "LlamaForSequenceClassification", {}, ["lm_head.*"]),
        ("pretraining", BertForSequenceClassification, {}, ["cls.*"]),
        ("llama untied", None, {"num_hidden_layers": 1}, ["model.layers.1.*"]),
        ("sentiment", TAGS, {}, ["bert.pooler.*"]),
        ("pretraining", Elsewhere, {"architectures": ["BertForPreTraining"]}, ["cls.*"]),
    ],
)
def test_a_leftover_goes_when_it_is_said(bases, tmp_path, base, target, config, drop):
    folder = edited(bases(base), tmp_path / "base", str, **config)
    options = {"key_mapping": {r"^bert\.": "backbone."}} if target is Elsewhere else {}
    with pytest.raises(HfInitError, match=r"has no place for \d+ tensors of the checkpoint") as refused:
        hf_init.plan(folder, target, **options)
    assert advised(str(refused.value))["drop"] == drop
    plan = hf_init.plan(folder, target, drop=drop, **options)
    assert {unused.reason for unused in plan.unused} == {"dropped as asked"}
    assert len(plan.unused) + plan.counts["kept"] == len(load_file(folder / "model.safetensors"))


@pytest.mark.parametrize("target", [None, "BertModel", TAGS, Elsewhere])
@pytest.mark.parametrize("name", ["extra.gate", "extra.\x1b[31m\n*"])
def test_a_foreign_tensor_is_named(bases, tmp_path, target, name):
    base = edited(bases("bert"), tmp_path / "base", str)
    save_file({**load_file(base / "model.safetensors"), name: torch.ones(3, 7)}, base / "model.safetensors")
    with pytest.raises(HfInitError, match=rf"{re.escape(name)} \(3x7\)") as refused:
        hf_init.plan(base, target)
    assert hf_init.plan(base, target, **advised(str(refused.value))).unused


@pytest.mark.parametrize(
    "more",
    [
        "query.lora_A.default.weight", "query.hada_w1_a.default", "query.oft_R.default.weight", "query.ia3_l.default",
        "query.lora_magnitude_vector.default.weight", "query.modules_to_save.default.weight",
        "query.original_module.weight",
    ],
)  # fmt: skip
def test_an_adapter_that_is_not_merged_is_no_leftover_to_drop_or_to_rename(bases, tmp_path, more):
    base = edited(bases("sentiment"), tmp_path / "base", lambda n: n.replace("query.weight", "query.base_layer.weight"))
    adapter = {f"bert.encoder.layer.{k}.attention.self.{more}": torch.ones(2, 32) for k in (0, 1)}
    save_file({**load_file(base / "model.safetensors"), **adapter}, base / "model.safetensors")
    with pytest.raises(
        HfInitError, match=r"holds 2 tensors of an adapter that isn't merged: .* Merge it with PEFT"
    ) as refused:
        hf_init.plan(base)
    assert not advised(str(refused.value))


@pytest.mark.parametrize(
    ("drop", "message"),
    [
        (["poolr.*"], r"no tensor of the checkpoint is named by 'poolr\.\*'"),
        (["classifier.*", "bert.encoder.layer.0.*"], r"18 of the tensors .* have a place.*keep=\{GLOB: 'none'\}"),
        (["*"], "41 of the tensors that it names have a place"),
        (7, "drop: expected a list of globs"),
    ],
)
def test_drop_is_for_what_has_no_place(bases, drop, message):
    with pytest.raises(HfInitError, match=message):
        hf_init.plan(bases("sentiment"), drop=drop)


def test_all_experts_have_a_place_together(bases):
    with pytest.raises(HfInitError, match="24 of the tensors that it names have a place"):
        hf_init.plan(bases("mixtral"), drop=["*.experts.*"])


def test_what_its_own_class_computes_or_ignores_may_go(bases, tmp_path):
    """GPT-2's masks were saved once; T5's encoder alone has no decoder, which stays in the files and is named."""
    base = edited(bases("gpt2"), tmp_path / "base", str)
    masks = {f"transformer.h.{k}.attn.bias": torch.ones(1, 1, 64, 64) for k in (0, 1)}
    save_file({**load_file(base / "model.safetensors"), **masks}, base / "model.safetensors", {"format": "pt"})
    plan = hf_init.plan(base, "GPT2ForSequenceClassification")
    assert {u.name for u in plan.unused} | {t.name for t in plan.tensors if t.status.value == "carried"} == {*masks}
    plan = hf_init.plan(bases("t5 with tokens"), "T5EncoderModel")
    carried = [tensor.name for tensor in plan.tensors if tensor.status.value == "carried"]
    assert carried and all(name.startswith("decoder.") for name in carried) and "decoder" in str(plan)
    assert plan.counts["kept"] + plan.counts["carried"] == len(load_file(bases("t5 with tokens") / "model.safetensors"))


# Two for one place.


def test_two_tensors_for_one_place_are_refused(bases, tmp_path):
    old = "embeddings.LayerNorm.gamma"
    base = edited(bases("bert"), tmp_path / "base", str)
    save_file({**load_file(base / "model.safetensors"), old: torch.ones(32)}, base / "model.safetensors")
    with pytest.raises(HfInitError, match=rf"claimed by two tensors.*{old} and embeddings\.LayerNorm\.weight|{old}"):
        hf_init.plan(base, BertForSequenceClassification)
    assert hf_init.plan(base, BertForSequenceClassification, drop=[old]).counts["new"] == 2
    with pytest.raises(HfInitError, match="claimed by two tensors of the checkpoint"):
        hf_init.plan(bases("bert"), key_mapping={r"layer\.1\.": "layer.0."})
    whole = transformers.BertConfig(**json.loads((bases("bert") / "config.json").read_text()))
    with pytest.raises(HfInitError, match="claimed by two checkpoints"):
        hf_init.plan({"": bases("bert"), "bert.": bases("bert")}, BertForSequenceClassification, config=whole)


def test_the_command_line_is_told_what_to_type(bases, tmp_path, capsys):
    base = edited(bases("pretraining"), tmp_path / "base", lambda n: f"module.{n}")
    command = ["plan", str(base), "--architecture", "BertForSequenceClassification"]
    assert main(command) == 2
    said = capsys.readouterr().err
    assert r"--key-mapping '^module\.='" in said and "--drop 'module.cls.*'" in said
    assert main([*command, "--key-mapping", r"^module\.=", "--drop", "module.cls.*"]) == 0


def test_what_a_class_has_is_left_over_though_it_lists_it_as_ignored(bases, monkeypatch):
    listed = "_keys_to_ignore_on_load_unexpected"
    monkeypatch.setattr(BertForSequenceClassification, listed, [r"^bert\.", r"^classifier\."], raising=False)
    with pytest.raises(HfInitError, match=r"no place for 2 tensors of the checkpoint: classifier\.bias"):
        hf_init.plan(bases("sentiment"), "BertModel")
    assert hf_init.plan(bases("sentiment"), "BertModel", drop="classifier.*").counts["kept"]
