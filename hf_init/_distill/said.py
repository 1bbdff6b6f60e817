"""What texts say where a new token may stand: the aim of an output row, as logistic regression on the base's states."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import torch
from transformers import PreTrainedModel

from hf_init._architecture import text_config
from hf_init._distill.occurrences import NEW_TOKEN, Occurrence, ReadTexts
from hf_init.schemes import Distilled

CONTEXT = 24
"""Tokens before a place."""
SHORTEST = 4
"""Tokens before a place that counts."""
PASSAGES, LENGTH, AT_ONCE = 96, 40, 4
"""Passages from all over the texts, about; how many tokens of each are read, and how many passages at a time."""
STEPS = 60
"""Of L-BFGS, at most."""
STEADY = 1e-3
"""Of the mean square of a state's element, added in each direction: few states don't span all of them."""


@dataclass(frozen=True)
class Places:
    """Places in texts, as the output layer meets them.

    Attributes:
        states: what its rows are multiplied with, times what the model multiplies its logits with, ``(m, d)``.
        scale: that factor.
        totals: logarithms of the sums of the old logits' exponentials, ``(m,)``.
        following: where in the stream the token stands that comes next, ``(m,)``.
    """

    states: torch.Tensor
    totals: torch.Tensor
    following: torch.Tensor
    scale: float

    def where(self, mask: torch.Tensor) -> Places:
        return Places(self.states[mask], self.totals[mask], self.following[mask], self.scale)

    def seen_in(self, coordinates: Coordinates) -> Places:
        return replace(self, states=self.states @ coordinates.back.T)


def says_in_turn(model: PreTrainedModel) -> bool:
    """Return whether a model says one token after another, each by a row of an output layer."""
    return model.can_generate() and model.get_output_embeddings() is not None


@dataclass(frozen=True)
class OutputReader:
    """A causal model that is asked for the logits at places, and for what its output layer makes them of.

    Several threads may ask at a time.
    """

    model: PreTrainedModel
    _seen: threading.local = field(default_factory=threading.local)

    def fitting(self, length: int) -> int:
        """Return how many tokens of so many the model has places for, behind a start token."""
        count = getattr(text_config(self.model.config), "max_position_embeddings", None)
        return min(length, count - 1) if isinstance(count, int) and count > 1 else length

    @property
    def cap(self) -> float | None:
        """Return what no logit exceeds, as c tanh(x / c) has it: Gemma's."""
        cap = getattr(text_config(self.model.config), "final_logit_softcapping", None)
        return float(cap) if cap else None

    @property
    def layer(self) -> torch.nn.Module:
        layer = self.model.get_output_embeddings()
        assert isinstance(layer, torch.nn.Module)
        return layer

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Keep what the output layer is handed and what it gives."""

        def keep(_: torch.nn.Module, given: tuple[torch.Tensor, ...], logits: torch.Tensor) -> None:
            self._seen.last = (given[0], logits)

        handle = self.layer.register_forward_hook(keep)
        try:
            yield
        finally:
            handle.remove()

    @torch.no_grad()
    def places(self, read: ReadTexts, starts: Sequence[int], before: int, after: int) -> Places:
        """Read around some places of texts: those of which enough was read before count."""
        at, first = torch.arange(SHORTEST, before + after), 0 if read.start is None else 1
        parts = []
        for some in (starts[each : each + AT_ONCE] for each in range(0, len(starts), AT_ONCE)):
            logits = self.model(input_ids=read.around(some, before, after), return_dict=True).logits
            states, own = self._seen.last
            last, own = logits[0, -1].float(), own[0, -1].float()
            scale = float(last @ own / (own @ own)) if self.cap is None else 1.0  # of models that scale their logits
            totals = [passage[at + first].float().logsumexp(-1) for passage in logits]  # logits are the largest
            states = states[:, at + first].flatten(0, 1).float() * scale
            following = (torch.tensor(some)[:, None] - before + at + 1) % len(read.stream)
            parts.append(Places(states, torch.cat(totals), following.flatten(), scale))
        return joined(parts)

    def anywhere(self, read: ReadTexts) -> Places:
        """Read passages from all over the texts, whatever the new tokens are."""
        starts = range(0, len(read.stream), max(LENGTH, len(read.stream) // PASSAGES))
        return self.places(read, starts, 0, self.fitting(LENGTH))


def joined(parts: Sequence[Places]) -> Places:
    states, totals, following = ([getattr(each, name) for each in parts] for name in ("states", "totals", "following"))
    return Places(torch.cat(states), torch.cat(totals), torch.cat(following), parts[0].scale)


@dataclass(frozen=True)
class Coordinates:
    """Coordinates of a row in which one step in any direction moves its logits by as much, on average over states.

    Attributes:
        there: a row times it is in coordinates, ``(d, d)``. back: what undoes it.
    """

    there: torch.Tensor
    back: torch.Tensor

    @classmethod
    def of(cls, states: torch.Tensor) -> Coordinates:
        """Return those of the eigenvectors of the mean of s s^T over states s of ``(m, d)``."""
        moments = states.T @ states / len(states)
        values, vectors = torch.linalg.eigh(moments + STEADY * moments.diagonal().mean() * torch.eye(len(moments)))
        return cls(vectors * values.sqrt(), (vectors * values.rsqrt()).T.contiguous())


@dataclass(frozen=True)
class Said:
    """Where the texts say a token, and where they don't, for a row that moves in coordinates.

    Attributes:
        here: places behind which the token stands. elsewhere: others. Both have states as the coordinates have them.
        rarity: how many places there are for each where it stands.
        start: the row that is held to, in coordinates, ``(d,)``. hold: how strongly, in places of the token.
        offset: what is added to its product with a state, as a bias. cap: what no logit exceeds.
    """

    coordinates: Coordinates
    here: Places
    elsewhere: Places
    rarity: float
    start: torch.Tensor
    offset: float
    hold: float
    cap: float | None = None

    def loss(self, moved: torch.Tensor) -> torch.Tensor:
        """Return the nats that the row costs a place of the token, and how far it is from its start."""
        row = self.start + moved
        logits = [each.states @ row + self.offset for each in (self.here, self.elsewhere)]
        if self.cap is not None:
            logits = [self.cap * torch.tanh(each / self.cap) for each in logits]
        here, elsewhere = (each - of.totals for each, of in zip(logits, (self.here, self.elsewhere), strict=True))
        says = torch.nn.functional.softplus(-here).sum() / max(1, len(here))
        taken = self.rarity * torch.nn.functional.softplus(elsewhere).mean()
        return says + taken + self.hold / max(1, len(here)) * moved.square().sum()

    def solved(self) -> torch.Tensor:
        """Return how far the row of the least loss is from its start, ``(d,)``, by L-BFGS."""
        moved = torch.zeros_like(self.start, requires_grad=True)
        optimizer = torch.optim.LBFGS([moved], max_iter=STEPS, line_search_fn="strong_wolfe")

        def closure() -> float:
            optimizer.zero_grad()
            loss = self.loss(moved)
            loss.backward()
            return loss.item()

        optimizer.step(closure)
        return moved.detach() @ self.coordinates.back


@dataclass(frozen=True)
class OutputAims:
    """What texts have for all rows alike.

    Attributes:
        anywhere: places all over the texts, with states as ``coordinates`` has them; both are None where there are no
            texts but those that the base writes.
    """

    reader: OutputReader
    read: ReadTexts
    anywhere: Places | None = None
    coordinates: Coordinates | None = None

    @classmethod
    def of(cls, reader: OutputReader, read: ReadTexts) -> OutputAims:
        if not read.stream:
            return cls(reader, read)
        anywhere = reader.anywhere(read)
        coordinates = Coordinates.of(anywhere.states)
        return cls(reader, read, anywhere.seen_in(coordinates), coordinates)

    def said(
        self,
        texts: ReadTexts,
        chosen: Sequence[Occurrence],
        found: Sequence[Occurrence],
        row: int,
        start: torch.Tensor,
        scheme: Distilled,
    ) -> Said:
        """Return what a row is to say; in texts that the base wrote behind a word, not where it stands.

        None is any more in the middle of the token's pieces, nor before them where another token is read first.

        Args:
            chosen: the places in ``texts`` that the row is trained on. found: all of the token's.
            row: which of the scheme's.
        """
        given, starts = texts is self.read, [each.start for each in chosen]
        before, after = (CONTEXT, 0) if given else (0, found[0].length + scheme.after)
        around = self.reader.places(texts, starts, self.reader.fitting(before), after)
        coordinates = self.coordinates or Coordinates.of(around.states)
        around = around.seen_in(coordinates)
        places = around if self.anywhere is None else joined([around, self.anywhere])
        stands = {each.start: each.tokens[0] == NEW_TOKEN for each in found} if given else {}
        here = torch.isin(places.following, torch.tensor([start for start, next_ in stands.items() if next_]))
        pieces = {each.start + by for each in found for by in range(each.length)} if given else set()
        inside = torch.tensor(sorted(pieces))
        bias = getattr(self.reader.layer, "bias", None)
        shares = zip(scheme.shares(row), scheme.pieces[row], strict=True)
        offset = 0.0 if bias is None else sum(share * float(bias[piece]) for share, piece in shares)
        return Said(
            coordinates,
            places.where(here),
            places.where(~torch.isin(places.following, inside)),
            len(texts.stream) / len(found),
            start @ coordinates.there,
            offset * places.scale,
            scheme.hold,
            self.reader.cap,
        )
