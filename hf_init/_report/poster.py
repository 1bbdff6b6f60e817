"""The PNG: the histograms, and nothing else."""

from __future__ import annotations

from collections.abc import Iterator

from hf_init._errors import HfInitError
from hf_init._report import charts as _charts
from hf_init._report.cells import place_cell
from hf_init._report.picture import Chart
from hf_init._report.survey import Extended, NewRegion, PlainTensor
from hf_init._text import format_count

Panel = tuple[str, Chart, list[str]]


def poster(survey: Extended | PlainTensor) -> bytes:
    """New regions beside their pretrained neighbours; of a plain checkpoint, its groups of tensors.

    Raises:
        HfInitError: there is nothing to draw.
    """
    rows = [*(_of_subjects(survey) if isinstance(survey, Extended) else _of_groups(survey))]
    if not rows:
        raise HfInitError(f"{survey.folder} has no new values to draw: give an .html name for its tables")
    name = survey.plan.architecture if isinstance(survey, Extended) else survey.folder
    more = f" (the first {_charts.PANELS} of {format_count(len(rows))} rows)" if len(rows) > _charts.PANELS else ""
    return _charts.png(rows[: _charts.PANELS], f"{name}{more}")


def _of_subjects(survey: Extended) -> Iterator[list[Panel]]:
    for subject in survey.subjects:
        if subject.picture is not None:
            yield [*_panels(subject)]


def _panels(subject: NewRegion) -> Iterator[Panel]:
    picture, tensor = subject.picture, subject.tensor
    if picture is None:
        return
    where = place_cell(subject.fill.region, tensor.shape)
    yield f"{tensor.name}{'' if where == 'all' else f', {where}'}", picture.new, ["new"]
    if picture.neighbours is not None:
        yield f"pretrained, {tensor.role}", picture.neighbours, [*_charts.KEPT[: len(picture.neighbours.traces)]]


def _of_groups(survey: PlainTensor) -> Iterator[list[Panel]]:
    panels = [(f"{name} ({many})", chart, [*_charts.KEPT[: len(chart.traces)]]) for name, many, chart in survey.charts]
    yield from (panels[at : at + 3] for at in range(0, len(panels), 3))
