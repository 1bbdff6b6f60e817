"""Schemes that make a matrix or a kernel as a whole, one logical matrix at a time: orthogonal, sparse, identities."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from hf_init._tensors import Box, Geometry, Shape, Slot, num_elements
from hf_init.schemes._base import Scheme
from hf_init.schemes._distribution import Distribution, Part
from hf_init.schemes._matrices import (
    block_shape,
    centre,
    diagonal,
    geometry_of,
    matrix_blocks,
    misfit,
    rank_of,
)
from hf_init.schemes._settings import AtLeast0, FusedMatrices, Gain, Groups, Share, gain_of

if TYPE_CHECKING:
    import torch

__all__ = ["DeltaOrthogonal", "Dirac", "Eye", "Orthogonal", "Sparse"]

KERNEL = "a convolution's kernel (3 to 5 dimensions)"
MATRIX = "a matrix (2 dimensions)"


@dataclass(frozen=True)
class MatrixScheme(Scheme):
    """What the schemes share that make each logical matrix as a whole."""

    group: ClassVar[str] = "structured"

    def block_shapes(self, slot: Slot) -> list[tuple[int, ...]]:
        """Return the shape of what the slot holds of each matrix: rows, columns and the kernel."""
        geometry = geometry_of(slot)
        return [block_shape(slot, block, geometry) for block in matrix_blocks(slot, geometry)]


def _wrong_rank(slot: Slot, least: int, most: float, needs: str, instead: str) -> str:
    rank = rank_of(slot)
    return "" if least <= rank <= most else f"it needs {needs}, and this has {rank}: use {instead}"


def _on_spheres(gain: float, sizes: list[tuple[int, int]], total: int) -> Distribution | None:
    """Return the distribution of a slot with orthogonal matrices of these sizes, and zeros for the rest of it.

    The longer of a matrix's sides holds vectors of the length ``gain``, drawn evenly from a sphere.
    """
    if not total:
        return None
    elements: Counter[int] = Counter()
    for rows, columns in sizes:
        elements[max(rows, columns)] += rows * columns
    zeros = Part.constant(0.0, 1 - sum(elements.values()) / total)
    return Distribution.of(zeros, *(Part.sphere(gain, longer, n / total) for longer, n in elements.items() if n))


@dataclass(frozen=True)
class Orthogonal(MatrixScheme):
    """Each matrix keeps lengths and angles.

    A convolution's kernel counts to the columns. Fused matrices, experts, gates and groups are each orthogonal alone.

    Formula: W W^T = gain^2 I (W^T W if rows outnumber columns), uniform among such matrices
    Use: A recurrent layer's hidden-to-hidden weight, each gate on its own; deep linear stacks; policy heads with gain
        0.01.
    Torch: torch.nn.init.orthogonal_
    Source: Saxe, McClelland and Ganguli, Exact solutions to the nonlinear dynamics of learning in deep linear neural
        networks, 2013; Mezzadri, How to generate random matrices from the classical compact groups, 2007.

    Args:
        gain: factor on the spread: a number, or an activation's name (tanh 5/3; relu, gelu, silu sqrt(2); linear 1).
        fused: each: fused matrices and gates, each alone; whole: all as the one matrix that torch's function sees.

    Example:
        >>> from hf_init import schemes
        >>> values = schemes.Orthogonal()(schemes.whole_slot("rnn.weight_hh", (3, 4)))
        >>> bool(((values @ values.T).diagonal() - 1).abs().max() < 1e-6)
        True
    """

    name: ClassVar[str] = "orthogonal"
    gain: Gain = 1.0
    fused: FusedMatrices = "each"

    def unsupported_reason(self, slot: Slot) -> str:
        wrong = _wrong_rank(slot, 2, math.inf, "a matrix (2 dimensions or more)", "zeros, uniform or normal")
        return wrong or misfit(slot)

    def _as_drawn(self, slot: Slot) -> Slot:
        return slot if self.fused == "each" else replace(slot, geometry=None)

    def draw(self, slot: Slot) -> torch.Tensor:
        from hf_init.schemes import _sample

        slot = self._as_drawn(slot)
        generator = slot.generator()

        def matrix(shape: Shape) -> torch.Tensor:
            values = _sample.orthonormal(shape[0], math.prod(shape[1:]), generator)
            return values.mul_(gain_of(self.gain)).reshape(shape)

        return _sample.assemble(slot, matrix)

    def distribution_of(self, slot: Slot) -> Distribution | None:
        """Return that of the elements; those of one matrix are not independent of each other."""
        sizes = [(rows, math.prod(rest)) for rows, *rest in self.block_shapes(self._as_drawn(slot))]
        return _on_spheres(gain_of(self.gain), sizes, num_elements(slot.shape))


@dataclass(frozen=True)
class DeltaOrthogonal(MatrixScheme):
    """A convolution, orthogonal at its centre and 0 around it.

    Formula: w[:, :, centre] = gain * Q, Q^T Q = I, group by group; 0 elsewhere; needs channels out >= channels in
    Use: Very deep convolutional stacks without normalization.
    Source: Xiao et al., Dynamical Isometry and a Mean Field Theory of CNNs, 2018.

    Args:
        gain: factor on the spread: a number, or an activation's name.

    Example:
        >>> from hf_init import schemes
        >>> values = schemes.DeltaOrthogonal()(schemes.whole_slot("conv.weight", (4, 2, 3, 3)))
        >>> int((values != 0).sum())
        8
    """

    name: ClassVar[str] = "delta_orthogonal"
    gain: Gain = 1.0

    def unsupported_reason(self, slot: Slot) -> str:
        if wrong := _wrong_rank(slot, 3, 5, KERNEL, "orthogonal") or misfit(slot):
            return wrong
        short = next((b for b in matrix_blocks(slot, geometry_of(slot)) if b.out.size < b.into.size), None)
        if short is None:
            return ""
        return (
            f"it has {short.out.size} output channels for {short.into.size} input channels, expected at least as many: "
            "use orthogonal"
        )

    def draw(self, slot: Slot) -> torch.Tensor:
        from hf_init.schemes import _sample

        generator, middle = slot.generator(), centre(slot, geometry_of(slot))

        def matrix(shape: Shape) -> torch.Tensor:
            values = _sample.full_values(shape, 0.0)
            if middle is not None:
                flat = _sample.orthonormal(shape[0], shape[1], generator)
                values[(slice(None), slice(None), *middle)] = flat * gain_of(self.gain)
            return values

        return _sample.assemble(slot, matrix)

    def distribution_of(self, slot: Slot) -> Distribution | None:
        has_centre = centre(slot, geometry_of(slot)) is not None
        sizes = [(rows, columns) for rows, columns, *_ in self.block_shapes(slot)] if has_centre else []
        return _on_spheres(gain_of(self.gain), sizes, num_elements(slot.shape))


@dataclass(frozen=True)
class Sparse(MatrixScheme):
    """Normal, with a fixed share of each column 0.

    Columns are inputs, rows outputs, however the matrix is stored.

    Formula: ceil(sparsity * rows) zeros in each column, at random places; the rest ~ N(0, std^2)
    Use: Reproducing older recurrent networks.
    Torch: torch.nn.init.sparse_
    Source: Martens, Deep learning via Hessian-free optimization, 2010.

    Args:
        sparsity: share of each column (input) that is 0, from 0 to 1.
        std: of the rest.

    Example:
        >>> from hf_init import schemes
        >>> values = schemes.Sparse(sparsity=0.25)(schemes.whole_slot("proj.weight", (8, 3)))
        >>> (values == 0).sum(0).tolist()
        [2, 2, 2]
    """

    name: ClassVar[str] = "sparse"
    sparsity: Share
    std: AtLeast0 = 0.01

    def unsupported_reason(self, slot: Slot) -> str:
        return _wrong_rank(slot, 2, 2, MATRIX, "normal") or misfit(slot)

    def draw(self, slot: Slot) -> torch.Tensor:
        from hf_init.schemes import _sample

        generator = slot.generator()

        def matrix(shape: Shape) -> torch.Tensor:
            rows, columns = shape
            return _sample.sparse(rows, columns, self.zeros(rows), self.std, generator)

        return _sample.assemble(slot, matrix)

    def zeros(self, rows: int) -> int:
        """Return how many zeros a column of this many elements has."""
        return math.ceil(self.sparsity * rows)

    def distribution_of(self, slot: Slot) -> Distribution | None:
        if not (total := num_elements(slot.shape)):
            return None
        share = sum((rows - self.zeros(rows)) * columns for rows, columns in self.block_shapes(slot)) / total
        return Distribution.of(Part.constant(0.0, 1 - share), Part.normal(0.0, self.std, share))


@dataclass(frozen=True)
class Eye(MatrixScheme):
    """A matrix that passes its input on.

    Formula: w[i, i] = 1; 0 elsewhere
    Use: A new square linear layer that should change nothing at first; hidden-to-hidden weights of relu recurrent nets.
    Torch: torch.nn.init.eye_
    Source: Le, Jaitly and Hinton, A Simple Way to Initialize Recurrent Networks of Rectified Linear Units, 2015.

    Example:
        >>> from hf_init import schemes
        >>> schemes.Eye()(schemes.whole_slot("proj.weight", (2, 3)))
        tensor([[1., 0., 0.],
                [0., 1., 0.]])
    """

    name: ClassVar[str] = "eye"
    aliases: ClassVar[tuple[str, ...]] = ("identity",)

    def unsupported_reason(self, slot: Slot) -> str:
        return _wrong_rank(slot, 2, 2, MATRIX, "dirac for a convolution, ones or zeros for a vector") or misfit(slot)

    def draw(self, slot: Slot) -> torch.Tensor:
        return _deltas(slot, geometry_of(slot))


@dataclass(frozen=True)
class Dirac(MatrixScheme):
    """A convolution that passes its input on.

    Formula: w[g * n + i, i, centre] = 1 for each of the groups g of n output channels; 0 elsewhere
    Use: A new convolution that should change nothing at first.
    Torch: torch.nn.init.dirac_
    Source: Zagoruyko and Komodakis, DiracNets: Training Very Deep Neural Networks Without Skip-Connections, 2017.

    Args:
        groups: groups of output channels, each with the identity; None: those of the convolution.

    Example:
        >>> from hf_init import schemes
        >>> schemes.Dirac()(schemes.whole_slot("conv.weight", (2, 2, 3)))
        tensor([[[0., 1., 0.],
                 [0., 0., 0.]],
        <BLANKLINE>
                [[0., 0., 0.],
                 [0., 1., 0.]]])
    """

    name: ClassVar[str] = "dirac"
    groups: Groups = None

    def unsupported_reason(self, slot: Slot) -> str:
        if wrong := _wrong_rank(slot, 3, 5, KERNEL, "eye for a matrix, ones or zeros for a vector") or misfit(slot):
            return wrong
        return misfit(replace(slot, geometry=self.geometry(slot)))

    def geometry(self, slot: Slot) -> Geometry:
        """Return the slot's geometry with this scheme's groups."""
        geometry = geometry_of(slot)
        return replace(geometry, groups=self.groups) if self.groups else geometry

    def draw(self, slot: Slot) -> torch.Tensor:
        return _deltas(slot, self.geometry(slot))


def _deltas(slot: Slot, geometry: Geometry) -> torch.Tensor:
    """Return zeros with ones where a matrix's diagonal meets its kernel's centre."""
    from hf_init.schemes import _sample

    values = _sample.full_values(slot.shape, 0.0)
    if slot.region == Box.whole(slot.whole) and values.dim() == 2 and not geometry.parts and geometry.groups == 1:
        values.diagonal().fill_(1.0)  # the plain case, at torch's speed
        return values
    matrices, middle = _sample.logical(values, geometry), centre(slot, geometry)
    if middle is not None:
        for block in matrix_blocks(slot, geometry):
            matrices[block.stack][(slice(None), slice(None), *middle)][diagonal(block)] = 1.0
    return values
