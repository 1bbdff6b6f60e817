"""Bases of the families that grow, and a result that is shown to be what its plan claims."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers

import hf_init

SIZES = {"vocab_size": 96, "hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4}
DECODER = {**SIZES, "intermediate_size": 48, "num_key_value_heads": 2, "max_position_embeddings": 64}
TEXT = {**SIZES, "intermediate_size": 48, "max_position_embeddings": 64}
SEEN = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 4, "num_attention_heads": 4, "image_size": 16,
        "patch_size": 4}  # fmt: skip
EXPERTS = {**DECODER, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
WINDOWS = {"image_size": 32, "patch_size": 2, "embed_dim": 8, "depths": [1, 1], "num_heads": [1, 2], "window_size": 4}
HEARD = {"encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 4, "decoder_attention_heads": 4,
         "encoder_ffn_dim": 48, "decoder_ffn_dim": 48, "vocab_size": 96, "d_model": 32, "max_source_positions": 32,
         "max_target_positions": 32}  # fmt: skip
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
GROWN: dict[str, tuple[str, dict[str, Any]]] = FAMILIES | {
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
    "rwkv": ("RwkvForCausalLM", {"vocab_size": 96, "hidden_size": 32, "num_hidden_layers": 2, "context_length": 64}),
    "inkling2": (
        "Inkling2TextModel",
        {
            "vocab_size": 96,
            "unpadded_vocab_size": 96,
            "hidden_size": 288,
            "num_hidden_layers": 2,
            "eos_token_id": 1,
            "layer_types": ["hybrid_sliding", "hybrid"],
            "num_attention_heads": 8,
            "num_key_value_heads": 2,
            "head_dim": 8,
            "swa_num_attention_heads": 8,
            "swa_num_key_value_heads": 2,
            "swa_head_dim": 8,
            "n_routed_experts": 4,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 16,
            "d_rel": 2,
            "rel_extent": 64,
            "sliding_window_size": 64,
        },
    ),
    "phi3": ("Phi3ForCausalLM", {**DECODER, "pad_token_id": 0}),
}
"""Those, and families of which something else than the layers grows."""


def write_family(name: str, dtype: torch.dtype, folder: Path) -> Path:
    """Write a tiny model of a family, with every value drawn."""
    cls, values = GROWN[name]
    kind = getattr(transformers, cls)
    torch.manual_seed(3)
    model = kind(kind.config_class(**values))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    model.to(dtype).save_pretrained(folder)
    return folder


def extended(base, out, **options):
    """Write and run a result; give its plan."""
    hf_init.extend(base, out, prove_function=True, **options)
    return hf_init.Plan.load(out)
