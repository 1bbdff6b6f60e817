"""What is known of a slot's values before any is drawn: a mixture of simple parts. No torch.

Also the standard normal cut to an interval: its mass and its moments.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

PartKind: TypeAlias = Literal["constant", "normal", "uniform", "truncated_normal", "sphere"]

# What gives a distribution the standard deviation 1: a uniform's bound, and the std of a normal that is then truncated
# at two of it (0.8796... is the standard deviation of a standard normal truncated to [-2, 2]).
UNIT_SCALE = {"normal": 1.0, "uniform": math.sqrt(3.0), "truncated_normal": 1 / 0.87962566103423978}


@dataclass(frozen=True)
class Part:
    """A share of the elements that come from one distribution.

    Attributes:
        kind: ``sphere`` is a coordinate of a point drawn evenly from a sphere.
        mean, std: of this part's elements; one value with a std of 0.
        low, high: where it ends, if it does.
        weight: the share.
        center, scale, cut: of a truncated normal, the mean and the standard deviation of the normal before it is cut,
            and where it is cut, in its standard deviations.
        dimension: of a sphere.
    """

    kind: PartKind
    mean: float
    std: float
    low: float = -math.inf
    high: float = math.inf
    weight: float = 1.0
    center: float = 0.0
    scale: float = 1.0
    cut: tuple[float, float] = (-math.inf, math.inf)
    dimension: int = 0

    @classmethod
    def constant(cls, value: float, weight: float = 1.0) -> Part:
        return cls("constant", value, 0.0, value, value, weight)

    @classmethod
    def normal(cls, mean: float, std: float, weight: float = 1.0) -> Part:
        return cls("normal", mean, std, weight=weight)

    @classmethod
    def uniform(cls, low: float, high: float) -> Part:
        return cls("uniform", (low + high) / 2, (high - low) / math.sqrt(12), low, high)

    @classmethod
    def truncated(cls, center: float, scale: float, a: float, b: float) -> Part:
        mean, std = truncated_moments(a, b)
        low, high = center + a * scale, center + b * scale
        return cls("truncated_normal", center + scale * mean, scale * std, low, high, 1.0, center, scale, (a, b))

    @classmethod
    def around_zero(cls, kind: str, std: float, weight: float) -> Part:
        """Return a normal, a uniform or a normal truncated at two of its own standard deviations, with this std."""
        width = std * UNIT_SCALE[kind]
        if kind == "normal":
            return cls.normal(0.0, std, weight)
        part = cls.uniform(-width, width) if kind == "uniform" else cls.truncated(0.0, width, -2.0, 2.0)
        return replace(part, std=std, weight=weight)

    @classmethod
    def sphere(cls, radius: float, dimension: int, weight: float = 1.0) -> Part:
        return cls("sphere", 0.0, radius / math.sqrt(dimension), -radius, radius, weight, dimension=dimension)


@dataclass(frozen=True)
class Distribution:
    """A mixture of parts whose weights add up to 1.

    Example:
        >>> str(Distribution((Part.constant(0.0, 0.25), Part.normal(0.0, 0.02, 0.75))))
        '25.0% constant 0 and 75.0% normal, mean 0, std 0.02'
    """

    parts: tuple[Part, ...]

    @classmethod
    def of(cls, *parts: Part) -> Distribution:
        """Return the mixture of these parts, without those of weight 0."""
        return cls(tuple(part for part in parts if part.weight))

    @property
    def mean(self) -> float:
        return math.fsum(part.weight * part.mean for part in self.parts)

    @property
    def std(self) -> float:
        if len(self.parts) == 1:
            return self.parts[0].std
        return math.sqrt(math.fsum(p.weight * (p.std**2 + (p.mean - self.mean) ** 2) for p in self.parts))

    @property
    def widest(self) -> float:
        """Return the standard deviation of the part that reaches farthest."""
        return max(part.std for part in self.parts)

    @property
    def kurtosis(self) -> float:
        """Return a bound on the fourth moment over the squared variance: each part counts as a normal (3)."""
        mean, std = self.mean, self.std
        ratios = [(p.weight, p.std / std, (p.mean - mean) / std) for p in self.parts] if std else []
        return math.fsum(weight * (3 * s**4 + 6 * (s * d) ** 2 + d**4) for weight, s, d in ratios)

    @property
    def atoms(self) -> tuple[tuple[float, float], ...]:
        """Return the values that a share of the elements has exactly, with their shares."""
        return tuple((part.mean, part.weight) for part in self.parts if not part.std)

    @property
    def is_random(self) -> bool:
        return any(part.std for part in self.parts)

    def __str__(self) -> str:
        named = [(part.kind if part.std else "constant", part) for part in self.parts]
        kinds = dict.fromkeys(kind for kind, _ in named)
        return " and ".join(_describe_parts(kind, [part for name, part in named if name == kind]) for kind in kinds)


def _describe_parts(kind: str, parts: list[Part]) -> str:
    shares = ["" if part.weight == 1 else f"{part.weight:.1%} " for part in parts]
    if kind == "constant":
        return " and ".join(f"{share}constant {part.mean:.4g}" for share, part in zip(shares, parts, strict=True))
    words = kind.replace("_", " ")
    if len(parts) > 1:
        low, high = min(part.std for part in parts), max(part.std for part in parts)
        return f"{words}, std from {low:.4g} to {high:.4g} (fused matrices)"
    (part,) = parts
    ends = f", {part.low:.4g} to {part.high:.4g}" if kind in ("uniform", "truncated_normal") else ""
    words = "nearly normal" if kind == "sphere" else words
    return f"{shares[0]}{words}, mean {part.mean:.4g}, std {part.std:.4g}{ends}"


def below(x: float) -> float:
    """Return the standard normal's share below ``x``; accurate in the lower tail."""
    return 0.5 * math.erfc(-x / math.sqrt(2.0))


def mass(a: float, b: float) -> float:
    """Return the standard normal's share between ``a`` and ``b``; 0 when float64 can't tell it from none.

    Example:
        >>> round(mass(-2, 2), 6)
        0.9545
    """
    # The upper tail is read in the lower one, where the difference of two cumulative values keeps its digits.
    return below(-a) - below(-b) if a > 0 else below(b) - below(a)


@functools.cache
def truncated_moments(a: float, b: float) -> tuple[float, float]:
    """Return mean and standard deviation of a standard normal truncated to ``[a, b]``, by Gauss-Legendre quadrature.

    The textbook's closed form subtracts nearly equal numbers for narrow or distant intervals; this doesn't.

    Example:
        >>> [round(moment, 12) for moment in truncated_moments(-2.0, 2.0)]
        [0.0, 0.879625661034]
    """
    import numpy as np

    nodes, weights = np.polynomial.legendre.leggauss(160)
    # Outside of these less than 1e-17 of the truncated distribution lies.
    low, high = max(a, -9.0), min(b, 9.0)
    if a > 0:
        low, high = a, min(b, a + min(9.0, 40.0 / a))
    elif b < 0:
        low, high = max(a, b - min(9.0, -40.0 / b)), b
    half = (high - low) / 2
    peak = min(max(0.0, low), high)
    # Coordinates are taken from the middle of the interval, so that a narrow one keeps its digits.
    offset = half * nodes
    z = (low + high) / 2 + offset
    density = weights * np.exp((peak - z) * (peak + z) / 2)
    mean = float(density @ offset / density.sum())
    variance = float(density @ (offset - mean) ** 2 / density.sum())
    return (0.0 if a == -b else (low + high) / 2 + mean), math.sqrt(variance)
