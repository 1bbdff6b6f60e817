"""A plan as a person reads it: what is new first, alike rows as one, what is kept in a line."""

from __future__ import annotations

import re
from collections.abc import Sequence

from hf_init._base_report import Draw
from hf_init._plan.mapping import format_shape
from hf_init._plan.match import Unused
from hf_init._plan.tensor_plan import Fill, TensorPlan
from hf_init._tensors import Rows, Status, num_elements
from hf_init._text import format_count


def fill_table(status: Status, tensors: Sequence[TensorPlan], draw: Draw) -> str:
    """Return a table of the tensors with something to fill; layers that are treated alike share a row."""
    if not tensors:
        return ""
    rows = [
        (tensor.name, format_shape(tensor.shape), tensor.dtype, _region_text(fill, tensor), str(fill.scheme), fill.why)
        for tensor in tensors
        for fill in tensor.new
    ]
    moved = "every element is kept, at its new place"
    rows += [(t.name, format_shape(t.shape), t.dtype, "none", "", moved) for t in tensors if not t.new]
    elements = sum(num_elements(fill.region.shape) for tensor in tensors for fill in tensor.new)
    head = f"{status.value} ({_count_tensors(len(tensors))}, {format_count(elements)} elements to fill)"
    return draw(head, ("tensor", "shape", "dtype", "region", "scheme", "why"), alike_rows(rows))


def alike_rows(rows: Sequence[tuple[str, ...]]) -> list[tuple[str, ...]]:
    """Gather rows that differ in one number of their name, as one: ``layer.{6,7}.dense.weight``.

    Example:
        >>> alike_rows([("h.6.w", "2"), ("h.6.b", "1"), ("h.7.w", "2"), ("h.7.b", "1")])
        [('h.{6,7}.w', '2'), ('h.{6,7}.b', '1')]
    """
    groups: dict[tuple[str, ...], list[str]] = {}
    for name, *rest in rows:
        number = re.search(r"(?<![^.])\d+(?=\.)", name)
        key = (name[: number.start()], name[number.end() :], *rest) if number else (name, "", *rest)
        groups.setdefault(key, []).append(number.group() if number else "")
    alike: list[tuple[str, ...]] = []
    for (before, after, *rest), texts in groups.items():
        numbers = sorted({int(text) for text in texts if text})
        span = texts[0]
        if len(numbers) > 2 and numbers == list(range(numbers[0], numbers[-1] + 1)):
            span = f"{{{numbers[0]}..{numbers[-1]}}}"
        elif len(numbers) > 1:
            span = "{" + ",".join(map(str, numbers)) + "}"
        alike.append((before + span + after, *rest))
    return alike


def _count_tensors(number: int) -> str:
    return "1 tensor" if number == 1 else f"{number} tensors"


def tie_table(tensors: Sequence[TensorPlan], draw: Draw) -> str:
    rows = [(tensor.name, f"is {tensor.tied_to}") for tensor in tensors]
    return draw(f"tied ({len(rows)})", ("tensor", ""), rows) if rows else ""


def carried_table(tensors: Sequence[TensorPlan], draw: Draw) -> str:
    rows = [
        (name, shape, "the class ignores it: it stays in the files, and is in no model")
        for name, shape in alike_rows([(tensor.name, format_shape(tensor.shape)) for tensor in tensors])
    ]
    return draw(f"carried ({_count_tensors(len(tensors))})", ("tensor", "shape", "why"), rows) if rows else ""


def unused_table(unused: Sequence[Unused], draw: Draw) -> str:
    rows = [(tensor.name, tensor.reason) for tensor in unused]
    return draw(f"unused ({len(rows)})", ("source tensor", "why"), rows) if rows else ""


def kept_table(tensors: Sequence[TensorPlan]) -> str:
    if not tensors:
        return ""
    renamed = [tensor for tensor in tensors if tensor.source != tensor.name]
    elements = sum(num_elements(tensor.shape) for tensor in tensors)
    lines = [f"kept ({_count_tensors(len(tensors))}, {format_count(elements)} elements, byte for byte)"]
    if renamed:
        first = renamed[0]
        lines.append(f"  {len(renamed)} under another name, such as {first.source} -> {first.name}")
    return "\n".join(lines)


def _region_text(fill: Fill, tensor: TensorPlan) -> str:
    if fill.region.shape == tensor.shape:
        return "all"
    if isinstance(fill.region, Rows):
        return f"dim {fill.region.dim}: {len(fill.region.index)} rows"
    pairs = zip(fill.region.start, fill.region.stop, tensor.shape, strict=True)
    return "[" + ", ".join(":" if (a, b) == (0, n) else f"{a}:{b}" for a, b, n in pairs) + "]"
