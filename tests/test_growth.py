"""Growth: the claim of a plan is what the models compute, a block is the one that the map names, configs follow."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from results import tensors

import hf_init
from hf_init import HfInitError, Recipe, Rule

pytestmark = pytest.mark.usefixtures("one_thread")

SIZES = {"vocab_size": 96, "hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4}
DECODER = {**SIZES, "intermediate_size": 48, "num_key_value_heads": 2, "max_position_embeddings": 64}
TEXT = {**SIZES, "intermediate_size": 48, "max_position_embeddings": 64}
SEEN = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 4, "num_attention_heads": 4, "image_size": 16,
        "patch_size": 4}  # fmt: skip
EXPERTS = {**DECODER, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
MIXTURE = transformers.MixtralConfig(**DECODER, num_local_experts=4)
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaForCausalLM", DECODER),
    "qwen3": ("Qwen3ForCausalLM", {**DECODER, "head_dim": 8}),
    "gemma2": ("Gemma2ForCausalLM", {**DECODER, "head_dim": 8}),
    "olmo2": ("Olmo2ForCausalLM", {**DECODER, "pad_token_id": 0}),
    "gpt2": ("GPT2LMHeadModel", {"vocab_size": 96, "n_embd": 32, "n_layer": 4, "n_head": 4, "n_positions": 64}),
    "gpt_neo": ("GPTNeoForCausalLM", {"vocab_size": 96, "hidden_size": 32, "num_layers": 4, "num_heads": 4,
                                      "attention_types": [[["global", "local"], 2]], "max_position_embeddings": 64}),
    "mixtral": ("MixtralForCausalLM", {**DECODER, "num_local_experts": 2}),
    "qwen2_moe": ("Qwen2MoeForCausalLM", {**EXPERTS, "shared_expert_intermediate_size": 16}),
    "gpt_oss": ("GptOssForCausalLM", {**DECODER, "head_dim": 8, "num_local_experts": 4, "num_experts_per_tok": 2}),
    "mamba2": ("Mamba2ForCausalLM", {"vocab_size": 96, "hidden_size": 32, "num_hidden_layers": 4, "state_size": 8,
                                     "num_heads": 8, "head_dim": 8, "n_groups": 1}),
    "lfm2": ("Lfm2ForCausalLM", {**DECODER, "layer_types": ["conv", "full_attention"] * 2}),
    "modernbert": ("ModernBertForMaskedLM", {**TEXT, "pad_token_id": 0, "cls_token_id": 1, "sep_token_id": 2,
                                             "bos_token_id": 1, "eos_token_id": 2}),
    "t5": ("T5ForConditionalGeneration", {"vocab_size": 96, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 4,
                                          "num_heads": 4, "decoder_start_token_id": 0}),
    "vit": ("ViTForImageClassification", SEEN),
    "dinov2": ("Dinov2ForImageClassification", {**SEEN, "out_indices": [2, 4]}),
    "jamba": ("JambaForCausalLM", {**DECODER, "num_experts": 2, "mamba_d_state": 8, "attn_layer_period": 2,
                                   "attn_layer_offset": 1, "expert_layer_period": 2, "use_mamba_kernels": False}),
    "deepseek": ("DeepseekV3ForCausalLM", {**DECODER, "num_key_value_heads": 4, "n_routed_experts": 4,
                                           "num_experts_per_tok": 2, "moe_intermediate_size": 16, "kv_lora_rank": 8,
                                           "first_k_dense_replace": 2, "q_lora_rank": 16, "qk_nope_head_dim": 8,
                                           "qk_rope_head_dim": 8, "v_head_dim": 8, "n_group": 2, "topk_group": 1}),
    "bert": ("BertForMaskedLM", TEXT),
    "distilbert": ("DistilBertForMaskedLM", {"vocab_size": 96, "dim": 32, "hidden_dim": 48, "n_layers": 4, "n_heads": 4,
                                             "max_position_embeddings": 64}),
    "bart": ("BartForConditionalGeneration", {"vocab_size": 96, "d_model": 32, "encoder_layers": 4, "decoder_layers": 4,
                                              "encoder_ffn_dim": 48, "decoder_ffn_dim": 48,
                                              "encoder_attention_heads": 4, "decoder_attention_heads": 4,
                                              "max_position_embeddings": 64}),
    "swin": ("SwinForImageClassification", {"image_size": 16, "patch_size": 2, "embed_dim": 8, "depths": [1, 1],
                                            "num_heads": [1, 2], "window_size": 2}),
}  # fmt: skip
"""Families that close in different ways, and whose configs follow in different ways."""
NORMED = ("bert", "distilbert", "bart")


@pytest.fixture(scope="module")
def family(tmp_path_factory):
    """Give the folder of a tiny model by its family, with every value drawn."""
    made: dict[str, Path] = {}

    def folder(name: str, dtype: torch.dtype = torch.float32) -> Path:
        key = f"{name}-{dtype}"
        if key not in made:
            cls, values = FAMILIES[name]
            kind = getattr(transformers, cls)
            torch.manual_seed(3)
            model = kind(kind.config_class(**values))
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.add_(torch.randn_like(parameter) * 0.05)
            made[key] = tmp_path_factory.mktemp("family") / name
            model.to(dtype).save_pretrained(made[key])
        return made[key]

    return folder


def extended(base, out, **options):
    """Write and run a result; give its plan."""
    hf_init.extend(base, out, prove_function=True, **options)
    return hf_init.Plan.load(out)


INSERTED = [(name, {"layers": "0-1,new,new,2-3"}) for name in FAMILIES if name not in (*NORMED, "swin")]
ELSEWHERE = [
    ("llama", {"layers": [0, 1, 2, 3, "new"], "recipe": "auto"}),
    ("llama", {"layers": ["new", 0, 1, 2, 3], "new_layers": "copy"}),
    ("gemma2", {"layers": "every=2", "new_layers": "copy"}),
    ("mixtral", {"layers": "0-3,new", "new_layers": "copy"}),
    ("t5", {"layers": {"decoder": "0-3,new"}}),
]


@pytest.mark.parametrize(("name", "options"), [*INSERTED, *ELSEWHERE])
def test_new_blocks_give_back_what_they_get_wherever_they_stand(family, tmp_path, name, options):
    base = family(name, torch.bfloat16 if len(name) % 2 else torch.float32)
    assert extended(base, tmp_path / "out", **options).claim == "exact"
    assert json.loads((tmp_path / "out" / "hf_init.json").read_text())["function"]["same"]


@pytest.mark.parametrize("name", NORMED)
def test_a_block_that_ends_with_a_norm_of_the_sum_claims_nothing(family, tmp_path, name):
    plan = extended(family(name), tmp_path / "out", layers="0-1,new,2-3")
    assert plan.claim.startswith("none, because ") and "changes what passes through" in plan.claim.replace(
        "change ", "changes "
    )
    near = [fill for tensor in plan.tensors for fill in tensor.new if fill.scheme.name == "near_identity"]
    assert near and "closed" not in {fill.why for tensor in plan.tensors for fill in tensor.new}
    function = json.loads((tmp_path / "out" / "hf_init.json").read_text())["function"]
    assert function["ok"] and not function["same"] and function["largest"] < 0.2 * function["scale"]
    assert hf_init.verify(tmp_path / "out", recompute=True)


def test_a_block_that_more_than_the_next_depends_on_claims_nothing(family):
    """EoMT's queries come in at a block counted from the end: it is another one."""
    assert "what surrounds the blocks does something else" in hf_init.plan(family("eomt"), layers="0-3,new").claim


