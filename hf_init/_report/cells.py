"""Measures as cells of tables, and findings as lists."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from hf_init._html import Html, dotted, html_table, join_html, tag
from hf_init._report.judge import ReportFinding
from hf_init._report.measure import Measure, RowStats
from hf_init._tensors import Box, Region, Shape
from hf_init._text import format_count
from hf_init.schemes import Distribution

COLUMNS = ("mean", "std", "norm", "zeros", "min", "max", "farthest", "rank")
_SHOWN = 20


def figure_of(value: float) -> str:
    """A number in four digits.

    Example:
        >>> figure_of(0.0203125), figure_of(float("nan"))
        ('0.02031', '-')
    """
    return f"{value:.4g}" if math.isfinite(value) else ("-" if math.isnan(value) else f"{value}")


def right(value: object) -> Html:
    return tag("td", value, class_="n")


def column_heads() -> list[Html]:
    return [tag("th", name, class_="n") for name in COLUMNS]


def cells(measure: Measure, promise: Distribution | None = None) -> list[Html]:
    """One cell for each of ``COLUMNS``; the farthest value counts in promised standard deviations, if there are any."""
    stats = measure.stats
    if stats is None or not stats.finite:
        return [right("-")] * len(COLUMNS)
    mean, std = (promise.mean, promise.widest) if promise else (stats.mean, stats.std)
    numbers = (stats.mean, stats.std, stats.norm, stats.zeros / stats.count, stats.low, stats.high)
    shown = [f"{100 * value:.3g}%" if at == 3 else figure_of(value) for at, value in enumerate(numbers)]
    far = Html(f"{stats.farthest(mean) / std:.3g} &sigma;") if std else "-"
    return [right(text) for text in (*shown, far, rank(measure.rows))]


def rank(rows: RowStats | None) -> str:
    """The numerical rank out of the greatest possible one, and the effective rank."""
    if rows is None:
        return "-"
    part = "" if rows.whole else f" in {rows.side[0]}x{rows.side[1]}"
    return f"{rows.rank} / {min(rows.side)}{part}, eff. {rows.effective:.4g}"


def promised(promise: Distribution) -> list[Html]:
    """The cells of what is expected."""
    known = {"mean": figure_of(promise.mean), "std": figure_of(promise.std)}
    return [right(known.get(name, "")) for name in COLUMNS]


def format_many(tensors: int) -> str:
    """How many tensors, in words."""
    return "1 tensor" if tensors == 1 else f"{format_count(tensors)} tensors"


def shape_cell(of: Shape) -> str:
    """Such as ``2x384``."""
    return "x".join(map(str, of)) or "scalar"


def place_cell(region: Region, of: Shape) -> str:
    """Where in its tensor a region is, in words.

    Example:
        >>> place_cell(Box((10, 0), (12, 4)), (12, 4)), place(Box((0, 0), (12, 4)), (12, 4))
        ('rows 10 to 11 of 12', 'all')
    """
    if region.shape == of:
        return "all"
    if not isinstance(region, Box):
        return f"{format_count(len(region.index))} rows along dimension {region.dim}"
    cut = [(dim, a, b) for dim, (a, b, n) in enumerate(zip(region.start, region.stop, of, strict=True)) if b - a < n]
    return ", ".join(_cut(dim, a, b, of[dim]) for dim, a, b in cut)


def _cut(dim: int, start: int, stop: int, size: int) -> str:
    what = ("rows", "columns")[dim] if dim < 2 else f"dimension {dim}:"
    span = (
        f"{what} {format_count(start)} to {format_count(stop - 1)}"
        if stop - start > 1
        else f"{what.rstrip('s')} {format_count(start)}"
    )
    return f"{span} of {format_count(size)}" if stop > start else f"no {what}"


def findings_list(findings: Iterable[ReportFinding], links: dict[str, str] | None = None) -> Html:
    """Findings by kind; of many of one kind the rest is folded away."""
    kinds: dict[str, list[ReportFinding]] = {}
    for finding in findings:
        kinds.setdefault(finding.kind, []).append(finding)
    return join_html(_of_kind(kind, found, links or {}) for kind, found in kinds.items())


def _of_kind(kind: str, found: Sequence[ReportFinding], links: dict[str, str]) -> Html:
    items = [_item(finding, links) for finding in found]
    rest = tag("details", tag("summary", f"{len(items) - _SHOWN} more"), tag("ul", *items[_SHOWN:]))
    heading = tag("strong", f"{kind} ({format_count(len(items))})")
    return tag("div", heading, tag("ul", *items[:_SHOWN]), rest if len(items) > _SHOWN else "", class_="note warn")


def _item(finding: ReportFinding, links: dict[str, str]) -> Html:
    name = dotted(finding.tensor)
    linked = tag("a", name, href=links[finding.tensor]) if finding.tensor in links else name
    return tag("li", linked, f": {finding.text}")


def wide(head: object, columns: Sequence[object], rows: Sequence[Sequence[object]]) -> Html:
    """A table of any length, that scrolls by itself where the page is narrow."""
    return tag("div", html_table(head, columns, rows, most=len(rows)), class_="wide")
