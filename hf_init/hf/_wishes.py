"""The wishes that there are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hf_init.hf._fit import Fit
from hf_init.hf._labels import Labels
from hf_init.hf._missing import AllowNew
from hf_init.hf._tokens import Tokens
from hf_init.hf._verbalizer import Verbalizer
from hf_init.hf._wish import Base, Wish

WISHES: tuple[type[Wish], ...] = (Fit, Verbalizer, Labels, Tokens, AllowNew)


def words_of_wishes() -> tuple[str, ...]:
    """The keyword arguments that any wish takes."""
    return tuple(dict.fromkeys(word for wish in WISHES for word in wish.WORDS))


def wishes_of(base: Base, words: Mapping[str, Any], kinds: tuple[type[Wish], ...] = WISHES) -> tuple[Wish, ...]:
    """The wishes that a user's words spell.

    Raises:
        PlanError: the words contradict each other, or the base.
    """
    made = (wish.of(base, {key: value for key, value in words.items() if key in wish.WORDS}) for wish in kinds)
    return tuple(wish for wish in made if wish is not None)