def test_lists_and_tensors_with_a_part_for_each_block_follow_their_blocks(family, tmp_path):
    hf_init.extend(family("longformer"), tmp_path / "windows", layers="3,new,2")
    assert json.loads((tmp_path / "windows" / "config.json").read_text())["attention_window"] == [6, 6, 6]
    assert extended(family("esm"), tmp_path / "out", layers="0-2,new,3").claim == "exact"
    old, new = (tensors(f)["esm.contact_head.regression.weight"].bits for f in (family("esm"), tmp_path / "out"))
    assert np.array_equal(new[:, :12], old[:, :12]) and np.array_equal(new[:, 16:], old[:, 12:])


MAPS = {
    "SOLAR": ([0, 1, 2, 1, 2, 3], "blocks 1, 2 of model.layers run more than once; .*in another order"),
    "a student": ([0, 3], "blocks 1, 2 of"),
    "a student with a new block": ("0,new,3", "blocks 1, 2 of"),
    "the other way round": ("3,2,1,0", "in another order"),
    "one for a stack by its name": ({"layers": "0-1,3"}, "blocks 2 of .* go"),
    "one for a stack by its path": ({"num_hidden_layers": [0, 2]}, "blocks 1, 3 of .* go"),
}


@pytest.mark.parametrize("name", MAPS)
@pytest.mark.parametrize("model", ["qwen3", "mixtral"])
def test_each_block_is_the_one_that_the_map_names(family, tmp_path, model, name):
    layers, why = MAPS[name]
    base = family(model)
    plan = hf_init.plan(base, layers=layers)
    hf_init.extend(base, tmp_path / "out", layers=layers)
    assert re.search("^none, because .*" + why, plan.claim), plan.claim
    (blocks,) = plan.record["layers"].values()
    old, new = tensors(base), tensors(tmp_path / "out")
    for number, source in enumerate(blocks):
        prefix = f"model.layers.{number}."
        for tensor in (each for each in new if each.startswith(prefix) and source is not None):
            of = tensor.replace(prefix, f"model.layers.{source}.")
            assert np.array_equal(new[tensor].bits, old[of].bits), tensor
    assert {u.name.split(".")[2] for u in plan.unused} == {str(k) for k in range(4)} - {str(s) for s in blocks}
    assert len(json.loads((tmp_path / "out" / "config.json").read_text()).get("layer_types", blocks)) == len(blocks)


