"""Names by which architectures call their parts. Each means something only in surroundings that bear it out."""

from __future__ import annotations

from collections.abc import Mapping

_QUERY = (
    "q_proj",
    "query",
    "q",
    "q_lin",
    "to_q",
    "linear_q",
    "q_linear",
    "query_proj",
    "projection_query",
    "wq",
    "q_head",
)
_KEY = ("k_proj", "key", "k", "k_lin", "to_k", "linear_k", "k_linear", "key_proj", "projection_key", "wk", "k_head")
_VALUE = (
    "v_proj",
    "value",
    "v",
    "v_lin",
    "to_v",
    "linear_v",
    "v_linear",
    "value_proj",
    "projection_value",
    "wv",
    "v_head",
)
_FUSED = ("c_attn", "query_key_value", "qkv_proj", "qkv", "Wqkv", "att_proj", "to_qkv", "wqkv", "W_pack", "qkv_linear")
_OUTPUT = ("o_proj", "out_proj", "dense", "c_proj", "proj", "o", "out_lin", "to_out", "linear_out", "Wo", "wo", "out")
_MORE_OUTPUT = (
    "output_proj",
    "out_project",
    "output",
    "projection",
    "proj_out",
    "o_lin",
    "linear_proj",
    "post",
    "post_proj",
    "projection_layer",
)

ATTENTION: Mapping[str, str] = {
    **dict.fromkeys((*_QUERY, "q_attn", "q_b_proj", "wq_b", "query_global"), "attention.query"),
    **dict.fromkeys((*_KEY, "key_global"), "attention.key"),
    **dict.fromkeys((*_VALUE, "value_global"), "attention.value"),
    **dict.fromkeys(_FUSED, "attention.qkv"),
    **dict.fromkeys(("kv_proj", "to_kv", "kv", "kv_b_proj"), "attention.kv"),
    **dict.fromkeys(("q_a_proj", "kv_a_proj_with_mqa"), "attention.latent"),
    **dict.fromkeys((*_OUTPUT, *_MORE_OUTPUT), "attention.output"),
}
"""The children of an attention: an attention is a module that has one of ``WHOLE`` among them."""

WHOLE = (
    {"attention.query", "attention.key", "attention.value"},
    {"attention.qkv"},
    {"attention.query", "attention.kv"},
)

OUTPUT_BESIDE = ("output.dense", "output", "self_output.dense")
"""The output projection, where it is beside the module that has the query, key and value."""

INTERLEAVED = frozenset(
    {
        "GPTNeoXAttention",
        "GPTNeoXJapaneseAttention",
        "BloomAttention",
        "FalconAttention",
        "PersimmonAttention",
        "GPTBigCodeAttention",
        "CodeGenAttention",
        "MiniMaxLightningAttention",
    }
)
"""Attentions whose fused rows are stored head by head; with one key head that comes to whole blocks again."""

KEY_VALUE_BY_HEAD = frozenset({"kv_b_proj"})
"""Fused key and value projections that are always stored head by head."""

MULTIHEAD: Mapping[str, str] = {
    "in_proj_weight": "attention.qkv.weight",
    "in_proj_bias": "attention.qkv.bias",
    "q_proj_weight": "attention.query.weight",
    "k_proj_weight": "attention.key.weight",
    "v_proj_weight": "attention.value.weight",
    "out_proj": "attention.output",
}
"""What torch's MultiheadAttention is made of."""

BETWEEN_MODELS = frozenset({"multi_modal_projector", "multimodal_projector", "mm_projector"})
"""Modules that make of what one model gives what another reads."""

MLP: tuple[tuple[str | None, str, str], ...] = (
    ("gate_proj", "up_proj", "down_proj"),
    ("wi_0", "wi_1", "wo"),
    ("w1", "w3", "w2"),
    ("proj_up_gate", "proj_up", "proj_down"),
    (None, "gate_up_proj", "down_proj"),
    (None, "up_proj", "down_proj"),
    (None, "fc1", "fc2"),
    (None, "c_fc", "c_proj"),
    (None, "wi", "wo"),
    (None, "Wi", "Wo"),
    (None, "lin1", "lin2"),
    (None, "linear1", "linear2"),
    (None, "linear_1", "linear_2"),
    (None, "linear_fc1", "linear_fc2"),
    (None, "dense1", "dense2"),
    (None, "fc_in", "fc_out"),
    (None, "pwconv1", "pwconv2"),
    (None, "dense_h_to_4h", "dense_4h_to_h"),
    (None, "intermediate_dense", "output_dense"),
    (None, "intermediate.dense", "output.dense"),
    (None, "weights_in", "weights_out"),
    (None, "input_linear", "output_linear"),
    (None, "ffn", "ffn_output"),
    (None, "intermediate", "output"),
    (None, "intermediate_query.dense", "output_query.dense"),
    (None, "pointwise_conv1", "pointwise_conv2"),
    (None, "proj_in", "proj_out"),
    (None, "ffw_layer_1", "ffw_layer_2"),
)
"""Gate, up and down of a feed-forward block, where their sizes agree; an up twice as wide as down holds a gate too."""

MIXERS: tuple[tuple[str, str], ...] = (("conv1d", "out_proj"), ("conv", "out_proj"), ("conv_1d", "linear_out"))
"""The convolution of a mixer (Mamba, a gated delta net, a recurrent block), and the projection that ends it."""

