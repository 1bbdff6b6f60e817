"""Sums over numbers that come in pieces: what was counted, their mean and their spread."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Stats:
    """Counts and moments of a set of numbers; two of them add up.

    Attributes:
        count: all numbers.
        nans, infinite, zeros: how many are NaN, infinite, 0.
        mean: of the finite ones.
        squares: the sum of the squares of their distances from the mean.
        energy: the sum of their squares.
        low, high: the least and the greatest.
    """

    count: int = 0
    nans: int = 0
    infinite: int = 0
    zeros: int = 0
    mean: float = 0.0
    squares: float = 0.0
    energy: float = 0.0
    low: float = math.inf
    high: float = -math.inf

    @classmethod
    def of(cls, values: np.ndarray) -> Stats:
        """Return the statistics of an array of float64.

        Example:
            >>> found = Stats.of(np.array([0.0, 3.0, np.nan])) + Stats.of(np.array([3.0]))
            >>> found.count, found.nans, found.mean, round(found.std, 6)
            (4, 1, 2.0, 1.414214)
        """
        finite = values[np.isfinite(values)]
        nans = int(np.isnan(values).sum())
        lost = {"count": len(values), "nans": nans, "infinite": len(values) - len(finite) - nans}
        if not len(finite):
            return cls(**lost)
        mean = float(finite.mean())
        with np.errstate(over="ignore"):  # the squares of numbers beyond 1e154: infinite is what they are
            squares, energy = float(((finite - mean) ** 2).sum()), float((finite**2).sum())
        zeros = int((finite == 0).sum())
        return cls(**lost, zeros=zeros, mean=mean, squares=squares, energy=energy, low=finite.min(), high=finite.max())

    def __add__(self, other: Stats) -> Stats:
        """Return the statistics of both together (Chan, Golub and LeVeque, "Updating Formulae", 1979)."""
        n, m = self.finite, other.finite
        if not n or not m:
            more = other if m else self
            mean, squares = more.mean, more.squares
        else:
            gap = other.mean - self.mean
            mean = self.mean + gap * m / (n + m)
            squares = self.squares + other.squares + gap * gap * n * m / (n + m)
        return Stats(
            self.count + other.count,
            self.nans + other.nans,
            self.infinite + other.infinite,
            self.zeros + other.zeros,
            mean,
            squares,
            self.energy + other.energy,
            float(min(self.low, other.low)),
            float(max(self.high, other.high)),
        )

    @property
    def finite(self) -> int:
        return self.count - self.nans - self.infinite

    @property
    def constant(self) -> bool:
        """Tell whether all finite numbers are one and the same."""
        return self.low == self.high

    @property
    def std(self) -> float:
        """Return the standard deviation of the finite numbers (divided by their number)."""
        return 0.0 if self.constant or not self.finite else math.sqrt(self.squares / self.finite)

    @property
    def norm(self) -> float:
        """Return the square root of the sum of squares (Frobenius)."""
        return math.sqrt(self.energy)

    def farthest(self, mean: float | None = None) -> float:
        """Return the greatest distance of a number from the mean (their own by default)."""
        middle = self.mean if mean is None else mean
        return max(self.high - middle, middle - self.low) if self.finite else 0.0
