"""Paths that would never learn: a branch closed twice, so that each closed part stops the other's gradient.

With y = a f(x) W, a = 0 and W = 0, the gradient of a is a product with W and that of W a product with a: both are 0 for
ever. One of the two closes the branch just as well.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from hf_init import schemes
from hf_init._advice import blocks
from hf_init._plan._entry import TensorPlan
from hf_init._roles import matches

PROJECTIONS = ("attention.output.weight", "mlp.down.weight", "expert.down.weight")
SCALES = ("norm.residual.weight", "norm_plus_one.residual.weight", "layer_scale", "gate")
BRANCHES = {"attention": r"attn|attention", "mlp": r"mlp|ffn|feed_?forward|(^|[._])ff[._]|expert|moe"}


def dead_paths(tensors: Sequence[TensorPlan]) -> list[str]:
    """A sentence for every branch that is closed by its projection and by a gate, a scale or a norm as well."""
    closed = [tensor for tensor in tensors if tensor.new and _is_closed(tensor)]
    scales = [tensor for tensor in closed if _any(tensor, SCALES)]
    pairs = ((p, s) for p in closed if _any(p, PROJECTIONS) for s in scales if _on_one_path(p, s, tensors))
    return [
        f"{projection.name} and {scale.name} are both closed on one path: neither would ever get a gradient; "
        "close one of them only"
        for projection, scale in pairs
    ]


def _is_closed(tensor: TensorPlan) -> bool:
    """Whether the tensor's effective gain is zero everywhere."""
    zero = -1.0 if matches(tensor.role, "norm_plus_one") else 0.0
    return all(_constant(fill.scheme) == zero for fill in tensor.new) and not tensor.kept


def _constant(scheme: schemes.Scheme) -> float | None:
    if isinstance(scheme, schemes.Zeros):
        return 0.0
    return scheme.val if isinstance(scheme, schemes.Constant) else None


def _on_one_path(projection: TensorPlan, scale: TensorPlan, tensors: Iterable[TensorPlan]) -> bool:
    block = _innermost(projection)
    if not block or block not in blocks(scale.parameter):
        return False
    named = _branch(scale.parameter.removeprefix(block))
    if named is not None:
        return named == _branch_of(projection)
    return len({_branch_of(t) for t in tensors if _any(t, PROJECTIONS) and block in blocks(t.parameter)}) == 1


def _innermost(tensor: TensorPlan) -> str:
    """The block that a tensor lies in; an expert's is the layer around it."""
    found = blocks(tensor.parameter)
    return next((b for b in reversed(found) if not matches(tensor.role, "expert") or "expert" not in b), "")


def _branch_of(projection: TensorPlan) -> str:
    return "attention" if matches(projection.role, "attention") else "mlp"


def _branch(name: str) -> str | None:
    """The branch that a name speaks of, if it speaks of one."""
    return next((branch for branch, words in BRANCHES.items() if re.search(words, name)), None)


def _any(tensor: TensorPlan, patterns: Iterable[str]) -> bool:
    return any(matches(tensor.role, pattern) for pattern in patterns)
