"""Roles: what every tensor of an architecture does."""

from __future__ import annotations

import math
from collections.abc import Mapping
from fnmatch import fnmatchcase

import pytest
import torch
from layout_models import MODELS, described
from torch import nn

from hf_init._architecture.describe import describe_model
from hf_init._roles import ROLES
from hf_init._tensors import TensorSpec

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
