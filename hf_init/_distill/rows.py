"""Rows of new tokens, each trained on its own so that a model's states behind it are those behind the pieces."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel

from hf_init._distill.occurrences import NEW_TOKEN, Occurrence, ReadTexts
from hf_init._distill.reading import Prefix, StateReader, layer_like
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
        said: what an output row is to say; None where none is asked for.
    """

    prefix: Prefix
    now: torch.Tensor
    after: torch.Tensor
    expected: torch.Tensor
    said: Said | None

    def unlike(self, reader: StateReader, row: torch.nn.Parameter) -> torch.Tensor:
        """Return the squared distance of the states with a row of ``(1, d)``, in those of the base, ``(n, places)``."""
        ids = torch.cat([self.now, self.after], 1)
        old = reader.embedding(ids.clamp(min=0))
        new = layer_like(reader.embedding, {"weight": row})(torch.zeros_like(ids)).to(old.dtype)
        found = self.prefix.read_on(torch.where((ids == NEW_TOKEN)[..., None], new, old), self.now.shape[1]).float()
        return (found - self.expected).square().mean(-1) / self.expected.square().mean()


@dataclass(frozen=True)
class Said:
    """How likely the base is to say a token's pieces in some states.

    Attributes:
        states: ``(m, d)``. totals: logarithms of the sums of the old logits' exponentials there, ``(m,)``.
        shares: probabilities of the pieces: 0 where something else follows.
    """

    states: torch.Tensor
    totals: torch.Tensor
    shares: torch.Tensor

    @classmethod
    def of(cls, reader: StateReader, before: torch.Tensor, old: torch.Tensor, length: int) -> Said:
        """Read it off passages that go on with ``old``, of which the first ``length`` are the pieces."""
        place = before.shape[1] - 1
        layer = reader.model.get_output_embeddings()
        assert isinstance(layer, torch.nn.Module)
        behind = reader.states(reader.embedding(torch.cat([before, old], 1)))
        totals, shares = torch.empty(behind.shape[:2]), torch.zeros(behind.shape[:2])
        for row, (states, pieces) in enumerate(zip(behind, old[:, :length], strict=True)):  # logits are the largest
            logits = layer(states).float()
            totals[row] = logits.logsumexp(-1)
            there = slice(place, place + length)
            shares[row, place] = (logits[there].gather(1, pieces[:, None])[:, 0] - totals[row, there]).sum().exp()
        others = [at for at in range(behind.shape[1]) if not place < at < place + length]  # not inside of the pieces
        return cls(*(each[:, others].float().flatten(0, 1) for each in (behind, totals, shares)))

    def loss(self, row: torch.Tensor) -> torch.Tensor:
        """Return the cross-entropy of the probability that a row of ``(1, d)`` says to the pieces', ``(m,)``."""
        against = self.states @ row[0] - self.totals
        return torch.nn.functional.softplus(against) - self.shares * against


def distilled_rows(
    model: PreTrainedModel,
    read: ReadTexts,
    ids: Sequence[int],
    start: torch.Tensor,
    scheme: Distilled,
    seed: int,
    done: Callable[[], object],
) -> torch.Tensor:
    """Train the rows of tokens, ``(n, d)`` in float32, from those in ``start``.

    A row doesn't depend on the others, on how many threads there are, or on the order.

    Args:
        model: the base, frozen.
        ids: of the new tokens; for those that aren't in the texts the model writes some.
        done: called when a row is.
    """
    reader = StateReader(model, scheme.depth)
    rate = scheme.rate * float(reader.embedding.get_parameter("weight").detach().std())

    def row(number: int) -> torch.Tensor:
        id_, pieces = ids[number], scheme.pieces[number]
        key = key_of(seed, "distilled", *map(str, pieces))
        texts = read
        if id_ not in read.found:
            texts = written_texts(StateReader(model), read.start, id_, pieces, scheme.written, scheme.after, key)
        found = texts.found[id_]
        chosen = random.Random(key).sample(found, min(scheme.passages, len(found)))
        chosen.sort(key=lambda each: each.start)
        trained = _train([*_batches(reader, texts, chosen, scheme)], reader, start[number], scheme, rate)
        done()
        return trained

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # how many share a product shows in its last bits
    try:
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            return torch.stack([*pool.map(row, range(len(ids)))])
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
            said = Said.of(StateReader(reader.model), prefix.ids, follows, length) if scheme.output else None
        yield Passages(prefix, torch.tensor([each.tokens for each in alike]), follows[:, length:], expected, said)


def _train(
    batches: Sequence[Passages], reader: StateReader, start: torch.Tensor, scheme: Distilled, rate: float
) -> torch.Tensor:
    row = torch.nn.Parameter(start[None].clone())
    optimizer = torch.optim.Adam([row], lr=rate, betas=BETAS)
    for step in range(scheme.steps):
        optimizer.param_groups[0]["lr"] = rate * (1 - step / scheme.steps)
        optimizer.zero_grad()
        passages = batches[step % len(batches)]
        loss = passages.unlike(reader, row).mean()
        if passages.said is not None:
            loss = loss + scheme.output * passages.said.loss(row).mean()
        (loss * len(passages.now)).backward()  # what is left over of a shape may be few
        optimizer.step()
    return row.detach()[0]
