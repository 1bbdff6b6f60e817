"""Charts drawn by matplotlib: an SVG image for light and one for dark pages, and a PNG."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from hf_init._figure import ON_PAPER, drawing, plain_text, png_of, svg_of
from hf_init._html import Html, tag
from hf_init._report.picture import Chart

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PANELS = 48
"""The most regions in one PNG."""

ON_DARK = {
    "new": "#6ea3ff",
    "expected": "#ffa35c",
    "kept-1": "#7fc4a0",
    "kept-2": "#c79be0",
    "kept-3": "#d3c07a",
    "ink": "#a3abb8",
}
KEPT = ("kept-1", "kept-2", "kept-3")


def picture_of(chart: Chart, colours: Sequence[str], label: str) -> Html:
    """Return a chart as an element of a page, that follows the reader's light or dark setting.

    Args:
        chart: what is drawn.
        colours: of the traces, by name.
        label: what it shows, for those who can't see it.
    """
    images = []
    for palette in (ON_PAPER, ON_DARK):
        with drawing(3.6, 1.5) as (figure, axes):
            _draw_chart(axes, chart, colours, palette)
            images.append(f"data:image/svg+xml;base64,{b64encode(svg_of(figure)).decode()}")
    source = tag("source", srcset=images[1], media="(prefers-color-scheme: dark)")
    return tag("picture", source, tag("img", src=images[0], alt=label))


def png_panels(panels: Sequence[Sequence[tuple[str, Chart, Sequence[str]]]], title: str) -> bytes:
    """Return a figure of rows of charts, each with its own title and the colours of its traces, as a PNG."""
    columns = max(len(row) for row in panels)
    with drawing(4.2 * columns, 0.6 + 2.1 * len(panels), len(panels), columns) as (figure, axes):
        figure.suptitle(plain_text(title), parse_math=False, fontsize=11)
        for places, row in zip(axes, panels, strict=True):
            for place in places[len(row) :]:
                place.set_visible(False)
            for place, (name, chart, colours) in zip(places, row, strict=False):
                _draw_chart(place, chart, colours, ON_PAPER)
                place.set_ylim(0, chart.top * 1.5)  # room for the legend
                title = "\n".join(map(plain_text, name.split("\n")))
                place.set_title(title, parse_math=False, fontsize=8, loc="left")
                _draw_legend(place)
        return png_of(figure)


def _draw_chart(axes: Axes, chart: Chart, colours: Sequence[str], palette: Mapping[str, str]) -> None:
    ink = palette["ink"]
    axes.set_xlim(*chart.span)
    axes.set_ylim(0, chart.top * 1.04)
    axes.set_yticks([])
    axes.tick_params(bottom=False, labelsize=8, labelcolor=ink)
    axes.locator_params(axis="x", nbins=5)
    axes.patch.set_visible(False)
    axes.spines[["top", "left", "right"]].set_visible(False)
    axes.spines["bottom"].set_color(ink)
    axes.xaxis.offsetText.set(color=ink, fontsize=8)
    for trace, name in zip(chart.traces, colours, strict=True):
        colour, label = palette[name], plain_text(trace.label)
        if trace.heights.any():
            # Without a line around it: a fill says it all, and a line alone can lie over it.
            filled = {"fill": True, "alpha": 0.45, "linewidth": 0}
            style: dict[str, Any] = filled if name in ("new", "kept-1") else {"linewidth": 1.2}
            axes.stairs(trace.heights, trace.edges, color=colour, clip_on=False, label=label, **style)
        if trace.spike is not None:
            label = None if trace.heights.any() else label
            _draw_stem(axes, trace.spike, chart.top, color=colour, linewidth=3, alpha=0.7, label=label)
    if chart.curve is not None:
        axes.plot(*chart.curve, color=palette["expected"], linewidth=1.6, clip_on=False, label="expected")
    dashes = {"linestyle": (0, (2, 1)), "linewidth": 1.6, "color": palette["expected"]}
    for constant in chart.constants:
        _draw_stem(axes, constant, chart.top, label=None if chart.curve is not None else "expected", **dashes)


def _draw_stem(axes: Axes, at: tuple[float, float], top: float, **style: Any) -> None:
    """Draw a value that a share of the elements has: the higher, the more."""
    value, share = at
    axes.plot([value, value], [0, top * (0.3 + 0.7 * share)], clip_on=False, **style)


def _draw_legend(axes: Axes) -> None:
    handles, labels = axes.get_legend_handles_labels()
    if len(handles) > 1:
        box = axes.legend(handles, labels, fontsize=6, frameon=False, loc="upper right")
        for text in box.get_texts():
            text.set_parse_math(False)
