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

    @classmethod
    def of(cls, checkpoint: Checkpoint, manifest: Manifest) -> ResultSurvey:
        """Read a result.

        Raises:
            CheckpointError: the manifest describes other tensors than the files hold.
        """
        plan = manifest.plan
        plan.check_schemes(checkpoint.root)
        faults: list[str] = []
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
        return cls(_folder_name(checkpoint), manifest, plan, tuple(_new_regions_of(checkpoint, plan)))


@dataclass(frozen=True)
class CheckpointSurvey:
    """What there is to say of a checkpoint without a manifest: its tensors, and charts of those of one name each."""

    folder: str
    nbytes: int
    measures: tuple[Measure, ...]
    findings: tuple[ReportFinding, ...]
    charts: tuple[tuple[str, int, Chart], ...]
    untrained: tuple[Untrained, ...] = ()

    @classmethod
    def of(cls, checkpoint: Checkpoint) -> CheckpointSurvey:
        """Measure every tensor, and judge and draw those whose names differ in numbers alone together."""
        observer = RegionMeasurer(checkpoint, PLAIN_SIDE)
        groups: dict[str, list[Candidate]] = {}
        measures: dict[str, Measure] = {}
        findings: list[ReportFinding] = []
        for at, (name, entry) in enumerate(checkpoint.entries.items()):
            tensor = whole_tensor(name, name_pattern(name), entry.shape, at)
            groups.setdefault(tensor.role, []).append(tensor)
            measures[name] = observer.measure(name, tensor.region)[0]
        for group in groups.values():
            group.sort(key=layer_numbers)
            for tensor in group:
                near = nearest_neighbours(tensor, (other for other in group if other is not tensor))
                findings += judge_report(measures[tensor.name], neighbours=[measures[each.name] for each in near])
        # Charts are of the first, the middle and the last tensor of the largest groups.
        numeric = {role: group for role, group in groups.items() if is_floating(observer.dtype(group[0].name))}
        sizes = {role: sum(num_elements(each.region.shape) for each in group) for role, group in numeric.items()}
        largest, charts = sorted(sizes, key=lambda role: -sizes[role])[:GROUPS], []
        for role, group in numeric.items():
            shown = {at: group[at] for at in (0, len(group) // 2, len(group) - 1)} if role in largest else {}
            samples = [(each.name, observer.measure(each.name, each.region)[1]) for each in shown.values()]
            if any(values.size for _, values in samples):
                charts.append((role, len(group), chart(samples)))
        return cls(
            _folder_name(checkpoint), checkpoint.nbytes, tuple(measures.values()), tuple(findings), tuple(charts)
        )


def survey(folder: Path) -> ResultSurvey | CheckpointSurvey:
    """Read a folder, with or without a manifest.

    Raises:
        CheckpointError: it can't be read, or its manifest describes other tensors than its files hold.
    """
    with Checkpoint.open(folder) as checkpoint:
        extended = os.path.lexists(folder / MANIFEST_NAME)
        found = ResultSurvey.of(checkpoint, Manifest.load(folder)) if extended else CheckpointSurvey.of(checkpoint)
    return replace(found, untrained=untrained_tables(folder))


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


def _folder_name(checkpoint: Checkpoint) -> str:
    return Origin.of(checkpoint.root).name
