"""Models on meta, by the names of their classes."""

from __future__ import annotations

from functools import cache

import torch
import transformers
from torch import nn

from hf_init._architecture.describe import describe_model
from hf_init._tensors import TensorSpec

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
