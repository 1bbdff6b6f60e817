"""Logical matrices: how the weight of a module of torch, or of its kin, is stored and what its fans are."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import lru_cache
from typing import TypeAlias

from torch import nn

from hf_init._tensors import Geometry, Shape

GeometryReader: TypeAlias = Callable[[nn.Module, Shape], Geometry]


def lineage(module: nn.Module) -> tuple[str, ...]:
    """Return the class names of a module: its own first, then its bases in the order Python resolves them."""
    return _lineage(type(module))


@lru_cache(maxsize=256)
def _lineage(cls: type[nn.Module]) -> tuple[str, ...]:
    return tuple(base.__name__ for base in cls.__mro__[:-1])


def linear(module: nn.Module, shape: Shape) -> Geometry:
    return Geometry(fan_in=shape[1], fan_out=shape[0])


def conv1d_of_gpt2(module: nn.Module, shape: Shape) -> Geometry:
    return Geometry(fan_in=shape[0], fan_out=shape[1], order="in_out")


def bilinear(module: nn.Module, shape: Shape) -> Geometry:
    return Geometry(fan_in=shape[1] * shape[2], fan_out=shape[0])


def stacked(module: nn.Module, shape: Shape) -> Geometry:
    return Geometry(fan_in=shape[2], fan_out=shape[1], stack=1)


def conv(module: nn.Module, shape: Shape) -> Geometry:
    """Read ``(out, in / groups, *kernel)``: an input reaches the outputs of its own group alone."""
    groups, field = _groups(module), math.prod(shape[2:])
    return Geometry(fan_in=shape[1] * field, fan_out=shape[0] // groups * field, groups=groups)


def conv_transpose(module: nn.Module, shape: Shape) -> Geometry:
    """Read ``(in, out / groups, *kernel)``: with stride s, an output sums over 1 in s of the kernel's elements."""
    groups, field = _groups(module), math.prod(shape[2:])
    stride = math.prod(getattr(module, "stride", ()) or (1,))
    fan_in = max(shape[0] // groups * field // stride, min(1, shape[0]))
    return Geometry(fan_in=fan_in, fan_out=shape[1] * field, order="in_out", groups=groups)


def _groups(module: nn.Module) -> int:
    groups = getattr(module, "groups", 1)
    return groups if isinstance(groups, int) else 1


KINDS: Mapping[str, tuple[str, GeometryReader]] = {
    "Linear": ("linear", linear),
    "Conv1D": ("linear", conv1d_of_gpt2),
    "Bilinear": ("linear", bilinear),
    "JetMoeParallelExperts": ("linear", stacked),
    "GraniteMoeParallelExperts": ("linear", stacked),
    "Conv1d": ("conv", conv),
    "Conv2d": ("conv", conv),
    "Conv3d": ("conv", conv),
    "ConvTranspose1d": ("conv_transpose", conv_transpose),
    "ConvTranspose2d": ("conv_transpose", conv_transpose),
    "ConvTranspose3d": ("conv_transpose", conv_transpose),
}
"""By the name of a class or of one of its bases: the role of its weight and how that is stored."""


def matrix_kind(module: nn.Module) -> tuple[str, GeometryReader] | None:
    """Return the entry of ``KINDS`` for the nearest class of a module that has one."""
    return next((KINDS[name] for name in lineage(module) if name in KINDS), None)


def gates(shape: Shape, count: int) -> Geometry:
    """Read a recurrent weight ``(gates * size, in)`` or bias ``(gates * size,)``: every gate has its own fans.

    A bias sums over no input: its geometry is there for the gates, and its fan_in of 0 keeps fan-based schemes away.
    """
    size = shape[0] // count
    return Geometry(fan_in=shape[1] if len(shape) > 1 else 0, fan_out=size, parts=(size,) * count if count > 1 else ())


def halves(whole: Geometry) -> Geometry | None:
    """Return two fused matrices of one size (key and value; gate and up)."""
    half, odd = divmod(whole.fan_out or 0, 2)
    return None if odd or not half else replace(whole, fan_out=half, parts=(half, half))


def thirds(whole: Geometry, query: int | None) -> Geometry | None:
    """Return fused query, key and value; the query is as wide as the attention's output, by default as its input.

    None where the rest isn't two equal parts that the query is a multiple of: then it is no such fusion.
    """
    query = whole.fan_in if query is None else query
    key, odd = divmod((whole.fan_out or 0) - query, 2)
    if odd or key <= 0 or query % key:
        return None
    return replace(whole, fan_out=query if query == key else None, parts=(query, key, key))


def interleaved(fused: Geometry, fan_out: int | None = None) -> Geometry:
    """Return the fans of one part, by default the first: the rows of the parts alternate, so that none is a block."""
    return replace(fused, fan_out=fan_out or fused.parts[0], parts=())
