"""Schemes for new rows ranked by what they lead to. No torch."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar

from hf_init._base_report import Draw, Report
from hf_init._errors import HfInitError, PlanError
from hf_init._text import join_names


@dataclass(frozen=True)
class SchemeRun:
    """One scheme under one seed.

    Attributes:
        scheme: its name in the comparison.
        bits: bits per byte on held-out text, by how many steps the new rows were trained.
        schemes: what filled each tensor.
        nats: the loss of each held-out passage, by the same.
        kl: before any training, the mean divergence from the base behind new tokens, over old ones, in nats.
        changed: the share of greedy choices there that are others. Both are None where nothing was read.
    """

    scheme: str
    seed: int
    bits: Mapping[int, float]
    schemes: Mapping[str, str] = field(default_factory=dict)
    nats: Mapping[int, Sequence[float]] = field(default_factory=dict)
    kl: float | None = None
    changed: float | None = None

    def to_json(self) -> dict[str, object]:
        return {**asdict(self), **{what: {str(s): v for s, v in getattr(self, what).items()} for what in BY_STEP}}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> SchemeRun:
        """Read what ``to_json`` gave."""
        return cls(**{**data, **{what: {int(s): v for s, v in data.get(what, {}).items()} for what in BY_STEP}})


BY_STEP = ("bits", "nats")


@dataclass(frozen=True, repr=False)
class SchemeComparison(Report):
    """Schemes for new rows, best first: by bits per byte after the last step, the mean over seeds.

    Step 0 doesn't tell: rows that predict best before training are often not those that learn fastest. True if no
    training diverged.

    Attributes:
        base: bits per byte of the base in its own tokens, on the same held-out text.
    """

    runs: tuple[SchemeRun, ...]
    base: float

    schema: ClassVar[str] = "hf_init.comparison/1"
    error: ClassVar[type[HfInitError]] = PlanError

    @property
    def steps(self) -> tuple[int, ...]:
        """Return the steps at which the runs were measured."""
        return tuple(sorted({step for run in self.runs for step in run.bits}))

    @property
    def ranked(self) -> tuple[str, ...]:
        """Return the names of the schemes, best first."""
        return tuple(sorted({run.scheme for run in self.runs}, key=lambda name: self.mean(name, self.steps[-1])))

    @property
    def ranked_by_reading(self) -> tuple[str, ...]:
        """Return the names of those that were read behind new tokens, the most like the base behind pieces first."""
        names = {run.scheme for run in self.runs if run.kl is not None}
        return tuple(sorted(names, key=lambda name: self.read_on(name)[0]))

    @property
    def best(self) -> str:
        return self.ranked[0]

    @property
    def ok(self) -> bool:
        """Return whether every loss is a number."""
        return not self._diverged

    @property
    def headline(self) -> str:
        return f"{self.best} is best of {len(self.ranked)} after {self.steps[-1]} steps"

    @property
    def failure(self) -> str:
        return f"{join_names(self._diverged)}: the loss isn't a number; leave out such a scheme"

    def bits(self, scheme: str, step: int) -> list[float]:
        """Return the bits per byte of a scheme at a step, one a seed."""
        return [run.bits[step] for run in self.runs if run.scheme == scheme]

    def read_on(self, scheme: str) -> tuple[float, float]:
        """Return a scheme's KL divergence and share of other greedy choices behind new tokens, before any training."""
        runs = [(run.kl, run.changed or 0.0) for run in self.runs if run.scheme == scheme and run.kl is not None]
        return statistics.mean(kl for kl, _ in runs), statistics.mean(changed for _, changed in runs)

    def mean(self, scheme: str, step: int) -> float:
        return statistics.mean(self.bits(scheme, step))

    def behind(self, scheme: str, other: str, step: int) -> tuple[float, float]:
        """Return by how many bits per byte a scheme is behind another one, and the standard error of that.

        The error is that of the sample: both read the same held-out passages, so their differences passage by passage
        are what varies. It is 0 where a run doesn't say what it lost on each.
        """
        ours, theirs = self._nats_by_passage(scheme, step), self._nats_by_passage(other, step)
        differences = [a - b for a, b in zip(ours, theirs, strict=True)]
        count = len(differences)
        scale = self.mean(scheme, step) / sum(ours) if count else 0.0  # from nats of all passages to bits per byte
        error = statistics.stdev(differences) * math.sqrt(count) * scale if count > 1 else 0.0
        return self.mean(scheme, step) - self.mean(other, step), error

    def document(self) -> Mapping[str, object]:
        by_reading = {"ranked_by_reading": self.ranked_by_reading}
        return {"base": self.base, "ranked": self.ranked, **by_reading, "runs": [run.to_json() for run in self.runs]}

    def parts(self, draw: Draw) -> Iterator[str]:
        seeds = len({run.seed for run in self.runs})
        counted = f"{seeds} {'seed' if seeds == 1 else 'seeds'}"
        title = f"bits per byte, {counted}; the base in its own tokens: {self.base:.4f}"
        columns = ("scheme", *(f"step {step}" for step in self.steps))
        yield draw(title, columns, [(name, *(self._cell(name, step) for step in self.steps)) for name in self.ranked])
        if names := self.ranked_by_reading:
            read = [(name, f"{self.read_on(name)[0]:.4f}", f"{self.read_on(name)[1]:.1%}") for name in names]
            columns = ("scheme", "KL in nats", "other greedy choices")
            yield draw("behind new tokens, against the base behind their pieces, before any training", columns, read)

    def _cell(self, name: str, step: int) -> str:
        bits = self.bits(name, step)
        spread = f" +-{(max(bits) - min(bits)) / 2:.4f}" if len(bits) > 1 else ""
        return f"{statistics.mean(bits):.4f}{spread}"

    def _nats_by_passage(self, scheme: str, step: int) -> list[float]:
        """Return what a scheme loses on each passage, the mean over seeds."""
        runs = [run.nats[step] for run in self.runs if run.scheme == scheme and step in run.nats]
        return [statistics.mean(each) for each in zip(*runs, strict=True)]

    @property
    def _diverged(self) -> list[str]:
        return sorted({run.scheme for run in self.runs if not all(map(math.isfinite, run.bits.values()))})