EXPERTS: Mapping[str, str] = {
    "gate_up_proj": "expert.gate_up",
    "gate_proj": "expert.gate",
    "up_proj": "expert.up",
    "down_proj": "expert.down",
}
"""Experts in one tensor, the first dimension theirs; their biases have the same names and ``_bias``."""

FLAT_EXPERTS = ("w1", "v1", "w2")
"""Gate, up and down of experts that are stored one below the other, all ``(experts * size, hidden)``."""

STORED_IN_OUT = frozenset({"GptOssExperts", "Llama4TextExperts", "AriaExperts", "OpenAIPrivacyFilterExperts"})
"""Experts stored ``(experts, in, out)``, for shapes that could be either."""

TAKING_TURNS = frozenset({"GptOssExperts"})
"""Experts whose gate and up columns take turns, for releases of the library that don't say so on the module."""

ROUTERS = frozenset({"gate", "router", "shared_expert_gate"})
"""What a module with experts calls the child that chooses among them."""

NORMALIZATION = r"Norm(alization)?(\dd|1P|2D|Gated)?$"
"""How the class of a norm, or one of its bases, ends."""

RESIDUAL_NORMS = (
    ("post_attention_layernorm", "post_feedforward_layernorm"),
    ("post_self_attn_layernorm", "post_mlp_layernorm"),
)
"""The norms that end the two branches of a layer; alone, the first of a pair is the norm before the second branch."""

EMBEDDINGS: Mapping[str, str] = {
    **dict.fromkeys(("embed_tokens", "word_embeddings", "wte", "tok_embeddings", "token_embedding"), "embedding.token"),
    **dict.fromkeys(("shared", "tokens_embed", "embed_in", "word_embedding"), "embedding.token"),
    **dict.fromkeys(("position_embeddings", "embed_positions", "wpe", "position_embedding"), "embedding.position"),
    **dict.fromkeys(("pos_embed", "positional_embedding", "pos_embedding", "positions_embed"), "embedding.position"),
    **dict.fromkeys(("decoder_position_embeddings", "mid_position_embeddings"), "embedding.position"),
    **dict.fromkeys(("relative_attention_bias", "relative_position_bias_table"), "embedding.relative"),
    **dict.fromkeys(("rel_pos_h", "rel_pos_w", "distance_embedding", "rel_attn_embed"), "embedding.relative"),
    **dict.fromkeys(("rel_embeddings", "relative_attention_bias_table"), "embedding.relative"),
    **dict.fromkeys(("token_type_embeddings", "segment_embeddings"), "embedding.token_type"),
}
"""Tables, whether an Embedding or a bare parameter."""

OUTPUT_EMBEDDINGS = frozenset({"lm_head", "embed_out"})

PARAMETERS: Mapping[str, str] = {
    **dict.fromkeys(("cls_token", "mask_token", "masked_spec_embed", "class_embedding", "query_tokens"), "token"),
    **dict.fromkeys(("distillation_token", "register_tokens", "detection_tokens", "class_token"), "token"),
    **dict.fromkeys(("image_newline", "probe", "latents", "mask_emb", "bias_k", "bias_v"), "token"),
    **dict.fromkeys(("layer_scale", "layer_scale_1", "layer_scale_2", "layer_scale_parameter"), "layer_scale"),
    **dict.fromkeys(("lambda1", "lambda_1", "lambda_2", "gamma_1", "gamma_2", "ffn_gamma", "gamma"), "layer_scale"),
    **dict.fromkeys(("alpha_cross_attn", "alpha_dense", "cross_attn_attn_gate", "cross_attn_mlp_gate"), "gate"),
    **dict.fromkeys(("alpha", "gate", "gate_attn", "gate_ffn", "attn_gate", "ffn_gate"), "gate"),
    **dict.fromkeys(("gate_attention", "gate_ffw"), "gate"),
    "sinks": "attention.sink",
    "logit_scale": "logit_scale",
    "q_bias": "attention.query.bias",
    "v_bias": "attention.value.bias",
    "e_score_correction_bias": "router.bias",
}
"""Bare parameters."""

VECTORS = frozenset({"layer_scale", "gate", "attention.sink", "logit_scale"})
"""Roles that only a number or a vector can have, whatever its name."""

BUFFERS: Mapping[str, str] = {"e_score_correction_bias": "router.bias"}
"""Buffers that do more than stay as they are."""

ONE_NUMBER = frozenset({"alpha", "gate"})
"""Names that many things have: what is called so is a gate if it is a single number."""

NORM: Mapping[str, str] = {
    **{name: name for name in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")},
    "scale": "weight",
    "gamma": "weight",
    "beta": "bias",
}
"""The tensors of a norm."""

GATES: Mapping[str, int] = {"LSTM": 4, "GRU": 3, "RNN": 1, "LSTMCell": 4, "GRUCell": 3, "RNNCell": 1}
"""How many gates the tensors of a recurrent layer hold: input, forget, cell, output; reset, update, new."""

RECURRENT = r"(?P<leaf>weight|bias)_(?P<side>ih|hh|hr)(_l\d+(_reverse)?)?"
"""The tensors of a recurrent layer."""

SIDES: Mapping[str, str] = {"ih": "input", "hh": "hidden", "hr": "projection"}
