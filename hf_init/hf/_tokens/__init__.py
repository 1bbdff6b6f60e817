"""New tokens: the tokenizer, and every row, field and file that moves with it."""

from __future__ import annotations

from hf_init.hf._tokens._tokens import Tokens as Tokens
