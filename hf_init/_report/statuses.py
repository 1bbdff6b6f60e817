"""The table of every status of a plan."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from hf_init._html import Html, dotted, tag
from hf_init._plan import Plan, TensorPlan
from hf_init._report.cells import format_tensors, region_text, shape_text, wide_table
from hf_init._tensors import Status, num_elements
from hf_init._text import format_count


def status_tables(plan: Plan, links: dict[str, str]) -> Iterator[Html]:
    """Yield tables of all that isn't kept, one by one; kept tensors by role, each role folded away."""
    for status in (Status.NEW, Status.RESIZED):
        tensors = [tensor for tensor in plan.tensors if tensor.status is status]
        rows = [
            (
                tag("a", dotted(tensor.name), href=links[tensor.name]) if tensor.name in links else dotted(tensor.name),
                tag("td", shape_text(tensor.shape), class_="fixed"),
                tag("td", tensor.dtype, class_="fixed"),
                tensor.role,
                region_text(fill.region, tensor.shape),
                tag("code", fill.scheme),
                fill.why,
            )
            for tensor in tensors
            for fill in tensor.new
        ]
        columns = ("tensor", "shape", "dtype", "role", "region", "scheme", "why")
        if tensors:
            yield wide_table(f"{status.value} ({format_count(len(tensors))})", columns, rows)
    tied = [(dotted(t.name), dotted(t.tied_to or "")) for t in plan.tensors if t.status is Status.TIED]
    if tied:
        yield wide_table(f"tied ({format_count(len(tied))})", ("tensor", "is"), tied)
    carried = [(dotted(t.name), shape_text(t.shape)) for t in plan.tensors if t.status is Status.CARRIED]
    if carried:
        head = f"carried ({format_count(len(carried))}): the class ignores them, they stay in the files"
        yield wide_table(head, ("tensor", "shape"), carried)
    if plan.unused:
        unused = [(dotted(each.name), each.reason) for each in plan.unused]
        yield wide_table(f"unused ({format_count(len(unused))})", ("source tensor", "why"), unused)
    if kept := [tensor for tensor in plan.tensors if tensor.status is Status.KEPT]:
        yield from _kept_tables(kept)


def _kept_tables(kept: Sequence[TensorPlan]) -> Iterator[Html]:
    roles: dict[str, list[TensorPlan]] = {}
    for tensor in kept:
        roles.setdefault(tensor.role, []).append(tensor)
    yield tag("p", tag("strong", f"kept, byte for byte ({_amount(kept)})"))
    for role, tensors in sorted(roles.items()):
        rows = [
            (
                dotted(t.name),
                tag("td", shape_text(t.shape), class_="fixed"),
                tag("td", t.dtype, class_="fixed"),
                "" if t.source in (None, t.name) else dotted(t.source),
            )
            for t in tensors
        ]
        table = wide_table("", ("tensor", "shape", "dtype", "in the base"), rows)
        yield tag("details", tag("summary", f"{role}: {_amount(tensors)}"), table)


def _amount(tensors: Sequence[TensorPlan]) -> str:
    values = sum(num_elements(tensor.shape) for tensor in tensors)
    return f"{format_tensors(len(tensors))}, {format_count(values)} values"
