"""Which pretrained tensors a tensor is compared with: those of its role, from the layers nearest to its own."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from hf_init._block_names import name_pattern
from hf_init._plan import TensorPlan
from hf_init._tensors import Box, Region, Status, num_elements

MOST = 3


@dataclass(frozen=True)
class Candidate:
    """A region that a tensor may be compared with; ``at`` is its place in the order of the files."""

    name: str
    role: str
    region: Region
    dimensions: int
    at: int


def pretrained(tensors: Sequence[TensorPlan]) -> list[Candidate]:
    """Return what came from the source: a kept tensor as a whole, of a resized one the largest kept region."""

    def largest(tensor: TensorPlan) -> Region:
        return max((copy.region for copy in tensor.kept), key=lambda region: num_elements(region.shape))

    return [
        Candidate(tensor.name, tensor.role, largest(tensor), len(tensor.shape), at)
        for at, tensor in enumerate(tensors)
        if tensor.status in (Status.KEPT, Status.RESIZED) and tensor.kept and all(tensor.shape)
    ]


def nearest_neighbours(of: Candidate, candidates: Iterable[Candidate]) -> list[Candidate]:
    """Return the few candidates of the same role and number of dimensions whose layers are nearest.

    Names that differ in numbers alone go first, and the rest of a resized tensor before all.

    Example:
        >>> make = lambda at: Candidate(f"layers.{at}.w", "linear.weight", Box((0,), (1,)), 1, at)
        >>> [found.name for found in nearest_neighbours(make(9), map(make, range(9)))]
        ['layers.8.w', 'layers.7.w', 'layers.6.w']
    """
    alike = [each for each in candidates if (each.role, each.dimensions) == (of.role, of.dimensions)]
    pattern, layers = name_pattern(of.name), layer_numbers(of)

    def distance(each: Candidate) -> tuple[bool, tuple[int, ...], int]:
        apart = tuple(abs(a - b) for a, b in zip(layer_numbers(each), layers, strict=False))
        return name_pattern(each.name) != pattern, apart, abs(each.at - of.at)

    return sorted(alike, key=distance)[:MOST]


def layer_numbers(of: Candidate) -> tuple[int, ...]:
    """Return the numbers in a tensor's name."""
    return tuple(int(part[:18]) for part in of.name.split(".") if part.isdecimal())


def whole_tensor(name: str, role: str, shape: tuple[int, ...], at: int) -> Candidate:
    """Return a tensor as a whole as a candidate."""
    return Candidate(name, role, Box.whole(shape), len(shape), at)
