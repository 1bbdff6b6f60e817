"""The PNG: the histograms, and nothing else."""

from __future__ import annotations

from hf_init._errors import HfInitError
from hf_init._figure import plain_text
from hf_init._report import charts as _charts
from hf_init._report.cells import format_value, region_text
from hf_init._report.picture import Chart, Picture
from hf_init._report.survey import CheckpointSurvey, NewRegion, ResultSurvey
from hf_init._text import format_count

Panel = tuple[str, Chart, list[str]]


def poster(survey: ResultSurvey | CheckpointSurvey) -> bytes:
    """Return a PNG of new regions beside their pretrained neighbours; of a plain checkpoint, of its groups of tensors.

    Raises:
        HfInitError: there is nothing to draw.
    """
    if isinstance(survey, ResultSurvey):
        rows = [_region_panels(subject, subject.picture) for subject in survey.subjects if subject.picture is not None]
    else:
        groups = [
            (f"{name} ({number})", chart, [*_charts.KEPT[: len(chart.traces)]]) for name, number, chart in survey.charts
        ]
        rows = [groups[at : at + 3] for at in range(0, len(groups), 3)]
    if not rows:
        raise HfInitError(f"{survey.folder} has no new values to draw: give an .html name for its tables")
    result = isinstance(survey, ResultSurvey)
    name = f"{survey.plan.architecture}, seed {survey.plan.seed}" if result else survey.folder
    more = f" (the first {_charts.PANELS} of {format_count(len(rows))} rows)" if len(rows) > _charts.PANELS else ""
    return _charts.png_panels(rows[: _charts.PANELS], f"{name}{more}")


def _region_panels(subject: NewRegion, picture: Picture) -> list[Panel]:
    tensor, stats = subject.tensor, subject.measure.stats
    where = region_text(subject.fill.region, tensor.shape)
    numbers = f"std {format_value(stats.std)}" if stats else ""
    if subject.expected is not None:
        numbers += f", expected {format_value(subject.expected.std)}"
    what = f"{'norms of rows, ' if subject.tokens else ''}{subject.fill.scheme.name}, {numbers}"
    name = f"{plain_text(tensor.name)}{'' if where == 'all' else f', {where}'}\n{what}"
    kept = [*_charts.KEPT[: len(picture.neighbours.traces)]] if picture.neighbours else []
    if picture.overlay is not None:
        return [(name, picture.overlay, [*kept, "new"])]
    beside = [(f"pretrained, {tensor.role}", picture.neighbours, kept)] if picture.neighbours is not None else []
    return [(name, picture.new, ["new"]), *beside]
