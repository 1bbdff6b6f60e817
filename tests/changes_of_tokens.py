"""Rows of the table of changes: tokens, and another tokenizer."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bases import CHARACTERS, RowBehind, character_tokenizer
from change import Along, Bases, Change, grown
from token_bases import ROWS, tokenizer

WORDS = ["abcab", "hello", {"token": "<tool>", "special": True}, {"token": "<x>", "description": "the tab"}]


def _tokens(name: str, *tables: str, also: Mapping[str, Any] | None = None, **options: Any) -> Change:
    """Four tokens more."""
    moved = {**dict.fromkeys(tables, grown(ROWS, 4)), **(also or {})}
    return Change(f"{name} with tokens", options={"add_tokens": WORDS, "seed": 3, **options}, moved=moved)


def _padded(rows: int, places: Sequence[int]) -> Along:
    """Of the padded rows of Qwen, those of the new tokens and those that it didn't have are new."""
    return Along([None if row in places or row >= ROWS + 20 else row for row in range(rows)])


PHI = ("model.embed_tokens.weight", "lm_head.weight", "lm_head.bias")

QWEN = ("model.embed_tokens.weight", "lm_head.weight")


def _another_tokenizer(bases: Bases, scratch: Path) -> dict[str, Any]:
    other = tokenizer(extra=("<new>", "hello"), merges=[("a", "b")])
    other.save_pretrained(scratch / "tokenizer")
    return {"tokenizer": scratch / "tokenizer"}


def _by_text() -> Along:
    """The row of each token of the other tokenizer, by its text, and one more."""
    old, new = tokenizer().get_vocab(), tokenizer(extra=("<new>", "hello"), merges=[("a", "b")]).get_vocab()
    return Along([*(old.get(text) for text in sorted(new, key=lambda text: new[text])), None])


OTHER_CHARACTERS = ["|", "<s>", "</s>", "<unk>", "<pad>", "c", "d", "a", "e"]


def _other_characters(bases: Bases, scratch: Path) -> dict[str, Any]:
    return {"tokenizer": str(character_tokenizer(scratch / "characters", OTHER_CHARACTERS))}


TOKEN_CHANGES: dict[str, Change] = {
    # Tokens.
    "tokens, tied": _tokens("llama", "model.embed_tokens.weight"),
    "tokens, untied with a bias": _tokens("phi", *PHI),
    "tokens, rows drawn by a scheme": _tokens("phi", *PHI, row_scheme="gaussian"),
    "tokens distilled from texts": _tokens(
        "qwen", also=dict.fromkeys(QWEN, _padded(ROWS + 20, range(ROWS, ROWS + 4))),
        row_scheme="distilled(steps=2, before=3, after=2)", texts=["the abcab, hello; abcab he the tab", "a hello"],
    ),
    "tokens in padding rows": _tokens("qwen", also=dict.fromkeys(QWEN, _padded(ROWS + 20, range(ROWS, ROWS + 4)))),
    "tokens, padded to a multiple": _tokens(
        "qwen", pad_to_multiple_of=64,
        also=dict.fromkeys(QWEN, _padded(64 * math.ceil((ROWS + 20) / 64), range(ROWS, ROWS + 4))),
    ),
    "tokens of an encoder-decoder": _tokens(
        "bart", "model.shared.weight", also={"final_logits_bias": grown(ROWS, 4, dim=1)}
    ),
    "tokens of t5": _tokens("t5", "shared.weight"),
    "tokens of text beside pictures": _tokens("gemma3", "language_model.model.embed_tokens.weight"),
    "tokens with a table for each layer": _tokens(
        "gemma3n", "model.embed_tokens.weight", "model.embed_tokens_per_layer.weight"
    ),
    "tokens before a row behind them": Change(
        "a row behind the tokens", RowBehind, {"add_tokens": ["hello", "abcab"]},
        moved={"more.weight": Along([*range(ROWS), None, None, ROWS]), **dict.fromkeys(QWEN, grown(ROWS, 2))},
    ),
    "another tokenizer": Change(
        "phi with tokens", options={"add_tokens": ["world!"], "seed": 2}, places=_another_tokenizer,
        moved=dict.fromkeys(PHI, _by_text()),
    ),
    "another tokenizer of a CTC head": Change(
        "ctc", places=_other_characters,
        moved={"lm_head.*": Along([CHARACTERS.index(c) if c in CHARACTERS else None for c in OTHER_CHARACTERS])},
    ),
    "a character more for a CTC head": Change(
        "ctc", options={"add_tokens": [{"token": "\u00e1", "description": "a"}]}, moved={"lm_head.*": grown(8, 1)}
    ),
    "rows made again by their ids": Change(
        "phi with tokens", options={"reinit_rows": [4, 40], "seed": 1},
        moved=dict.fromkeys(PHI, Along([None if row in (4, 40) else row for row in range(ROWS)])),
    ),
    "padding rows given up": Change(
        "qwen with tokens", options={"allow_shrink": True, "pad_to_multiple_of": 2},
        moved=dict.fromkeys(QWEN, Along(range(ROWS + ROWS % 2))),
    ),
}  # fmt: skip
