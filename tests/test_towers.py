"""One model from several checkpoints, or a trunk in a class of one's own: each part as its own loader reads it."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
import transformers
from bases import TEXT
from safetensors.torch import load_file
from test_leftover import advised, edited
from torch import nn

import hf_init
from hf_init import HfInitError
from hf_init.cli import main


def own(trunk: Any, attribute: str) -> Any:
    """A class that has a trunk of the library's under an attribute of its own."""

    class Own(trunk.__base__):
        def __init__(self, config):
            super().__init__(config)
            setattr(self, attribute, trunk(config))
            self.fc = nn.Linear(config.hidden_size, 2)
            self.post_init()

    return Own


class WholeConfig(transformers.PreTrainedConfig):
    model_type = "whole_of_tests"


class Whole(transformers.PreTrainedModel):
    """A class with a config of its own, and a trunk of a config that it makes itself."""

    config_class, base_model_prefix = WholeConfig, "encoder"

    def __init__(self, config):
        super().__init__(config)
        self.encoder = transformers.BertModel(transformers.BertConfig(**TEXT))
        self.fc = nn.Linear(32, 2)
        self.post_init()


CROSS = "crossattention"
VISION, LLAVA = "vision_model.", {"image_token_index": 95}
# name -> class, parts, options, what is new, the part's tensor that is at a place in the whole
WHOLES: dict[str, tuple[Any, dict[str, str], dict[str, Any], str, dict[str, tuple[str, str]]]] = {
    "BERT2BERT": (
        transformers.EncoderDecoderModel,
        {"encoder.": "bert", "decoder.": "bert"},
        {"drop": ["decoder.pooler.*"]},
        f"{CROSS}|cls",
        {"decoder.bert.embeddings.word_embeddings.weight": ("decoder.", "embeddings.word_embeddings.weight")},
    ),
    "BERT2BERT of language models": (
        transformers.EncoderDecoderModel,
        {"encoder.": "masked", "decoder.": "masked"},
        {"drop": ["encoder.cls.*"]},
        f"{CROSS}|encoder.pooler",
        {
            "encoder.embeddings.word_embeddings.weight": ("encoder.", "bert.embeddings.word_embeddings.weight"),
            "decoder.cls.predictions.transform.dense.weight": ("decoder.", "cls.predictions.transform.dense.weight"),
        },
    ),
    "an image and a text encoder": (
        transformers.VisionTextDualEncoderModel,
        {VISION: "vit", "text_model.": "sentiment"},
        {"drop": ["text_model.classifier.*"], "config": {"projection_dim": 8}},
        "projection|logit_scale",
        {"text_model.pooler.dense.weight": ("text_model.", "bert.pooler.dense.weight")},
    ),
    "LLaVA": (
        transformers.LlavaForConditionalGeneration,
        {"model.vision_tower.": "clip", "model.language_model.": "llama untied"},
        {"config": LLAVA},
        "multi_modal_projector",
        {"lm_head.weight": ("model.language_model.", "lm_head.weight")},
    ),
    "LLaVA by the names in its files": (
        transformers.LlavaForConditionalGeneration,
        {"vision_tower.": "clip", "language_model.": "llama untied"},
        {"config": LLAVA},
        "multi_modal_projector",
        {"lm_head.weight": ("language_model.", "lm_head.weight")},
    ),
    "an image encoder and a decoder": (
        transformers.VisionEncoderDecoderModel,
        {"encoder.": "vit", "decoder.": "gpt2"},
        {},
        "cross|ln_cross|enc_to_dec",
        {"decoder.transformer.wte.weight": ("decoder.", "transformer.wte.weight")},
    ),
    "a trunk": (own(transformers.BertModel, "trunk"), {"trunk.": "bert"}, {}, "fc", {}),
    "the trunk of a whole model": (
        own(transformers.BertModel, "trunk"),
        {"trunk.": "sentiment"},
        {"drop": ["*classifier.*"]},
        "fc",
        {"trunk.pooler.dense.bias": ("trunk.", "bert.pooler.dense.bias")},
    ),
    "a Llama": (own(transformers.LlamaModel, "body"), {"body.": "llama"}, {}, "fc", {}),
    "a Mixtral, whose experts are fused": (
        own(transformers.MixtralModel, "trunk"), {"trunk.": "mixtral"}, {"drop": ["*lm_head*"]}, "fc", {},
    ),
    "a T5 encoder": (own(transformers.T5EncoderModel, "t5"), {"t5.": "t5 with tokens"}, {}, "fc", {}),
    "a wav2vec2": (own(transformers.Wav2Vec2Model, "ear"), {"ear.": "ctc"}, {"drop": ["*lm_head*"]}, "fc", {}),
    "a ViT": (own(transformers.ViTModel, "eye"), {"eye.": "vit"}, {}, "fc", {}),
    "a class with its own config": (Whole, {"encoder.": "bert"}, {"config": WholeConfig()}, "fc", {}),
}  # fmt: skip


@pytest.mark.parametrize("name", WHOLES)
def test_the_parts_become_the_whole(bases, tmp_path, name):
    cls, parts, options, new, places = WHOLES[name]
    base = {prefix: bases(part) for prefix, part in parts.items()}
    model = hf_init.from_pretrained(cls, base, **options)
    plan = model.init_plan
    assert all(any(word in t.name for word in new.split("|")) for t in plan.tensors if t.new), plan
    assert {t.role.partition(".")[0] for t in plan.tensors if t.new and "projector" in t.name} <= {"linear"}
    assert {unused.reason for unused in plan.unused} <= {"dropped as asked", "its own class doesn't load it"}
    state = model.state_dict()
    for place, (prefix, key) in places.items():
        assert torch.equal(state[place], load_file(base[prefix] / "model.safetensors")[key]), place
    hf_init.extend(base, tmp_path / "out", cls, **options)
    disk = cls.from_pretrained(tmp_path / "out").state_dict()
    assert all(torch.equal(tensor, disk[key]) for key, tensor in state.items())
    assert hf_init.verify(tmp_path / "out").ok
    if "decoder." in parts:
        assert model.config.decoder.is_decoder and model.config.decoder.add_cross_attention


