"""Architectures that take an id for more than a token, and every field and role that holds one."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from token_bases import tensors
from trained_tokenizers import ROLES, byte_level, read, word_piece
from transformers import AutoTokenizer

import hf_init

# Architectures that take an id for more than a token.


TOWER = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
PICTURES = {**TOWER, "image_size": 28, "patch_size": 14}


def saved(tmp_path: Path, model: Any, tokenizer: Any) -> Path:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for parameter in model.parameters():
            if parameter.ndim > 1:
                torch.nn.init.normal_(parameter, std=0.5)
    model.save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    return tmp_path / "base"


@pytest.fixture
def end_last():
    """A tokenizer whose end token is the last of all."""
    made = transformers.PreTrainedTokenizerFast(tokenizer_object=byte_level(), **ROLES)
    made.add_special_tokens({"eos_token": "<end>"})
    return made


def test_an_output_matrix_in_halves_gets_rows_that_never_win(tmp_path):
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=word_piece(), **ROLES)
    config = transformers.MobileBertConfig(
        vocab_size=len(tokenizer), hidden_size=32, embedding_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=16, intra_bottleneck_size=16, true_hidden_size=16, num_feedforward_networks=1,
    )  # fmt: skip
    folder = saved(tmp_path, transformers.MobileBertForMaskedLM(config), tokenizer)
    hf_init.extend(folder, tmp_path / "out", add_tokens=[f"photo{letter}el" for letter in "aeiou"])
    schemes = {str(fill.scheme) for tensor in hf_init.Plan.load(tmp_path / "out").tensors for fill in tensor.new}
    assert schemes == {"subtokens(weights=characters_first, alpha=0.05)"}
    ids = torch.randint(4, len(tokenizer), (8, 32), generator=torch.Generator().manual_seed(0))
    models = [transformers.AutoModelForMaskedLM.from_pretrained(each).eval() for each in (folder, tmp_path / "out")]
    with torch.no_grad():
        before, after = (model(ids).logits for model in models)
    assert torch.equal(before.argmax(-1), after.argmax(-1))


def test_a_text_ends_where_it_did_where_the_highest_id_is_its_end(tmp_path, end_last):
    text = {**TOWER, "vocab_size": len(end_last), "max_position_embeddings": 32, "eos_token_id": 2}
    config = transformers.CLIPConfig(text_config=text, vision_config=PICTURES, projection_dim=16)
    folder = saved(tmp_path, transformers.CLIPModel(config), end_last)
    hf_init.extend(folder, tmp_path / "out", special_tokens=["<sks>"])
    end, features = end_last.eos_token_id, []
    assert read(tmp_path / "out", "config.json")["text_config"]["eos_token_id"] == end
    for each, ids in (
        (folder, [7, 9, end, 2, 2]),
        (tmp_path / "out", [7, 9, end, 2, 2]),
        (tmp_path / "out", [7, end + 1, 9, end]),
    ):
        model = transformers.CLIPModel.from_pretrained(each).eval()
        with torch.no_grad():
            features.append(model.text_model(torch.tensor([ids])))
    assert torch.equal(features[0].pooler_output, features[1].pooler_output)
    assert torch.equal(features[2].pooler_output[0], features[2].last_hidden_state[0, 3])


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"add_tokens": ["concord"]}, ["concord"]),
        ({"special_tokens": ["<|vmf|>"]}, ["<|vmf|>"]),
        ({"special_tokens": ["<|0.04|>"]}, []),
        ({"rename_tokens": {"<|startoflm|>": "<|vmf|>"}}, []),
    ],
    ids=str,
)
def test_tokens_that_whisper_takes_for_times_are_named(tmp_path, end_last, options, named):
    control = ["<|startoflm|>", "<|notimestamps|>", "<|0.00|>", "<|0.02|>"]
    end_last.add_special_tokens({"additional_special_tokens": control})
    size = {f"{side}_{key}": value for side in ("encoder", "decoder") for key, value in
            {"layers": 1, "attention_heads": 2, "ffn_dim": 16}.items()}  # fmt: skip
    config = transformers.WhisperConfig(
        vocab_size=len(end_last), d_model=16, max_source_positions=16, pad_token_id=2, **size
    )
    plan = hf_init.plan(saved(tmp_path, transformers.WhisperForConditionalGeneration(config), end_last), **options)
    said = [note for note in plan.notes if "where Whisper has its times" in note]
    assert [text in note for text, note in zip(named, said, strict=True)] == [True] * len(named)


def test_rows_behind_the_vocabulary_stay_the_tokens_that_have_their_ids(tmp_path, end_last):
    rows = len(end_last)
    end_last.add_special_tokens({"extra_special_tokens": ["<|image|>"]})
    text = {**TOWER, "vocab_size": rows, "num_key_value_heads": 1, "cross_attention_layers": [], "pad_token_id": 2}
    vision = {
        "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_global_layers": 1,
        "attention_heads": 2,
        "image_size": 28, "patch_size": 14, "vision_output_dim": 32, "supported_aspect_ratios": [[1, 1]],
        "intermediate_layers_indices": [0], "max_num_tiles": 1,
    }  # fmt: skip
    config = transformers.MllamaConfig(vision_config=vision, text_config=text, image_token_index=rows)
    folder = saved(tmp_path, transformers.MllamaForConditionalGeneration(config), end_last)
    hf_init.extend(folder, tmp_path / "out", special_tokens=["<tool>"])
    table, head = "language_model.model.embed_tokens.weight", "language_model.lm_head.weight"
    before, after = tensors(folder), tensors(tmp_path / "out")
    old = [row for row in range(rows + 8) if row != rows + 1]
    assert after[table].shape[0] == rows + 10 and torch.equal(after[table][old], before[table][old])
    assert after[head].shape[0] == rows + 2 and torch.equal(after[head][:rows], before[head])
    assert AutoTokenizer.from_pretrained(tmp_path / "out").convert_tokens_to_ids("<tool>") == rows + 1


def test_tables_that_go_on_where_others_end_grow_for_new_ids(tmp_path, end_last):
    rows = len(end_last)
    end_last.add_special_tokens({"extra_special_tokens": ["<image>", "<fake>"]})
    config = transformers.IdeficsConfig(
        vocab_size=rows, additional_vocab_size=2, cross_layer_interval=1, use_resampler=False, **TOWER,
        vision_config={"embed_dim": 16, **{key: value for key, value in PICTURES.items() if key != "hidden_size"}},
    )  # fmt: skip
    folder = saved(tmp_path, transformers.IdeficsForVisionText2Text(config), end_last)
    hf_init.extend(folder, tmp_path / "out", special_tokens=["<tool>"])
    before, after = tensors(folder), tensors(tmp_path / "out")
    grown = [name for name in before if before[name].shape != after[name].shape]
    assert grown == ["lm_head.additional_fc.weight", "model.embed_tokens.additional_embedding.weight"]
    assert all(torch.equal(before[name], after[name][:2]) and len(after[name]) == 3 for name in grown)
    assert read(tmp_path / "out", "config.json")["additional_vocab_size"] == 3
    assert AutoTokenizer.from_pretrained(tmp_path / "out").convert_tokens_to_ids("<tool>") == rows + 2


@pytest.mark.parametrize("side", ["encoder", "decoder"])
def test_of_two_vocabularies_the_tokenizer_s_grows(tmp_path, end_last, side):
    sizes = (
        {"encoder": len(end_last), "decoder": 300} if side == "encoder" else {"encoder": 300, "decoder": len(end_last)}
    )
    configs = [
        transformers.BertConfig(
            vocab_size=size, **TOWER, is_decoder=name == "decoder", add_cross_attention=name == "decoder"
        )
        for name, size in sizes.items()
    ]
    config = transformers.EncoderDecoderConfig.from_encoder_decoder_configs(*configs)
    folder = saved(tmp_path, transformers.EncoderDecoderModel(config), end_last)
    plan = hf_init.plan(folder, add_tokens=["photoelectron"])
    resized = [tensor for tensor in plan.tensors if tensor.status.value == "resized"]
    assert resized and all(tensor.name.startswith(side) for tensor in resized)


def test_a_result_with_an_infinity_in_its_config_is_extended_again(tmp_path, end_last):
    config = transformers.Mamba2Config(
        vocab_size=len(end_last), hidden_size=32, num_hidden_layers=1, num_heads=8, head_dim=8, state_size=8,
        n_groups=1, chunk_size=8,
    )  # fmt: skip
    folder = saved(tmp_path, transformers.Mamba2ForCausalLM(config), end_last)
    assert "Infinity" in (folder / "config.json").read_text()
    for out, token in (("a", "hello there"), ("b", "and again")):
        hf_init.extend(folder, tmp_path / out, add_tokens=[token])
        folder = tmp_path / out
        assert hf_init.Plan.load(folder).claim == "exact to rounding"
    assert transformers.AutoConfig.from_pretrained(folder).time_step_limit[1] == float("inf")


def test_roles_reach_tokenizer_config_and_generation_config_and_lists_get_the_union(based, tmp_path):
    folder = based(byte_level(), pad_token_id=None, eos_token_id=[1, 3])
    (folder / "generation_config.json").write_text('{"eos_token_id": [1, 3], "_from_model_config": false}')
    hf_init.extend(folder, tmp_path / "out", pad_token="<new pad>", eos_token="<|im_end|>", bos_token="</s>")
    after = AutoTokenizer.from_pretrained(tmp_path / "out")
    pad, eos = after.pad_token_id, after.eos_token_id
    assert (after.pad_token, after.eos_token, after.bos_token_id) == ("<new pad>", "<|im_end|>", 1)
    for name in ("config.json", "generation_config.json"):
        values = read(tmp_path / "out", name)
        assert (values["pad_token_id"], values["eos_token_id"]) == (pad, [1, 3, eos])
    other = AutoTokenizer.from_pretrained(folder)
    other.add_special_tokens({"pad_token": "<new pad>", "eos_token": "<|im_end|>", "bos_token": "</s>"})
    hf_init.extend(folder, tmp_path / "other", tokenizer=other)
    assert read(tmp_path / "other", "config.json")["eos_token_id"][:2] == [1, 3]
    assert read(tmp_path / "other", "generation_config.json")["pad_token_id"] is not None


def test_a_chat_template_comes_from_a_file_and_stays_where_another_tokenizer_has_none(based, tmp_path):
    folder = based(byte_level())
    (tmp_path / "t.jinja").write_text("{% for m in messages %}{{ m.content }}{% endfor %}")
    hf_init.extend(folder, tmp_path / "a", chat_template=tmp_path / "t.jinja")
    messages = [{"role": "user", "content": "hi"}]
    for out, options in (("a", {}), ("b", {"tokenizer": str(folder)})):
        if options:
            plan = hf_init.extend(tmp_path / "a", tmp_path / out, **options) and hf_init.Plan.load(tmp_path / out)
            assert any("chat template is the base's" in note for note in plan.notes)
        assert AutoTokenizer.from_pretrained(tmp_path / out).apply_chat_template(messages, tokenize=False) == "hi"


def test_every_field_that_holds_ids_moves_with_its_tokens(based, tmp_path):
    folder = based(byte_level())
    names = ["<s>", "</s>", "<pad>", "<unk>", "\u0120the", "a"]
    ids = AutoTokenizer.from_pretrained(folder).convert_tokens_to_ids(names)
    generation = {
        "suppress_tokens": ids[4:], "bad_words_ids": [[ids[4]], ids[4:]], "forced_decoder_ids": [[1, ids[5]]],
        "lang_to_id": {"<|en.x|>": ids[4]}, "begin_suppress_tokens": [-1], "sequence_bias": [[[ids[4]], 1.5]],
        "prev_sot_token_id": ids[5], "max_length": ids[4],
    }  # fmt: skip
    (folder / "generation_config.json").write_text(json.dumps(generation))
    backend = read(folder, "tokenizer.json")
    shifted = {text: id_ + 3 * (id_ > 3) for text, id_ in backend["model"]["vocab"].items()}
    backend["model"]["vocab"] = shifted | {f"<{k}>": 4 + k for k in range(3)}
    shutil.copytree(folder, tmp_path / "other")
    (tmp_path / "other" / "tokenizer.json").write_text(json.dumps(backend))
    hf_init.extend(folder, tmp_path / "out", tokenizer=tmp_path / "other")
    the, a = ids[4] + 3, ids[5] + 3
    expected = {
        "suppress_tokens": [the, a], "bad_words_ids": [[the], [the, a]], "forced_decoder_ids": [[1, a]],
        "lang_to_id": {"<|en.x|>": the}, "begin_suppress_tokens": [-1], "sequence_bias": [[[the], 1.5]],
        "prev_sot_token_id": a, "max_length": ids[4],
    }  # fmt: skip
    assert read(tmp_path / "out", "generation_config.json") == expected
