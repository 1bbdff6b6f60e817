"""Orthogonal matching pursuit, many targets at a time.

Pati, Rezaiifar and Krishnaprasad, "Orthogonal matching pursuit", 1993. The chosen atoms are kept as an orthonormal
basis, grown by one vector a step (Gram-Schmidt, twice, which is enough): their least squares fit is then a sum of
projections, and the coefficients come from one triangular system at the end.
"""

# torch.linalg and Tensor.tolist have no types.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import torch

from hf_init.schemes._row_math import TILE, even, norms, tree_sum
from hf_init.schemes._sample import one_thread

# A target is met, and an atom is spent, when this share of its length is left.
LEFT = 1e-5


def pursue(atoms: torch.Tensor, targets: torch.Tensor, k: int) -> tuple[list[list[int]], list[list[float]]]:
    """Return at most ``k`` atoms and their coefficients for each target: ``target ~ sum of coefficient * atom``.

    Args:
        atoms: ``(s, d)``, float32; those of length 0 are never chosen.
        targets: ``(n, d)``, float32.

    Returns:
        The numbers of the chosen atoms, and the coefficients, for each target; a target of length 0 has the first atom
        with a coefficient of 0.

    Example:
        >>> pursue(torch.eye(3), torch.tensor([[0.0, 4.0, -2.0]]), k=2)
        ([[1, 2]], [[4.0, -2.0]])
    """
    lengths = norms(atoms)
    unit = atoms / torch.where(lengths > 0, lengths, torch.ones_like(lengths))[:, None].float()
    chosen: list[list[int]] = []
    coefficients: list[list[float]] = []
    with one_thread():
        for start in range(0, len(targets), TILE):
            some = targets[start : start + TILE]
            # Always a full tile: the bits of a matrix product change with its shape.
            tile = torch.zeros(TILE, targets.shape[1], dtype=torch.float32, device="cpu")
            tile[: len(some)] = some
            picked, values, used = _pursue_tile(unit, tile, min(k, *unit.shape))
            values /= torch.where(lengths > 0, lengths, torch.ones_like(lengths))[picked]
            for row in range(len(some)):
                count = max(1, int(used[row]))
                chosen.append(picked[row, :count].tolist())
                coefficients.append(values[row, :count].tolist())
    return chosen, coefficients


def _pursue_tile(unit: torch.Tensor, targets: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the chosen atoms of a tile of targets, ``(TILE, k)``, their coefficients, and how many of each count."""
    left, lengths, wide = targets.clone(), norms(targets), even(unit.t())
    basis = torch.zeros(len(targets), k, targets.shape[1], dtype=torch.float32, device="cpu")
    picked = torch.zeros(len(targets), k, dtype=torch.int64, device="cpu")
    used = torch.zeros(len(targets), dtype=torch.int64, device="cpu")
    going = lengths > 0
    for step in range(k):
        picked[:, step] = (left @ wide).abs().argmax(1)
        vector, going = _new_direction(unit[picked[:, step]], basis[:, :step], going)
        basis[:, step] = vector
        left -= tree_sum(left * vector)[:, None] * vector
        used += going
        going = going & (norms(left) > LEFT * lengths)
        if not bool(going.any()):
            break
    return picked, _solve_atoms(unit[picked], targets, basis, used), used


def _new_direction(atom: torch.Tensor, basis: torch.Tensor, going: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the new direction of each atom, both of length 1, and which targets go on; 0 where one has ended."""
    vector = atom
    for _ in range(2):
        vector = vector - (basis.transpose(1, 2) @ (basis @ vector[:, :, None]))[:, :, 0]
    length = norms(vector)
    going = going & (length > LEFT)
    factor = torch.where(going, 1 / length.clamp(min=1e-30), torch.zeros_like(length))
    return (vector * factor[:, None]).float(), going


def _solve_atoms(atoms: torch.Tensor, targets: torch.Tensor, basis: torch.Tensor, used: torch.Tensor) -> torch.Tensor:
    """Return the coefficients, ``(TILE, k)``: in the basis the atoms are triangular, and the targets projections."""
    k = basis.shape[1]
    upper = (basis @ atoms.transpose(1, 2)).double().triu()
    wanted = (basis @ targets[:, :, None]).double()
    idle = torch.arange(k, device="cpu")[None] >= used[:, None]
    upper.diagonal(dim1=1, dim2=2)[idle] = 1.0
    upper.masked_fill_(idle[:, :, None] & ~torch.eye(k, dtype=torch.bool, device="cpu"), 0.0)
    wanted.masked_fill_(idle[:, :, None], 0.0)
    return torch.linalg.solve_triangular(upper, wanted, upper=True)[:, :, 0]
