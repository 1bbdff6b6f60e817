"""Tokenizers of every kind, trained on a few texts, and a tiny model for each."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

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