def test_a_depth_by_its_config_value_appends_closed_blocks(family, tmp_path):
    for name, field in (
        ("gpt2", "n_layer"),
        ("gpt2", "num_hidden_layers"),
        ("gpt_neo", "num_layers"),
        ("t5", "num_layers"),
    ):
        plan = extended(family(name), tmp_path / f"{name}-{field}", config={field: 6})
        assert plan.claim == "exact" and plan.counts["new"] > 0
    plan = hf_init.plan(family("bert"), config={"num_hidden_layers": 5}, recipe="auto")
    assert plan.claim.startswith("none") and not any("gives back" in f.why for t in plan.tensors for f in t.new)


def test_a_rule_opens_a_block_and_the_claim_says_so(family, tmp_path):
    rule = Recipe([Rule("normal(std=0.02)", name="*.4.mlp.down_proj.weight")])
    plan = extended(family("llama"), tmp_path / "open", layers="0-3,new", recipe=rule)
    assert plan.claim == "none, because model.layers.4 changes what passes through"
    other = Recipe([Rule("normal(std=0.02)", name="*.4.mlp.up_proj.weight")])
    assert hf_init.plan(family("llama"), layers="0-3,new", recipe=other).claim == "exact"


def test_a_block_that_computes_by_its_number_claims_nothing_when_it_moves(family, tmp_path):
    by_number = {"scale_attn_by_inverse_layer_idx": True}
    base = tmp_path / "base"
    hf_init.extend(family("gpt2"), base, config=by_number)
    assert "scale_attn_by_inverse_layer_idx is set" in hf_init.plan(base, layers="0,new,1-3").claim
    assert hf_init.plan(base, layers="0-3,new").claim == "exact"


