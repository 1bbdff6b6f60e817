"""Roles and logical matrices: what every tensor of an architecture does, and what its fans are."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path

import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import parametrizations

from hf_init._architecture.describe import buffers, describe_model, shared
from hf_init._roles import RESIDUAL, ROLES, matches
from hf_init._tensors import Geometry, TensorSpec

SMALL = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
GROUPED = {**SMALL, "num_key_value_heads": 2, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
ENCODER = {key: value for key, value in SMALL.items() if key != "vocab_size"}
GPT2 = {"vocab_size": 64, "n_embd": 32, "n_layer": 2, "n_head": 4, "bos_token_id": 1, "eos_token_id": 2}
CONV = {"conv_dim": (16, 16), "conv_stride": (5, 2), "conv_kernel": (10, 3), "num_conv_pos_embeddings": 16}


def on_meta(model: str, config: str, **settings) -> nn.Module:
    with torch.device("meta"):
        return getattr(transformers, model)(getattr(transformers, config)(**settings))


class BertWithLSTM(transformers.BertPreTrainedModel):
    """A body of the library under a head of one's own."""

    def __init__(self, config):
        super().__init__(config)
        self.bert = transformers.BertModel(config, add_pooling_layer=False)
        self.lstm = nn.LSTM(config.hidden_size, 16, num_layers=2, bidirectional=True, batch_first=True)
        self.norm = nn.LayerNorm(32)
        self.classifier = nn.Linear(32, 3)
        self.post_init()


MODELS = {
    "gpt2": lambda: on_meta("GPT2LMHeadModel", "GPT2Config", **GPT2),
    "llama": lambda: on_meta("LlamaForCausalLM", "LlamaConfig", **GROUPED),
    "gemma3": lambda: on_meta("Gemma3ForCausalLM", "Gemma3TextConfig", **GROUPED, head_dim=8),
    "mixtral": lambda: on_meta("MixtralForCausalLM", "MixtralConfig", **GROUPED, num_local_experts=4),
    "qwen3_moe": lambda: on_meta(
        "Qwen3MoeForCausalLM", "Qwen3MoeConfig", **GROUPED, num_experts=4, moe_intermediate_size=24, head_dim=8
    ),
    "gpt_oss": lambda: on_meta("GptOssForCausalLM", "GptOssConfig", **GROUPED, num_local_experts=4, head_dim=8),
    "vit": lambda: on_meta("ViTForImageClassification", "ViTConfig", **ENCODER, image_size=32, patch_size=8),
    "resnet": lambda: on_meta(
        "ResNetForImageClassification", "ResNetConfig", embedding_size=8, hidden_sizes=[8, 16], depths=[1, 2]
    ),
    "bert": lambda: on_meta("BertForMaskedLM", "BertConfig", **SMALL),
    "t5": lambda: on_meta(
        "T5ForConditionalGeneration",
        "T5Config",
        vocab_size=64,
        d_model=32,
        d_kv=8,
        d_ff=48,
        num_layers=2,
        num_heads=4,
        feed_forward_proj="gated-gelu",
    ),
    "wav2vec2": lambda: on_meta("Wav2Vec2ForCTC", "Wav2Vec2Config", **SMALL, **CONV, num_conv_pos_embedding_groups=4),
    "bert_lstm": lambda: _bert_with_lstm(transformers.BertConfig(**SMALL)),
}


def _bert_with_lstm(config) -> nn.Module:
    with torch.device("meta"):
        return BertWithLSTM(config)


@cache
def described(name: str) -> dict[str, TensorSpec]:
    return describe_model(MODELS[name]())


