"""Paths that would never learn: a branch closed twice, so that each closed part stops the other's gradient.

With y = a f(x) W, a = 0 and W = 0, the gradient of a is a product with W and that of W a product with a: both are 0 for
ever. One of the two closes the branch just as well. The same holds of a head's two layers, y = V f(W x) with f(0) = 0.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from collections.abc import Set as AbstractSet

from hf_init import schemes
from hf_init._block_names import stack_blocks
from hf_init._plan.tensor_plan import TensorPlan
from hf_init._roles import matches

PROJECTIONS = ("attention.output.weight", "mlp.down.weight", "expert.down.weight")
SCALES = ("norm.residual.weight", "norm_plus_one.residual.weight", "layer_scale", "gate")
INNER = r"dense_?1?|pre_classifier|(linear|fc|lin)_?1?|proj(ector|ection)?|hidden|in_proj|summary|transform"
BRANCHES = {"attention": r"attn|attention", "mlp": r"mlp|ffn|feed_?forward|(^|[._])ff[._]|expert|moe"}


def dead_paths(tensors: Sequence[TensorPlan]) -> list[str]:
    """Return a sentence for every branch that is closed by its projection and by a gate, a scale or a norm as well."""
    closed: list[TensorPlan] = []
    for tensor in tensors:  # those whose effective gain is zero everywhere
        zero = -1.0 if matches(tensor.role, "norm_plus_one") else 0.0
        drawn = [schemes.Constant(val=0.0) if isinstance(f.scheme, schemes.Zeros) else f.scheme for f in tensor.new]
        if drawn and not tensor.kept and all(isinstance(s, schemes.Constant) and s.val == zero for s in drawn):
            closed.append(tensor)
    scales = [tensor for tensor in closed if _has_role(tensor, SCALES)]
    pairs = ((p, s) for p in closed if _has_role(p, PROJECTIONS) for s in scales if _on_one_path(p, s, tensors))
    return [
        f"{first.name} and {second.name} are both closed on one path: neither would ever get a gradient; "
        "close one of them only"
        for first, second in (*pairs, *_dead_heads(closed, {tensor.parameter for tensor in tensors}))
    ]


def _dead_heads(closed: Sequence[TensorPlan], names: AbstractSet[str]) -> Iterator[tuple[TensorPlan, TensorPlan]]:
    """Yield pairs of closed layers of a head: without a bias the second gets nothing from the first."""
    layers = [tensor for tensor in closed if matches(tensor.role, "linear.weight") and tensor.geometry]
    shut = {tensor.parameter for tensor in closed}
    for inner in layers:
        bias = inner.parameter.removesuffix("weight") + "bias"
        for outer in layers:
            if inner is not outer and _in_series(inner, outer) and (bias in shut or bias not in names):
                yield inner, outer


def _in_series(inner: TensorPlan, outer: TensorPlan) -> bool:
    """Return whether one layer feeds the other: by their widths where these tell, else by such layers' names."""
    first, second = inner.geometry, outer.geometry
    if first is None or second is None or first.fan_out != second.fan_in:
        return False
    (place, name), (other, _) = _layer_name(inner.parameter), _layer_name(outer.parameter)
    if name == "dense" and place.rpartition(".")[2] == "pooler" and not other.startswith(place):
        return True
    return place == other and (first.fan_in != second.fan_in or bool(re.fullmatch(INNER, name)))


def _layer_name(parameter: str) -> tuple[str, str]:
    """Return the module around a layer and its own name: ``("classifier", "dense")`` of ``classifier.dense.weight``."""
    place, _, name = parameter.removesuffix(".weight").rpartition(".")
    return place, name


def _on_one_path(projection: TensorPlan, scale: TensorPlan, tensors: Iterable[TensorPlan]) -> bool:
    blocks = stack_blocks(projection.parameter)
    expert = matches(projection.role, "expert")  # the block of an expert's projection is the layer around it
    block = next((b for b in reversed(blocks) if not expert or "expert" not in b), "")
    if not block or block not in stack_blocks(scale.parameter):
        return False
    name = scale.parameter.removeprefix(block)
    named = next((branch for branch, words in BRANCHES.items() if re.search(words, name)), None)
    if named is not None:
        return named == _projection_branch(projection)
    inside = [t for t in tensors if _has_role(t, PROJECTIONS) and block in stack_blocks(t.parameter)]
    return len({_projection_branch(tensor) for tensor in inside}) == 1


def _projection_branch(projection: TensorPlan) -> str:
    return "attention" if matches(projection.role, "attention") else "mlp"


def _has_role(tensor: TensorPlan, patterns: Iterable[str]) -> bool:
    return any(matches(tensor.role, pattern) for pattern in patterns)
