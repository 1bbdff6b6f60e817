"""Two models' logits on the same positions, and what their differences come to."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

import torch
from transformers import PreTrainedModel

from hf_init._probe.probe_report import Reading

# Positions whose logits over the whole vocabulary are held in float64 at a time.
AT_ONCE = 64


@dataclass(frozen=True)
class TokenIds:
    """Which ids mean the same in two vocabularies, which are new in the second, and which are gone from it.

    Rows without a token (padding) are in none of them: nobody would choose such a token.

    Attributes:
        before, after: of every token that both have, in one order.
        new: ids of the second vocabulary. gone: of the first.
    """

    before: torch.Tensor
    after: torch.Tensor
    new: torch.Tensor
    gone: torch.Tensor


@dataclass
class Differences:
    """Sums over positions, and the largest value at one."""

    positions: int = 0
    mass: float = 0.0
    most_mass: float = 0.0
    kl: float = 0.0
    most_kl: float = 0.0
    changed: int = 0

    def add(self, base: torch.Tensor, out: torch.Tensor, ids: TokenIds) -> None:
        """Add the logits ``(positions, vocabulary)`` of the base and of the result at the same positions."""
        for start in range(0, len(base), AT_ONCE):
            self._add_block(base[start : start + AT_ONCE], out[start : start + AT_ONCE], ids)

    def _add_block(self, base: torch.Tensor, out: torch.Tensor, ids: TokenIds) -> None:
        mass = out.double().softmax(1)[:, ids.new].sum(1)
        old, now = base[:, ids.before], out[:, ids.after]
        before, after = old.double().log_softmax(1), now.double().log_softmax(1)
        # Never below 0 but by rounding.
        kl = (before.exp() * (before - after)).sum(1).clamp(min=0)
        # Each side's likeliest token by its index among the shared ones; behind them are the gone, and the new.
        then = torch.cat([old, base[:, ids.gone]], 1).argmax(1)
        likeliest = torch.cat([now, out[:, ids.new]], 1).argmax(1)
        self.positions += len(base)
        self.mass += float(mass.sum())
        self.kl += float(kl.sum())
        self.most_mass, self.most_kl = max(self.most_mass, float(mass.max())), max(self.most_kl, float(kl.max()))
        self.changed += int(((then != likeliest) | (then >= old.shape[1])).sum())


@dataclass
class DifferencesBehind:
    """How a result reads on behind new tokens, against the base behind their pieces.

    Attributes:
        by_token: over the places up to the next new token, by the id of the last one.
    """

    by_token: dict[int, Differences] = field(default_factory=dict)

    def add(self, base: torch.Tensor, out: torch.Tensor, places: Iterable[tuple[int, int, int]], ids: TokenIds) -> None:
        """Add what both predict at places of one text.

        Args:
            base, out: logits ``(tokens, vocabulary)``, each before a token of that tokenization.
            places: of each, the last new token, and how many tokens are read by then in either.
        """
        seen: dict[int, list[tuple[int, int]]] = {}
        for token, old, new in places:
            if old < len(base) and new < len(out):  # behind the text nothing is predicted
                seen.setdefault(token, []).append((old, new))
        none = ids.new[:0]  # what follows is compared in old tokens: a new one there is another matter
        for token, pairs in seen.items():
            old, new = zip(*pairs, strict=True)
            sums = self.by_token.setdefault(token, Differences())
            sums.add(base[list(old)], out[list(new)], replace(ids, new=none))


def read_logits(logits: torch.Tensor, targets: torch.Tensor, text: str) -> Reading:
    """Return how well one text was predicted, from the logits ``(tokens, vocabulary)`` before each of its tokens."""
    nats = torch.nn.functional.cross_entropy(logits.float(), targets, reduction="sum")
    return Reading(float(nats), len(targets), len(text.encode()))


def logits_of(model: PreTrainedModel, start: int, ids: list[int]) -> torch.Tensor:
    """Return the logits ``(tokens, vocabulary)`` that predict a passage, its first token from a start token."""
    device = next(model.parameters()).device
    with torch.inference_mode():
        logits = model(input_ids=torch.tensor([[start, *ids[:-1]]], device=device), use_cache=False).logits
    return logits[0].cpu()