BERT_BODY = {
    "embedding.token": ["bert.embeddings.word_embeddings.weight"],
    "embedding.position": ["bert.embeddings.position_embeddings.weight"],
    "embedding.token_type": ["bert.embeddings.token_type_embeddings.weight"],
    "norm.*": ["bert.*.LayerNorm.*"],
    "attention.query.*": ["*.attention.self.query.*"],
    "attention.key.*": ["*.attention.self.key.*"],
    "attention.value.*": ["*.attention.self.value.*"],
    "attention.output.*": ["*.attention.output.dense.*"],
    "mlp.up.*": ["*.intermediate.dense.*"],
    "mlp.down.*": ["bert.encoder.layer.?.output.dense.*"],
}
LLAMA_BODY = {
    "embedding.token": ["model.embed_tokens.weight"],
    "attention.query.*": ["*.self_attn.q_proj.*"],
    "attention.key.*": ["*.self_attn.k_proj.*"],
    "attention.value.*": ["*.self_attn.v_proj.*"],
    "attention.output.*": ["*.self_attn.o_proj.*"],
    "output_embedding.weight": ["lm_head.weight"],
}
LLAMA_NORMS = {"norm.weight": ["*.input_layernorm.weight", "*.post_attention_layernorm.weight", "model.norm.weight"]}
LLAMA_MLP = {
    "mlp.gate.weight": ["*.mlp.gate_proj.weight"],
    "mlp.up.weight": ["*.mlp.up_proj.weight"],
    "mlp.down.weight": ["*.mlp.down_proj.weight"],
}
EXPERTS = {"expert.gate_up.weight": ["*.experts.gate_up_proj"], "expert.down.weight": ["*.experts.down_proj"]}

# Architecture, role, names. A role that ends in "*" stands for its weight and its bias, told apart by the name.
EXPECTED: Mapping[str, Mapping[str, list[str]]] = {
    "gpt2": {
        "embedding.token": ["transformer.wte.weight"],
        "embedding.position": ["transformer.wpe.weight"],
        "norm.*": ["*.ln_1.*", "*.ln_2.*", "transformer.ln_f.*"],
        "attention.qkv.*": ["*.attn.c_attn.*"],
        "attention.output.*": ["*.attn.c_proj.*"],
        "mlp.up.*": ["*.mlp.c_fc.*"],
        "mlp.down.*": ["*.mlp.c_proj.*"],
        "output_embedding.weight": ["lm_head.weight"],
    },
    "llama": {**LLAMA_BODY, **LLAMA_NORMS, **LLAMA_MLP},
    "gemma3": {
        **LLAMA_BODY,
        **LLAMA_MLP,
        "norm_plus_one.weight": [
            "*.input_layernorm.weight",
            "*.pre_feedforward_layernorm.weight",
            "*.self_attn.?_norm.weight",
            "model.norm.weight",
        ],
        "norm_plus_one.residual.weight": ["*.post_attention_layernorm.weight", "*.post_feedforward_layernorm.weight"],
    },
    "mixtral": {**LLAMA_BODY, **LLAMA_NORMS, **EXPERTS, "router.weight": ["*.mlp.gate.weight"]},
    "qwen3_moe": {
        **LLAMA_BODY,
        **EXPERTS,
        "norm.weight": [*LLAMA_NORMS["norm.weight"], "*.self_attn.?_norm.weight"],
        "router.weight": ["*.mlp.gate.weight"],
    },
    "gpt_oss": {
        **LLAMA_BODY,
        **LLAMA_NORMS,
        **EXPERTS,
        "attention.sink": ["*.self_attn.sinks"],
        "router.*": ["*.mlp.router.*"],
        "expert.gate_up.bias": ["*.experts.gate_up_proj_bias"],
        "expert.down.bias": ["*.experts.down_proj_bias"],
    },
    "vit": {
        "token": ["vit.embeddings.cls_token"],
        "embedding.position": ["vit.embeddings.position_embeddings"],
        "conv.*": ["vit.embeddings.patch_embeddings.projection.*"],
        "norm.*": ["vit.*layernorm*.*"],
        "attention.query.*": ["*.attention.q_proj.*"],
        "attention.key.*": ["*.attention.k_proj.*"],
        "attention.value.*": ["*.attention.v_proj.*"],
        "attention.output.*": ["*.attention.o_proj.*"],
        "mlp.up.*": ["*.mlp.fc1.*"],
        "mlp.down.*": ["*.mlp.fc2.*"],
        "linear.*": ["classifier.*"],
    },
    "resnet": {
        "conv.weight": ["*.convolution.weight"],
        "norm.*": [
            f"*.{place}.normalization.{leaf}"
            for place in ("embedder", "layer.0", "layer.1", "shortcut")
            for leaf in ("weight", "bias")
        ],
        "norm.residual.*": ["*.layer.2.normalization.weight", "*.layer.2.normalization.bias"],
        "norm.running_mean": ["*.running_mean"],
        "norm.running_var": ["*.running_var"],
        "norm.num_batches_tracked": ["*.num_batches_tracked"],
        "linear.*": ["classifier.1.*"],
    },
    "bert": {
        **BERT_BODY,
        "linear.*": ["cls.predictions.transform.dense.*"],
        "norm.*": ["*.LayerNorm.*"],
        "output_embedding.*": ["cls.predictions.decoder.*", "cls.predictions.bias"],
    },
    "t5": {
        "embedding.token": ["shared.weight", "*.embed_tokens.weight"],
        "embedding.relative": ["*.relative_attention_bias.weight"],
        "attention.query.weight": ["*Attention.q.weight"],
        "attention.key.weight": ["*Attention.k.weight"],
        "attention.value.weight": ["*Attention.v.weight"],
        "attention.output.weight": ["*Attention.o.weight"],
        "mlp.gate.weight": ["*.wi_0.weight"],
        "mlp.up.weight": ["*.wi_1.weight"],
        "mlp.down.weight": ["*.wo.weight"],
        "norm.weight": ["*layer_norm.weight"],
        "output_embedding.weight": ["lm_head.weight"],
    },
    "wav2vec2": {
        "token": ["wav2vec2.masked_spec_embed"],
        "conv.*": ["wav2vec2.feature_extractor.*.conv.weight", "*.pos_conv_embed.conv.bias"],
        "weight_norm.magnitude": ["*.pos_conv_embed.conv.parametrizations.weight.original0"],
        "weight_norm.direction": ["*.pos_conv_embed.conv.parametrizations.weight.original1"],
        "norm.*": ["*layer_norm.*"],
        "linear.*": ["*.feature_projection.projection.*"],
        "attention.query.*": ["*.attention.q_proj.*"],
        "attention.key.*": ["*.attention.k_proj.*"],
        "attention.value.*": ["*.attention.v_proj.*"],
        "attention.output.*": ["*.attention.out_proj.*"],
        "mlp.up.*": ["*.intermediate_dense.*"],
        "mlp.down.*": ["*.output_dense.*"],
        "output_embedding.*": ["lm_head.*"],
    },
    "bert_lstm": {
        **BERT_BODY,
        "norm.*": ["bert.*.LayerNorm.*", "norm.*"],
        "recurrent.input.weight": ["lstm.weight_ih_l*"],
        "recurrent.hidden.weight": ["lstm.weight_hh_l*"],
        "recurrent.input.bias": ["lstm.bias_ih_l*"],
        "recurrent.hidden.bias": ["lstm.bias_hh_l*"],
        "linear.*": ["classifier.*"],
    },
}


