"""The picture of a drift as numbers, before anything is drawn."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from hf_init._drift.judge import TensorDrift

ABSENT, STAYED, CHANGED, FAILED = range(4)

MOST_KINDS = 36
"""The most kinds of tensors in one heat map: those that changed most."""

MOST_BARS = 24
"""The most tensors outside of layers."""


@dataclass(frozen=True)
class Grid:
    """A stack of layers: a cell for each kind of tensor (down) and layer (across).

    Attributes:
        relative: ``||after - before|| / ||before||`` over a cell's tensors; NaN where nothing was compared.
        state: ABSENT, STAYED (bit for bit), CHANGED, or FAILED: meant to stay and didn't.
        left_out: kinds that aren't shown.
    """

    stack: str
    kinds: tuple[str, ...]
    layers: tuple[int, ...]
    relative: np.ndarray
    state: np.ndarray
    left_out: int = 0


@dataclass(frozen=True)
class Bar:
    """One tensor outside of the layers, or one that is new."""

    label: str
    relative: float
    state: int
    new: bool
    note: str


def grids(tensors: Iterable[TensorDrift]) -> tuple[Grid, ...]:
    """Return one grid for each stack of layers, in the order of the files."""
    stacks: dict[str, dict[tuple[str, int], list[TensorDrift]]] = {}
    for tensor in tensors:
        stack, index, kind = tensor.layer
        if index is not None and tensor.change is not None:
            stacks.setdefault(stack, {}).setdefault((kind, index), []).append(tensor)
    found = []
    for stack, cells in stacks.items():
        layers = tuple(sorted({layer for _, layer in cells}))
        every = list(dict.fromkeys(kind for kind, _ in cells))
        values = {cell: relative_change(tensors) for cell, tensors in cells.items()}
        most = {kind: max(_zero_if_nan(values.get((kind, layer), 0.0)) for layer in layers) for kind in every}
        shown = set(sorted(every, key=lambda kind: -most[kind])[:MOST_KINDS])
        kinds = tuple(kind for kind in every if kind in shown)
        table = [[values.get((kind, layer), math.nan) for layer in layers] for kind in kinds]
        states = [[state_of(cells.get((kind, layer), ())) for layer in layers] for kind in kinds]
        found.append(Grid(stack, kinds, layers, np.array(table), np.array(states), len(every) - len(kinds)))
    return tuple(found)


def _zero_if_nan(value: float) -> float:
    return 0.0 if math.isnan(value) else value


def bars(tensors: Iterable[TensorDrift]) -> tuple[Bar, ...]:
    """Return a bar for each tensor in no stack of layers: those that changed most, in the order of the files."""
    outside = [tensor for tensor in tensors if tensor.layer[1] is None and tensor.status != "missing"]
    most = sorted(range(len(outside)), key=lambda number: -_zero_if_nan(_relative_of(outside[number])))[:MOST_BARS]
    found = []
    for tensor in (outside[number] for number in sorted(most)):
        relative = _relative_of(tensor)
        # What is written where there is a bar's end, or no bar.
        if math.isinf(relative) and tensor.change is not None:
            note = f"from zero, by up to {tensor.change.largest:.2g}"
        elif math.isnan(relative):
            note = "how far isn't known"
        else:
            note = f"{relative:.2g}" if relative else "stayed, bit for bit"
        label = tensor.name if tensor.portion == "all" else f"{tensor.name} ({tensor.portion})"
        found.append(Bar(label, relative, state_of([tensor]), tensor.origin == "new", note))
    return tuple(found)


def _relative_of(tensor: TensorDrift) -> float:
    if tensor.change is None:
        return 0.0 if tensor.status in ("identical", "untrained") else math.nan
    return tensor.change.relative


def relative_change(tensors: Sequence[TensorDrift]) -> float:
    """Return the relative change of several tensors taken as one; those that stayed count as they did."""
    changes = [tensor.change for tensor in tensors if tensor.change is not None and tensor.change.elements]
    if not changes:
        return 0.0
    change = math.hypot(*(each.change for each in changes))
    before = math.hypot(*(each.before for each in changes))
    return change / before if before else (math.inf if change else 0.0)


def state_of(tensors: Sequence[TensorDrift]) -> int:
    """Return what became of several tensors taken as one."""
    if not tensors:
        return ABSENT
    if any(tensor.failed for tensor in tensors):
        return FAILED
    return STAYED if all(tensor.status in ("identical", "unchanged", "untrained") for tensor in tensors) else CHANGED
