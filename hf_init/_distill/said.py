"""What texts say where a new token may stand: the aim of an output row, as logistic regression on the base's states."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from transformers import PreTrainedModel

from hf_init._distill.occurrences import Occurrence, ReadTexts
from hf_init.schemes import Distilled

CONTEXT = 24
"""Tokens before a place."""
SHORTEST = 4
"""Tokens before a place that counts."""
PASSAGES, LENGTH, AT_ONCE = 96, 40, 8
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


@dataclass(frozen=True)
class OutputReader:
    """A causal model that is asked for the logits at places, and for what its output layer makes them of.

    Several threads may ask at a time.
    """

    model: PreTrainedModel
    _seen: threading.local = field(default_factory=threading.local)

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
        first = 0 if read.start is None else 1
        logits = self.model(input_ids=read.around(starts, before, after), return_dict=True).logits.float()
        states, own = (each.float() for each in self._seen.last)
        scale = float((logits * own).sum() / own.square().sum())  # of models that scale them; a cap is left out
        at = torch.arange(SHORTEST, before + after)
        following = (torch.tensor(starts)[:, None] - before + at + 1) % len(read.stream)
        states, logits = states[:, at + first] * scale, logits[:, at + first]
        return Places(states.flatten(0, 1), logits.logsumexp(-1).flatten(), following.flatten(), scale)

    def anywhere(self, read: ReadTexts) -> Places:
        """Read passages from all over the texts, whatever the new tokens are."""
        starts = range(0, len(read.stream), max(LENGTH, len(read.stream) // PASSAGES))
        return joined(
            [self.places(read, starts[at : at + AT_ONCE], 0, LENGTH) for at in range(0, len(starts), AT_ONCE)]
        )


def joined(parts: Sequence[Places]) -> Places:
    columns = zip(*((each.states, each.totals, each.following) for each in parts), strict=True)
    return Places(*map(torch.cat, columns), parts[0].scale)


def root_of_moments(states: torch.Tensor) -> torch.Tensor:
    """Return the Cholesky factor of the mean of s s^T over states s of ``(m, d)``."""
    moments = states.T @ states / len(states)
    return torch.linalg.cholesky(moments + STEADY * moments.diagonal().mean() * torch.eye(len(moments)))


@dataclass(frozen=True)
class Said:
    """Where the texts say a token, and where they don't.

    Attributes:
        here: places behind which the token stands. elsewhere: others.
        rarity: how many places there are for each where it stands.
        start: the row that is held to, ``(d,)``. offset: what is added to its product with a state, as a bias.
        root: Cholesky factor of the moments of states that may be anywhere. hold: how strongly, in places.
    """

    here: Places
    elsewhere: Places
    rarity: float
    start: torch.Tensor
    offset: float
    root: torch.Tensor
    hold: float

    @classmethod
    def of(
        cls,
        around: Places,
        found: Sequence[Occurrence],
        rarity: float,
        start: torch.Tensor,
        offset: float,
        root: torch.Tensor,
        hold: float,
    ) -> Said:
        """Sort places by what follows, from where the token stands: the middle of its pieces is no place any more."""
        begins = torch.tensor([each.start for each in found])
        inside = torch.tensor([each.start + by for each in found for by in range(1, each.length)])
        here = torch.isin(around.following, begins)
        elsewhere = ~here & ~torch.isin(around.following, inside)

        def those(mask: torch.Tensor) -> Places:
            return Places(around.states[mask], around.totals[mask], around.following[mask], around.scale)

        return cls(those(here), those(elsewhere), rarity, start, offset * around.scale, root, hold)

    def loss(self, row: torch.Tensor) -> torch.Tensor:
        """Return the nats that a row of ``(d,)`` costs a place of the token, with how far it is from its start."""
        here, elsewhere = (each.states @ row + self.offset - each.totals for each in (self.here, self.elsewhere))
        return self._nats(here, elsewhere, (row - self.start) @ self.root)

    def solved(self) -> torch.Tensor:
        """Return the row of the least loss, by L-BFGS in coordinates where all directions count alike."""
        sides = [
            (
                torch.linalg.solve_triangular(self.root, each.states.T, upper=False).T,
                each.states @ self.start + self.offset - each.totals,
            )
            for each in (self.here, self.elsewhere)
        ]
        moved = torch.zeros_like(self.start, requires_grad=True)
        optimizer = torch.optim.LBFGS([moved], max_iter=STEPS, line_search_fn="strong_wolfe")

        def closure() -> float:
            optimizer.zero_grad()
            loss = self._nats(*(white @ moved + rest for white, rest in sides), moved)
            loss.backward()
            return loss.item()

        optimizer.step(closure)
        back = torch.linalg.solve_triangular(self.root.T, moved.detach()[:, None], upper=True)
        return self.start + back[:, 0]

    def _nats(self, here: torch.Tensor, elsewhere: torch.Tensor, moved: torch.Tensor) -> torch.Tensor:
        """Return the loss from the token's logits less the logarithm of what all others sum up to."""
        says = torch.nn.functional.softplus(-here).sum() / max(1, len(here))
        taken = self.rarity * torch.nn.functional.softplus(elsewhere).mean()
        return says + taken + self.hold / max(1, len(here)) * moved.square().sum()


@dataclass(frozen=True)
class OutputAims:
    """What texts have for all rows alike: places anywhere in them, and the moments of their states.

    Attributes:
        anywhere, root: None where there are no texts but those that the base writes.
    """

    reader: OutputReader
    read: ReadTexts
    anywhere: Places | None
    root: torch.Tensor | None

    @classmethod
    def of(cls, reader: OutputReader, read: ReadTexts) -> OutputAims:
        if not read.stream:
            return cls(reader, read, None, None)
        anywhere = reader.anywhere(read)
        return cls(reader, read, anywhere, root_of_moments(anywhere.states))

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

        Args:
            chosen: the places in ``texts`` that the row is trained on. found: all of the token's.
            row: which of the scheme's.
        """
        given, starts = texts is self.read, [each.start for each in chosen]
        before, after = (CONTEXT, 0) if given else (0, chosen[0].length + scheme.after)
        around = self.reader.places(texts, starts, before, after)
        bias = getattr(self.reader.layer, "bias", None)
        shares = zip(scheme.shares(row), scheme.pieces[row], strict=True)
        return Said.of(
            around if self.anywhere is None else joined([around, self.anywhere]),
            found if given else (),
            len(texts.stream) / len(found),
            start,
            0.0 if bias is None else sum(share * float(bias[piece]) for share, piece in shares),
            root_of_moments(around.states) if self.root is None else self.root,
            scheme.hold,
        )
