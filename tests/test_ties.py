"""What the config ties and the files hold twice: each is kept where they differ, as plain transformers does."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from bases import DECODER, SEEN
from safetensors.torch import load_file, save_file

import hf_init

T5: dict[str, Any] = {"vocab_size": 50, "d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2}
QFORMER = {
    "vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16,
    "encoder_hidden_size": 32,
}  # fmt: skip
SINGLE, FORMAT = "model.safetensors", {"format": "pt"}


def saved(folder: Path, cls: Any, config: Any, **more: tuple[int, ...]) -> Path:
    """A model of this class, and tensors of its own under second names, by their shapes."""
    torch.manual_seed(0)
    cls(config).save_pretrained(folder)
    state = load_file(folder / SINGLE)
    save_file({**state, **{name: torch.randn(shape) for name, shape in more.items()}}, folder / SINGLE, FORMAT)
    return folder


def llama(folder: Path) -> Path:
    config = transformers.LlamaConfig(**DECODER, tie_word_embeddings=True)
    return saved(folder, transformers.LlamaForCausalLM, config, **{"lm_head.weight": (96, 32)})


def flan_t5(folder: Path) -> Path:
    """As flan-t5, mt5 and umt5 are: the config says that nothing is tied, and its class doesn't listen."""
    config = transformers.T5Config(**T5, feed_forward_proj="gated-gelu")
    saved(folder, transformers.T5ForConditionalGeneration, config, **{"lm_head.weight": (50, 16)})
    raw = json.loads((folder / "config.json").read_text())
    raw.pop("scale_decoder_outputs")
    (folder / "config.json").write_text(json.dumps({**raw, "tie_word_embeddings": False}))
    return folder


def blip2(folder: Path) -> Path:
    text = transformers.T5Config(**T5, feed_forward_proj="gated-gelu", bos_token_id=2)
    config = transformers.Blip2Config(vision_config=SEEN, qformer_config=QFORMER, text_config=text.to_dict())
    more = {"language_model.lm_head.weight": (50, 16)}
    return saved(folder, transformers.Blip2ForConditionalGeneration, config, **more)


def udop(folder: Path) -> Path:
    """A class that ties more than its words, from one that doesn't."""
    return saved(folder, transformers.UdopModel, transformers.UdopConfig(**T5, image_size=32, patch_size=16))


def without_the_first(folder: Path) -> Path:
    """Two second names with different values, and not the tensor that both are tied to."""
    shapes = {"encoder.embed_tokens.weight": (50, 16), "lm_head.weight": (50, 16)}
    saved(folder, transformers.T5ForConditionalGeneration, transformers.T5Config(**T5), **shapes)
    state = load_file(folder / SINGLE)
    save_file({name: tensor for name, tensor in state.items() if name != "shared.weight"}, folder / SINGLE, FORMAT)
    return folder


BASES: dict[str, tuple[Callable[[Path], Path], str]] = {
    "llama": (llama, "LlamaForCausalLM"),
    "flan-t5": (flan_t5, "T5ForConditionalGeneration"),
    "inside another": (blip2, "Blip2ForConditionalGeneration"),
    "more than words": (udop, "UdopForConditionalGeneration"),
    "neither is the first": (without_the_first, "T5ForConditionalGeneration"),
}


@pytest.mark.parametrize(("make", "name"), BASES.values(), ids=BASES)
def test_each_is_kept_as_transformers_keeps_it(tmp_path, make, name):
    base, cls = make(tmp_path / "base"), getattr(transformers, name)
    plain = cls.from_pretrained(base).state_dict()
    plan = hf_init.plan(base, cls)
    assert any("tied by the config, and different in the files" in note for note in plan.notes)
    model = hf_init.from_pretrained(cls, base)
    hf_init.extend(base, tmp_path / "out", cls)
    source, written = load_file(base / SINGLE), load_file(tmp_path / "out" / SINGLE)
    assert all(any(tensor.equal(other) for other in written.values()) for tensor in source.values())
    for state in (model.state_dict(), cls.from_pretrained(tmp_path / "out").state_dict()):
        assert {n for n, tensor in plain.items() if not tensor.equal(state[n])} == set()
    assert hf_init.verify(tmp_path / "out").ok
    model.save_pretrained(tmp_path / "saved")
    assert load_file(tmp_path / "saved" / SINGLE).keys() == written.keys()


def test_what_is_held_twice_with_the_same_values_is_one_tensor(tmp_path):
    base = llama(tmp_path / "base")
    state = load_file(base / SINGLE)
    save_file({**state, "lm_head.weight": state["model.embed_tokens.weight"].clone()}, base / SINGLE, FORMAT)
    plan = hf_init.plan(base)
    assert plan["lm_head.weight"].tied_to == "model.embed_tokens.weight" and not plan.notes
    model = hf_init.from_pretrained(transformers.LlamaForCausalLM, base)
    assert model.lm_head.weight is model.model.embed_tokens.weight


def test_new_rows_come_to_each(tmp_path):
    base = llama(tmp_path / "base")
    keep = {"*embed_tokens.weight": "leading", "lm_head.weight": "leading"}
    model = hf_init.from_pretrained(transformers.LlamaForCausalLM, base, config={"vocab_size": 100}, keep=keep)
    source = load_file(base / SINGLE)
    assert model.lm_head.weight[:96].equal(source["lm_head.weight"])
    assert model.model.embed_tokens.weight[:96].equal(source["model.embed_tokens.weight"])
    untied = hf_init.plan(base, config={"tie_word_embeddings": False})
    assert not untied.notes and untied.counts["tied"] == 0


class Shared(transformers.BertPreTrainedModel):
    """One module under two names, of which the config knows nothing."""

    def __init__(self, config):
        super().__init__(config)
        self.first = torch.nn.Linear(config.hidden_size, 2)
        self.second = self.first
        self.post_init()


def test_one_module_cannot_hold_both_and_the_way_out_is_one(tmp_path):
    config = transformers.BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8)
    config.save_pretrained(tmp_path / "base")
    base, state = tmp_path / "base", {"first.weight": torch.ones(2, 8), "first.bias": torch.ones(2)}
    save_file({**state, "second.weight": torch.zeros(2, 8)}, base / SINGLE, FORMAT)
    for verb in (lambda: hf_init.extend(base, tmp_path / "out", Shared), lambda: hf_init.from_pretrained(Shared, base)):
        with pytest.raises(hf_init.HfInitError, match=r"one tensor in the model.*which of them goes: drop="):
            verb()
    for name, value in (("first", 0.0), ("second", 1.0)):
        out = tmp_path / f"without-{name}"
        assert hf_init.extend(base, out, Shared, drop=[f"{name}.weight"]).ok
        assert Shared.from_pretrained(out).second.weight.eq(value).all()


def test_one_of_a_tied_pair_goes_if_that_is_said(tmp_path):
    base = llama(tmp_path / "base")
    source = load_file(base / SINGLE)
    model = hf_init.from_pretrained(transformers.LlamaForCausalLM, base, drop=["lm_head.weight"])
    assert model.lm_head.weight is model.model.embed_tokens.weight and not model.init_plan.notes
    assert model.lm_head.weight.equal(source["model.embed_tokens.weight"])
