"""The tiny bases of same_results.py: made of configs by transformers alone, from one seed."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers as t
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

WORDS = "good bad film news sport a the of was it is moving dull story acting great awful photon light house stone red"
SIZE: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 64,
}
VISION: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": 16,
    "patch_size": 8,
}
AUDIO: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "conv_dim": (16, 16),
    "conv_stride": (4, 4),
    "conv_kernel": (8, 8),
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
}
LABELS = {"id2label": {0: "neg", 1: "neutral", 2: "pos"}, "label2id": {"neg": 0, "neutral": 1, "pos": 2}}


def word_pieces() -> Any:
    """Make BERT's kind of tokenizer: whole words, and letters for all others."""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    texts = [*special, *sorted({*letters, *(f"##{letter}" for letter in letters), *WORDS.split()})]
    made = Tokenizer(models.WordPiece(vocab={text: id_ for id_, text in enumerate(texts)}, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    named = {f"{name.strip('[]').lower()}_token": name for name in special}
    return t.PreTrainedTokenizerFast(tokenizer_object=made, **named)


def byte_pieces(size: int, text: str) -> Any:
    """Train a byte-level tokenizer."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    special, alphabet = ["<s>", "</s>", "<pad>"], pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=size, special_tokens=special, initial_alphabet=alphabet)
    made.train_from_iterator([text], trainer)
    return t.PreTrainedTokenizerFast(
        tokenizer_object=made, bos_token="<s>", eos_token="</s>", pad_token="<pad>", padding_side="right"
    )


def save(folder: Path, model: Any, tokenizer: Any = None, dtype: Any = torch.float32, **options: Any) -> None:
    """Save a model whose values are spread as those of a trained one."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.3 if parameter.ndim > 1 else 0.05)
    model.to(dtype).save_pretrained(folder, **options)
    if tokenizer is not None:
        tokenizer.save_pretrained(folder)


def make(root: Path) -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    pieces, bytes_, others = word_pieces(), byte_pieces(290, WORDS * 3), byte_pieces(320, WORDS[::-1] + WORDS * 2)
    ids = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
    bert = t.BertConfig(vocab_size=len(pieces), **SIZE)
    save(root / "bert", t.BertModel(bert), pieces)
    save(root / "bert-mlm", t.BertForMaskedLM(bert), pieces)
    save(root / "classifier", t.BertForSequenceClassification(t.BertConfig(vocab_size=len(pieces), **SIZE, **LABELS)))
    llama: dict[str, Any] = {**SIZE, **ids, "num_key_value_heads": 2}
    tied = t.LlamaConfig(vocab_size=len(bytes_), **llama, tie_word_embeddings=True)
    save(root / "tied", t.LlamaForCausalLM(tied), bytes_)
    save(root / "shards", t.LlamaForCausalLM(tied), bytes_, max_shard_size="40KB")
    untied = t.LlamaConfig(vocab_size=len(bytes_) + 14, **llama, tie_word_embeddings=False)
    save(root / "untied", t.LlamaForCausalLM(untied), bytes_, torch.bfloat16)
    save(root / "donor", t.LlamaForCausalLM(t.LlamaConfig(vocab_size=len(others), **llama)), others)
    others.save_pretrained(root / "other-tokenizer")
    mixtral = t.MixtralConfig(vocab_size=96, **llama, num_local_experts=4)
    save(root / "mixtral", t.MixtralForCausalLM(mixtral))
    experts: dict[str, Any] = {"num_experts": 4, "moe_intermediate_size": 16, "shared_expert_intermediate_size": 32}
    save(root / "qwen-moe", t.Qwen2MoeForCausalLM(t.Qwen2MoeConfig(vocab_size=96, **llama, **experts)))
    save(root / "gpt2", t.GPT2LMHeadModel(t.GPT2Config(vocab_size=96, n_embd=32, n_layer=2, n_head=4, n_positions=64)))
    save(root / "vit", t.ViTModel(t.ViTConfig(**VISION)))
    save(root / "clip", t.CLIPVisionModel(t.CLIPVisionConfig(**VISION)))
    save(root / "wav2vec2", t.Wav2Vec2Model(t.Wav2Vec2Config(vocab_size=32, **AUDIO)))
    np.save(root / "rows.npy", np.linspace(-1, 1, 2 * SIZE["hidden_size"], dtype="float32").reshape(2, -1))


if __name__ == "__main__":
    make(Path(sys.argv[1]))
