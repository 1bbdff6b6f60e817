"""Everything that a report says, as values: what is new in a result, or what is in a plain checkpoint."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from hf_init._block_names import name_pattern
from hf_init._checkpoint import Checkpoint, Origin, check_faults, is_floating, short_name
from hf_init._plan import MANIFEST_NAME, Fill, Manifest, Plan, TensorPlan
from hf_init._report.expected import expected_distribution
from hf_init._report.judge import ReportFinding, judge_report
from hf_init._report.measure import Measure, RegionMeasurer
from hf_init._report.neighbours import Candidate, layer_numbers, nearest_neighbours, pretrained, whole_tensor
from hf_init._report.picture import Chart, Picture, chart, picture
from hf_init._report.token_rows import TokenRows, norm_picture, token_rows, token_texts
from hf_init._report.untrained import Untrained, untrained_tables
from hf_init._tensors import num_elements
from hf_init.schemes import Distribution

PICTURES = 200
"""The most new regions that get a picture; all get their statistics."""

PLAIN_SIDE = 256
"""The most rows and columns of a plain checkpoint's matrices that a rank is measured on: there may be thousands."""

GROUPS = 36
"""The most groups of tensors of a plain checkpoint that get a picture."""


@dataclass(frozen=True)
class NewRegion:
    """One new region: what fills it, what its values are, and what it is compared with."""

    tensor: TensorPlan
    fill: Fill
    measure: Measure
    expected: Distribution | None
    neighbours: tuple[Measure, ...]
    picture: Picture | None
    findings: tuple[ReportFinding, ...]
    tokens: TokenRows | None = None


@dataclass(frozen=True)
class ResultSurvey:
    """What there is to say of a result of ``extend``."""

    folder: str
    manifest: Manifest
    plan: Plan
    subjects: tuple[NewRegion, ...]
    untrained: tuple[Untrained, ...] = ()

    @property
    def findings(self) -> tuple[ReportFinding, ...]:
        return tuple(finding for subject in self.subjects for finding in subject.findings)


@dataclass(frozen=True)
class CheckpointSurvey:
    """What there is to say of a checkpoint without a manifest: its tensors, and charts of those of one name each."""

    folder: str
    nbytes: int
    measures: tuple[Measure, ...]
    findings: tuple[ReportFinding, ...]
    charts: tuple[tuple[str, int, Chart], ...]
    untrained: tuple[Untrained, ...] = ()


def survey(folder: Path) -> ResultSurvey | CheckpointSurvey:
    """Read a folder, with or without a manifest.

    Raises:
        CheckpointError: it can't be read, or its manifest describes other tensors than its files hold.
    """
    with Checkpoint.open(folder) as checkpoint:
        extended = os.path.lexists(folder / MANIFEST_NAME)
        found = _survey_result(checkpoint, Manifest.load(folder)) if extended else _survey_checkpoint(checkpoint)
    return replace(found, untrained=untrained_tables(folder))


def _survey_result(checkpoint: Checkpoint, manifest: Manifest) -> ResultSurvey:
    plan, faults = manifest.plan, []
    plan.check_schemes(checkpoint.root)
    for tensor in plan.stored:
        entry = checkpoint.entries.get(tensor.name)
        if entry is None:
            faults.append(f"{short_name(tensor.name)} is in the manifest, but in no file")
        elif entry.shape != tensor.shape:
            seen = f"{short_name(tensor.name)} has the shape {entry.shape}"
            faults.append(f"{seen}, the manifest says {tensor.shape}")
    check_faults(
        str(checkpoint.root), faults, f"Its {MANIFEST_NAME} is of other files: make the result again, or remove it."
    )
    return ResultSurvey(_folder_name(checkpoint), manifest, plan, tuple(_new_regions_of(checkpoint, plan)))


def _shape_faults(tensor: TensorPlan, checkpoint: Checkpoint) -> Iterator[str]:
    entry = checkpoint.entries.get(tensor.name)
    if entry is None:
        yield f"{short_name(tensor.name)} is in the manifest, but in no file"
    elif entry.shape != tensor.shape:
        yield f"{short_name(tensor.name)} has the shape {entry.shape}, the manifest says {tensor.shape}"


def _new_regions_of(checkpoint: Checkpoint, plan: Plan) -> Iterator[NewRegion]:
    observer, candidates, pictures = RegionMeasurer(checkpoint), pretrained(plan.tensors), itertools.count()
    text = token_texts(checkpoint.root)
    for at, tensor in enumerate(plan.tensors):
        if tensor.left_out:
            continue
        near = nearest_neighbours(whole_tensor(tensor.name, tensor.role, tensor.shape, at), candidates)
        stack = tensor.geometry.stack if tensor.geometry and len(tensor.shape) - tensor.geometry.stack > 1 else 0
        for fill, (_, slot) in zip(tensor.new, tensor.slots(plan.seed), strict=True):
            own, sample = observer.measure(tensor.name, fill.region, stack)
            others = [observer.measure(each.name, each.region, stack) for each in near]
            measures = tuple(measure for measure, _ in others)
            traces = [(f"{m.name}{' (kept)' if m.name == tensor.name else ''}", values) for m, values in others]
            expected = expected_distribution(fill.scheme, slot)
            tokens = token_rows(checkpoint, tensor, fill, text)
            drawn = None
            if next(pictures) < PICTURES and sample.size:
                drawn = norm_picture(tokens) if tokens else picture(tensor.name, sample, expected, traces)
            findings = judge_report(own, fill.scheme, expected, measures)
            yield NewRegion(tensor, fill, own, expected, measures, drawn, findings, tokens)


def _survey_checkpoint(checkpoint: Checkpoint) -> CheckpointSurvey:
    observer = RegionMeasurer(checkpoint, PLAIN_SIDE)
    # Tensors whose names differ in numbers alone are a group, in the order of those.
    groups: dict[str, list[Candidate]] = {}
    measures, findings = {}, []
    for at, (name, entry) in enumerate(checkpoint.entries.items()):
        tensor = whole_tensor(name, name_pattern(name), entry.shape, at)
        groups.setdefault(tensor.role, []).append(tensor)
        measures[name] = observer.measure(name, tensor.region)[0]
    for group in groups.values():
        group.sort(key=layer_numbers)
        for tensor in group:
            near = nearest_neighbours(tensor, (other for other in group if other is not tensor))
            findings += judge_report(measures[tensor.name], neighbours=[measures[each.name] for each in near])
    charts = tuple(_group_charts(groups, observer))
    return CheckpointSurvey(
        _folder_name(checkpoint), checkpoint.nbytes, tuple(measures.values()), tuple(findings), charts
    )


def _group_charts(groups: dict[str, list[Candidate]], observer: RegionMeasurer) -> Iterator[tuple[str, int, Chart]]:
    """Yield charts of the first, the middle and the last tensor of the largest groups."""
    numeric = {role: group for role, group in groups.items() if is_floating(observer.dtype(group[0].name))}
    largest = sorted(numeric, key=lambda role: -sum(num_elements(each.region.shape) for each in numeric[role]))[:GROUPS]
    for role in (role for role in numeric if role in set(largest)):
        group = numeric[role]
        shown = {at: group[at] for at in (0, len(group) // 2, len(group) - 1)}.values()
        samples = [(each.name, observer.measure(each.name, each.region)[1]) for each in shown]
        if any(values.size for _, values in samples):
            yield role, len(group), chart(samples)


def _folder_name(checkpoint: Checkpoint) -> str:
    return Origin.of(checkpoint.root).name
