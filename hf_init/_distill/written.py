"""Texts with a word that a model writes itself, for a word that no text has."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from hf_init._distill.occurrences import NEW_TOKEN, Occurrence, ReadTexts
from hf_init._distill.reading import StateReader


def written_texts(
    reader: StateReader, start: int | None, id_: int, pieces: Sequence[int], count: int, after: int, seed: int
) -> ReadTexts:
    """Let a causal model go on behind a word, in texts that begin with it.

    Args:
        start: the id of the token that a text begins with; None where there is none.
        id_: of the new token. pieces: what it is in the base's tokens.
        count: how many texts. after: tokens of each, behind the word.
        seed: of what is drawn, from the probabilities that the model gives.
    """
    head, generator = reader.model.get_output_embeddings(), torch.Generator().manual_seed(seed)
    assert isinstance(head, torch.nn.Module)
    ids = torch.tensor([[*([] if start is None else [start]), *pieces]] * count)
    with torch.no_grad():
        prefix = reader.read(ids)
        states = prefix.states
        for _ in range(after):
            drawn = torch.multinomial(head(states[:, -1]).float().softmax(-1), 1, generator=generator)
            ids = torch.cat([ids, drawn], 1)
            read = ids if prefix.cache is None else drawn
            states = reader.states(reader.embedding(read), prefix.cache)
    places = range(ids.shape[1] - after - len(pieces), ids.numel(), ids.shape[1])
    found = tuple(Occurrence(place, len(pieces), (NEW_TOKEN,)) for place in places)
    return ReadTexts(tuple(ids.flatten().tolist()), {id_: found}, start)
