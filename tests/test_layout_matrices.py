"""Logical matrices: the fans of a tensor, its parts and groups, and what else belongs to it."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pytest
import torch
from layout_models import GPT2, GROUPED, MODELS, SMALL, described, on_meta
from torch import nn
from torch.nn.utils import parametrizations

from hf_init._architecture.describe import buffers, describe_model, shared
from hf_init._roles import RESIDUAL, ROLES, matches
from hf_init._tensors import Geometry, TensorSpec


def full_size(model: str, config: str, **settings) -> nn.Module:
    return on_meta(model, config, bos_token_id=None, eos_token_id=None, pad_token_id=None, **settings)


class Fused(nn.Module):
    """An attention and a feed-forward block with fused projections, in bare torch."""

    def __init__(self, size: int, inner: int, key: int | None = None, odd: int = 0):
        super().__init__()
        self.qkv_proj = nn.Linear(size, size + 2 * (key or size) + odd, device="meta")
        self.o_proj = nn.Linear(size, size, device="meta")
        self.gate_up_proj = nn.Linear(size, 2 * inner, device="meta")
        self.down_proj = nn.Linear(inner - odd, size, device="meta")


class Bare(nn.Module):
    """Parameters that no layer owns, by their shapes, and attributes."""

    def __init__(self, shapes: Mapping[str, tuple[int, ...]], **attributes: bool):
        super().__init__()
        for name, shape in shapes.items():
            setattr(self, name, nn.Parameter(torch.empty(shape, device="meta")))
        for name, value in attributes.items():
            setattr(self, name, value)


class GptOssExperts(Bare):
    """Known by name to be stored (experts, in, out)."""


PLAIN = {"up_proj": (4, 24, 32), "down_proj": (4, 32, 24)}
SQUARE = {"gate_up_proj": (4, 48, 24), "down_proj": (4, 24, 24)}


class Loose(Bare):
    """Some that have a name to go by, some that have none, and buffers."""

    def __init__(self):
        super().__init__({"alpha": (1,), "gate": (3, 2), "cls_token": (1, 1, 4), "whatever": ()})
        self.layer_scale = nn.ParameterList([torch.ones(4), torch.ones(4)])
        self.register_buffer("table", torch.zeros(2))
        self.register_buffer("hidden", torch.zeros(2), persistent=False)


class PlusOne(nn.Module):
    """A norm that adds one to its weight."""

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


class NotNamedSo(PlusOne):
    """Has a forward that adds one, and no name of a norm."""


def _without_source() -> type[nn.Module]:
    namespace = {"PlusOne": PlusOne}
    exec("class HiddenRMSNorm(PlusOne):\n def forward(self, x):\n  return x * (1 + self.weight)", namespace)
    return namespace["HiddenRMSNorm"]


class Renamed(nn.Linear):
    """Writes its state under a name that no module has."""

    def _save_to_state_dict(self, destination, prefix, keep_vars):
        destination[f"{prefix}inner.packed"] = self.weight
        destination[f"{prefix}_extra_state"] = {"not": "a tensor"}


def _experts_in_a_list() -> nn.Module:
    block = nn.ModuleDict({"w1": nn.Linear(8, 12), "w3": nn.Linear(8, 12), "w2": nn.Linear(12, 8)})
    return nn.ModuleDict({"gate": nn.Linear(8, 2), "experts": nn.ModuleList([block])})


def _convolutions() -> nn.Module:
    return nn.ModuleDict({
        "depthwise": nn.Conv2d(32, 32, 3, groups=32, device="meta"),
        "grouped": nn.Conv2d(256, 256, 3, groups=4, device="meta"),
        "transposed": nn.ConvTranspose2d(256, 64, 4, stride=2, device="meta"),
    })  # fmt: skip


DBRX = {"d_model": 32, "n_heads": 4, "n_layers": 1, "vocab_size": 64, "attn_config": {"rope_theta": 10000.0}}
FALCON = {**SMALL, "new_decoder_architecture": True, "num_kv_heads": 2}
THIRDS = (32, 32, 32)


# A module, a tensor of it, its role (None: seen elsewhere), and its logical matrix. Fans (in, out) are those of the
# computation, not of the shape; the sizes of the first are those of models as they are.


DESCRIBED: list[tuple[str, Callable[[], nn.Module], str, str | None, Geometry | None]] = [
    *(("gpt2, full", lambda: full_size("GPT2Model", "GPT2Config", n_layer=1), *row) for row in (
        ("h.0.attn.c_attn.weight", None, Geometry(768, 768, "in_out", parts=(768,) * 3)),
        ("h.0.mlp.c_fc.weight", None, Geometry(768, 3072, "in_out")),
        ("h.0.mlp.c_proj.weight", None, Geometry(3072, 768, "in_out")),
        *((name, None, None) for name in ("wte.weight", "wpe.weight", "h.0.ln_1.weight", "h.0.attn.c_attn.bias")),
    )),
    ("fused, full", lambda: Fused(4096, 11008), "qkv_proj.weight", None, Geometry(4096, 4096, parts=(4096,) * 3)),
    ("fused, full", lambda: Fused(4096, 11008), "gate_up_proj.weight", None, Geometry(4096, 11008, parts=(11008,) * 2)),
    # Grouped queries have parts of two sizes and no common fan out; sizes that don't add up are a plain layer's.
    ("grouped queries", lambda: Fused(32, 48, key=8), "qkv_proj.weight", None, Geometry(32, None, parts=(32, 8, 8))),
    ("odd sizes", lambda: Fused(32, 48, odd=1), "qkv_proj.weight", "linear.weight", Geometry(32, 97)),
    ("odd sizes", lambda: Fused(32, 48, odd=1), "gate_up_proj.weight", "linear.weight", Geometry(32, 96)),
    ("convolutions", _convolutions, "depthwise.weight", "conv.weight", Geometry(9, 9, groups=32)),
    ("convolutions", _convolutions, "grouped.weight", "conv.weight", Geometry(576, 576, groups=4)),
    ("convolutions", _convolutions, "transposed.weight", "conv_transpose.weight", Geometry(1024, 1024, "in_out")),
    *(("mixtral, full", lambda: full_size("MixtralModel", "MixtralConfig", num_hidden_layers=1), *row) for row in (
        ("layers.0.mlp.experts.gate_up_proj", None, Geometry(4096, 14336, stack=1, parts=(14336,) * 2)),
        ("layers.0.mlp.experts.down_proj", None, Geometry(14336, 4096, stack=1)),
    )),
    *(("gpt-oss, full", lambda: full_size("GptOssModel", "GptOssConfig", num_hidden_layers=1), *row) for row in (
        ("layers.0.mlp.experts.gate_up_proj", None, Geometry(2880, 2880, "in_out", stack=1)),  # taking turns
        ("layers.0.mlp.experts.down_proj", None, Geometry(2880, 2880, "in_out", stack=1)),
    )),
    *(("lstm, full", lambda: nn.LSTM(384, 512, device="meta"), name, None, Geometry(fan, 512, parts=(512,) * 4))
      for name, fan in (("weight_hh_l0", 512), ("weight_ih_l0", 384))),
    # Every gate of a recurrent layer has its own matrix; a bias has gates, but no fan that a scheme could divide by.
    *((cls.__name__, lambda cls=cls: cls(6, 5, device="meta"), *row) for cls, parts, end in (
        (nn.LSTM, (5,) * 4, "_l0"), (nn.GRU, (5,) * 3, "_l0"), (nn.RNN, (), "_l0"), (nn.LSTMCell, (5,) * 4, ""),
        (nn.GRUCell, (5,) * 3, ""),
    ) for row in (
        (f"weight_ih{end}", "recurrent.input.weight", Geometry(6, 5, parts=parts)),
        (f"weight_hh{end}", "recurrent.hidden.weight", Geometry(5, 5, parts=parts)),
        (f"bias_ih{end}", "recurrent.input.bias", Geometry(0, 5, parts=parts)),
        (f"bias_hh{end}", "recurrent.hidden.bias", Geometry(0, 5, parts=parts)),
    )),
    *(("a projected LSTM", lambda: nn.LSTM(6, 5, proj_size=3, device="meta"), *row) for row in (
        ("weight_hr_l0", "recurrent.projection.weight", Geometry(5, 3)),
        ("weight_hh_l0", "recurrent.hidden.weight", Geometry(3, 5, parts=(5,) * 4)),
    )),
    *(("gpt2 with cross-attention", lambda: on_meta("GPT2Model", "GPT2Config", **GPT2, add_cross_attention=True), *row)
      for row in (
        ("h.0.crossattention.q_attn.weight", "attention.query.weight", Geometry(32, 32, "in_out")),
        ("h.0.crossattention.c_attn.weight", "attention.kv.weight", Geometry(32, 32, "in_out", parts=(32, 32))),
    )),
    *(("torch's attention", lambda: nn.MultiheadAttention(32, 4, device="meta"), *row) for row in (
        ("in_proj_weight", "attention.qkv.weight", Geometry(32, 32, parts=THIRDS)),
        ("in_proj_bias", "attention.qkv.bias", None),
        ("out_proj.weight", "attention.output.weight", Geometry(32, 32)),
    )),
    *(("its projections apart", lambda: nn.MultiheadAttention(
        32, 4, kdim=16, vdim=24, add_bias_kv=True, device="meta"
    ), *row) for row in (
        ("k_proj_weight", "attention.key.weight", Geometry(16, 32)),
        ("v_proj_weight", "attention.value.weight", Geometry(24, 32)),
        ("bias_k", "token", None),
    )),
    *(("torch's encoder layer", lambda: nn.TransformerEncoderLayer(32, 4, 48, device="meta"), *row) for row in (
        ("linear1.weight", "mlp.up.weight", Geometry(32, 48)),
        ("linear2.bias", "mlp.down.bias", None),
        ("self_attn.out_proj.bias", "attention.output.bias", None),
        ("norm1.weight", "norm.weight", None),
    )),
    # The order of experts comes from the module where shapes leave it open; not concatenated, they take turns.
    ("plain experts", lambda: Bare(PLAIN), "up_proj", None, Geometry(32, 24, stack=1)),
    ("transposed", lambda: Bare(PLAIN, is_transposed=True), "up_proj", None, Geometry(24, 32, "in_out", stack=1)),
    ("by name", lambda: GptOssExperts(PLAIN), "down_proj", None, Geometry(32, 24, "in_out", stack=1)),
    ("square", lambda: Bare(SQUARE), "gate_up_proj", None, Geometry(24, 24, stack=1, parts=(24, 24))),
    ("square, by name", lambda: GptOssExperts(SQUARE), "gate_up_proj", None, Geometry(24, 24, stack=1)),
    ("in turns", lambda: Bare(SQUARE, is_concatenated=False), "gate_up_proj", None, Geometry(24, 24, stack=1)),
    *(("llama4", lambda: on_meta(
        "Llama4ForCausalLM", "Llama4TextConfig", **GROUPED, num_local_experts=4, head_dim=8
    ), f"model.layers.1.feed_forward.{name}", *row) for name, *row in (
        ("experts.gate_up_proj", None, Geometry(32, 48, "in_out", stack=1, parts=(48, 48))),
        ("router.weight", "router.weight", Geometry(32, 4)),
    )),
    *(("dbrx", lambda: on_meta(
        "DbrxModel", "DbrxConfig", **DBRX, ffn_config={"moe_num_experts": 4, "ffn_hidden_size": 24}
    ), f"blocks.0.ffn.{name}", *row) for name, *row in (
        ("experts.mlp.w1", None, Geometry(32, 24, parts=(24,) * 4)),
        ("experts.mlp.w2", None, Geometry(24, 32, "in_out")),
        ("router.layer.weight", "router.weight", Geometry(32, 4)),
    )),
    *(("experts in a list", _experts_in_a_list, *row) for row in (
        ("experts.0.w1.weight", "expert.gate.weight", Geometry(8, 12)),
        ("experts.0.w2.bias", "expert.down.bias", None),
        ("gate.weight", "router.weight", Geometry(8, 2)),
    )),
    # A norm that adds one to its weight is told by its source.
    ("shifted", ShiftedRMSNorm, "weight", "norm_plus_one.weight", None),
    ("not shifted", PlainRMSNorm, "weight", "norm.weight", None),
    ("no source", lambda: _without_source()(), "weight", "norm.weight", None),
    ("no norm", NotNamedSo, "weight", "parameter", None),
    # The last norm of a branch is told from the norm before the next.
    ("olmo2", lambda: on_meta("Olmo2Model", "Olmo2Config", **GROUPED), "layers.0.post_attention_layernorm.weight",
     "norm.residual.weight", None),
    *(("loose", Loose, name, role, None) for name, role in {
        "alpha": "gate", "gate": "parameter", "cls_token": "token", "whatever": "parameter", "table": "buffer",
        "layer_scale.0": "layer_scale", "layer_scale.1": "layer_scale",
    }.items()),
    ("spectral norm", lambda: parametrizations.spectral_norm(nn.Linear(4, 3)), "parametrizations.weight.original",
     "linear.weight", Geometry(4, 3)),
    *(("weight norm", lambda: nn.Sequential(parametrizations.weight_norm(nn.Conv1d(4, 6, 3))), *row) for row in (
        ("0.parametrizations.weight.original0", "weight_norm.magnitude", None),
        ("0.parametrizations.weight.original1", "weight_norm.direction", Geometry(12, 18)),
    )),
    # A fused projection is cut only where its parts are blocks.
    *((f"{model} {settings.get('num_kv_heads', settings.get('multi_query', ''))}",
       lambda model=model, config=config, settings=settings: on_meta(model, config, **settings), name,
       "attention.qkv.weight", geometry) for model, config, settings, name, geometry in (
        ("GPTNeoXModel", "GPTNeoXConfig", GROUPED, "layers.1.attention.query_key_value.weight", Geometry(32, 32)),
        ("BloomModel", "BloomConfig", {"hidden_size": 32, "n_layer": 2, "n_head": 4, "vocab_size": 64},
         "h.1.self_attention.query_key_value.weight", Geometry(32, 32)),
        ("FalconModel", "FalconConfig", SMALL, "h.1.self_attention.query_key_value.weight",
         Geometry(32, None, parts=(32, 8, 8))),
        ("FalconModel", "FalconConfig", FALCON, "h.1.self_attention.query_key_value.weight", Geometry(32, 32)),
        ("GPTBigCodeModel", "GPTBigCodeConfig", GPT2, "h.1.attn.c_attn.weight", Geometry(32, None, parts=(32, 8, 8))),
        ("GPTBigCodeModel", "GPTBigCodeConfig", {**GPT2, "multi_query": False}, "h.1.attn.c_attn.weight",
         Geometry(32, 32)),
        ("Phi3Model", "Phi3Config", GROUPED, "layers.1.self_attn.qkv_proj.weight",
         Geometry(32, None, parts=(32, 16, 16))),
        ("ModernBertModel", "ModernBertConfig", GROUPED, "layers.1.attn.Wqkv.weight", Geometry(32, 32, parts=THIRDS)),
        ("MptModel", "MptConfig", {"d_model": 32, "n_heads": 4, "n_layers": 2, "vocab_size": 64},
         "blocks.1.attn.Wqkv.weight", Geometry(32, 32, parts=THIRDS)),
    )),
]  # fmt: skip


@pytest.mark.parametrize(
    ("_", "make", "name", "role", "geometry"), DESCRIBED, ids=lambda v: v if isinstance(v, str) else ""
)
def test_a_tensor_has_its_role_and_its_logical_matrix(_, make, name, role, geometry):
    spec = describe_model(make())[name]
    assert role in (None, spec.role) and spec.geometry == geometry


def test_what_belongs_to_a_tensor_besides():
    bert, llama = described("bert"), described("llama")
    assert bert["bert.embeddings.word_embeddings.weight"].padding == 0
    assert bert["bert.embeddings.position_embeddings.weight"].padding is None
    assert bert["cls.predictions.decoder.weight"].padding is None
    assert bert["cls.predictions.bias"].role == "output_embedding.bias", "known under another name"
    assert llama["model.layers.0.post_attention_layernorm.weight"].role == "norm.weight"
    layer = describe_model(parametrizations.spectral_norm(nn.Linear(4, 3)))
    assert layer["parametrizations.weight.original"].module[1] == "Linear"
    assert describe_model(Renamed(2, 3)) == {
        "inner.packed": TensorSpec("inner.packed", (3, 2), "float32", "inner.packed", address=("inner.packed",))
    }, "of a name without a module nothing is known"


def test_ties_and_buffers_are_told():
    model = MODELS["t5"]()
    names = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight", "lm_head.weight")
    assert shared(model) == dict.fromkeys(names, "shared.weight") and shared(MODELS["llama"]()) == {}
    specs = describe_model(model)
    assert specs["shared.weight"].shape == specs["lm_head.weight"].shape
    assert specs["shared.weight"].role != specs["lm_head.weight"].role
    assert buffers(Loose()) == (("table",), ("hidden",))
    assert buffers(MODELS["bert"]()) == ((), ("bert.embeddings.position_ids", "bert.embeddings.token_type_ids"))
    assert len(buffers(MODELS["resnet"]())[0]) % 3 == 0, "batch statistics are stored"


@pytest.mark.parametrize(
    ("role", "pattern", "fits"),
    [
        ("norm.weight", "norm.weight", True),
        ("norm.weight", "norm", True),
        ("norm.residual.weight", "norm.weight", True),
        ("attention.query.bias", "attention.bias", True),
        ("norm_plus_one.weight", "norm", False),
        ("attention.query.weight", "query.weight", False),
        ("norm.weight", "weight.norm", False),
        ("norm", "norm.weight", False),
        ("norm.weight", "", False),
    ],
)
def test_matching_takes_the_words_of_a_role_in_their_order(role, pattern, fits):
    assert matches(role, pattern) == fits


def test_a_role_matches_itself_and_its_prefixes():
    for role in ROLES:
        words = role.split(".")
        assert all(matches(role, ".".join(words[:length])) for length in range(1, len(words) + 1))
        assert not matches(role, f"{role}.more") and not matches(role, f"x{role}")
    assert all(any(matches(role, pattern) for role in ROLES) for pattern in RESIDUAL)
