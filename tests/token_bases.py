"""What the tests of tokens share: tiny checkpoints of several families, each with a byte-level tokenizer of its own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import load_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

SPECIAL = ("<s>", "</s>", "<pad>", "<unk>", "<image>", "<boi>", "<eoi>")
MERGES = (("a", "b"), ("ab", "c"), ("\u0120", "t"), ("\u0120t", "he"), ("h", "e"))
IDS: dict[str, Any] = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
SIZE: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
PLACES: dict[str, Any] = {"max_position_embeddings": 64}
T5: dict[str, Any] = {
    "d_model": 32,
    "d_kv": 8,
    "d_ff": 32,
    "num_layers": 1,
    "num_heads": 4,
    "decoder_start_token_id": 2,
}
GEMMA: dict[str, Any] = {**SIZE, **PLACES, "head_dim": 8, "num_key_value_heads": 2, **IDS}
BART: dict[str, Any] = {
    "d_model": 32,
    **{f"{side}_{key}": value for side in ("encoder", "decoder") for key, value in
       {"layers": 1, "attention_heads": 4, "ffn_dim": 32}.items()},
    "decoder_start_token_id": 1,
    "forced_eos_token_id": 1,
    **PLACES,
}  # fmt: skip
PER_LAYER: dict[str, Any] = {
    "hidden_size_per_layer_input": 8,
    "laurel_rank": 4,
    "num_kv_shared_layers": 0,
    "altup_num_inputs": 2,
    "layer_types": ["full_attention"] * 2,
    "activation_sparsity_pattern": [0.0] * 2,
}
TOKENS = ["cat", " sat"]
TEXTS = ["the abc cat sat abc the cat " * 4, "a cat abc he the the cat" * 3, "he abc cat the" * 4]


def tokenizer(extra: Sequence[str] = (), merges: Sequence[tuple[str, str]] = MERGES) -> Any:
    """A byte-level BPE tokenizer: a few control tokens, every byte, a few merges."""
    texts = [*SPECIAL, *sorted(pre_tokenizers.ByteLevel.alphabet()), "he", "ab", "abc", "\u0120t", "\u0120the", *extra]
    kept = [pair for pair in merges if "".join(pair) in texts]
    vocabulary = {text: id_ for id_, text in enumerate(dict.fromkeys(texts))}
    made = Tokenizer(models.BPE(vocab=vocabulary, merges=kept, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    named: dict[str, Any] = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    return transformers.PreTrainedTokenizerFast(tokenizer_object=made, **named)


ROWS = len(tokenizer())
CASES = ("bart", "t5", "gemma3", "gemma3n", "phi", "qwen", "llama")


def base(name: str, folder: Path) -> Path:
    """A tiny checkpoint with its tokenizer, its weights spread as those of a trained one."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = _model(name)
        for key, parameter in model.named_parameters():
            if parameter.ndim > 1 or key == "lm_head.bias":
                torch.nn.init.normal_(parameter, std=0.3)
        if hasattr(model, "final_logits_bias"):
            model.final_logits_bias.normal_(std=0.1)
    model.save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


def _model(name: str) -> Any:
    t: Any = transformers
    plain: dict[str, Any] = {"vocab_size": ROWS, **SIZE, **PLACES, **IDS}
    if name == "bart":
        return t.BartForConditionalGeneration(t.BartConfig(vocab_size=ROWS, **BART, **IDS))
    if name == "t5":
        return t.T5ForConditionalGeneration(t.T5Config(vocab_size=ROWS, eos_token_id=1, pad_token_id=2, **T5))
    if name == "gemma3":
        return t.Gemma3ForConditionalGeneration(_gemma3())
    if name == "gemma3n":
        config = t.Gemma3nTextConfig(vocab_size=ROWS, vocab_size_per_layer_input=ROWS, **GEMMA, **PER_LAYER)
        return t.Gemma3nForCausalLM(config)
    if name == "phi":
        return t.PhiForCausalLM(t.PhiConfig(**plain))
    if name == "qwen":
        padded = {**plain, "vocab_size": ROWS + 20, "num_key_value_heads": 2, "tie_word_embeddings": False}
        return t.Qwen2ForCausalLM(t.Qwen2Config(**padded))
    return t.LlamaForCausalLM(t.LlamaConfig(**plain, tie_word_embeddings=True))


def _gemma3() -> Any:
    vision = {**SIZE, "num_hidden_layers": 1, "image_size": 28, "patch_size": 14}
    text = {"vocab_size": ROWS, **GEMMA}
    tokens = {"image_token_index": 4, "boi_token_index": 5, "eoi_token_index": 6}
    make: Any = transformers.Gemma3Config
    return make(text_config=text, vision_config=vision, mm_tokens_per_image=4, **tokens)


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    """Every tensor of a folder with one shard."""
    return load_file(folder / "model.safetensors")


def equal_bytes(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Whether two tensors are the same, bit for bit."""
    one, other = (t.contiguous().reshape(-1).clone().view(torch.uint8) for t in (a, b))
    return a.shape == b.shape and torch.equal(one, other)
