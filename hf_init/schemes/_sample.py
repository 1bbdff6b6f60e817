"""Fresh float32 tensors on the CPU, filled from a generator that is given; the only place that calls torch's samplers.

``torch.nn.init`` is not used: transformers replaces its functions while it loads a model, and before torch 2.12 its
truncated normal has values at a hundred standard deviations in half precision.
"""

# torch.linalg and torch.special have no types.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import contextlib
import math
import threading
from collections.abc import Callable, Generator, Iterable

import numpy as np
import torch

from hf_init._tensors import Geometry, Shape, Slot
from hf_init.schemes._distribution import Part, below, mass
from hf_init.schemes._matrices import block_shape, geometry_of, matrix_blocks

# Under this share of accepted candidates, drawing again costs more than inverting the distribution.
FEW = 0.25
# Torch's number of threads is the process's: who changes it must be alone until it is back.
_ALONE = threading.Lock()


def empty_values(shape: Shape) -> torch.Tensor:
    """Return memory to fill: said to be on the CPU, since a caller may be inside ``with torch.device(...)``."""
    return torch.empty(shape, dtype=torch.float32, device="cpu")


def full_values(shape: Shape, value: float) -> torch.Tensor:
    return torch.full(shape, value, dtype=torch.float32, device="cpu")


def normal(shape: Shape, mean: float, std: float, generator: torch.Generator) -> torch.Tensor:
    return empty_values(shape).normal_(mean, std, generator=generator)


def uniform(shape: Shape, a: float, b: float, generator: torch.Generator) -> torch.Tensor:
    return empty_values(shape).uniform_(a, b, generator=generator)


def independent(part: Part, shape: Shape, generator: torch.Generator) -> torch.Tensor:
    """Draw every element of a shape from one distribution."""
    if part.kind == "constant":
        return full_values(shape, part.mean)
    if part.kind == "uniform":
        return uniform(shape, part.low, part.high, generator)
    if part.kind == "normal":
        return normal(shape, part.mean, part.std, generator)
    return truncated(shape, *part.cut, generator, part.center, part.scale)


def truncated(
    shape: Shape, a: float, b: float, generator: torch.Generator, mean: float = 0.0, scale: float = 1.0
) -> torch.Tensor:
    """Draw ``mean + scale * z`` with z a standard normal truncated to ``[a, b]``; no value outside that range.

    By rejection (redrawing what falls outside) where enough candidates are accepted; else by inverting the distribution
    in float64, in the lower tail, where it keeps its digits.
    """
    z = (_redraw if mass(a, b) >= FEW else _invert)(shape, a, b, generator)
    z.mul_(scale)
    if mean:
        z.add_(mean)
    return z.clamp_(*_float32_within(mean + scale * a, mean + scale * b))


def _redraw(shape: Shape, a: float, b: float, generator: torch.Generator) -> torch.Tensor:
    z = normal(shape, 0.0, 1.0, generator)
    flat = z.view(-1)
    outside = ((flat < a) | (flat > b)).nonzero().view(-1)
    while outside.numel():
        fresh = normal((outside.numel(),), 0.0, 1.0, generator)
        flat[outside] = fresh
        outside = outside[(fresh < a) | (fresh > b)]
    return z


def _invert(shape: Shape, a: float, b: float, generator: torch.Generator) -> torch.Tensor:
    if a > 0:
        return _invert(shape, -b, -a, generator).neg_()
    share = torch.empty(shape, dtype=torch.float64, device="cpu").uniform_(generator=generator)
    share.mul_(below(b) - below(a)).add_(below(a))
    return torch.special.ndtri(share).clamp_(a, b).to(torch.float32)


def _float32_within(low: float, high: float) -> tuple[float, float]:
    """Return the outermost float32 numbers within two bounds; the bounds themselves when there is none between them."""
    with np.errstate(over="ignore"):  # a bound beyond float32 becomes an infinity, which bounds nothing
        up, down = np.float32(low), np.float32(high)
    # Compared as float64: numpy would round the other side to float32 first.
    up = np.nextafter(up, np.float32(np.inf)) if float(up) < low else up
    down = np.nextafter(down, np.float32(-np.inf)) if float(down) > high else down
    return (float(up), float(down)) if up <= down else (low, high)


def spread(distribution: str, shape: Shape, scale: float, generator: torch.Generator) -> torch.Tensor:
    """Draw values around 0: normal with this std, uniform with this bound, or normal truncated at two of it."""
    if distribution == "uniform":
        return uniform(shape, -scale, scale, generator)
    if distribution == "normal":
        return normal(shape, 0.0, scale, generator)
    return truncated(shape, -2.0, 2.0, generator, scale=scale)


def sample_moments(pieces: Iterable[torch.Tensor]) -> tuple[float, float]:
    """Return mean and standard deviation of all elements of some tensors, each read once, in float64."""
    elements, total, squares = 0, 0.0, 0.0
    with one_thread():  # small pieces, and sums that don't depend on how many threads there are
        for piece in pieces:
            values = piece.double()
            elements += values.numel()
            total += float(values.sum())
            squares += float(values.square().sum())
    mean = total / max(elements, 1)
    return mean, math.sqrt(max(squares / max(elements, 1) - mean * mean, 0.0))


def orthonormal(rows: int, columns: int, generator: torch.Generator) -> torch.Tensor:
    """Draw a matrix with orthonormal rows, or columns if it has fewer of them, uniform among all such (Haar measure).

    The QR factor of a normal matrix is that only once the signs of R's diagonal are made positive (Mezzadri, 2007).
    """
    matrix = normal((rows, columns), 0.0, 1.0, generator)
    if not matrix.numel():
        return matrix
    with one_thread():
        q, r = torch.linalg.qr(matrix.t() if rows < columns else matrix)
    q = q * torch.where(r.diagonal() < 0, -1.0, 1.0)
    return q.t() if rows < columns else q


@contextlib.contextmanager
def one_thread() -> Generator[None]:
    """Run torch's linear algebra in this thread alone: how many share it would show in the last bits of the result."""
    with _ALONE:
        before = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            yield
        finally:
            torch.set_num_threads(before)


def logical(values: torch.Tensor, geometry: Geometry) -> torch.Tensor:
    """Return a view of a stored tensor as ``(*stack, out, in, *kernel)``."""
    return values.transpose(geometry.stack, geometry.stack + 1) if geometry.order == "in_out" else values


def assemble(slot: Slot, matrix: Callable[[Shape], torch.Tensor]) -> torch.Tensor:
    """Return the slot's tensor, from what ``matrix`` gives for each shape ``(rows, columns, *kernel)`` of a matrix."""
    values, geometry = full_values(slot.shape, 0.0), geometry_of(slot)
    matrices = logical(values, geometry)
    for block in matrix_blocks(slot, geometry):
        matrices[block.stack][block.out.at, block.into.at] = matrix(block_shape(slot, block, geometry))
    return values


def sparse(rows: int, columns: int, zeros: int, std: float, generator: torch.Generator) -> torch.Tensor:
    """Draw a normal matrix with this many zeros in each column, at places drawn without replacement."""
    values = normal((rows, columns), 0.0, std, generator)
    for column in range(columns if zeros else 0):
        values[torch.randperm(rows, generator=generator, device="cpu")[:zeros], column] = 0.0
    return values
