"""Schemes that make a matrix or a kernel as a whole, one logical matrix at a time: orthogonal, sparse, identities."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from hf_init._tensors import Box, Geometry, Slot, num_elements
from hf_init.schemes._base import Scheme
from hf_init.schemes._matrices import (
    MatrixBlock,
    block_shape,
    centre,
    diagonal,
    diagonal_square,
    geometry_of,
    matrix_blocks,
    misfit,
    rank_of,
)
from hf_init.schemes._settings import AtLeast0, Gain, Groups, Share, gain_of

if TYPE_CHECKING:
    import torch

KERNEL = "a convolution's kernel (3 to 5 dimensions)"
MATRIX = "a matrix (2 dimensions)"


def _wrong_rank(slot: Slot, least: int, most: float, needs: str, instead: str) -> str:
    rank = rank_of(slot)
    return "" if least <= rank <= most else f"it needs {needs}, and this has {rank}: use {instead}"


@dataclass(frozen=True)
class Orthogonal(Scheme):
    """Each matrix has orthonormal rows (columns, if they are fewer) times ``gain``: torch.nn.init.orthogonal_.

    A convolution's kernel counts to the columns. Fused matrices, experts, gates and groups are each orthogonal alone.

    Raises:
        RecipeError: the tensor has fewer than two dimensions.

    Example:
        >>> from hf_init import schemes
        >>> values = schemes.Orthogonal()(schemes.whole_slot("rnn.weight_hh", (3, 4)))
        >>> bool(((values @ values.T).diagonal() - 1).abs().max() < 1e-6)
        True

    Source: Saxe et al., "Exact solutions to the nonlinear dynamics of learning in deep linear neural networks", 2013.
    """

    name: ClassVar[str] = "orthogonal"
    gain: Gain = 1.0

    def unsupported_reason(self, slot: Slot) -> str:
        wrong = _wrong_rank(slot, 2, math.inf, "a matrix (2 dimensions or more)", "zeros, uniform or normal")
        return wrong or misfit(slot)

    def draw(self, slot: Slot) -> torch.Tensor:
        from hf_init.schemes import _sample

        geometry, generator = geometry_of(slot), slot.generator()

        def matrix(block: MatrixBlock) -> torch.Tensor:
            rows, *rest = block_shape(slot, block, geometry)
            values = _sample.orthonormal(rows, math.prod(rest), generator)
            return values.mul_(gain_of(self.gain)).reshape(rows, *rest)

        return _sample.assemble(slot, geometry, matrix)

    def moments(self, slot: Slot) -> tuple[float, float] | None:
        """The elements' own: those of one matrix are not independent of each other."""
        geometry = geometry_of(slot)
        shapes = [block_shape(slot, block, geometry) for block in matrix_blocks(slot, geometry)]
        return _spread(gain_of(self.gain) ** 2 * sum(map(_shorter, shapes)), slot)


def _shorter(shape: tuple[int, ...]) -> int:
    """The squared norm of a matrix with orthonormal rows or columns: as many as there are of the fewer."""
    return min(shape[0], math.prod(shape[1:]))


def _spread(squares: float, slot: Slot) -> tuple[float, float] | None:
    """Mean 0, and the standard deviation of a slot whose squares sum to this."""
    return (0.0, math.sqrt(squares / num_elements(slot.shape))) if num_elements(slot.shape) else None


