"""What a scheme promises of a slot's values: a density, from its settings and the slot's fans. Draws nothing."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from hf_init import schemes
from hf_init._errors import RecipeError
from hf_init._tensors import Slot, num_elements
from hf_init.schemes import (
    FanScheme,
    Scheme,
    block_shape,
    centre,
    gain_of,
    geometry_of,
    mass,
    matrix_blocks,
    truncated_moments,
)


@dataclass(frozen=True)
class PromisedPart:
    """A share of the elements that come from one distribution.

    Attributes:
        weight: the share.
        kind: normal, uniform, truncated normal, sphere (a coordinate of a point on a sphere) or constant.
        mean, std: of this part's elements.
        low, high: where it ends, if it does.
        scale: of a truncated normal, the normal's own standard deviation; of a sphere, its dimension.
        middle: of a truncated normal, the normal's own mean.
    """

    weight: float
    kind: str
    mean: float
    std: float
    low: float = -math.inf
    high: float = math.inf
    scale: float = 0.0
    middle: float = 0.0

    def density(self, x: np.ndarray) -> np.ndarray:
        """The density at ``x``, the weight included; 0 for a constant, whose density is a line."""
        if self.kind == "constant":
            return np.zeros_like(x)
        inside = (x >= self.low) & (x <= self.high)
        return self.weight * np.where(inside, _DENSITIES[self.kind](self, np.clip(x, self.low, self.high)), 0.0)


def _gaussian(x: np.ndarray, mean: float, std: float) -> np.ndarray:
    return np.exp(-0.5 * ((x - mean) / std) ** 2) / (std * math.sqrt(2 * math.pi))


def _normal_density(part: PromisedPart, x: np.ndarray) -> np.ndarray:
    return _gaussian(x, part.mean, part.std)


def _uniform_density(part: PromisedPart, x: np.ndarray) -> np.ndarray:
    return np.full_like(x, 1 / (part.high - part.low))


def _truncated_density(part: PromisedPart, x: np.ndarray) -> np.ndarray:
    ends = ((end - part.middle) / part.scale for end in (part.low, part.high))
    return _gaussian(x, part.middle, part.scale) / mass(*ends)


def _sphere_density(part: PromisedPart, x: np.ndarray) -> np.ndarray:
    """Of one coordinate of a point drawn evenly from a sphere: proportional to ``(1 - x^2)^((d - 3) / 2)``."""
    if part.scale < 4:  # infinite at its ends, or no density at all
        return np.zeros_like(x)
    log = math.lgamma(part.scale / 2) - math.lgamma((part.scale - 1) / 2) - 0.5 * math.log(math.pi)
    inner = np.maximum(1 - (x / part.high) ** 2, 1e-300)
    return np.exp(log + (part.scale - 3) / 2 * np.log(inner)) / part.high


_DENSITIES = {
    "normal": _normal_density,
    "uniform": _uniform_density,
    "truncated normal": _truncated_density,
    "sphere": _sphere_density,
}


@dataclass(frozen=True)
class ExpectedDistribution:
    """A mixture of parts whose weights add up to 1."""

    parts: tuple[PromisedPart, ...]

    @property
    def mean(self) -> float:
        return math.fsum(part.weight * part.mean for part in self.parts)

    @property
    def std(self) -> float:
        return math.sqrt(math.fsum(p.weight * (p.std**2 + (p.mean - self.mean) ** 2) for p in self.parts))

    @property
    def widest(self) -> float:
        """The standard deviation of the part that reaches farthest."""
        return max(part.std for part in self.parts)

    @property
    def kurtosis(self) -> float:
        """The fourth moment over the square of the variance, from above: each part counts as a normal (3)."""
        mean, std = self.mean, self.std
        ratios = [(p.weight, p.std / std, (p.mean - mean) / std) for p in self.parts] if std else []
        return math.fsum(weight * (3 * s**4 + 6 * (s * d) ** 2 + d**4) for weight, s, d in ratios)

    @property
    def constants(self) -> tuple[tuple[float, float], ...]:
        """Values that a share of the elements is exactly, with their shares."""
        return tuple((part.mean, part.weight) for part in self.parts if part.kind == "constant")

    @property
    def random(self) -> bool:
        """Whether anything in it is drawn."""
        return any(part.kind != "constant" for part in self.parts)

    def density(self, x: np.ndarray) -> np.ndarray:
        return np.sum([part.density(x) for part in self.parts], axis=0)

    def __str__(self) -> str:
        words = []
        for kind in dict.fromkeys(part.kind for part in self.parts):
            same = [part for part in self.parts if part.kind == kind]
            words.append(_described(same))
        return " and ".join(words)


def _described(parts: list[PromisedPart]) -> str:
    first = parts[0]
    if first.kind == "constant":
        return " and ".join(f"{_share(part)}constant {part.mean:.4g}" for part in parts)
    if len(parts) > 1:
        low, high = min(part.std for part in parts), max(part.std for part in parts)
        return f"{first.kind}, std from {low:.4g} to {high:.4g} (fused matrices)"
    kind = "nearly normal" if first.kind == "sphere" else first.kind
    ends = f", {first.low:.4g} to {first.high:.4g}" if first.kind in ("uniform", "truncated normal") else ""
    return f"{_share(first)}{kind}, mean {first.mean:.4g}, std {first.std:.4g}{ends}"


def _share(part: PromisedPart) -> str:
    return "" if part.weight == 1 else f"{part.weight:.1%} "


def expected_distribution(scheme: Scheme, slot: Slot) -> ExpectedDistribution | None:
    """What the scheme promises of the slot; None where it promises no distribution, or doesn't fit the slot.

    Example:
        >>> str(expected_distribution(schemes.Normal(std=0.02), schemes.whole_slot("w", (3, 4))))
        'normal, mean 0, std 0.02'
    """
    if not num_elements(slot.shape):
        return None
    try:
        scheme.check(slot)
    except RecipeError:  # a manifest that was written by hand
        return None
    parts = tuple(part for part in _parts(scheme, slot) if part.weight)
    return ExpectedDistribution(parts) if parts else None


def _parts(scheme: Scheme, slot: Slot) -> Iterator[PromisedPart]:
    if isinstance(scheme, FanScheme):
        yield from _of_fans(scheme, slot)
    elif isinstance(scheme, schemes.Orthogonal | schemes.DeltaOrthogonal):
        yield from _of_spheres(scheme, slot)
    elif isinstance(scheme, schemes.Sparse):
        yield from _of_sparse(scheme, slot)
    elif isinstance(scheme, schemes.Uniform):
        yield _uniform(1.0, scheme.a, scheme.b)
    elif isinstance(scheme, schemes.TruncNormal):
        yield _truncated(1.0, scheme.mean, scheme.scale, scheme.a, scheme.b)
    elif isinstance(scheme, schemes.TruncNormalAbsolute):
        yield _truncated(1.0, scheme.mean, scheme.std, *scheme.relative)
    elif isinstance(scheme, _BY_MOMENTS) and (moments := scheme.moments(slot)):
        yield _normal(1.0, *moments)


# A normal, or a constant: all is said by mean and standard deviation.
_BY_MOMENTS = (schemes.Normal, schemes.ScaledResidual, schemes.Zeros, schemes.Ones, schemes.Constant)


def _normal(weight: float, mean: float, std: float) -> PromisedPart:
    return PromisedPart(weight, "normal" if std else "constant", mean, std)


def _uniform(weight: float, low: float, high: float) -> PromisedPart:
    return PromisedPart(weight, "uniform", (low + high) / 2, (high - low) / math.sqrt(12), low, high)


def _truncated(weight: float, mean: float, scale: float, a: float, b: float) -> PromisedPart:
    if not scale:
        return PromisedPart(weight, "constant", mean, 0.0)
    shift, spread = truncated_moments(a, b)
    ends = (mean + a * scale, mean + b * scale)
    return PromisedPart(weight, "truncated normal", mean + shift * scale, spread * scale, *ends, scale, mean)


def _of_fans(scheme: FanScheme, slot: Slot) -> Iterator[PromisedPart]:
    """One part for each standard deviation among the matrices of the slot."""
    elements: Counter[float] = Counter()
    for fans in schemes.fans_of(slot):
        elements[scheme.std_for(fans)] += len(fans.rows.inside)
    for std, many in elements.items():
        yield _around_0(scheme.drawn_from, many / elements.total(), std)


def _around_0(kind: str, weight: float, std: float) -> PromisedPart:
    if kind == "normal" or not std:
        return _normal(weight, 0.0, std)
    if kind == "uniform":
        return _uniform(weight, -std * math.sqrt(3), std * math.sqrt(3))
    return _truncated(weight, 0.0, std / truncated_moments(-2.0, 2.0)[1], -2.0, 2.0)


def _of_spheres(scheme: schemes.Orthogonal | schemes.DeltaOrthogonal, slot: Slot) -> Iterator[PromisedPart]:
    """The longer of a matrix's sides holds unit vectors; of a delta, only the kernel's centre does."""
    gain = gain_of(scheme.gain)
    elements = _on_spheres(slot, isinstance(scheme, schemes.DeltaOrthogonal)) if gain else Counter()
    total = num_elements(slot.shape)
    yield PromisedPart(1 - elements.total() / total, "constant", 0.0, 0.0)
    for longer, many in elements.items():
        yield PromisedPart(many / total, "sphere", 0.0, gain / math.sqrt(longer), -gain, gain, longer)


def _on_spheres(slot: Slot, delta: bool) -> Counter[int]:
    """How many elements of the slot are in a matrix whose longer side has this length."""
    geometry, elements = geometry_of(slot), Counter()
    if delta and centre(slot, geometry) is None:
        return elements
    for block in matrix_blocks(slot, geometry):
        rows, *rest = block_shape(slot, block, geometry)
        columns = rest[0] if delta else math.prod(rest)
        elements[max(rows, columns)] += rows * columns
    return elements


def _of_sparse(scheme: schemes.Sparse, slot: Slot) -> Iterator[PromisedPart]:
    moments = scheme.moments(slot)
    alive = (moments[1] / scheme.std) ** 2 if moments and scheme.std else 0.0
    yield PromisedPart(1 - alive, "constant", 0.0, 0.0)
    yield PromisedPart(alive, "normal", 0.0, scheme.std)