def test_lists_of_numbers_and_counts_follow(family):
    for name, layers, field, expected in (
        ("dinov2", "0,new,1-3", "out_indices", [3, 5]),
        ("deepseek", "0,new,1-3", "first_k_dense_replace", 3),
        ("deepseek", "1,3", "first_k_dense_replace", 1),
        ("lfm2", "0,new,1-3", "layer_types", ["conv", "conv", "full_attention", "conv", "full_attention"]),
        ("gpt_neo", "0,1,3", "attention_layers", ["global", "local", "local"]),
    ):
        model = hf_init.from_pretrained(FAMILIES[name][0], family(name), layers=layers)
        assert getattr(model.config, field) == expected


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("llama", {"layers": "0-4"}, "model.layers has 4 blocks, 0 to 3, and no 4"),
        ("llama", {"layers": []}, r"expected '0-5,new,6-11,new'.* not \[\]"),
        ("llama", {"layers": ""}, "expected '0-5,new,6-11,new'"),
        ("llama", {"layers": {}}, "expected '0-5,new,6-11,new'"),
        ("llama", {"layers": "new"}, "no block of model.layers would stay"),
        ("llama", {"layers": "3-1"}, "expected .* not '3-1'"),
        ("llama", {"layers": "every=0"}, "expected .* not 'every=0'"),
        ("llama", {"layers": "every=5"}, "every 5 blocks, and model.layers has 4"),
        ("llama", {"layers": [0, -1]}, "expected .*-1"),
        ("llama", {"layers": [True]}, "expected .*True"),
        (
            "llama",
            {"layers": {"encoder": [0]}},
            "'encoder' names 0 stacks; there are: num_hidden_layers .model.layers: 4",
        ),
        ("llama", {"layers": "0-3", "new_layers": "zeros"}, "new_layers: expected one of auto, copy, not 'zeros'"),
        ("llama", {"layers": "0-2", "config": {"num_hidden_layers": 5}}, "makes 3 blocks .* given as 5: give one"),
        ("llama", {"layers": "0-2", "config": transformers.LlamaConfig(**DECODER)}, "its own number of layers"),
        (
            "jamba",
            {"layers": "0-1,new,2-3"},
            "of another kind than the base's block 2.*attn_layer_period=2.*whole periods",
        ),
        ("jamba", {"layers": "0,2"}, "of another kind than the base's block 2"),
        ("deepseek", {"layers": "2,0,1,3"}, "first_k_dense_replace is 2: .* together at one end"),
        ("swin", {"layers": "0,new,1"}, "no number of blocks"),
        ("bert", {"positions": 32}, "32 are fewer than the base's 64"),
        ("bert", {"positions": 0}, "positions: expected a whole number of at least 1"),
        ("bert", {"positions": 128, "positions_by": "copy"}, "expected one of tile, interpolate"),
        ("bert", {"positions_keep": 3}, "positions_keep says how positions start; give their number"),
        (
            "bert",
            {"positions": 128, "positions_keep": 3},
            "expected a whole number, with positions_by='interpolate'; not 3",
        ),
        ("t5", {"positions": 128}, "the config of a t5 has no number of positions"),
        ("bert", {"image_size": 32}, "the config of a bert has no such value"),
        ("vit", {"image_size": 0}, "image_size: expected a whole number of at least 1, not 0"),
        ("vit", {"num_channels": 2}, "3 channels can be summed into 1, not into 2"),
        ("vit", {"channels": "R,G,X"}, "expected 'R,G,B,new', numbers, 'sum' or 'repeat'"),
        ("vit", {"channels": "0,7"}, "the base has channels 0 to 2, and no 7"),
        ("vit", {"channels": "sum"}, "'sum' needs num_channels=N"),
        ("vit", {"channels": "R,G", "num_channels": 3}, "names 2 for num_channels=3"),
        ("vit", {"patch_size": 8, "num_channels": 4}, "one after the other"),
        ("llama", {"kv_heads": 3}, "3 heads of keys and values don't divide 4 of queries"),
        ("gpt2", {"kv_heads": 2}, "the config of a gpt2 has no num_key_value_heads"),
        ("phi3", {"kv_heads": 1}, "qkv_proj.weight.* in a way that isn't known: heads that are fused with others"),
        ("bert", {"widen": {"num_attention_heads": 8}}, "has no size of a head, so more of them would be smaller"),
        (
            "llama",
            {"widen": {"num_attention_heads": 7}},
            "7 heads of queries aren't more.* aren't divided by 2 of keys",
        ),
        ("bert", {"widen": {"hidden_size": "x2"}}, "the output matrix is that of the embeddings.*; give untie"),
        ("swin", {"widen": {"hidden_size": "x2"}}, "no tensor of a SwinForImageClassification changes shape with it"),
        ("llama", {"widen": {"hidden_size": 48}}, "48 is no multiple of the base's 32"),
        ("llama", {"widen": {"hidden_size": "x2", "intermediate_size": 96}}, "one after the other, each by itself"),
        ("lfm2", {"widen": {"hidden_size": "x2"}, "untie": True}, "conv.conv.weight.* in a way that isn't known"),
        ("mamba2", {"widen": {"hidden_size": "x2"}}, "the config .* can't be made.*must equal num_heads"),
        ("llama", {"widen": {"intermediate_size": 8}}, "8 is less than the base's 48"),
        (
            "llama",
            {"widen": {"intermediate_size": "double"}},
            "expected a number or a factor such as 'x2', not 'double'",
        ),
        ("llama", {"widen": {"intermediate": 64}}, "has no intermediate"),
        ("lfm2", {"layers": "0,2"}, "a Lfm2ForCausalLM of these blocks doesn't run"),
        ("llama", {"experts": 8}, "a llama is no mixture.*upcycle"),
        ("llama", {"experts": "upcycle(2, top_k=3)"}, "of 2 experts 3 can't be chosen"),
        ("llama", {"experts": "upcycle(4)", "config": {"num_experts_per_tok": 9}}, "of 4 experts 9 can't be chosen"),
        ("mixtral", {"config": {"num_experts_per_tok": 9}}, "of 2 experts 9 can't be chosen for a token"),
        (
            "llama",
            {"config": {"tie_word_embeddings": True}},
            "lm_head.weight .* are to be tied, and their values differ",
        ),
        ("llama", {"untie": True}, "the base's output matrix is a tensor of its own .tie_word_embeddings=False"),
        ("eomt", {"layers": "0-1"}, "num_blocks is 3, and 2 blocks are left"),
        ("bert", {"untie": "no"}, "untie: expected True or False, not 'no'"),
        ("bert", {"new_layers": "copy"}, "new_layers says how new blocks start; give layers"),
        ("bert", {"positions": 128, "positions_by": "interpolate", "positions_keep": 64}, "64 of the base's 64 would"),
        ("vit", {"image_size": 2}, "no patch fits into such an image"),
        (
            "windows",
            {"window_size": 12},
            "with window_size=12 doesn't run: .*every grid has to be as large as a window",
        ),
        ("vit", {"window_size": 7}, "window_size: the config of a vit has no such value"),
        ("whisper", {"num_mel_bins": [64, 64]}, "num_mel_bins: expected a whole number of at least 1"),
        ("llama", {"experts": "upcycle(few)"}, "expected a whole number of at least 1, or upcycle.8, top_k=2.*few"),
        ("llama", {"experts": "upcycle(4)", "layers": "0-3,new"}, "experts and num_hidden_layers: one after the other"),
        ("llama", {"experts": "upcycle(4)", "architecture": "MistralForCausalLM"}, "MistralForCausalLM is no mixture"),
        ("gemma2", {"experts": "upcycle(4)"}, "no mixture is known that differs from Gemma2ForCausalLM"),
        ("mixtral", {"experts": "upcycle(4)"}, "a mixtral is a mixture already"),
        ("llama", {"architecture": "MixtralForCausalLM", "config": MIXTURE}, "no place for .*mlp"),
        ("mixtral", {"experts": 3}, "3 is no multiple of the base's 2"),
        ("mixtral", {"experts": True}, "experts: expected a whole number"),
        ("mixtral", {"experts": 4, "layers": "0-3,new"}, "one after the other, each by itself"),
        ("llama", {"widen": {}}, "widen: expected widths by config value"),
    ],
)
def test_maps_that_are_refused(family, tmp_path, name, options, message):
    for refused in (
        lambda: hf_init.plan(family(name), **options),
        lambda: hf_init.extend(family(name), tmp_path / "o", **options),
    ):
        with pytest.raises(HfInitError, match=message):
            refused()
    assert not (tmp_path / "o").exists()


