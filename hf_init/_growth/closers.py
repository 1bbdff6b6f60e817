"""What closes a new block, so that it adds nothing: a table by role. Which row does is seen, not believed."""

from __future__ import annotations

from collections.abc import Sequence

from hf_init._roles import matches
from hf_init._tensors import TensorSpec
from hf_init.schemes import Constant, Ones, Scheme, Zeros

ZERO = Zeros()
ENDS: tuple[tuple[str, Scheme], ...] = (
    ("norm.residual", ZERO),
    ("norm_plus_one.residual.weight", Constant(val=-1.0)),
    ("norm_plus_one.residual.bias", ZERO),
    ("gate", ZERO),
)
"""What a branch ends with, where it does: a norm of its own, or a gate."""
PROJECTIONS: tuple[tuple[str, Scheme], ...] = (
    ("attention.output", ZERO),
    ("mlp.down", ZERO),
    ("expert.down", ZERO),
    ("mixer.output", ZERO),
)
"""What else writes into the residual stream: weights and biases."""
CLOSERS = (ENDS, PROJECTIONS, (*ENDS, *PROJECTIONS))
"""Ways to close a block, the first that does it is taken."""
NORMS: tuple[tuple[str, Scheme], ...] = (*PROJECTIONS, ("norm.weight", ZERO), ("norm.bias", ZERO))
"""All of this closed, a block that gives zeros ends with a norm of the sum: nothing closes it."""


def constant_of(scheme: Scheme) -> float | None:
    """Return the value that a scheme gives every element; None where there is no such value."""
    if isinstance(scheme, Constant):
        return float(scheme.val)
    return 0.0 if isinstance(scheme, Zeros) else 1.0 if isinstance(scheme, Ones) else None


def close(tensors: Sequence[TensorSpec], way: Sequence[tuple[str, Scheme]]) -> dict[str, Scheme]:
    """Return the tensors that one way to close a block fills, by name on disk."""
    return {tensor.name: scheme for tensor in tensors for role, scheme in reversed(way) if matches(tensor.role, role)}
