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
        yield from _filled_table(status, [tensor for tensor in plan.tensors if tensor.status is status], links)
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
    yield from _kept_tables([tensor for tensor in plan.tensors if tensor.status is Status.KEPT])


def _filled_table(status: Status, tensors: Sequence[TensorPlan], links: dict[str, str]) -> Iterator[Html]:
    if not tensors:
        return
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
    yield wide_table(f"{status.value} ({format_count(len(tensors))})", columns, rows)


def _kept_tables(tensors: Sequence[TensorPlan]) -> Iterator[Html]:
    if not tensors:
        return
    roles: dict[str, list[TensorPlan]] = {}
    for tensor in tensors:
        roles.setdefault(tensor.role, []).append(tensor)
    head = f"kept, byte for byte ({format_tensors(len(tensors))}, {format_count(_elements(tensors))} values)"
    yield tag("p", tag("strong", head))
    yield from (_role_table(role, roles[role]) for role in sorted(roles))


def _role_table(role: str, tensors: Sequence[TensorPlan]) -> Html:
    summary = f"{role}: {format_tensors(len(tensors))}, {format_count(_elements(tensors))} values"
    rows = [
        (
            dotted(t.name),
            tag("td", shape_text(t.shape), class_="fixed"),
            tag("td", t.dtype, class_="fixed"),
            "" if t.source in (None, t.name) else dotted(t.source),
        )
        for t in tensors
    ]
    return tag("details", tag("summary", summary), wide_table("", ("tensor", "shape", "dtype", "in the base"), rows))


def _elements(tensors: Sequence[TensorPlan]) -> int:
    return sum(num_elements(tensor.shape) for tensor in tensors)