GRIDS = ("vit", "dinov2", "deit", "clip", "siglip", "beit")
WINDOWS = {"image_size": 32, "patch_size": 2, "embed_dim": 8, "depths": [1, 1], "num_heads": [1, 2], "window_size": 4}
HEARD = {"encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 4, "decoder_attention_heads": 4,
         "encoder_ffn_dim": 48, "decoder_ffn_dim": 48, "vocab_size": 96, "d_model": 32, "max_source_positions": 32,
         "max_target_positions": 32}  # fmt: skip
FAMILIES |= {
    "eomt": ("EomtForUniversalSegmentation", {**SEEN, "num_blocks": 3, "num_upscale_blocks": 1, "num_queries": 4}),
    "esm": ("EsmForMaskedLM", {**TEXT, "pad_token_id": 1, "mask_token_id": 2}),
    "longformer": ("LongformerForMaskedLM", {**TEXT, "attention_window": [4, 4, 6, 6]}),
    "beit": ("BeitForImageClassification", {**SEEN, "use_relative_position_bias": True}),
    "windows": ("SwinForImageClassification", WINDOWS),
    "swinv2": ("Swinv2ForImageClassification", WINDOWS),
    "donut": ("DonutSwinModel", WINDOWS),
    "whisper": (
        "WhisperForConditionalGeneration",
        {
            **HEARD,
            "num_mel_bins": 20,
            "pad_token_id": 0,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "decoder_start_token_id": 1,
            "begin_suppress_tokens": None,
        },
    ),
    "speech": ("Speech2TextForConditionalGeneration", {**HEARD, "input_feat_per_channel": 20, "conv_channels": 32}),
    "ast": (
        "ASTForAudioClassification",
        {**SEEN, "num_mel_bins": 24, "max_length": 40, "patch_size": 8, "frequency_stride": 4, "time_stride": 4},
    ),
    "deit": ("DeiTForImageClassification", SEEN),
    "clip": ("CLIPVisionModel", SEEN),
    "siglip": ("SiglipVisionModel", SEEN),
    "roberta": ("RobertaForMaskedLM", TEXT),
    "opt": ("OPTForCausalLM", {**SIZES, "ffn_dim": 48, "max_position_embeddings": 64, "word_embed_proj_dim": 32}),
}


@pytest.mark.parametrize("name", GRIDS)
def test_positions_of_larger_images_are_the_bases_own_interpolation(family, tmp_path, name):
    plan = extended(family(name), tmp_path / "out", image_size=24)
    assert plan.claim == "as the base's own interpolation"
    assert json.loads((tmp_path / "out" / "hf_init.json").read_text())["function"]["same"]
    assert hf_init.verify(tmp_path / "out", recompute=True)


@pytest.mark.parametrize("name", ["windows", "swinv2", "donut"])
def test_positions_of_larger_windows_are_stretched(family, tmp_path, name):
    base = family(name)
    assert extended(base, tmp_path / "out", window_size=6).claim.startswith("none, because attention sees windows")
    assert hf_init.verify(tmp_path / "out", recompute=True)
    old, new = tensors(base), tensors(tmp_path / "out")
    trained = json.loads((tmp_path / "out" / "config.json").read_text()).get("pretrained_window_sizes")
    assert trained == ([4, 4, 4, 2] if name == "swinv2" else None)
    for table in (table for table in old if table.endswith("bias_table")):
        grid = torch.tensor(old[table].bits.view(np.float32)).T.reshape(1, -1, 7, 7)
        larger = torch.nn.functional.interpolate(grid, size=(11, 11), mode="bicubic").flatten(2)[0].T
        assert np.array_equal(new[table].bits.view(np.float32), larger.numpy())


