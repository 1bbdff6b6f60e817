"""The page: one HTML file that needs nothing else."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from hf_init._checkpoint import SAMPLE
from hf_init._html import Html, dotted, html_page, join_html, tag
from hf_init._report import charts as _charts
from hf_init._report.cells import (
    column_heads,
    expected_cells,
    findings_list,
    format_value,
    measure_cells,
    region_text,
    right_cell,
    shape_text,
    wide_table,
)
from hf_init._report.measure import ROWS, SIDE
from hf_init._report.picture import Chart
from hf_init._report.statuses import status_tables
from hf_init._report.survey import GROUPS, PICTURES, PLAIN_SIDE, CheckpointSurvey, NewRegion, ResultSurvey
from hf_init._tensors import num_elements
from hf_init._text import format_bytes, format_count


def page(survey: ResultSurvey | CheckpointSurvey) -> str:
    """Return the whole document."""
    if isinstance(survey, ResultSurvey):
        title, side, parts = survey.plan.architecture, SIDE, _result_page(survey)
    else:
        title, side, parts = survey.folder, PLAIN_SIDE, _checkpoint_page(survey)
    footer = (
        "Mean, standard deviation, norm, share of zeros, least and greatest value are of all finite values, decoded "
        f"from the files' bytes. Histograms are of at most {format_count(SAMPLE)} evenly spaced ones, "
        "between the 0.1% and the 99.9% quantile. Farthest: the greatest distance from the mean in standard deviations "
        "(for a new region in the expected ones).",
        "Rank: singular values above the rounding of float32, out of as many as there can be, on at most "
        f"{side} x {side} evenly spaced rows and columns; eff.: the exponential of the entropy of the singular values "
        f"(Roy and Vetterli, 2007). At most {format_count(ROWS)} evenly spaced rows are compared with each other.",
        "Neighbours: pretrained tensors of the same role and number of dimensions, nearest by the numbers in their "
        "names. Nothing is expected of schemes such as model, whose distribution isn't known.",
    )
    return html_page(title, parts, [tag("p", text) for text in footer])


def _result_page(survey: ResultSurvey) -> Iterator[Html]:
    plan, manifest = survey.plan, survey.manifest
    base = manifest.base.origin.name
    yield tag(
        "header",
        tag("h1", plan.architecture),
        tag("p", tag("code", survey.folder), " extends ", tag("code", base), f" with seed {plan.seed}", class_="soft"),
        tag(
            "p",
            f"made by {manifest.made_by}; base fingerprint ",
            tag("code", manifest.base.fingerprint[:16]),
            class_="soft",
        ),
        _count_chips(
            [*plan.counts.items(), ("new values", sum(num_elements(s.measure.shape) for s in survey.subjects))]
        ),
        tag("ul", *(tag("li", note) for note in plan.notes)) if plan.notes else "",
    )
    links = {subject.tensor.name: f"#new-{at}" for at, subject in reversed([*enumerate(survey.subjects)])}
    yield _findings_section(survey, links)
    yield from _untrained_section(survey)
    yield tag("h2", "New values")
    if not survey.subjects:
        yield tag("p", "Nothing is new: every tensor is kept.")
    if len(survey.subjects) > PICTURES:
        yield tag(
            "p", f"The first {PICTURES} of {format_count(len(survey.subjects))} regions have a picture.", class_="soft"
        )
    yield from (_region_card(at, subject) for at, subject in enumerate(survey.subjects))
    yield tag("h2", "Every tensor")
    yield from status_tables(plan, links)


def _findings_section(survey: ResultSurvey | CheckpointSurvey, links: dict[str, str] | None = None) -> Html:
    if survey.findings:
        trained = "In a trained model an extreme value may be what it has learned."
        note = tag("p", trained, class_="soft") if isinstance(survey, CheckpointSurvey) else ""
        return join_html((tag("h2", "What looks wrong"), note, findings_list(survey.findings, links)))
    seen = "every new region" if isinstance(survey, ResultSurvey) else "every tensor"
    text = (
        f"Nothing looks wrong: {seen} is finite and not constant where it shouldn't be, without extreme values or "
        "identical rows, and of a spread that fits its scheme and its neighbours."
    )
    return join_html((tag("h2", "What looks wrong"), tag("p", text, class_="note")))


def _untrained_section(survey: ResultSurvey | CheckpointSurvey) -> Iterator[Html]:
    """List rows of a vocabulary that were never trained, which stay as they are."""
    if survey.untrained:
        yield tag("h2", "Rows of the vocabulary that were never trained")
        yield tag("ul", *(tag("li", str(each)) for each in survey.untrained))
        yield tag("p", "They stay as they are unless they are asked for: ", tag("code", "--reinit-rows"), class_="soft")


def _count_chips(counts: Sequence[tuple[str, int]]) -> Html:
    return tag("ul", *(tag("li", tag("b", format_count(many)), f" {word}") for word, many in counts), class_="chips")


def _region_card(at: int, subject: NewRegion) -> Html:
    tensor, fill = subject.tensor, subject.fill
    facts = [shape_text(tensor.shape), subject.measure.dtype, tensor.role, region_text(fill.region, tensor.shape)]
    why = f": {fill.why}" if fill.why else ""
    named = subject.expected is None or str(subject.expected) == str(fill.scheme)
    expected = "" if named else f" (expected: {subject.expected})"
    warnings = [tag("li", finding.text) for finding in subject.findings]
    rows = [[tag("td", "new", class_="name"), *measure_cells(subject.measure, subject.expected)]]
    if subject.expected is not None:
        rows.append([tag("td", "expected", class_="name"), *expected_cells(subject.expected)])
    for each in subject.neighbours:
        kept = " (kept)" if each.name == tensor.name else ""
        rows.append([tag("td", dotted(each.name), kept, class_="name"), *measure_cells(each)])
    return tag(
        "section",
        tag("h3", dotted(tensor.name)),
        tag("p", " · ".join(facts), class_="soft"),
        tag("p", "filled by ", tag("code", fill.scheme), why, expected),
        tag("div", tag("ul", *warnings), class_="note warn") if warnings else "",
        _region_charts(subject),
        _token_table(subject),
        wide_table("", [tag("th", "values"), *column_heads()], rows),
        class_="card",
        id=f"new-{at}",
    )


def _region_charts(subject: NewRegion) -> Html:
    picture = subject.picture
    if picture is None:
        return Html("")
    step, what = subject.measure.step, "norms of rows" if subject.tokens else "values"
    sampled = f"new (sampled: one value in {format_count(step)})" if step > 1 and not subject.tokens else "new"
    key = [("new", sampled), *([("expected", "expected")] if subject.expected and not subject.tokens else [])]
    names: list[tuple[str, str]] = []
    if picture.neighbours is not None:
        drawn = zip(_charts.KEPT, picture.neighbours.traces, subject.neighbours, strict=False)
        names = [
            (colour, trace.label + (", sampled" if each.step > 1 and not subject.tokens else ""))
            for colour, trace, each in drawn
        ]
    colours = [colour for colour, _ in names]
    if picture.overlay is not None:
        label = f"histogram of the {what} of {subject.tensor.name} over those of its pretrained neighbours"
        note = what if subject.tokens else ""
        return tag(
            "div", _chart_figure(picture.overlay, [*colours, "new"], [*key, *names], label, note), class_="charts"
        )
    charts = [_chart_figure(picture.new, ["new"], key, f"histogram of the {what} of {subject.tensor.name}")]
    if picture.neighbours is None:
        charts.append(tag("p", f"No pretrained tensor has the role {subject.tensor.role}.", class_="soft"))
    else:
        label, note = f"histograms of the {what} of its pretrained neighbours", "on a scale of its own"
        charts.append(_chart_figure(picture.neighbours, colours, names, label, note))
    return tag("div", *charts, class_="charts")


def _token_table(subject: NewRegion) -> Html:
    """Return the new tokens with the length of their rows among the old ones, their pieces, and the nearest tokens."""
    if subject.tokens is None:
        return Html("")
    rows = [
        [
            tag("td", tag("code", row.text), class_="name"),
            right_cell(row.id),
            right_cell(f"{row.norm:.3g}"),
            right_cell(f"{row.longer_than:.0%}"),
            " + ".join(row.pieces),
            ", ".join(f"{text} {cosine:.2f}" for text, cosine in row.nearest),
        ]
        for row in subject.tokens.rows
    ]
    heads = ("id", "norm", "longer than old rows")
    columns = ["token", *(tag("th", head, class_="n") for head in heads), "made of", "nearest old tokens (cosine)"]
    left = len(subject.tokens.new_norms) - len(rows)
    return wide_table(f"new tokens{f' (the first, and {format_count(left)} more)' if left else ''}", columns, rows)


def _chart_figure(chart: Chart, colours: list[str], key: list[tuple[str, str]], label: str, note: str = "") -> Html:
    entries = [tag("li", text, class_=colour) for colour, text in key]
    outside, seen = sum(trace.outside for trace in chart.traces), sum(trace.seen for trace in chart.traces)
    rest = f"{format_count(outside)} of {format_count(seen)} values lie outside the picture" if outside else ""
    # A line stands for many equal values.
    lines = [
        f"line: {'all values are' if share == 1 else f'{share:.1%} are'} {format_value(value)}"
        for value, share in (trace.spike for trace in chart.traces if trace.spike)
    ]
    notes = "; ".join(filter(None, dict.fromkeys((note, *lines, rest))))
    caption = tag("figcaption", tag("ul", *entries, class_="key"), notes)
    return tag("figure", _charts.picture_of(chart, colours, label), caption)


def _checkpoint_page(survey: CheckpointSurvey) -> Iterator[Html]:
    measures = survey.measures
    total = sum(num_elements(measure.shape) for measure in measures)
    dtypes = ", ".join(sorted({measure.dtype for measure in measures}))
    yield tag(
        "header",
        tag("h1", survey.folder),
        tag("p", f"a checkpoint without a manifest; {dtypes}; {format_bytes(survey.nbytes)}", class_="soft"),
        _count_chips([("tensors", len(measures)), ("values", total)]),
    )
    yield _findings_section(survey)
    yield from _untrained_section(survey)
    yield tag("h2", "Histograms")
    yield tag(
        "p",
        f"The first, middle and last of the tensors whose names differ in numbers alone; the {GROUPS} largest groups.",
        class_="soft",
    )
    groups = []
    for name, many, chart in survey.charts:
        key = [(colour, trace.label) for colour, trace in zip(_charts.KEPT, chart.traces, strict=False)]
        drawn = _chart_figure(chart, [colour for colour, _ in key], key, f"histograms of {name}")
        groups.append(tag("div", tag("h3", dotted(name), f" ({many})" if many > 1 else ""), drawn, class_="card"))
    yield tag("div", *groups, class_="charts")
    yield tag("h2", "Every tensor")
    rows = [
        [
            tag("td", dotted(each.name), class_="name"),
            right_cell(shape_text(each.shape)),
            tag("td", each.dtype, class_="fixed"),
            *measure_cells(each),
        ]
        for each in measures
    ]
    yield wide_table("", ["tensor", tag("th", "shape", class_="n"), "dtype", *column_heads()], rows)
