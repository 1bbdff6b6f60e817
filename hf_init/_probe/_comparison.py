"""Schemes for new rows ranked by what they lead to. No torch."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from hf_init import _html
from hf_init._text import table


@dataclass(frozen=True)
class Run:
    """One scheme under one seed.

    Attributes:
        scheme: its name in the comparison.
        bits: bits per byte on held-out text, by how many steps the new rows were trained.
        schemes: what filled each tensor.
    """

    scheme: str
    seed: int
    bits: Mapping[int, float]
    schemes: Mapping[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "bits": {str(step): value for step, value in self.bits.items()}}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Run:
        return cls(**{**data, "bits": {int(step): value for step, value in data["bits"].items()}})


@dataclass(frozen=True)
class Comparison:
    """Schemes for new rows, best first: by bits per byte after the last step, the mean over seeds.

    Step 0 doesn't tell: rows that predict best before training are often not those that learn fastest.

    Attributes:
        base: bits per byte of the base in its own tokens, on the same held-out text.
    """

    runs: tuple[Run, ...]
    base: float

    @property
    def steps(self) -> tuple[int, ...]:
        """At which the runs were measured."""
        return tuple(sorted({step for run in self.runs for step in run.bits}))

    @property
    def ranked(self) -> tuple[str, ...]:
        """Names of schemes, best first."""
        return tuple(sorted({run.scheme for run in self.runs}, key=lambda name: self.mean(name, self.steps[-1])))

    @property
    def best(self) -> str:
        return self.ranked[0]

    def bits(self, scheme: str, step: int) -> list[float]:
        """Bits per byte of a scheme at a step, one a seed."""
        return [run.bits[step] for run in self.runs if run.scheme == scheme]

    def mean(self, scheme: str, step: int) -> float:
        return statistics.mean(self.bits(scheme, step))

    def __str__(self) -> str:
        return table(self._title, self._columns, self._rows)

    def _repr_html_(self) -> str:
        return _html.document([_html.table(self._title, self._columns, self._rows)])

    def to_json(self) -> dict[str, Any]:
        return {"base": self.base, "ranked": list(self.ranked), "runs": [run.to_json() for run in self.runs]}

    @property
    def _title(self) -> str:
        many = len({run.seed for run in self.runs})
        return f"bits per byte, {many} {'seed' if many == 1 else 'seeds'}; the base in its own tokens: {self.base:.4f}"

    @property
    def _columns(self) -> Sequence[str]:
        return ("scheme", *(f"step {step}" for step in self.steps))

    @property
    def _rows(self) -> list[tuple[str, ...]]:
        return [(name, *(self._cell(name, step) for step in self.steps)) for name in self.ranked]

    def _cell(self, name: str, step: int) -> str:
        bits = self.bits(name, step)
        spread = f" +-{(max(bits) - min(bits)) / 2:.4f}" if len(bits) > 1 else ""
        return f"{statistics.mean(bits):.4f}{spread}"