def wrong_roles(specs: Mapping[str, TensorSpec], expected: Mapping[str, list[str]]) -> list[str]:
    """One line for every tensor that no pattern names or whose role differs, and for every pattern without a tensor."""
    rows = [(role, pattern) for role, patterns in expected.items() for pattern in patterns]
    lines = [f"{role}: no tensor is called {p}" for role, p in rows if not any(fnmatchcase(n, p) for n in specs)]
    for name, spec in specs.items():
        roles = {role for role, pattern in rows if fnmatchcase(name, pattern)}
        wanted = {role.replace("*", name.rpartition(".")[2]) for role in roles}
        if wanted != {spec.role}:
            lines.append(f"{name}: is {spec.role}, not {' and '.join(sorted(wanted)) or 'expected at all'}")
    return lines


@pytest.mark.parametrize("name", EXPECTED)
def test_every_parameter_of_a_real_architecture_has_its_role(name: str):
    specs = described(name)
    print("\n".join(f"{spec.name:70} {spec.role}" for spec in specs.values()))
    assert wrong_roles(specs, EXPECTED[name]) == []


def test_a_wrong_a_missing_and_a_superfluous_role_are_seen():
    specs = describe_model(nn.Linear(2, 3, device="meta"))
    assert wrong_roles(specs, {"linear.*": ["weight", "bias"]}) == []
    assert wrong_roles(specs, {"linear.weight": ["weight"]}) == ["bias: is linear.bias, not expected at all"]
    assert wrong_roles(specs, {"conv.*": ["weight"], "linear.bias": ["bias"]}) == [
        "weight: is linear.weight, not conv.weight"
    ]
    assert wrong_roles(specs, {"linear.*": ["*"], "gate": ["alpha"]}) == ["gate: no tensor is called alpha"]


