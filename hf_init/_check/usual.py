"""What is usual in a model: the range that most of its modules are in, and how far outside of it a module is."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

ROOM = 10.0
"""How many times the quartiles a value may be and still be usual."""


def usual_range(values: Sequence[float]) -> tuple[float, float]:
    """Return the range from a tenth of the lower quartile to ten times the upper one, of numbers above 0.

    Example:
        >>> usual_range([1.0, 1.0, 1.0])
        (0.1, 10.0)
    """
    lower, _, upper = statistics.quantiles(values, n=4) if len(values) > 1 else (values[0],) * 3
    return lower / ROOM, upper * ROOM


def distance(value: float, low: float, high: float) -> float:
    """Return how far outside of a range a number above 0 is, in powers of ten; below 0 inside of it."""
    return max(math.log10(low / value), math.log10(value / high))
