"""Tokenizers of every kind, trained on a few texts, and a tiny model for each."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import transformers
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

TEXTS = (
    "A letter came in the morning. The postman had walked up the hill with it, past the mill and the two white houses, "
    "and he waited at the gate while she read: her brother would be home before the snow, with money and a horse.",
    "Iron rusts faster near the sea, because salt in the water lets the current flow. Paint keeps the air away; zinc "
    "goes further and rusts in the place of the iron, so that even a scratch does no harm for years.",
    "A vexed judge packs six quick boxes for the lazy fox: x, y, z and x y again, or y z by a mix of the two.",
    "def counted(words):\n    # each word, and how often it is there\n    found = {}\n    for word in words:\n"
    "        found[word] = found.get(word, 0) + 1\n    return sorted(found.items())\n",
)
SPECIAL = ["<s>", "</s>", "<pad>", "<unk>"]
ROLES: dict[str, Any] = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}


def trained(model: Any, trainer: Any, **parts: Any) -> Tokenizer:
    made = Tokenizer(model)
    for name, part in parts.items():
        setattr(made, name, part)
    made.train_from_iterator(TEXTS, trainer)
    return made


def byte_level(**parts: Any) -> Tokenizer:
    trainer = trainers.BpeTrainer(
        vocab_size=500,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    given = {
        "pre_tokenizer": pre_tokenizers.ByteLevel(add_prefix_space=False),
        "decoder": decoders.ByteLevel(),
        **parts,
    }
    return trained(models.BPE(), trainer, **given)


def word_piece(lowercase: bool = True) -> Tokenizer:
    trainer = trainers.WordPieceTrainer(vocab_size=500, special_tokens=SPECIAL, show_progress=False)
    parts: dict[str, Any] = {
        "normalizer": normalizers.BertNormalizer(lowercase=lowercase),
        "pre_tokenizer": pre_tokenizers.BertPreTokenizer(),
        "decoder": decoders.WordPiece(),
    }
    return trained(models.WordPiece(unk_token="<unk>"), trainer, **parts)


# Roles.


def read(folder: Path, name: str) -> dict[str, Any]:
    return json.loads((folder / name).read_text())


def write_based(folder: Path, made: Tokenizer, older: bool = False, rows: int = 0, **options: Any) -> Path:
    """Write a tiny Llama for a tokenizer, whose files are as version 5 of the library writes them, or as version 4."""
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=made, **ROLES)
    config = transformers.LlamaConfig(
        vocab_size=rows or len(tokenizer), hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, intermediate_size=16, max_position_embeddings=64,
        **{"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2, **options},
    )  # fmt: skip
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    if older:
        settings = json.loads((folder / "tokenizer_config.json").read_text())
        settings["added_tokens_decoder"] = {
            str(id_): token.__getstate__() for id_, token in tokenizer.added_tokens_decoder.items()
        }
        settings |= {"tokenizer_class": "PreTrainedTokenizerFast", "legacy": False}
        (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=4, ensure_ascii=False))
        (folder / "special_tokens_map.json").write_text(json.dumps({**ROLES, "additional_special_tokens": ["<s>"]}))
        (folder / "added_tokens.json").write_text('{"<s>": 0}')
    return folder
