"""The picture of a check: outputs and gradients of all modules, in the order in which they ran."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

from hf_init._base_report import Report
from hf_init._block_names import name_pattern, stack_blocks
from hf_init._check.facts import LayerFacts
from hf_init._check.usual import distance, usual_range
from hf_init._errors import HfInitError
from hf_init._figure import ON_PAPER, drawing, plain_text, require, save_picture, verdict_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_SOFT, _OLD = "#5c6470", "#5b8a72"
_NAMED = 12
_OUTLIERS = 5
_LINES = 48
_SEEN = 0.02  # a share that can be seen as a bar
_LETTERS = 150  # that fit under the picture


def draw_check(
    report: Report, model: str, layers: Sequence[LayerFacts], seen: str, path: str | os.PathLike[str]
) -> Path:
    """Write the picture of a check, a PNG or a page, in place of what is there.

    Args:
        report: of the check, which is on the page.
        model: what the model is called.
        layers: that ran.
        seen: loss and findings, in a line.

    Raises:
        HfInitError: matplotlib isn't installed, the name ends in something else, or no module ran.
    """
    require()
    if not layers:
        raise HfInitError(f"no module with parameters of {model} ran: there is nothing to draw")
    zeros = any(layer.zeros > _SEEN for layer in layers)
    heights = [3, 3, 1.6] if zeros else [3, 3]
    with drawing(10.0, 0.4 + sum(heights), len(heights), 1, heights) as (figure, axes):
        title = f"{verdict_of(report)}: {plain_text(model)}, {seen}"
        figure.suptitle(title, fontsize=10, x=0.01, ha="left", parse_math=False)
        _draw_points(axes[0, 0], layers, [layer.rms for layer in layers], "outputs, root mean square")
        gradients = [layer.gradient for layer in layers]
        _draw_points(axes[1, 0], layers, gradients, "gradient of the loss by outputs, root mean square")
        if zeros:
            colours = [ON_PAPER["new"] if layer.new else _OLD for layer in layers]
            axes[2, 0].bar(range(len(layers)), [100 * layer.zeros for layer in layers], color=colours, width=0.8)
            axes[2, 0].set_ylim(0, 100)
            _frame_layers(axes[2, 0], layers, "outputs that are exactly zero, %")
        return save_picture(figure, report, path)


def _draw_points(axes: Axes, layers: Sequence[LayerFacts], values: Sequence[float | None], title: str) -> None:
    known = [(at, value) for at, value in enumerate(values) if value and math.isfinite(value)]
    for new, colour, label in ((False, _OLD, "pretrained"), (True, ON_PAPER["new"], "new")):
        mine = [(at, value) for at, value in known if layers[at].new == new]
        if mine:
            axes.scatter(
                *zip(*mine, strict=True), s=30 if new else 14, color=colour, label=label, zorder=3 if new else 2
            )
    for kind in dict.fromkeys(name_pattern(layer.name) for layer in layers):
        line = [(at, value) for at, value in known if name_pattern(layers[at].name) == kind]
        axes.plot(*zip(*line, strict=True), color=_OLD, linewidth=0.7, alpha=0.45, zorder=1) if len(line) > 1 else None
    if known:
        axes.set_yscale("log")
        low, high = usual_range([value for at, value in known])
        axes.axhspan(low, high, color=_OLD, alpha=0.1, linewidth=0, label="usual in this model", zorder=0)
        new = [(at, value) for at, value in known if layers[at].new]
        far = sorted(
            ((at, v) for at, v in known if not low <= v <= high), key=lambda each: distance(each[1], low, high)
        )
        named = {**dict(far[-_OUTLIERS:]), **dict(new if len(new) <= _NAMED else ())}
        for at, value in named.items():
            colour = ON_PAPER["new"] if layers[at].new else _SOFT
            side, beside = ("left", 6) if 2 * at < len(layers) else ("right", -6)
            style = {"fontsize": 7, "color": colour, "ha": side, "va": "center", "parse_math": False}
            axes.annotate(plain_text(layers[at].name), (at, value), (beside, 0), textcoords="offset points", **style)
    _frame_layers(axes, layers, title)
    handles, _ = axes.get_legend_handles_labels()
    if handles:
        axes.legend(fontsize=7, frameon=False, ncols=3, loc="lower right", bbox_to_anchor=(1.0, 1.0))


def _frame_layers(axes: Axes, layers: Sequence[LayerFacts], title: str) -> None:
    axes.set_title(title, fontsize=8, loc="left")
    axes.set_xlim(-0.8, len(layers) - 0.2)
    # Where each block begins, and its name: layer.3, embeddings.
    blocks = [(stack_blocks(f"{layer.name}.") or [layer.name.rpartition(".")[0]])[0].rstrip(".") for layer in layers]
    runs = [(next(run)[0], name) for name, run in groupby(enumerate(blocks), key=lambda pair: pair[1])]
    paths = [(at, (name or layers[at].name).split(".")) for at, name in runs]
    marks = [(at, ".".join(path[-2:]) if path[-1].isdecimal() else path[-1]) for at, path in paths]
    for at, _ in marks if len(marks) <= _LINES else ():
        axes.axvline(at - 0.5, color="#dcdfe5", linewidth=0.8, zorder=1)
    shown, free = {}, 0.0  # the marks that don't run into the one before, or out of the picture
    for at, name in marks:
        end = at + (len(name) + 1) * len(layers) / _LETTERS
        if at >= free and end <= len(layers) * 1.02:
            shown[at], free = plain_text(name), end
    axes.set_xticks([*shown], [*shown.values()], fontsize=7, ha="left", parse_math=False)
    axes.tick_params(which="both", length=0, labelsize=7, colors=_SOFT)
    axes.spines[["top", "right"]].set_visible(False)
