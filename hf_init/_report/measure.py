"""What is measured of a region: moments in one pass over all of it; rows and rank on a sample of its rows."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import numpy as np

from hf_init._checkpoint import (
    Checkpoint,
    decode_values,
    is_decoded,
    is_floating,
    sample_stride,
    value_pieces,
    value_rows,
)
from hf_init._tensors import Region, num_elements

ROWS = 4096
"""The most rows that are compared with each other."""

SIDE = 512
"""The most rows and columns whose singular values are computed."""

_ELEMENTS = 1 << 22


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


@dataclass(frozen=True)
class RowStats:
    """What a sample of rows says of a matrix.

    Attributes:
        total, seen: how many rows there are, and how many were looked at.
        repeated: how many of these equal an earlier one bit for bit; rows of zeros don't count.
        length: elements in a row.
        spread: the root mean square of the rows' distance from their mean, over that of their elements; about 1 for
            independent rows, 0 for equal ones.
        rank: singular values above the rounding of float32, of at most SIDE rows and columns.
        effective: the exponential of the entropy of the singular values (Roy and Vetterli, 2007).
        side: rows and columns that the rank was measured on.
        whole: whether these are all rows and columns.
    """

    total: int
    seen: int
    repeated: int
    length: int
    spread: float
    rank: int
    effective: float
    side: tuple[int, int]
    whole: bool


@dataclass(frozen=True)
class Measure:
    """Everything that is known of a region's values. ``rows`` is None for a vector, and where a row isn't finite."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    stats: Stats | None
    rows: RowStats | None
    step: int = 1

    @property
    def std(self) -> float:
        return self.stats.std if self.stats else 0.0


def measure_values(
    checkpoint: Checkpoint, name: str, region: Region, stack: int = 0, side: int = SIDE
) -> tuple[Measure, np.ndarray]:
    """Return a region's measure, and an evenly spaced sample of its finite values.

    Args:
        stack: how many leading dimensions count independent matrices.
        side: the most rows and columns that a rank is measured on.
    """
    dtype = checkpoint.entries[name].dtype
    if not is_decoded(dtype):
        return Measure(name, dtype, region.shape, None, None), np.zeros(0)
    array, step = checkpoint.array(name), sample_stride(region.shape)
    stats, sample = _stats_and_sample(array, region, dtype, step)
    matrix = len(region.shape) - stack > 1 and is_floating(dtype) and num_elements(region.shape)
    found = _row_stats(array, region, dtype, stack, side) if matrix else None
    return Measure(name, dtype, region.shape, stats, found, step), sample


def _stats_and_sample(array: np.ndarray, region: Region, dtype: str, step: int) -> tuple[Stats, np.ndarray]:
    """Return, in one pass, the statistics of all values and every ``step``-th finite one."""
    stats, at, sample = Stats(), 0, []
    for piece in value_pieces(array, region):
        values = decode_values(piece, dtype)
        stats = stats + Stats.of(values)
        taken = values[-at % step :: step]
        sample.append(taken[np.isfinite(taken)])
        at += len(values)
    return stats, np.concatenate(sample) if sample else np.zeros(0)


def _row_stats(array: np.ndarray, region: Region, dtype: str, stack: int, side: int) -> RowStats | None:
    codes = value_rows(array, region, stack, ROWS, _ELEMENTS)
    values = decode_values(codes, dtype)
    if not np.isfinite(values).all():
        return None
    alive = codes[(values != 0).any(axis=1)]
    repeated = len(alive) - len({row.tobytes() for row in alive})
    total, length = num_elements(region.shape[: stack + 1]), num_elements(region.shape[stack + 1 :])
    part = _thin(values, side)
    rank, effective = _matrix_ranks(part)
    return RowStats(
        total=total,
        seen=len(codes),
        repeated=repeated,
        length=length,
        spread=_row_spread(values),
        rank=rank,
        effective=effective,
        side=part.shape,
        whole=part.shape == (total, length),
    )


def _thin(values: np.ndarray, side: int) -> np.ndarray:
    """Return at most ``side`` rows and columns, evenly spaced."""
    picks = (np.linspace(0, length - 1, min(length, side)).astype(int) for length in values.shape)
    return values[np.ix_(*picks)]


def _matrix_ranks(matrix: np.ndarray) -> tuple[int, float]:
    """Return the numerical and the effective rank."""
    # The eigenvalues of the smaller Gram matrix are the squares: ten times faster, and in float64 exact to 1e-8 of
    # the greatest singular value, where the tolerance is 1e-5 of it or more.
    gram = matrix @ matrix.T if matrix.shape[0] < matrix.shape[1] else matrix.T @ matrix
    singular = np.sqrt(np.clip(np.linalg.eigvalsh(gram), 0.0, None))
    if not singular.any():
        return 0, 0.0
    least = singular.max() * max(matrix.shape) * np.finfo(np.float32).eps
    shares = singular[singular > least] / singular[singular > least].sum()
    return len(shares), float(np.exp(-(shares * np.log(shares)).sum()))


def _row_spread(values: np.ndarray) -> float:
    size = math.sqrt(float(np.mean(values**2)))
    return math.sqrt(float(np.mean((values - values.mean(axis=0)) ** 2))) / size if size else 0.0


class RegionMeasurer:
    """Measures regions of one checkpoint; the last few dozen are remembered, for several tensors ask for the same."""

    def __init__(self, checkpoint: Checkpoint, side: int = SIDE) -> None:
        self.checkpoint = checkpoint
        # A sample takes 2 MiB at most.
        self.measure = functools.lru_cache(maxsize=32)(functools.partial(measure_values, checkpoint, side=side))

    def dtype(self, name: str) -> str:
        return self.checkpoint.entries[name].dtype
