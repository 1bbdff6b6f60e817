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
from hf_init._statistics import Stats
from hf_init._tensors import Region, num_elements

ROWS = 4096
"""The most rows that are compared with each other."""

SIDE = 512
"""The most rows and columns whose singular values are computed."""

_ELEMENTS = 1 << 22


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

    @classmethod
    def of(cls, array: np.ndarray, region: Region, dtype: str, stack: int, side: int) -> RowStats | None:
        """Measure a region; None where a row isn't finite."""
        codes = value_rows(array, region, stack, ROWS, _ELEMENTS)
        values = decode_values(codes, dtype)
        if not np.isfinite(values).all():
            return None
        alive = codes[(values != 0).any(axis=1)]
        repeated = len(alive) - len({row.tobytes() for row in alive})
        total, length = num_elements(region.shape[: stack + 1]), num_elements(region.shape[stack + 1 :])
        part = values[np.ix_(*(np.linspace(0, n - 1, min(n, side)).astype(int) for n in values.shape))]
        rank, effective = _matrix_ranks(part)
        size = math.sqrt(float(np.mean(values**2)))
        spread = math.sqrt(float(np.mean((values - values.mean(axis=0)) ** 2)))
        return cls(
            total=total,
            seen=len(codes),
            repeated=repeated,
            length=length,
            spread=spread / size if size else 0.0,
            rank=rank,
            effective=effective,
            side=part.shape,
            whole=part.shape == (total, length),
        )


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
    stats, at, samples = Stats(), 0, [np.zeros(0)]
    for piece in value_pieces(array, region):
        values = decode_values(piece, dtype)
        stats = stats + Stats.of(values)
        taken = values[-at % step :: step]
        samples.append(taken[np.isfinite(taken)])
        at += len(values)
    matrix = len(region.shape) - stack > 1 and is_floating(dtype) and num_elements(region.shape)
    found = RowStats.of(array, region, dtype, stack, side) if matrix else None
    return Measure(name, dtype, region.shape, stats, found, step), np.concatenate(samples)


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


class RegionMeasurer:
    """Measures regions of one checkpoint; the last few dozen are remembered, for several tensors ask for the same."""

    def __init__(self, checkpoint: Checkpoint, side: int = SIDE) -> None:
        self.checkpoint = checkpoint
        # A sample takes 2 MiB at most.
        self.measure = functools.lru_cache(maxsize=32)(functools.partial(measure_values, checkpoint, side=side))

    def dtype(self, name: str) -> str:
        return self.checkpoint.entries[name].dtype
