"""Histograms and densities as numbers, before anything is drawn."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from hf_init._report.expected import density
from hf_init.schemes import Distribution

SPIKE = 0.05
"""The share of one value from which on it is drawn as a line of its own."""

SCALES = 20.0
"""How much wider than the narrower one a range may be that two charts share."""

Span = tuple[float, float]


@dataclass(frozen=True)
class Trace:
    """A histogram: densities between edges, a value that many elements have, and how many aren't in the picture."""

    label: str
    edges: np.ndarray
    heights: np.ndarray
    spike: tuple[float, float] | None
    outside: int
    seen: int

    @classmethod
    def of(cls, label: str, values: np.ndarray, span: Span) -> Trace:
        """Return the histogram of values over a range."""
        value = float(values[0]) if values.size and values.min() == values.max() else 0.0
        share = float((values == value).mean()) if values.size else 0.0
        spike = (value, share) if share > SPIKE else None
        rest = values[values != value] if spike else values
        # So many bins that the values themselves get about the square root of their number.
        fine = min(max(math.isqrt(rest.size), 12), 64)
        low, high = _value_span(rest) or span
        bins = int(min(max(fine * (span[1] - span[0]) / (high - low or 1.0), fine), 240))
        edges = np.linspace(*span, bins + 1)
        counts, _ = np.histogram(rest, edges)
        heights = counts / (max(values.size, 1) * (edges[1] - edges[0]))
        return cls(label, edges, heights, spike, rest.size - int(counts.sum()), values.size)


@dataclass(frozen=True)
class Chart:
    """Histograms over one range; an expected density's curve and its constants with their shares."""

    span: Span
    traces: tuple[Trace, ...]
    curve: tuple[np.ndarray, np.ndarray] | None = None
    constants: tuple[tuple[float, float], ...] = ()

    @property
    def top(self) -> float:
        """Return the height that everything but lines fits under."""
        curves = [trace.heights for trace in self.traces] + ([self.curve[1]] if self.curve else [])
        return max((float(heights.max()) for heights in curves if heights.size), default=0.0) or 1.0


@dataclass(frozen=True)
class Picture:
    """A new region's chart and, where there are any, its neighbours'."""

    new: Chart
    neighbours: Chart | None
    one_scale: bool

    @property
    def overlay(self) -> Chart | None:
        """Return both in one chart, the new last, where they are on one scale."""
        if self.neighbours is None or not self.one_scale:
            return None
        return replace(self.new, traces=(*self.neighbours.traces, *self.new.traces))


def picture(
    label: str, sample: np.ndarray, expected: Distribution | None, neighbours: Sequence[tuple[str, np.ndarray]]
) -> Picture:
    """Return both charts of a region; on one scale unless that would make a line of one of them."""
    parts = expected.parts if expected else ()
    drawn = [(max(part.low, part.mean - 4 * part.std), min(part.high, part.mean + 4 * part.std)) for part in parts]
    own = _union_span([_value_span(sample), *drawn])
    others = _union_span([_value_span(values) for _, values in neighbours])
    both = _union_span([own, others])
    widths = [high - low for low, high in filter(None, (own, others)) if high > low]
    narrow = both is not None and bool(widths) and both[1] - both[0] > SCALES * min(widths)
    shared = both if own and others and not narrow else None
    return Picture(
        chart([(label, sample)], _padded_span(shared or own), expected),
        chart(neighbours, _padded_span(shared or others)) if neighbours else None,
        shared is not None,
    )


def chart(
    samples: Sequence[tuple[str, np.ndarray]], span: Span | None = None, expected: Distribution | None = None
) -> Chart:
    """Return histograms of samples, over the range of them all unless it is given."""
    span = span or _padded_span(_union_span([_value_span(values) for _, values in samples]))
    traces = tuple(Trace.of(label, values, span) for label, values in samples)
    if expected is None:
        return Chart(span, traces)
    x = np.linspace(*span, 241)
    curve = (x, density(expected, x))
    return Chart(span, traces, curve if curve[1].any() else None, expected.atoms)


def _value_span(values: np.ndarray) -> Span | None:
    """Return where nearly all values are: one extreme value must not make a line of the rest."""
    if not values.size:
        return None
    low, high = np.quantile(values, [0.001, 0.999])
    return float(low), float(high)


def _union_span(spans: Sequence[Span | None]) -> Span | None:
    known = [span for span in spans if span]
    return (min(low for low, _ in known), max(high for _, high in known)) if known else None


def _padded_span(span: Span | None) -> Span:
    low, high = span or (0.0, 0.0)
    size = max(abs(low), abs(high))
    # A range that float64 can hardly divide is none.
    room = 0.05 * (high - low) if high - low > max(1e-9 * size, 1e-300) else (size if size > 1e-300 else 1.0)
    return low - room, high + room