@pytest.mark.parametrize("parts", [{"query.": "bert", "doc.": "bert"}, {"query.": "sentiment", "doc.": "bert"}])
def test_two_towers_from_one_folder_own_their_memory(bases, tmp_path, parts):
    class Pair(transformers.BertPreTrainedModel):
        def __init__(self, config):
            super().__init__(config)
            self.query, self.doc = transformers.BertModel(config), transformers.BertModel(config)
            self.post_init()

    base = {prefix: bases(part) for prefix, part in parts.items()}
    drop = ["*classifier.*"] if "sentiment" in parts.values() else None
    model = hf_init.from_pretrained(Pair, base, drop=drop)
    before = model.doc.pooler.dense.weight.detach().clone()
    optimizer = torch.optim.SGD(model.query.parameters(), lr=1.0)
    model.query(torch.tensor([[1, 2]])).pooler_output.sum().backward()
    optimizer.step()
    assert torch.equal(model.doc.pooler.dense.weight, before)
    model.save_pretrained(tmp_path)
    again = Pair.from_pretrained(tmp_path).state_dict()
    assert all(torch.equal(tensor, again[name]) for name, tensor in model.state_dict().items())


def test_parts_are_named_on_the_command_line(bases, tmp_path, capsys):
    encoder, decoder = (f"--tower={side}.={bases('bert')}" for side in ("encoder", "decoder"))
    command = ["--architecture", "EncoderDecoderModel", "--drop", "decoder.pooler.*"]
    assert main(["plan", encoder, decoder, *command, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["counts"]["unused"] == 2
    assert main(["extend", str(tmp_path / "out"), encoder, decoder, *command]) == 0
    assert main(["verify", str(tmp_path / "out"), "--recompute"]) == 0
    vision = ["--architecture", "VisionTextDualEncoderModel", "--config", "projection_dim=8"]
    assert main(["plan", f"--tower=vision_model.={bases('vit')}", f"--tower=text_model.={bases('bert')}", *vision]) == 0
    for argv, message in (
        (["plan", "--architecture", "BertModel"], "BASE is missing"),
        (["plan", encoder, "--compare-schemes", "x"], "--compare-schemes is for one checkpoint"),
        (["plan", "--tower", "encoder."], "expected PREFIX=DIR"),
        (["plan", encoder, decoder], "--architecture CLASS"),
    ):
        assert main(argv) == 2 and message in capsys.readouterr().err, argv


REFUSED: dict[str, tuple[Any, ...]] = {
    "no class": (None, {"a.": "bert"}, {}, r"give its class: architecture=CLASS"),
    "an auto class": ("AutoModel", {"encoder.": "bert"}, {}, r"AutoModel doesn't say.*architecture=CLASS"),
    "a config class": (Whole, {"encoder.": "bert"}, {}, r"WholeConfig, which no part has.*config=WholeConfig\("),
    "another prefix": ("EncoderDecoderModel", {"a.": "bert", "b.": "bert"}, {}, r"which config.*is that of a\., b\."),
    "a bare base": (Whole, "bert", {}, r"config=WholeConfig\(\.\.\.\).*base=\{'encoder\.': FOLDER\}"),
    "nothing": ("BertModel", {}, {}, "a mapping from the prefix of each"),
    "a config's class": (Whole, {"encoder.": "bert"}, {"config": WholeConfig}, "not the class WholeConfig"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_parts_that_make_no_whole_are_refused(bases, name):
    cls, parts, options, message = REFUSED[name]
    base = bases(parts) if isinstance(parts, str) else {prefix: bases(part) for prefix, part in parts.items()}
    with pytest.raises(HfInitError, match="(?s)" + message):
        hf_init.plan(base, cls, **options)


@pytest.mark.parametrize("before", ["", "model."])
def test_what_the_config_ties_and_a_part_holds_twice_is_kept_under_either_name_of_the_part(bases, before):
    base = {f"{before}vision_tower.": bases("clip"), f"{before}language_model.": bases("llama untied")}
    options = {"config": {**LLAVA, "tie_word_embeddings": True}}
    model = hf_init.from_pretrained(transformers.LlavaForConditionalGeneration, base, **options)
    held = load_file(bases("llama untied") / "model.safetensors")
    assert torch.equal(model.lm_head.weight, held["lm_head.weight"])
    assert torch.equal(model.get_input_embeddings().weight, held["model.embed_tokens.weight"])
    assert "different in the files: each is kept" in model.init_plan.notes[0]


def test_names_of_one_part_are_found_by_who_does_what_the_message_says(bases, tmp_path):
    renamed = edited(bases("bert"), tmp_path / "base", lambda name: name.replace("attention.output", "attention.out"))
    cls, options = transformers.EncoderDecoderModel, {"drop": ["decoder.pooler.*"]}
    with pytest.raises(HfInitError, match="have no place under their names") as refused:
        hf_init.plan({"encoder.": renamed, "decoder.": bases("bert")}, cls, **options)
    said = {"key_mapping": advised(str(refused.value))["key_mapping"], **options}
    found = hf_init.plan({"encoder.": renamed, "decoder.": bases("bert")}, cls, **said)
    assert found.counts == hf_init.plan({"encoder.": bases("bert"), "decoder.": bases("bert")}, cls, **options).counts
