"""The outcome of a probe, for people and for programs. No torch."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import ClassVar

from hf_init._base_report import Draw, Report
from hf_init._text import format_count, join_names

# The bound on the mass holds in exact numbers; a softmax in float32 adds up to 1 but for this.
SLACK = 1e-4


@dataclass(frozen=True)
class Reading:
    """How well texts were predicted.

    Attributes:
        nats: the loss summed over all tokens.
        tokens, bytes: of the texts; every token is predicted, the first from a start token.

    Example:
        >>> Reading(nats=69.3, tokens=20, bytes=100).bits_per_byte
        0.9997876633360516
    """

    nats: float
    tokens: int
    bytes: int

    @property
    def loss(self) -> float:
        """Return the loss in nats a token: comparable under one tokenization only."""
        return self.nats / max(1, self.tokens)

    @property
    def bits_per_byte(self) -> float:
        """Return the loss in bits a byte: comparable under any tokenization."""
        return self.nats / math.log(2) / max(1, self.bytes)

    def __add__(self, other: Reading) -> Reading:
        return Reading(self.nats + other.nats, self.tokens + other.tokens, self.bytes + other.bytes)

    def to_json(self) -> dict[str, float]:
        return {**asdict(self), "loss": self.loss, "bits_per_byte": self.bits_per_byte}


@dataclass(frozen=True)
class BehindToken:
    """How a result reads on behind one new token, up to the next, against the base behind its pieces.

    Attributes:
        positions: that were compared. kl: divergence from the base over old tokens, in nats, their mean.
        changed: positions at which the likeliest old token is another one.
    """

    positions: int
    kl: float
    changed: int


@dataclass(frozen=True, repr=False)
class ProbeReport(Report):
    """What an extension's new tokens do to the model before any training; true if one of two guarantees holds.

    Attributes:
        base, out: as they were given.
        new, old: how many tokens are new, and how many are in both vocabularies.
        positions: where the two models were compared: the texts in old tokens.
        mass, most_mass: probability that the new tokens take there: mean, and at one position.
        kl, most_kl: KL divergence of the base from the result over the old tokens, renormalised, in nats.
        changed: positions at which the likeliest token is another one.
        words: how many different ones the texts have. split_words: those that are split otherwise, with their pieces,
            though none of them is a new token.
        behind: how the result reads on behind each new token that the texts have, by its text, the worst first.
        base_reading, old_reading, new_reading: the base, the result in old tokens, the result in its own.
    """

    base: str
    out: str
    new: int
    old: int
    positions: int
    mass: float
    most_mass: float
    kl: float
    most_kl: float
    changed: int
    base_reading: Reading
    old_reading: Reading
    new_reading: Reading
    words: int = 0
    split_words: Mapping[str, str] = field(default_factory=dict)
    behind: Mapping[str, BehindToken] = field(default_factory=dict)

    schema: ClassVar[str] = "hf_init.probe/1"

    @property
    def bound(self) -> float:
        """Return the most that new tokens at the mean row take: n / (V + n)."""
        return self.new / max(1, self.new + self.old)

    @property
    def all_behind(self) -> BehindToken:
        """Return how the result reads on behind new tokens, all together."""
        positions = sum(each.positions for each in self.behind.values())
        kl = sum(each.kl * each.positions for each in self.behind.values()) / max(1, positions)
        return BehindToken(positions, kl, sum(each.changed for each in self.behind.values()))

    @property
    def guarantees(self) -> tuple[str, ...]:
        """Return which of the two promises about the untrained model hold at every position that was seen."""
        holds = {
            "distribution kept": self.most_mass <= self.bound * (1 + SLACK) and self.most_kl <= SLACK,
            "greedy kept": self.changed == 0,
        }
        return tuple(name for name, value in holds.items() if value)

    @property
    def ok(self) -> bool:
        """Return whether one of the guarantees holds on these texts."""
        return bool(self.guarantees)

    @property
    def conclusion(self) -> str:
        """Return in words which guarantees hold."""
        if self.guarantees:
            return f"on these texts: {' and '.join(self.guarantees)}"
        return "on these texts neither the distribution nor the greedy choice is kept: train the new rows before use"

    @property
    def headline(self) -> str:
        old, positions = format_count(self.old), format_count(self.positions)
        return (
            f"{self.new} new tokens beside {old} old ones, at {positions} positions: "
            f"{' and '.join(self.guarantees) or 'nothing kept'}"
        )

    def document(self) -> Mapping[str, object]:
        readings = {name: getattr(self, name).to_json() for name in ("base_reading", "old_reading", "new_reading")}
        read_on = {"all_behind": asdict(self.all_behind)} if self.behind else {}
        return {**asdict(self), **readings, **read_on, "bound": self.bound, "guarantees": self.guarantees}

    def parts(self, draw: Draw) -> Iterator[str]:
        yield self.headline
        yield draw("", ("what", "measured"), [*self._facts()])
        yield self.conclusion
        yield draw("predicting the same texts", HEADS, [*self._readings()])

    def _facts(self) -> Iterator[tuple[str, str]]:
        share = self.changed / max(1, self.positions)
        yield "probability that new tokens take", f"{self.mass:.2e}, at most {self.most_mass:.2e}"
        yield "... and would at the mean row", f"at most {self.bound:.2e}"
        yield "KL to the base over old tokens", f"{self.kl:.2e} nats, at most {self.most_kl:.2e}"
        if self.words:
            some = join_names([*map(repr, self.split_words)], 3)
            split = format_count(len(self.split_words)) + (f" ({some})" if some else "")
            yield f"of {format_count(self.words)} words split otherwise", split
        yield "greedy choices that change", f"{format_count(self.changed)} ({share:.2%})"
        if self.behind:
            read, worst = self.all_behind, [f"{token!r} {each.kl:.3f}" for token, each in self.behind.items()]
            share = read.changed / max(1, read.positions)
            positions = format_count(read.positions)
            yield "behind new tokens, KL to the base", f"{read.kl:.3f} nats, at {positions} positions"
            yield "... greedy choices that change", f"{format_count(read.changed)} ({share:.2%})"
            yield "... read worst", join_names(worst, 3)

    def _readings(self) -> Iterator[tuple[str, ...]]:
        named = (("base", self.base_reading), ("result, old tokens", self.old_reading), ("result", self.new_reading))
        for name, reading in named:
            yield name, format_count(reading.tokens), f"{reading.loss:.4f}", f"{reading.bits_per_byte:.4f}"


HEADS = ("", "tokens", "loss", "bits per byte")