@pytest.mark.parametrize("name", MODELS)
def test_a_description_agrees_with_the_state_dict(name: str):
    model = MODELS[name]()
    state, specs = model.state_dict(), describe_model(model)
    assert list(specs) == list(state)
    for key, spec in specs.items():
        assert (spec.name, spec.parameter, spec.shape) == (key, key, tuple(state[key].shape))
        assert getattr(torch, spec.dtype) is state[key].dtype
        assert spec.role in ROLES
        assert "Module" in spec.module
        assert spec.address == (key,)


@pytest.mark.parametrize("name", MODELS)
def test_the_parts_of_a_matrix_make_up_the_whole(name: str):
    for spec in described(name).values():
        if spec.geometry is None or spec.role.startswith("recurrent") or spec.role == "expert.gate_up.weight":
            continue
        geometry, experts = spec.geometry, spec.shape[0] if spec.geometry.stack else 1
        out = sum(geometry.parts) or geometry.fan_out or 0
        field = math.prod(spec.shape[2:]) if not geometry.stack else 1
        assert experts * geometry.fan_in * out * geometry.groups == math.prod(spec.shape) * field, spec


def geometry_of(model: nn.Module, name: str) -> Geometry:
    geometry = describe_model(model)[name].geometry
    assert geometry is not None, f"{name} has no matrix"
    return geometry


class Fused(nn.Module):
    """An attention and a feed-forward block with fused projections, in bare torch."""

    def __init__(self, size: int, inner: int, key: int | None = None):
        super().__init__()
        self.qkv_proj = nn.Linear(size, size + 2 * (key or size), device="meta")
        self.o_proj = nn.Linear(size, size, device="meta")
        self.gate_up_proj = nn.Linear(size, 2 * inner, device="meta")
        self.down_proj = nn.Linear(inner, size, device="meta")


def full_size(model: str, config: str, **settings) -> nn.Module:
    return on_meta(model, config, bos_token_id=None, eos_token_id=None, pad_token_id=None, **settings)


# Sizes of models as they are. Fans (in, out) by the computation, not by the shape.
TABLE = [
    ("gpt2", "h.0.attn.c_attn.weight", (768, 768)),
    ("gpt2", "h.0.mlp.c_fc.weight", (768, 3072)),
    ("gpt2", "h.0.mlp.c_proj.weight", (3072, 768)),
    ("fused", "qkv_proj.weight", (4096, 4096)),
    ("fused", "gate_up_proj.weight", (4096, 11008)),
    ("convolutions", "depthwise.weight", (9, 9)),
    ("convolutions", "grouped.weight", (576, 576)),
    ("convolutions", "transposed.weight", (1024, 1024)),
    ("mixtral", "layers.0.mlp.experts.gate_up_proj", (4096, 14336)),
    ("mixtral", "layers.0.mlp.experts.down_proj", (14336, 4096)),
    ("gpt_oss", "layers.0.mlp.experts.gate_up_proj", (2880, 2880)),
    ("gpt_oss", "layers.0.mlp.experts.down_proj", (2880, 2880)),
    ("lstm", "weight_hh_l0", (512, 512)),
    ("lstm", "weight_ih_l0", (384, 512)),
]


@cache
def full(name: str) -> nn.Module:
    builders = {
        "gpt2": lambda: full_size("GPT2Model", "GPT2Config", n_layer=1),
        "fused": lambda: Fused(4096, 11008),
        "convolutions": lambda: nn.ModuleDict(
            {
                "depthwise": nn.Conv2d(32, 32, 3, groups=32, device="meta"),
                "grouped": nn.Conv2d(256, 256, 3, groups=4, device="meta"),
                "transposed": nn.ConvTranspose2d(256, 64, 4, stride=2, device="meta"),
            }
        ),
        "mixtral": lambda: full_size("MixtralModel", "MixtralConfig", num_hidden_layers=1),
        "gpt_oss": lambda: full_size("GptOssModel", "GptOssConfig", num_hidden_layers=1, num_local_experts=32),
        "lstm": lambda: nn.LSTM(384, 512, device="meta"),
    }
    return builders[name]()


