"""A plan as a person reads it: what is new first, alike rows as one, what is kept in a line."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import TypeAlias

from hf_init._plan.match import Unused
from hf_init._plan.tensor_plan import Fill, TensorPlan
from hf_init._tensors import Rows, Shape, Status, num_elements
from hf_init._text import format_count, text_table

Draw: TypeAlias = Callable[[str, Sequence[str], Sequence[Sequence[str]]], str]
"""Makes a headline, columns and rows a table: of text, or of HTML."""


def fill_table(status: Status, tensors: Sequence[TensorPlan], draw: Draw = text_table) -> str:
    """The tensors with something to fill; layers that are treated alike share a row."""
    if not tensors:
        return ""
    rows = [
        (tensor.name, _shape(tensor.shape), tensor.dtype, _region(fill, tensor), str(fill.scheme), fill.why)
        for tensor in tensors
        for fill in tensor.new
    ]
    rows += [(t.name, _shape(t.shape), t.dtype, "none", "", "every element is kept, at its new place") for t in tensors
             if not t.new]  # fmt: skip
    elements = sum(num_elements(fill.region.shape) for tensor in tensors for fill in tensor.new)
    head = f"{status.value} ({_tensors(len(tensors))}, {format_count(elements)} elements to fill)"
    return draw(head, ("tensor", "shape", "dtype", "region", "scheme", "why"), alike(rows))


def alike(rows: Sequence[tuple[str, ...]]) -> list[tuple[str, ...]]:
    """Rows that differ in one number of their name, as one: ``layer.{6,7}.dense.weight``.

    Example:
        >>> alike([("h.6.w", "2"), ("h.6.b", "1"), ("h.7.w", "2"), ("h.7.b", "1")])
        [('h.{6,7}.w', '2'), ('h.{6,7}.b', '1')]
    """
    groups: dict[tuple[str, ...], list[str]] = {}
    for name, *rest in rows:
        found = re.search(r"(?<![^.])\d+(?=\.)", name)
        key = (name[: found.start()], name[found.end() :], *rest) if found else (name, "", *rest)
        groups.setdefault(key, []).append(found.group() if found else "")
    return [(before + _numbers(found) + after, *rest) for (before, after, *rest), found in groups.items()]


def _numbers(found: Sequence[str]) -> str:
    numbers = sorted({int(number) for number in found if number})
    if len(numbers) < 2:
        return found[0]
    runs = numbers == list(range(numbers[0], numbers[-1] + 1)) and len(numbers) > 2
    return f"{{{numbers[0]}..{numbers[-1]}}}" if runs else "{" + ",".join(map(str, numbers)) + "}"


def _tensors(many: int) -> str:
    return "1 tensor" if many == 1 else f"{many} tensors"


def tie_table(tensors: Sequence[TensorPlan], draw: Draw = text_table) -> str:
    rows = [(tensor.name, f"is {tensor.tied_to}") for tensor in tensors]
    return draw(f"tied ({len(rows)})", ("tensor", ""), rows) if rows else ""


def unused_table(unused: Sequence[Unused], draw: Draw = text_table) -> str:
    rows = [(tensor.name, tensor.reason) for tensor in unused]
    return draw(f"unused ({len(rows)})", ("source tensor", "why"), rows) if rows else ""


def kept_table(tensors: Sequence[TensorPlan]) -> str:
    if not tensors:
        return ""
    renamed = [tensor for tensor in tensors if tensor.source != tensor.name]
    elements = sum(num_elements(tensor.shape) for tensor in tensors)
    lines = [f"kept ({_tensors(len(tensors))}, {format_count(elements)} elements, byte for byte)"]
    if renamed:
        first = renamed[0]
        lines.append(f"  {len(renamed)} under another name, such as {first.source} -> {first.name}")
    return "\n".join(lines)


def _shape(shape: Shape) -> str:
    return "x".join(map(str, shape)) or "scalar"


def _region(fill: Fill, tensor: TensorPlan) -> str:
    if fill.region.shape == tensor.shape:
        return "all"
    if isinstance(fill.region, Rows):
        return f"dim {fill.region.dim}: {len(fill.region.index)} rows"
    pairs = zip(fill.region.start, fill.region.stop, tensor.shape, strict=True)
    return "[" + ", ".join(":" if (a, b) == (0, n) else f"{a}:{b}" for a, b, n in pairs) + "]"