@pytest.mark.parametrize("name", ["whisper", "speech", "ast"])
def test_more_bins_of_a_spectrogram_are_heard_as_the_old_ones_stretched(family, tmp_path, name):
    hf_init.extend(family(name), tmp_path / "base")
    sizes = {"feature_extractor": {"feature_size": 24 if name == "ast" else 20, "num_mel_bins": 20}, "processor": "P"}
    (tmp_path / "base" / "processor_config.json").write_text(json.dumps(sizes))
    plan = extended(tmp_path / "base", tmp_path / "out", num_mel_bins=32)
    settings = json.loads((tmp_path / "out" / "processor_config.json").read_text())["feature_extractor"]
    assert settings == {"feature_size": 32, "num_mel_bins": 20 if name == "ast" else 32}
    function = json.loads((tmp_path / "out" / "hf_init.json").read_text())["function"]
    stretched = "none, because features have other bins: the same for stretched ones"
    assert (plan.claim == stretched and function["largest"] < 1e-6) != (name == "ast")
    assert hf_init.verify(tmp_path / "out", recompute=True)


@pytest.mark.parametrize(
    ("options", "claim"),
    [
        ({"num_channels": 4}, "exact"),
        ({"channels": ["R", "G", "B", "new", "new"]}, "exact"),
        ({"channels": "B,G,R"}, "none, because the channels are others than the base's"),
        ({"channels": "0,2"}, "none, because the channels are others than the base's"),
        ({"num_channels": 1}, "none, because channels are summed: the same for grey images"),
        ({"num_channels": 6, "channels": "repeat"}, "none, because channels are repeated"),
        ({"patch_size": 8, "image_size": 32}, "none, because patches are of another size"),
    ],
)
def test_channels_and_patches(family, tmp_path, options, claim):
    base = family("vit")
    assert extended(base, tmp_path / "out", **options).claim == claim
    assert hf_init.verify(tmp_path / "out", recompute=True)
    name = "vit.embeddings.patch_embeddings.projection.weight"
    old, new = (
        transformers.ViTForImageClassification.from_pretrained(f).state_dict()[name] for f in (base, tmp_path / "out")
    )
    match options:
        case {"channels": "B,G,R"}:
            assert torch.equal(new, old.flip(1))
        case {"channels": "0,2"}:
            assert torch.equal(new, old[:, [0, 2]])
        case {"num_channels": 1}:
            assert json.loads((tmp_path / "out" / "hf_init.json").read_text())["function"]["largest"] < 1e-5
        case {"patch_size": 8}:
            patch = torch.randn(1, 3, 4, 4, generator=torch.Generator().manual_seed(0))
            larger = torch.nn.functional.interpolate(patch, size=(8, 8), mode="bicubic", align_corners=False)
            assert torch.allclose((new * larger).sum((1, 2, 3)), (old * patch).sum((1, 2, 3)), atol=1e-4)
        case _:
            assert torch.equal(new[:, :3], old) or options.get("channels") == "repeat"


@pytest.mark.parametrize(("name", "first"), [("bert", 0), ("roberta", 2), ("opt", 2), ("gpt2", 0), ("llama", None)])
def test_more_positions_keep_what_short_texts_give(family, tmp_path, name, first):
    base = tmp_path / "base"
    hf_init.extend(family(name), base)
    (base / "tokenizer_config.json").write_text(json.dumps({"model_max_length": 64}))
    assert extended(base, tmp_path / "out", positions=160).claim == "exact"
    assert json.loads((tmp_path / "out" / "tokenizer_config.json").read_text())["model_max_length"] == 160
    plan = hf_init.Plan.load(tmp_path / "out")
    tables = [tensor for tensor in plan.tensors if tensor.role == "embedding.position"]
    assert len(tables) == (first is not None)
    for table in tables:
        old, new = tensors(base)[table.name].bits, tensors(tmp_path / "out")[table.name].bits
        period = len(old) - first
        assert all(np.array_equal(row, old[first + (k - first) % period]) for k, row in enumerate(new) if k >= first)
    if name == "opt":
        stretched = {"positions": 160, "positions_by": "interpolate", "positions_keep": 20}
        hf_init.extend(base, tmp_path / "stretched", **stretched)
        new = tensors(tmp_path / "stretched")[table.name].bits
        assert np.array_equal(new[:22], old[:22]) and not np.array_equal(new[22:66], old[22:66])
        assert hf_init.verify(tmp_path / "stretched", recompute=True)


