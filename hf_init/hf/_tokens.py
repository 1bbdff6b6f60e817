"""New tokens: the tokenizer, and every row, field and file that moves with it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hf_init._errors import PlanError
from hf_init.hf._wish import Base, Wish


class Tokens(Wish):
    """The tokens asked for."""

    WORDS = ("add_tokens",)

    @classmethod
    def of(cls, base: Base, words: Mapping[str, Any]) -> Tokens | None:
        if words.get("add_tokens") is None:
            return None
        raise PlanError("add_tokens: not there yet")
