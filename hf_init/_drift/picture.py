"""The picture of a drift: for each stack a heat map of kinds of tensors by layer, and bars for what is in none."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hf_init._base_report import Report
from hf_init._drift.grid import FAILED, STAYED, Bar, Grid, bars, grids
from hf_init._drift.judge import TensorDrift
from hf_init._errors import HfInitError
from hf_init._figure import ON_PAPER, drawing, plain_text, require, save_picture, verdict_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap, LogNorm
    from matplotlib.figure import Figure

MOST_STACKS = 6
_FAILED, _STAYED, _PRETRAINED = "#b3261e", "#e9ebee", "#5b8a72"
_SOFT = "#5c6470"
_SHADES = ("#e3edfb", "#9cc0f2", "#2f6fdb", "#12305f")


def draw_drift(
    report: Report, compared: str, tensors: Sequence[TensorDrift], subtitle: str, path: str | os.PathLike[str]
) -> Path:
    """Write the picture of a drift, a PNG or a page, in place of what is there.

    Args:
        report: of the comparison, which is on the page.
        compared: what was, such as ``base -> trained``.
        tensors: what is drawn. subtitle: a line under what was compared.

    Raises:
        HfInitError: matplotlib isn't installed, the name ends in something else, or nothing was compared.
    """
    require()
    stacks, outside = grids(tensors)[:MOST_STACKS], bars(tensors)
    if not stacks and not outside:
        raise HfInitError(f"{compared}: nothing was compared, there is nothing to draw")
    heights = [0.9 + 0.2 * len(grid.kinds) for grid in stacks] + ([0.8 + 0.2 * len(outside)] if outside else [])
    with drawing(9.0, 1.1 + sum(heights), len(heights), 1, heights) as (figure, axes):
        norm, colours = _scale([float(value) for grid in stacks for value in grid.relative.ravel()])
        figure.suptitle(
            f"{verdict_of(report)}: {plain_text(compared)}\n{subtitle}",
            fontsize=10,
            x=0.01,
            ha="left",
            parse_math=False,
            color=_FAILED if not report.ok else ON_PAPER["ink"],
        )
        for part, grid in zip(axes[:, 0], stacks, strict=False):
            _heat_map(part, grid, norm, colours)
        if stacks:
            moved = any((grid.relative > 0).any() for grid in stacks)  # NaN isn't
            _colour_key(figure, list(axes[: len(stacks), 0]), norm, colours, moved)
        if outside:
            _bars(axes[-1, 0], outside, _scale([bar.relative for bar in outside])[0])
        return save_picture(figure, report, path)


def _scale(values: Sequence[float]) -> tuple[LogNorm, Colormap]:
    """Return the scale from the least to the greatest change, a factor of ten at least and a million at most."""
    from matplotlib.colors import LinearSegmentedColormap, LogNorm

    known = [value for value in values if value > 0 and math.isfinite(value)] or [1e-3]
    low, high = min(known), max(known)
    return LogNorm(max(min(low, high / 10), high * 1e-6), high), LinearSegmentedColormap.from_list("change", _SHADES)


def _heat_map(axes: Axes, grid: Grid, norm: LogNorm, colours: Colormap) -> None:
    from matplotlib.colors import ListedColormap
    from matplotlib.patches import Rectangle

    shown = np.clip(grid.relative, norm.vmin, norm.vmax)
    shown = np.ma.masked_where(~np.isfinite(grid.relative) | (grid.relative <= 0), shown)
    axes.set_facecolor("white")
    stayed = np.ma.masked_where(grid.state != STAYED, np.ones(grid.state.shape))
    axes.imshow(stayed, cmap=ListedColormap([_STAYED]), aspect="auto", interpolation="none")
    axes.imshow(shown, norm=norm, cmap=colours, aspect="auto", interpolation="none")
    for row, column in np.argwhere(grid.state == FAILED):
        axes.add_patch(Rectangle((column - 0.46, row - 0.44), 0.92, 0.88, fill=False, edgecolor=_FAILED, linewidth=1.2))
    step = max(len(grid.layers) // 24, 1)
    axes.set_xticks(range(0, len(grid.layers), step), [str(layer) for layer in grid.layers[::step]], fontsize=7)
    axes.set_yticks(range(len(grid.kinds)), [plain_text(kind) for kind in grid.kinds], fontsize=7, parse_math=False)
    axes.set_xticks(np.arange(len(grid.layers) + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(len(grid.kinds) + 1) - 0.5, minor=True)
    axes.grid(which="minor", color="white", linewidth=1.0)
    axes.tick_params(which="both", length=0, colors=ON_PAPER["ink"])
    more = f" ({grid.left_out} kinds that changed less aren't shown)" if grid.left_out else ""
    axes.set_title(f"{plain_text(grid.stack)}, by layer{more}", fontsize=8, loc="left", parse_math=False)
    for side in axes.spines.values():
        side.set_visible(False)


def _colour_key(figure: Figure, axes: Sequence[Axes], norm: LogNorm, colours: Colormap, moved: bool) -> None:
    from matplotlib.cm import ScalarMappable
    from matplotlib.patches import Patch

    if moved:
        bar = figure.colorbar(ScalarMappable(norm, colours), ax=axes, fraction=0.025, pad=0.01, aspect=30)
        bar.set_label("||after - before|| / ||before||", fontsize=7)
        bar.ax.tick_params(labelsize=7)
        bar.outline.set_visible(False)
    marks = [
        Patch(facecolor=_STAYED, label="stayed, bit for bit"),
        Patch(facecolor="white", edgecolor=_FAILED, label="meant to stay, and moved"),
    ]
    axes[0].legend(handles=marks, fontsize=7, frameon=False, ncols=2, loc="lower right", bbox_to_anchor=(1.0, 1.0))


def _bars(axes: Axes, outside: Sequence[Bar], norm: LogNorm) -> None:
    low, high = float(norm.vmin or 1e-6), float(norm.vmax or 1.0)
    for row, bar in enumerate(outside):
        known, failed = bar.relative > 0 and math.isfinite(bar.relative), bar.state == FAILED
        end = max(bar.relative, low) if known else low / 2
        if known:
            colour = _FAILED if failed else (ON_PAPER["new"] if bar.new else _PRETRAINED)
            axes.barh(row, end - low / 2, left=low / 2, height=0.62, color=colour)
        axes.text(end * 1.12, row, bar.note, va="center", fontsize=7, color=_FAILED if failed else _SOFT)
    axes.set_xscale("log")
    axes.xaxis.set_visible(any(bar.relative > 0 for bar in outside))
    axes.set_xlim(low / 2, high * 3)
    axes.set_ylim(len(outside) - 0.4, -0.6)
    axes.set_yticks(range(len(outside)), [plain_text(bar.label) for bar in outside], fontsize=7, parse_math=False)
    axes.tick_params(which="both", length=0, labelsize=7, colors=ON_PAPER["ink"])
    axes.set_title(
        "outside of the layers: new in blue, pretrained in green, meant to stay and moved in red",
        fontsize=8,
        loc="left",
    )
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