@pytest.mark.parametrize(("model", "name", "fans"), TABLE)
def test_fans_are_those_of_the_computation(model: str, name: str, fans: tuple[int, int]):
    geometry = geometry_of(full(model), name)
    assert (geometry.fan_in, geometry.fan_out) == fans


def test_how_each_kind_is_stored():
    assert geometry_of(full("gpt2"), "h.0.attn.c_attn.weight") == Geometry(768, 768, "in_out", parts=(768, 768, 768))
    assert geometry_of(full("convolutions"), "grouped.weight") == Geometry(576, 576, groups=4)
    assert geometry_of(full("convolutions"), "transposed.weight") == Geometry(1024, 1024, "in_out")
    up = geometry_of(full("mixtral"), "layers.0.mlp.experts.gate_up_proj")
    assert up == Geometry(4096, 14336, stack=1, parts=(14336, 14336))
    taking_turns = geometry_of(full("gpt_oss"), "layers.0.mlp.experts.gate_up_proj")
    assert taking_turns == Geometry(2880, 2880, "in_out", stack=1)
    assert geometry_of(full("lstm"), "weight_hh_l0").parts == (512,) * 4


def test_embeddings_norms_and_plain_biases_have_no_matrix():
    specs = describe_model(full("gpt2"))
    assert {
        specs[name].geometry for name in ("wte.weight", "wpe.weight", "h.0.ln_1.weight", "h.0.attn.c_attn.bias")
    } == {None}


def test_an_embedding_knows_its_padding_row():
    specs = described("bert")
    assert specs["bert.embeddings.word_embeddings.weight"].padding == 0
    assert specs["bert.embeddings.position_embeddings.weight"].padding is None
    assert specs["cls.predictions.decoder.weight"].padding is None


@pytest.mark.parametrize(("cls", "gates"), [(nn.LSTM, 4), (nn.GRU, 3), (nn.RNN, 1), (nn.LSTMCell, 4), (nn.GRUCell, 3)])
def test_every_gate_of_a_recurrent_layer_has_its_own_matrix(cls: type[nn.Module], gates: int):
    specs = describe_model(cls(6, 5, device="meta"))
    parts = (5,) * gates if gates > 1 else ()
    for spec in specs.values():
        assert spec.geometry is not None
        assert spec.geometry.parts == parts
        assert spec.geometry.fan_out == 5
    fans = {spec.role: spec.geometry.fan_in for spec in specs.values() if spec.geometry}
    assert fans["recurrent.input.weight"] == 6
    assert fans["recurrent.hidden.weight"] == 5
    assert fans["recurrent.input.bias"] == 0, "a bias has gates, but no fan that a scheme could divide by"


def test_a_projected_lstm():
    specs = describe_model(nn.LSTM(6, 5, proj_size=3, device="meta"))
    assert specs["weight_hr_l0"].role == "recurrent.projection.weight"
    assert specs["weight_hr_l0"].geometry == Geometry(5, 3)
    assert specs["weight_hh_l0"].geometry == Geometry(3, 5, parts=(5,) * 4)


def test_grouped_queries_have_parts_of_two_sizes_and_no_common_fan_out():
    assert geometry_of(Fused(32, 48, key=8), "qkv_proj.weight") == Geometry(32, None, parts=(32, 8, 8))


def test_a_fused_name_whose_sizes_do_not_add_up_is_a_plain_layer():
    model = Fused(32, 48)
    model.qkv_proj = nn.Linear(32, 97, device="meta")
    assert describe_model(model)["qkv_proj.weight"].role == "linear.weight"
    model.down_proj = nn.Linear(20, 32, device="meta")
    assert describe_model(model)["gate_up_proj.weight"].role == "linear.weight"


