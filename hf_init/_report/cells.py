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


def format_value(value: float) -> str:
    """Format a number in four digits.

    Example:
        >>> format_value(0.0203125), format_value(float("nan"))
        ('0.02031', '-')
    """
    return f"{value:.4g}" if math.isfinite(value) else ("-" if math.isnan(value) else f"{value}")


def right_cell(value: object) -> Html:
    return tag("td", value, class_="n")


def column_heads() -> list[Html]:
    return [tag("th", name, class_="n") for name in COLUMNS]


def measure_cells(measure: Measure, expected: Distribution | None = None) -> list[Html]:
    """Return one cell for each of ``COLUMNS``; the farthest value in expected standard deviations, if there are any."""
    stats = measure.stats
    if stats is None or not stats.finite:
        return [right_cell("-")] * len(COLUMNS)
    mean, std = (expected.mean, expected.widest) if expected else (stats.mean, stats.std)
    numbers = (stats.mean, stats.std, stats.norm, stats.zeros / stats.count, stats.low, stats.high)
    shown = [f"{100 * value:.3g}%" if at == 3 else format_value(value) for at, value in enumerate(numbers)]
    far = Html(f"{stats.farthest(mean) / std:.3g} &sigma;") if std else "-"
    return [right_cell(text) for text in (*shown, far, rank_text(measure.rows))]


def rank_text(rows: RowStats | None) -> str:
    """Format the numerical rank out of the greatest possible one, and the effective rank."""
    if rows is None:
        return "-"
    part = "" if rows.whole else f" in {rows.side[0]}x{rows.side[1]}"
    return f"{rows.rank} / {min(rows.side)}{part}, eff. {rows.effective:.4g}"


def expected_cells(expected: Distribution) -> list[Html]:
    """Return the cells of what is expected."""
    known = {"mean": format_value(expected.mean), "std": format_value(expected.std)}
    return [right_cell(known.get(name, "")) for name in COLUMNS]


def format_tensors(tensors: int) -> str:
    """Format a number of tensors."""
    return "1 tensor" if tensors == 1 else f"{format_count(tensors)} tensors"


def shape_text(of: Shape) -> str:
    """Format a shape, such as ``2x384``."""
    return "x".join(map(str, of)) or "scalar"


def region_text(region: Region, of: Shape) -> str:
    """Format where in its tensor a region lies.

    Example:
        >>> region_text(Box((10, 0), (12, 4)), (12, 4)), region_text(Box((0, 0), (12, 4)), (12, 4))
        ('rows 10 to 11 of 12', 'all')
    """
    if region.shape == of:
        return "all"
    if not isinstance(region, Box):
        return f"{format_count(len(region.index))} rows along dimension {region.dim}"
    cuts = []
    for dim, (start, stop, size) in enumerate(zip(region.start, region.stop, of, strict=True)):
        what = ("rows", "columns")[dim] if dim < 2 else f"dimension {dim}:"
        if stop - start == size:
            continue
        if start == stop:
            cuts.append(f"no {what}")
        elif stop - start == 1:
            cuts.append(f"{what.rstrip('s')} {format_count(start)} of {format_count(size)}")
        else:
            cuts.append(f"{what} {format_count(start)} to {format_count(stop - 1)} of {format_count(size)}")
    return ", ".join(cuts)


def findings_list(findings: Iterable[ReportFinding], links: dict[str, str] | None) -> Html:
    """Return findings by kind, the worst of each; the others are folded away."""
    kinds: dict[str, list[Html]] = {}
    for finding in sorted(findings, key=lambda finding: -finding.weight):
        name = dotted(finding.tensor)
        linked = tag("a", name, href=links[finding.tensor]) if links and finding.tensor in links else name
        kinds.setdefault(finding.kind, []).append(tag("li", linked, f": {finding.text}"))
    lists = []
    for kind, items in kinds.items():
        heading = tag("strong", f"{kind} ({format_count(len(items))})")
        rest = tag("details", tag("summary", f"{len(items) - 1} more"), tag("ul", *items[1:])) if items[1:] else ""
        lists.append(tag("div", heading, tag("ul", items[0]), rest, class_="note warn"))
    return join_html(lists)


def wide_table(head: object, columns: Sequence[object], rows: Sequence[Sequence[object]]) -> Html:
    """Return a table of any length that scrolls by itself where the page is narrow."""
    return tag("div", html_table(head, columns, rows, most=len(rows)), class_="wide")
