"""Positions, images, channels, neurons, heads and experts grow: what stays, what is new, and what is claimed of it."""

from __future__ import annotations

import json
import re
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from grown_families import SIZES, extended
from results import tensors

import hf_init
from hf_init import HfInitError

GRIDS = ("vit", "dinov2", "deit", "clip", "siglip", "beit")


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


CROSS = {"add_cross_attention": True}
GIVEN: list[tuple[str, dict[str, Any], str]] = [
    ("bert", {"config": {"type_vocab_size": 4}}, "exact"),
    ("gpt2", {"config": CROSS, "recipe": "auto"}, "exact"),
    ("gpt2", {"config": CROSS, "layers": "0-3,new"}, "exact"),
    ("bert", {"config": {**CROSS, "is_decoder": True}, "architecture": "BertLMHeadModel"},
     "none, because with is_decoder=True a token sees none behind it"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "options", "claim"), GIVEN)
def test_values_of_the_config_that_add_to_what_is_there(family, tmp_path, name, options, claim):
    assert extended(family(name), tmp_path / "out", **options).claim == claim
    notes = hf_init.Plan.load(tmp_path / "out").notes
    assert hf_init.verify(tmp_path / "out", recompute=True)
    if "add_cross_attention" in options["config"]:
        kind = transformers.GPT2LMHeadModel if name == "gpt2" else transformers.BertLMHeadModel
        model, ids = kind.from_pretrained(tmp_path / "out").eval(), torch.arange(5, 17)[None]
        states = torch.randn(1, 7, 32, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            alone, read = model(input_ids=ids).logits, model(input_ids=ids, encoder_hidden_states=states).logits
        assert "what an encoder gives adds nothing at first" in notes[-1] and torch.allclose(alone, read, atol=0.05)
        assert torch.equal(alone, read) != ("but a norm of the sum ends" in notes[-1])


def test_a_branch_that_a_rule_opens_is_not_said_to_add_nothing(family):
    plan = hf_init.plan(family("gpt2"), config=CROSS, rules=["*crossattention*=normal(std=0.02)"])
    assert plan.claim == "exact" and "adds nothing" not in " ".join(plan.notes)


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
    [("llama", hf_init.Upcycle(4), "MixtralForCausalLM"), ("qwen3", "upcycle(3, top_k=1)", "Qwen3MoeForCausalLM")],
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