INTERLEAVED = {
    "gpt_neox": ("GPTNeoXModel", "GPTNeoXConfig", GROUPED, ()),
    "bloom": ("BloomModel", "BloomConfig", {"hidden_size": 32, "n_layer": 2, "n_head": 4, "vocab_size": 64}, ()),
    "falcon_one_key": ("FalconModel", "FalconConfig", SMALL, (32, 8, 8)),
    "falcon_grouped": (
        "FalconModel",
        "FalconConfig",
        {**SMALL, "new_decoder_architecture": True, "num_kv_heads": 2},
        (),
    ),
    "bigcode_one_key": ("GPTBigCodeModel", "GPTBigCodeConfig", GPT2, (32, 8, 8)),
    "bigcode": ("GPTBigCodeModel", "GPTBigCodeConfig", {**GPT2, "multi_query": False}, ()),
    "phi3": ("Phi3Model", "Phi3Config", GROUPED, (32, 16, 16)),
    "modernbert": ("ModernBertModel", "ModernBertConfig", GROUPED, (32, 32, 32)),
    "mpt": ("MptModel", "MptConfig", {"d_model": 32, "n_heads": 4, "n_layers": 2, "vocab_size": 64}, (32, 32, 32)),
}


@pytest.mark.parametrize("family", INTERLEAVED)
def test_a_fused_projection_is_cut_only_where_its_parts_are_blocks(family: str):
    model, config, settings, parts = INTERLEAVED[family]
    fused = [
        spec for spec in describe_model(on_meta(model, config, **settings)).values() if "attention.qkv.w" in spec.role
    ]
    assert [spec.geometry.parts for spec in fused if spec.geometry] == [parts] * 2
    assert all(spec.geometry and spec.geometry.fan_in == 32 for spec in fused)
    assert all(spec.geometry and spec.geometry.fan_out in (32, None) for spec in fused)


def test_cross_attention_of_gpt2_fuses_key_and_value():
    specs = describe_model(on_meta("GPT2Model", "GPT2Config", **GPT2, add_cross_attention=True))
    assert specs["h.0.crossattention.q_attn.weight"].role == "attention.query.weight"
    fused = specs["h.0.crossattention.c_attn.weight"]
    assert fused.role == "attention.kv.weight"
    assert fused.geometry == Geometry(32, 32, "in_out", parts=(32, 32))


def test_multihead_attention_of_torch():
    one = describe_model(nn.MultiheadAttention(32, 4, device="meta"))
    assert one["in_proj_weight"].role == "attention.qkv.weight"
    assert one["in_proj_weight"].geometry == Geometry(32, 32, parts=(32, 32, 32))
    assert one["in_proj_bias"].role == "attention.qkv.bias"
    assert one["out_proj.weight"].role == "attention.output.weight"
    apart = describe_model(nn.MultiheadAttention(32, 4, kdim=16, vdim=24, add_bias_kv=True, device="meta"))
    assert apart["k_proj_weight"].geometry == Geometry(16, 32)
    assert apart["v_proj_weight"].role == "attention.value.weight"
    assert apart["bias_k"].role == "token"


def test_the_encoder_layer_of_torch():
    roles = {
        name: spec.role for name, spec in describe_model(nn.TransformerEncoderLayer(32, 4, 48, device="meta")).items()
    }
    assert roles["linear1.weight"] == "mlp.up.weight"
    assert roles["linear2.bias"] == "mlp.down.bias"
    assert roles["self_attn.out_proj.bias"] == "attention.output.bias"
    assert roles["norm1.weight"] == "norm.weight"


class Experts(nn.Module):
    """Experts without a gate: up and down have the same sizes in both orders."""

    def __init__(self, shapes: Mapping[str, tuple[int, ...]], **attributes: bool):
        super().__init__()
        for name, shape in shapes.items():
            setattr(self, name, nn.Parameter(torch.empty(shape, device="meta")))
        for name, value in attributes.items():
            setattr(self, name, value)


class GptOssExperts(Experts):
    """Known by name to be stored (experts, in, out)."""


PLAIN = {"up_proj": (4, 24, 32), "down_proj": (4, 32, 24)}
SQUARE = {"gate_up_proj": (4, 48, 24), "down_proj": (4, 24, 24)}


def test_the_order_of_experts_comes_from_the_module_where_shapes_leave_it_open():
    assert geometry_of(Experts(PLAIN), "up_proj") == Geometry(32, 24, stack=1)
    assert geometry_of(Experts(PLAIN, is_transposed=True), "up_proj") == Geometry(24, 32, "in_out", stack=1)
    assert geometry_of(GptOssExperts(PLAIN), "down_proj") == Geometry(32, 24, "in_out", stack=1)
    assert geometry_of(GptOssExperts(SQUARE), "gate_up_proj").order == "out_in"


