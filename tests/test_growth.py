"""Layers: an index map puts blocks, new and old, where they belong; and which maps and sizes are refused."""

from __future__ import annotations

import json
import re
import shutil
import struct

import numpy as np
import pytest
import torch
import transformers
from grown_families import DECODER, FAMILIES, extended
from results import tensors

import hf_init
from hf_init import HfInitError, Recipe, Rule

pytestmark = pytest.mark.usefixtures("one_thread")
MIXTURE = transformers.MixtralConfig(**DECODER, num_local_experts=4)
NORMED = ("bert", "distilbert", "bart")


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


@pytest.mark.parametrize(
    ("name", "options"),
    [("gpt2", {"layers": "0,1,new,2,3", "positions": 128}), ("vit", {"layers": "0-3,new", "num_channels": 4})],
)
def test_layers_go_with_what_changes_other_shapes(family, tmp_path, name, options):
    assert extended(family(name), tmp_path / "out", **options).claim == "exact"


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
        ("llama", {"layers": "0-99999999"}, "layers: expected '0-5,new,.*not '0-99999999'"),
        ("lfm2", {"layers": "0,2"}, "a Lfm2ForCausalLM of these blocks doesn't run"),
        *(
            ("rwkv", options, "can't load a RwkvForCausalLM of this config: its _init_weights fails: division by zero")
            for options in ({"layers": "0"}, {"config": {"num_hidden_layers": 1}})
        ),
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


def test_where_a_file_has_a_weight_is_no_difference_in_function(family, tmp_path):
    """A kernel may round by the address of a weight, and a file is mapped: two of one content differ by 2e-8 then."""
    base = family("inkling2")
    size, *_ = struct.unpack("<Q", (data := (base / "model.safetensors").read_bytes())[:8])
    for more in (8, 16):
        moved = shutil.copytree(base, tmp_path / str(more)) / "model.safetensors"
        moved.write_bytes(struct.pack("<Q", size + more) + data[8 : 8 + size] + b" " * more + data[8 + size :])
        assert hf_init.same_function(base, moved.parent).same
