"""Rows of new tokens, each trained on its own so that a model's states behind it are those behind the pieces."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial

import torch
from transformers import PreTrainedModel

from hf_init._distill.occurrences import NEW_TOKEN, Occurrence, ReadTexts
from hf_init._distill.reading import Prefix, StateReader, layer_like
from hf_init._distill.said import OutputAims, OutputReader, Said, says_in_turn
from hf_init._distill.written import written_texts
from hf_init._tensors import key_of
from hf_init.schemes import Distilled

BETAS = (0.9, 0.99)


@dataclass(frozen=True)
class Passages:
    """Passages with one new token that stand in a batch: as the base reads them, and as they are read now.

    Attributes:
        prefix: what is before it. now: ids of what is read in the token's place, with ``NEW_TOKEN``.
        after: ids of what follows.
        expected: the base's states, ``(n, places, d)``.
    """

    prefix: Prefix
    now: torch.Tensor
    after: torch.Tensor
    expected: torch.Tensor

    def unlike(self, reader: StateReader, row: torch.Tensor) -> torch.Tensor:
        """Return the squared distance of the states with a row of ``(1, d)``, in those of the base, ``(n, places)``."""
        ids = torch.cat([self.now, self.after], 1)
        old = reader.embedding(ids.clamp(min=0))
        new = layer_like(reader.embedding, {"weight": row})(torch.zeros_like(ids)).to(old.dtype)
        found = self.prefix.read_on(torch.where((ids == NEW_TOKEN)[..., None], new, old), self.now.shape[1]).float()
        return (found - self.expected).square().mean(-1) / self.expected.square().mean()


def distilled_rows(
    model: PreTrainedModel,
    read: ReadTexts,
    ids: Sequence[int],
    start: torch.Tensor,
    scheme: Distilled,
    seed: int,
    numbers: Sequence[int],
) -> Iterator[tuple[int, torch.Tensor]]:
    """Train the rows of tokens, each of ``(d,)`` in float32, from those in ``start``; yield them with their numbers.

    A row doesn't depend on the others, on how many threads there are, or on the order.

    Args:
        model: the base, frozen.
        ids: of the new tokens; for those that aren't in the texts the model writes some.
        numbers: of the rows that are wanted.
    """
    reader = StateReader(model, scheme.depth)
    output = OutputReader(model) if scheme.side != "input" and says_in_turn(model) else None

    def row(number: int, aims: OutputAims | None) -> torch.Tensor:
        id_, pieces, begins = ids[number], scheme.pieces[number], start[number]
        key = key_of(seed, "distilled", *map(str, pieces))
        texts = read
        if id_ not in read.found:
            texts = written_texts(StateReader(model), read.start, id_, pieces, scheme.written, scheme.after, key)
        found = texts.found[id_]
        chosen = random.Random(key).sample(found, min(scheme.passages, len(found)))
        chosen.sort(key=lambda each: each.start)
        said = None if aims is None else aims.said(texts, chosen, found, number, begins, scheme)
        if scheme.side == "output":
            assert said is not None  # the plan has such rows only where a model says them
            return begins + said.solved()
        return _train([*_batches(reader, texts, chosen, scheme)], said, reader, begins, scheme)

    if not numbers:
        return
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # how many share a product shows in its last bits
    try:
        with nullcontext() if output is None else output.listening(), ThreadPoolExecutor(os.cpu_count()) as pool:
            aims = None if output is None else OutputAims.of(output, read)
            yield from zip(numbers, pool.map(partial(row, aims=aims), numbers), strict=True)
    finally:
        torch.set_num_threads(threads)


def _batches(
    reader: StateReader, read: ReadTexts, chosen: Sequence[Occurrence], scheme: Distilled
) -> Iterator[Passages]:
    """Yield the passages in batches of one shape, no more than there are steps, with what the base makes of them."""
    shapes: dict[tuple[int, int], list[Occurrence]] = {}
    for each in chosen:
        shapes.setdefault((each.length, len(each.tokens)), []).append(each)
    parts = [
        (length, alike[at : at + scheme.batch])
        for (length, _), alike in sorted(shapes.items())
        for at in range(0, len(alike), scheme.batch)
    ]
    for length, alike in parts[: scheme.steps]:
        old = read.around([each.start for each in alike], scheme.before, length + scheme.after)
        prefix = reader.read(old[:, : -length - scheme.after])
        follows = old[:, prefix.ids.shape[1] :]
        with torch.no_grad():
            expected = prefix.read_on(reader.embedding(follows), length).float()
        yield Passages(prefix, torch.tensor([each.tokens for each in alike]), follows[:, length:], expected)


def _train(
    batches: Sequence[Passages],
    said: Said | None,
    reader: StateReader,
    start: torch.Tensor,
    scheme: Distilled,
) -> torch.Tensor:
    moved = torch.zeros_like(start, requires_grad=True)
    rate = scheme.rate * float(reader.embedding.get_parameter("weight").std())
    if said is not None:  # a step moves the row as far, most of all where that changes no logit
        rate *= len(start) ** 0.5 / float(said.coordinates.back.norm())
    optimizer = torch.optim.Adam([moved], lr=rate, betas=BETAS)

    def row() -> torch.Tensor:
        return start + (moved if said is None else moved @ said.coordinates.back)

    for step in range(scheme.steps):
        optimizer.param_groups[0]["lr"] = rate * (1 - step / scheme.steps)
        optimizer.zero_grad()
        passages = batches[step % len(batches)]
        loss = passages.unlike(reader, row()[None]).mean()
        if said is not None:
            loss = loss + scheme.output * said.loss(moved)
        (loss * len(passages.now)).backward()  # what is left over of a shape may be few
        optimizer.step()
    return row().detach()