def test_experts_that_are_not_concatenated_take_turns():
    assert geometry_of(Experts(SQUARE), "gate_up_proj").parts == (24, 24)
    assert geometry_of(Experts(SQUARE, is_concatenated=False), "gate_up_proj") == Geometry(24, 24, stack=1)


def test_experts_of_llama4_are_stored_in_out_in_whole_blocks():
    specs = describe_model(on_meta("Llama4ForCausalLM", "Llama4TextConfig", **GROUPED, num_local_experts=4, head_dim=8))
    name = "model.layers.1.feed_forward.experts.gate_up_proj"
    assert specs[name].geometry == Geometry(32, 48, "in_out", stack=1, parts=(48, 48))
    assert specs["model.layers.1.feed_forward.router.weight"].role == "router.weight"


def test_experts_of_dbrx_lie_below_one_another():
    experts = {"moe_num_experts": 4, "ffn_hidden_size": 24}
    size = {"d_model": 32, "n_heads": 4, "n_layers": 1, "vocab_size": 64}
    attention = {"rope_theta": 10000.0}
    specs = describe_model(on_meta("DbrxModel", "DbrxConfig", **size, ffn_config=experts, attn_config=attention))
    assert specs["blocks.0.ffn.experts.mlp.w1"].geometry == Geometry(32, 24, parts=(24,) * 4)
    assert specs["blocks.0.ffn.experts.mlp.w2"].geometry == Geometry(24, 32, "in_out")
    assert specs["blocks.0.ffn.router.layer.weight"].role == "router.weight"


def test_experts_in_a_list_are_experts_too():
    block = nn.ModuleDict({"w1": nn.Linear(8, 12), "w3": nn.Linear(8, 12), "w2": nn.Linear(12, 8)})
    specs = describe_model(nn.ModuleDict({"gate": nn.Linear(8, 2), "experts": nn.ModuleList([block])}))
    assert specs["experts.0.w1.weight"].role == "expert.gate.weight"
    assert specs["experts.0.w2.bias"].role == "expert.down.bias"
    assert specs["gate.weight"].role == "router.weight"


class PlusOne(nn.Module):
    """A norm by the name of its subclasses alone."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * (1.0 + self.weight.float())


class ShiftedRMSNorm(PlusOne):
    """Inherits the forward that adds one."""


class PlainRMSNorm(PlusOne):
    """Says 1 + self.weight in words only."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.weight + 1  # not 1 + self.weight


def test_a_norm_that_adds_one_to_its_weight_is_told_by_its_source():
    assert describe_model(ShiftedRMSNorm())["weight"].role == "norm_plus_one.weight"
    assert describe_model(PlainRMSNorm())["weight"].role == "norm.weight"
    namespace = {"PlusOne": PlusOne}
    exec("class HiddenRMSNorm(PlusOne):\n def forward(self, x):\n  return x * (1 + self.weight)", namespace)
    assert describe_model(namespace["HiddenRMSNorm"]())["weight"].role == "norm.weight"
    assert describe_model(nn.ModuleDict({"a": PlusOne()}))["a.weight"].role == "parameter"


def test_the_last_norm_of_a_branch_is_told_from_the_norm_before_the_next():
    olmo = describe_model(on_meta("Olmo2Model", "Olmo2Config", **GROUPED))
    assert olmo["layers.0.post_attention_layernorm.weight"].role == "norm.residual.weight"
    assert described("llama")["model.layers.0.post_attention_layernorm.weight"].role == "norm.weight"


class Loose(nn.Module):
    """Parameters that no layer owns."""

    def __init__(self):
        super().__init__()
        self.alpha = nn.Parameter(torch.zeros(1))
        self.gate = nn.Parameter(torch.zeros(3, 2))
        self.layer_scale = nn.ParameterList([torch.ones(4), torch.ones(4)])
        self.cls_token = nn.Parameter(torch.zeros(1, 1, 4))
        self.whatever = nn.Parameter(torch.zeros(()))
        self.register_buffer("table", torch.zeros(2))
        self.register_buffer("hidden", torch.zeros(2), persistent=False)


def test_bare_parameters_and_buffers():
    model = Loose()
    assert {name: spec.role for name, spec in describe_model(model).items()} == {
        "alpha": "gate",
        "gate": "parameter",
        "cls_token": "token",
        "whatever": "parameter",
        "table": "buffer",
        "layer_scale.0": "layer_scale",
        "layer_scale.1": "layer_scale",
    }
    assert buffers(model) == (("table",), ("hidden",))


