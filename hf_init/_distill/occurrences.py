"""Texts in the tokens of two tokenizers, brought together where both end a token, and where new tokens stand in them.

By characters, not by ids: so another tokenizer as a whole serves as well as a few added tokens.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from transformers import BatchEncoding, PreTrainedTokenizerBase

from hf_init._architecture import quiet_library
from hf_init._errors import PlanError

NEW_TOKEN = -1
"""Stands for the new token's id in an occurrence, since the base has none for it."""


@dataclass(frozen=True)
class Occurrence:
    """One place in the texts where a new token stands.

    Attributes:
        start, length: of what the base's tokenizer reads there, in the stream.
        tokens: what is read there now, in the base's ids, with ``NEW_TOKEN`` for the new token.
    """

    start: int
    length: int
    tokens: tuple[int, ...]


@dataclass(frozen=True)
class ReadTexts:
    """Texts in the base's tokens.

    Attributes:
        stream: the ids of all texts, one behind the other, each behind a start token.
        found: the occurrences of every new token that is in the texts, by its id.
        start: the id of the token that a text begins with; None where there is none.
    """

    stream: tuple[int, ...]
    found: Mapping[int, tuple[Occurrence, ...]]
    start: int | None = None

    def around(self, starts: Sequence[int], before: int, after: int) -> torch.Tensor:
        """Return the ids around some places, ``(n, 1 + before + after)``: behind a start token, where there is one.

        Before the first text comes the last.
        """
        first = [] if self.start is None else [self.start]
        places = range(-before, after)
        return torch.tensor([[*first, *(self.stream[(at + by) % len(self.stream)] for by in places)] for at in starts])


def read_texts(
    texts: Sequence[str],
    before: PreTrainedTokenizerBase,
    after: PreTrainedTokenizerBase,
    new: Collection[int],
) -> ReadTexts:
    """Read texts with the base's tokenizer, and find the new tokens that another one reads in them.

    Where two new tokens stand so close that no old token ends between them, neither is counted.

    Args:
        new: ids of the new tokens.

    Raises:
        PlanError: a tokenizer doesn't say where its tokens end.
    """
    ids = before.get_vocab()
    known = {id_: ids[token] for token, id_ in after.get_vocab().items() if token in ids and id_ not in new}
    named = (before.bos_token_id, before.cls_token_id, before.eos_token_id)
    start = next((id_ for id_ in named if isinstance(id_, int)), None)
    stream: list[int] = []
    found: dict[int, list[Occurrence]] = {}
    for text in texts:
        stream += [] if start is None else [start]
        for old, now in spans(text, before, after):
            here = [id_ for id_ in now if id_ in new]
            if len(here) == 1 and now != old and all(id_ in known or id_ in new for id_ in now):
                tokens = tuple(known.get(id_, NEW_TOKEN) for id_ in now)
                found.setdefault(here[0], []).append(Occurrence(len(stream), len(old), tokens))
            stream += old
    return ReadTexts(tuple(stream), {id_: tuple(each) for id_, each in sorted(found.items())}, start)


def spans(
    text: str, before: PreTrainedTokenizerBase, after: PreTrainedTokenizerBase
) -> Iterator[tuple[list[int], list[int]]]:
    """Yield what two tokenizers read between one place where both end a token and the next.

    Raises:
        PlanError: one doesn't say where its tokens end.
    """
    (old, old_ends), (new, new_ends) = _with_ends(text, before), _with_ends(text, after)
    a = b = 0
    for end in sorted(old_ends.keys() & new_ends.keys()):
        to_a, to_b = old_ends[end], new_ends[end]
        if to_a > a and to_b > b:
            yield old[a:to_a], new[b:to_b]
            a, b = to_a, to_b


def places_behind(
    text: str, before: PreTrainedTokenizerBase, after: PreTrainedTokenizerBase, new: Collection[int]
) -> Iterator[tuple[int, int, int]]:
    """Yield where a text can be read on behind new tokens: the last new token, and how many are read by then in each.

    Raises:
        PlanError: a tokenizer doesn't say where its tokens end.
    """
    count_old = count_new = 0
    last: int | None = None
    for old, now in spans(text, before, after):
        count_old, count_new = count_old + len(old), count_new + len(now)
        last = next((id_ for id_ in reversed(now) if id_ in new), last)
        if last is not None:
            yield last, count_old, count_new


def _with_ends(text: str, tokenizer: PreTrainedTokenizerBase) -> tuple[list[int], dict[int, int]]:
    """Return a text's ids, and for each place where a token ends how many end up to there.

    Several that share a character, as bytes do, end there together: the last one counts.
    """
    if not tokenizer.is_fast:
        raise PlanError(
            f"texts: {type(tokenizer).__name__} doesn't say which characters a token stands for, so what it reads "
            "can't be compared; it takes a tokenizer with a tokenizer.json"
        )
    with quiet_library():  # a text longer than the model takes is cut afterwards, and no warning is due
        read: BatchEncoding = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    ends = {end: count for count, (_, end) in enumerate(read["offset_mapping"], 1)}
    return list(read["input_ids"]), ends