@dataclass(frozen=True)
class DeltaOrthogonal(Scheme):
    """A convolution that is orthogonal at its kernel's centre and 0 elsewhere, each of its groups on its own.

    Raises:
        RecipeError: the tensor isn't a convolution's kernel, or has fewer output than input channels.

    Example:
        >>> from hf_init import schemes
        >>> values = schemes.DeltaOrthogonal()(schemes.whole_slot("conv.weight", (4, 2, 3, 3)))
        >>> int((values != 0).sum())
        8

    Source: Xiao et al., "Dynamical Isometry and a Mean Field Theory of CNNs", 2018.
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

        geometry, generator = geometry_of(slot), slot.generator()
        middle = centre(slot, geometry)

        def matrix(block: MatrixBlock) -> torch.Tensor:
            shape = block_shape(slot, block, geometry)
            values = _sample.full_values(shape, 0.0)
            if middle is not None:
                flat = _sample.orthonormal(shape[0], shape[1], generator)
                values[(slice(None), slice(None), *middle)] = flat * gain_of(self.gain)
            return values

        return _sample.assemble(slot, geometry, matrix)

    def moments(self, slot: Slot) -> tuple[float, float] | None:
        geometry = geometry_of(slot)
        if centre(slot, geometry) is None:
            return 0.0, 0.0
        shapes = [block_shape(slot, block, geometry)[:2] for block in matrix_blocks(slot, geometry)]
        return _spread(gain_of(self.gain) ** 2 * sum(map(_shorter, shapes)), slot)


@dataclass(frozen=True)
class Sparse(Scheme):
    """Normal, with the share ``sparsity`` of each column set to 0 (rounded up): torch.nn.init.sparse_.

    Columns are inputs, rows outputs, however the matrix is stored.

    Raises:
        RecipeError: the tensor isn't a matrix.

    Example:
        >>> from hf_init import schemes
        >>> values = schemes.Sparse(sparsity=0.25)(schemes.whole_slot("proj.weight", (8, 3)))
        >>> (values == 0).sum(0).tolist()
        [2, 2, 2]

    Source: Martens, "Deep learning via Hessian-free optimization", 2010.
    """

    name: ClassVar[str] = "sparse"
    sparsity: Share
    std: AtLeast0 = 0.01

    def unsupported_reason(self, slot: Slot) -> str:
        return _wrong_rank(slot, 2, 2, MATRIX, "normal") or misfit(slot)

    def draw(self, slot: Slot) -> torch.Tensor:
        from hf_init.schemes import _sample

        geometry, generator = geometry_of(slot), slot.generator()

        def matrix(block: MatrixBlock) -> torch.Tensor:
            rows, columns = block_shape(slot, block, geometry)
            return _sample.sparse(rows, columns, self.zeros(rows), self.std, generator)

        return _sample.assemble(slot, geometry, matrix)

    def zeros(self, rows: int) -> int:
        """How many zeros a column of this many elements has."""
        return math.ceil(self.sparsity * rows)

    def moments(self, slot: Slot) -> tuple[float, float] | None:
        geometry = geometry_of(slot)
        shapes = [block_shape(slot, block, geometry) for block in matrix_blocks(slot, geometry)]
        return _spread(self.std**2 * sum((rows - self.zeros(rows)) * columns for rows, columns in shapes), slot)


@dataclass(frozen=True)
class Eye(Scheme):
    """Ones on the diagonal of each matrix, zeros elsewhere: torch.nn.init.eye_.

    Raises:
        RecipeError: the tensor isn't a matrix.

    Example:
        >>> from hf_init import schemes
        >>> schemes.Eye()(schemes.whole_slot("proj.weight", (2, 3)))
        tensor([[1., 0., 0.],
                [0., 1., 0.]])

    Source: Le, Jaitly and Hinton, "A Simple Way to Initialize Recurrent Networks of Rectified Linear Units", 2015.
    """

    name: ClassVar[str] = "eye"

    def unsupported_reason(self, slot: Slot) -> str:
        return _wrong_rank(slot, 2, 2, MATRIX, "dirac for a convolution, ones or zeros for a vector") or misfit(slot)

    def draw(self, slot: Slot) -> torch.Tensor:
        return _deltas(slot, geometry_of(slot))


@dataclass(frozen=True)
class Dirac(Scheme):
    """A convolution that passes its input channels on unchanged, as many as there are: torch.nn.init.dirac_.

    ``groups`` counts the output channels' groups, each of which repeats the identity; none means the convolution's own.

    Raises:
        RecipeError: the tensor isn't a convolution's kernel, or its output channels aren't divided by ``groups``.

    Example:
        >>> from hf_init import schemes
        >>> schemes.Dirac()(schemes.whole_slot("conv.weight", (2, 2, 3)))
        tensor([[[0., 1., 0.],
                 [0., 0., 0.]],
        <BLANKLINE>
                [[0., 0., 0.],
                 [0., 1., 0.]]])

    Source: Zagoruyko and Komodakis, "DiracNets: Training Very Deep Neural Networks Without Skip-Connections", 2017.
    """

    name: ClassVar[str] = "dirac"
    groups: Groups = None

    def unsupported_reason(self, slot: Slot) -> str:
        if wrong := _wrong_rank(slot, 3, 5, KERNEL, "eye for a matrix, ones or zeros for a vector") or misfit(slot):
            return wrong
        return misfit(replace(slot, geometry=self.geometry(slot)))

    def geometry(self, slot: Slot) -> Geometry:
        """The slot's geometry with this scheme's groups."""
        geometry = geometry_of(slot)
        return replace(geometry, groups=self.groups) if self.groups else geometry

    def draw(self, slot: Slot) -> torch.Tensor:
        return _deltas(slot, self.geometry(slot))


def _deltas(slot: Slot, geometry: Geometry) -> torch.Tensor:
    """Ones where a matrix's diagonal meets its kernel's centre."""
    from hf_init.schemes import _sample

    values = _sample.full_values(slot.shape, 0.0)
    if slot.region == Box.whole(slot.whole) and values.dim() == 2 and not geometry.parts and geometry.groups == 1:
        values.diagonal().fill_(1.0)  # the plain case, at torch's speed
        return values
    matrices, middle = _sample.logical(values, geometry), centre(slot, geometry)
    if middle is not None:
        for block in matrix_blocks(slot, geometry):
            matrix = matrices[block.stack][(slice(None), slice(None), *middle)]
            square = diagonal_square(block)
            if square is None:
                matrix[diagonal(block)] = 1.0
            else:
                matrix[square].diagonal().fill_(1.0)
    return values