def test_a_parametrized_weight_belongs_to_its_layer():
    layer = parametrizations.spectral_norm(nn.Linear(4, 3))
    assert describe_model(layer)["parametrizations.weight.original"].role == "linear.weight"
    assert describe_model(layer)["parametrizations.weight.original"].geometry == Geometry(4, 3)
    assert describe_model(layer)["parametrizations.weight.original"].module[1] == "Linear"
    normed = describe_model(nn.Sequential(parametrizations.weight_norm(nn.Conv1d(4, 6, 3))))
    assert normed["0.parametrizations.weight.original0"].role == "weight_norm.magnitude"
    assert normed["0.parametrizations.weight.original1"].geometry == Geometry(12, 18)


class Renamed(nn.Linear):
    """Writes its state under a name that no module has."""

    def _save_to_state_dict(self, destination, prefix, keep_vars):
        destination[f"{prefix}inner.packed"] = self.weight
        destination[f"{prefix}_extra_state"] = {"not": "a tensor"}


def test_a_name_without_a_module_is_a_parameter_of_which_nothing_is_known():
    specs = describe_model(Renamed(2, 3))
    assert specs == {
        "inner.packed": TensorSpec("inner.packed", (3, 2), "float32", "inner.packed", address=("inner.packed",))
    }


def test_a_tied_tensor_is_described_under_every_name():
    model = MODELS["t5"]()
    assert shared(model) == dict.fromkeys(
        ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight", "lm_head.weight"), "shared.weight"
    )
    specs = describe_model(model)
    assert specs["shared.weight"].shape == specs["lm_head.weight"].shape
    assert specs["shared.weight"].role != specs["lm_head.weight"].role
    assert shared(MODELS["llama"]()) == {}


def test_a_parameter_known_under_another_name_is_known():
    assert described("bert")["cls.predictions.bias"].role == "output_embedding.bias"


def test_batch_statistics_are_stored_and_position_ids_are_not():
    stored, left_out = buffers(MODELS["bert"]())
    assert (stored, left_out) == ((), ("bert.embeddings.position_ids", "bert.embeddings.token_type_ids"))
    assert len(buffers(MODELS["resnet"]())[0]) % 3 == 0


def test_matching_takes_the_words_of_a_role_in_their_order():
    assert matches("norm.weight", "norm.weight")
    assert matches("norm.weight", "norm")
    assert matches("norm.residual.weight", "norm.weight")
    assert matches("attention.query.bias", "attention.bias")
    assert not matches("norm_plus_one.weight", "norm")
    assert not matches("attention.query.weight", "query.weight")
    assert not matches("norm.weight", "weight.norm")
    assert not matches("norm", "norm.weight")
    assert not matches("norm.weight", "")


@given(st.sampled_from(sorted(ROLES)), st.data())
def test_a_role_matches_itself_and_its_prefixes(role: str, data: st.DataObject):
    words = role.split(".")
    length = data.draw(st.integers(1, len(words)))
    assert matches(role, ".".join(words[:length]))
    assert not matches(role, f"{role}.more")
    assert not matches(role, f"x{role}")


@pytest.mark.parametrize("pattern", RESIDUAL)
def test_every_pattern_of_a_residual_branch_names_a_role(pattern: str):
    assert any(matches(role, pattern) for role in ROLES)


def test_a_real_checkpoint_with_a_recurrent_head_has_no_unknown_role(minilm: Path):
    specs = describe_model(_bert_with_lstm(transformers.BertConfig.from_pretrained(minilm)))
    assert wrong_roles(specs, EXPECTED["bert_lstm"]) == []
    assert specs["lstm.weight_ih_l0"].geometry == Geometry(384, 16, parts=(16,) * 4)


def test_a_thousand_modules_take_a_moment():
    model = on_meta("GPT2LMHeadModel", "GPT2Config", **{**GPT2, "n_layer": 80})
    assert sum(1 for _ in model.modules()) > 1000
    assert min(_seconds(model) for _ in range(3)) < 0.3


def _seconds(model: nn.Module) -> float:
    start = time.perf_counter()
    describe_model(model)
    return time.perf_counter() - start
