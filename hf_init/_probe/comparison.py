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
    """

    scheme: str
    seed: int
    bits: Mapping[int, float]
    schemes: Mapping[str, str] = field(default_factory=dict)
    nats: Mapping[int, Sequence[float]] = field(default_factory=dict)

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
        return {"base": self.base, "ranked": self.ranked, "runs": [run.to_json() for run in self.runs]}

    def parts(self, draw: Draw) -> Iterator[str]:
        seeds = len({run.seed for run in self.runs})
        counted = f"{seeds} {'seed' if seeds == 1 else 'seeds'}"
        title = f"bits per byte, {counted}; the base in its own tokens: {self.base:.4f}"
        columns = ("scheme", *(f"step {step}" for step in self.steps))
        yield draw(title, columns, [(name, *(self._cell(name, step) for step in self.steps)) for name in self.ranked])

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
