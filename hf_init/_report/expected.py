"""What is expected of a new region: its scheme's distribution, and the density to draw over the histogram."""

from __future__ import annotations

import math

import numpy as np

from hf_init._errors import RecipeError
from hf_init._tensors import Slot, num_elements
from hf_init.schemes import Distribution, Part, Scheme, mass


def expected_distribution(scheme: Scheme, slot: Slot) -> Distribution | None:
    """Return how the slot's elements are distributed; None where the scheme says nothing, or doesn't fit the slot.

    Example:
        >>> from hf_init import schemes
        >>> str(expected_distribution(schemes.Normal(std=0.02), schemes.whole_slot("w", (3, 4))))
        'normal, mean 0, std 0.02'
    """
    if not num_elements(slot.shape):
        return None
    try:
        scheme.check(slot)
    except RecipeError:  # a manifest that was written by hand
        return None
    return scheme.distribution_of(slot)


def density(distribution: Distribution, x: np.ndarray) -> np.ndarray:
    """Return the density at ``x``; the atoms, whose density is a line, are left out."""
    return np.sum([part.weight * _part_density(part, x) for part in distribution.parts], axis=0)


def _part_density(part: Part, x: np.ndarray) -> np.ndarray:
    if not part.std:
        return np.zeros_like(x)
    if part.kind == "normal":
        return _bell(x, part.mean, part.std)
    inside = (x >= part.low) & (x <= part.high)
    if part.kind == "uniform":
        return inside / (part.high - part.low)
    if part.kind == "truncated_normal":
        return np.where(inside, _bell(x, part.center, part.scale) / mass(*part.cut), 0.0)
    # A coordinate of a point drawn evenly from a sphere: as (1 - x^2)^((d - 3) / 2).
    if part.dimension < 4:  # infinite at its ends, or no density at all
        return np.zeros_like(x)
    log = math.lgamma(part.dimension / 2) - math.lgamma((part.dimension - 1) / 2) - 0.5 * math.log(math.pi)
    inner = np.maximum(1 - (np.clip(x, part.low, part.high) / part.high) ** 2, 1e-300)
    return np.where(inside, np.exp(log + (part.dimension - 3) / 2 * np.log(inner)) / part.high, 0.0)


def _bell(x: np.ndarray, mean: float, std: float) -> np.ndarray:
    return np.exp(-0.5 * ((x - mean) / std) ** 2) / (std * math.sqrt(2 * math.pi))