WIDTHS = {
    "llama": {"intermediate_size": "x2"},
    "gpt2": {"n_inner": 160},
    "gpt_oss": {"intermediate_size": 64},
    "modernbert": {"intermediate_size": 64},
    "mixtral": {"intermediate_size": 64},
    "phi3": {"intermediate_size": 64},
    "bart": {"encoder_ffn_dim": 64, "decoder_ffn_dim": 96},
    "vit": {"intermediate_size": 64},
}
FAMILIES["phi3"] = ("Phi3ForCausalLM", {**DECODER, "pad_token_id": 0})
JOBS: list[tuple[str, dict[str, Any]]] = [
    ("llama", {"layers": "0-1,new,2-3"}),
    ("bert", {"layers": "0-3,new"}),
    ("bert", {"positions": 128}),
    ("vit", {"image_size": 24}),
    ("vit", {"num_channels": 4}),
    ("gpt2", {"widen": {"n_inner": 160}}),
    ("llama", {"widen": {"hidden_size": "x2"}}),
    ("llama", {"widen": {"num_attention_heads": 8}}),
    ("llama", {"kv_heads": 1}),
    ("llama", {"experts": "upcycle(4)"}),
]


@pytest.mark.parametrize(("name", "options"), JOBS)
def test_auto_fills_no_growth_otherwise_than_the_default(family, name, options):
    default, auto = (hf_init.plan(family(name), recipe=recipe, **options) for recipe in (None, "auto"))
    assert auto.claim == default.claim
    for one, other in zip(default.tensors, auto.tensors, strict=True):
        of_the_change = [fill for fill in one.new if fill.scheme.name != "model"]  # what a recipe doesn't choose
        assert not of_the_change or of_the_change == list(other.new), one.name


@pytest.mark.parametrize("name", WIDTHS)
def test_new_neurons_add_nothing_and_old_ones_stay_in_their_parts(family, tmp_path, name):
    plan = extended(family(name), tmp_path / "out", widen=WIDTHS[name], recipe="auto")
    assert plan.claim == "exact to rounding" and plan.counts["resized"]


@pytest.mark.parametrize("name", ["llama", "bert", "gpt2", "phi3", "mixtral", "gemma2"])
def test_hidden_units_that_come_twice_are_read_by_halves(family, tmp_path, name):
    base, tied = family(name), name in ("bert", "gpt2", "gemma2")
    size = "n_embd" if name == "gpt2" else "hidden_size"
    plan = extended(base, tmp_path / "out", widen={size: "x2"}, untie=tied)
    assert hf_init.verify(tmp_path / "out", recompute=True)
    if name == "gemma2":  # scales by the root of its hidden size
        assert re.search("^none, because .*embed_scale is 8.0, and 5.65", plan.claim)
        return
    function = json.loads((tmp_path / "out" / "hf_init.json").read_text())["function"]
    assert plan.claim == "exact to rounding" and function["largest"] < 2e-6
    halves = [fill for tensor in plan.tensors for fill in tensor.new]
    assert all(fill.scheme.name == "repeat" and fill.scheme.scale == 0.5 for fill in halves)


@pytest.mark.parametrize(
    ("name", "options", "claim"),
    [
        ("llama", {"kv_heads": 4}, "exact to rounding"),
        ("phi3", {"kv_heads": 4}, "exact to rounding"),
        ("qwen3", {"widen": {"num_attention_heads": "x2"}}, "exact to rounding"),
        ("gpt_oss", {"widen": {"num_attention_heads": 8}}, "exact to rounding"),
        ("llama", {"kv_heads": 1}, "none, because heads of keys and values are averaged"),
        ("bert", {"untie": True}, "exact"),
        ("llama", {"widen": {"intermediate_size": 64}, "layers": "0-3,new", "positions": 128}, "exact to rounding"),
    ],
)
def test_heads_and_ties(family, tmp_path, name, options, claim):
    assert extended(family(name), tmp_path / "out", **options).claim == claim
    assert hf_init.verify(tmp_path / "out", recompute=True)


@pytest.mark.parametrize("name", ["mixtral", "gpt_oss", "qwen2_moe"])
def test_twice_the_experts_chosen_together_give_what_they_gave(family, tmp_path, name):
    base, number = family(name), 2 if name == "mixtral" else 4
    plan = extended(base, tmp_path / "out", experts=2 * number)
    assert plan.claim == "exact to rounding" and not plan.counts["new"]
    old, new = tensors(base), tensors(tmp_path / "out")
    for router in (each for each in new if "router" in each or each.endswith(".gate.weight")):
        assert np.array_equal(new[router].bits, np.concatenate([old[router].bits] * 2))
    for expert in (each for each in new if f".experts.{number}." in each):
        first = expert.replace(f".experts.{number}.", ".experts.0.")
        assert np.array_equal(new[expert].bits, old[first].bits)


@pytest.mark.parametrize(
    ("name", "experts", "cls"),
    [
        ("llama", hf_init.Upcycle(4), "MixtralForCausalLM"),
        ("qwen3", "upcycle(3, top_k=1)", "Qwen3MoeForCausalLM"),
    ],
)
def test_a_mixture_of_copies_gives_what_the_dense_model_gave(family, tmp_path, name, experts, cls):
    base = family(name)
    plan = extended(base, tmp_path / "out", experts=experts, architecture="AutoModelForCausalLM")
    assert plan.claim == "exact to rounding" and plan.counts["new"] == SIZES["num_hidden_layers"]  # the routers
    assert json.loads((tmp_path / "out" / "hf_init.json").read_text())["function"]["output"] == "logits"
    assert hf_init.verify(tmp_path / "out", recompute=True)
    plain = getattr(transformers, cls)(getattr(transformers, cls).config_class.from_pretrained(tmp_path / "out"))
    plain.save_pretrained(tmp_path / "plain")
    assert tensors(tmp_path / "plain").keys() == tensors(tmp_path / "out").keys()


def test_what_makes_a_mixture_another_function_is_said(family, tmp_path):
    base, open_ = family("qwen3"), {"norm_topk_prob": False}
    assert "don't add up to 1" in hf_init.plan(base, experts="upcycle(4)", config=open_).claim
    assert any("norm_topk_prob=True" in note for note in hf_init.plan(base, experts="upcycle(4)").notes)
    sliding = {"use_sliding_window": True, "sliding_window": 4, "layer_types": ["sliding_attention"] * 4}
    hf_init.extend(base, tmp_path / "sliding", config=sliding)
    assert "layer_types changes" in hf_init.plan(tmp_path / "sliding", experts="upcycle(4)").claim


def test_what_keeps_the_old_inputs_out_is_said(family):
    assert "it doesn't run on what the base runs on" in hf_init.plan(family("vit"), image_size=17).claim
    assert "chosen by groups" in hf_init.plan(family("deepseek"), experts=8).claim


def test_a_rule_for_new_columns_weakens_the_claim(family):
    rules = ["*down_proj*=normal(std=0.02)"]
    plan = hf_init.plan(family("llama"), widen={"intermediate_size": 64}, rules=rules)
    assert plan.claim.startswith("none, because rules give model.layers.0.mlp.down_proj.weight")


def test_the_processor_follows(family, tmp_path):
    base = tmp_path / "base"
    hf_init.extend(family("vit"), base)
    (base / "preprocessor_config.json").write_text(
        json.dumps({"size": {"height": 16, "width": 16}, "image_mean": [0.25, 0.5, 0.75], "image_std": [0.5] * 3})
    )
    hf_init.extend(base, tmp_path / "out", image_size=24, num_channels=4)
    settings = json.loads((tmp_path / "out" / "preprocessor_config.json").read_text())
    assert settings["size"] == {"height": 24, "width": 24} and settings["image_mean"] == [0.25, 0.5, 0.75, 0.5]


def test_a_claim_that_does_not_hold_fails_the_job(family, tmp_path, monkeypatch):
    """Where a block was believed closed and isn't, nothing is written: the claim is held to what the models give."""

    class Everything:
        def __contains__(self, operation: str) -> bool:
            return True

    monkeypatch.setattr("hf_init._function.identity.IN_ORDER", Everything())
    monkeypatch.setattr("hf_init._growth.new_blocks.PROJECTIONS", ())
    monkeypatch.setattr("hf_init._growth.new_blocks.CLOSERS", ((),))
    monkeypatch.setattr("hf_init._growth.new_blocks.NewBlocks.claims", lambda self, plan: ())
    with pytest.raises(
        HfInitError, match=r"the claim on old inputs, 'exact', doesn't hold: .* elements of logits differ"
    ):
        hf_init.extend(family("llama"), tmp_path / "out", layers="0-3,new", prove_function=True)
    assert not (tmp_path / "out").exists()


def test_two_checkpoints_are_run_on_the_same_inputs(family, bases, tmp_path):
    report = hf_init.same_function(family("vit"), family("vit"))
    assert report and report.same and report.to_json()["inputs"] == {"pixel_values": [2, 3, 16, 16]}
    hf_init.extend(bases("sentiment"), tmp_path / "labels", labels=["pos", "odd", "neg", "neu"], prove_function=True)
    assert hf_init.same_function(bases("sentiment"), tmp_path / "labels").elements == 6
    hf_init.extend(bases("bert"), tmp_path / "head", "BertForSequenceClassification", prove_function=True)
    found = hf_init.same_function(bases("bert"), tmp_path / "head")
    assert found.same and found.output == "last_hidden_state" and "bit for bit" in str(found)
    other = hf_init.same_function(family("llama"), family("qwen3"))
    assert not other and not other.same and "differ" in str(other)
    with pytest.raises(HfInitError, match="doesn't hold"):
        other.raise_if_failed()
