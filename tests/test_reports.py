"""Every report keeps one contract, in Python, in a notebook and on paper."""

from __future__ import annotations

import importlib
import json
import pkgutil
from collections.abc import Iterator

import pytest

import hf_init
from hf_init._base_report import Report
from hf_init._check.facts import Facts
from hf_init._check.judge import CheckFinding
from hf_init._check.report import CheckReport
from hf_init._drift.judge import TensorDrift
from hf_init._drift.report import DriftReport
from hf_init._function.same import FunctionReport
from hf_init._load.prove import LoadReport
from hf_init._multihead.listing import HeadListing, ListedHead
from hf_init._plan import EXACT
from hf_init._plan.plan import Plan
from hf_init._plan.tensor_plan import TensorPlan
from hf_init._probe.comparison import SchemeComparison, SchemeRun
from hf_init._probe.probe_report import ProbeReport, Reading
from hf_init._tensors import Status
from hf_init._verify.diff_report import DiffReport
from hf_init._verify.report import VerifyReport
from hf_init.finetune._guard import GuardReport

NASTY = "<b>w\x1b[2J|*\udcff"
"""A tensor's name that a terminal, a browser or Markdown would obey, and that no file can be written with."""

DIFFERENCE = {
    "name": NASTY, "reason": "bytes", "row": 0, "index": [0], "seen": float("nan"), "expected": 1.0, "changed_rows": 1
}  # fmt: skip
ADDED = {"name": NASTY, "status": "added", "shape": [2], "dtype": "float32"}
FACTS = Facts(float("inf"), None, None, (), (), (), False, False)
READING = Reading(1.0, 2, 3)


def moved(failed: bool) -> TensorDrift:
    return TensorDrift(NASTY, "moved", "kept", "all", failed, (2,), "float32", "float32", 2, None, "", failed)


def verified(*differences: dict[str, object]) -> VerifyReport:
    return VerifyReport({"tensors": 1, "kept": 1}, 8, 0, differences, ("a note",), NASTY)


def probed(mass: float) -> ProbeReport:
    return ProbeReport(NASTY, "out", 1, 9, 5, mass, mass, 0.0, 0.0, int(mass), READING, READING, READING)


def computed(differing: int) -> FunctionReport:
    return FunctionReport(EXACT, NASTY, 4, differing, 0.5, 1.0, 0.0, {"input_ids": (2, 2)}, 0)


GOOD: tuple[Report, ...] = (
    Plan("Tiny", 0, (TensorPlan(NASTY, Status.NEW, (2,), "float32"),), notes=(NASTY,)),
    verified(),
    DiffReport(NASTY, "b", ({**ADDED, "status": "identical"},)),
    DriftReport(NASTY, "b", "none", "nothing", (moved(False),), warnings=(NASTY,)),
    CheckReport(NASTY, FACTS, (CheckFinding("warning", "kind", NASTY),)),
    SchemeComparison((SchemeRun(NASTY, 0, {0: 1.0, 5: 0.5}),), 1.0),
    probed(0.0),
    GuardReport(1, 8, ()),
    HeadListing(NASTY, "Tiny", 3, (ListedHead(NASTY, "kind", None, 2, (NASTY,), 1, 2),)),
    LoadReport({"kept": 1}, 8, cast=(NASTY,)),
    computed(0),
)
BAD: tuple[Report, ...] = (
    verified(*[DIFFERENCE] * 9),
    DiffReport(NASTY, "b", (ADDED,)),
    DriftReport(NASTY, "b", "none", "everything kept", (moved(True),)),
    DriftReport("a", "b", "none", "everything kept", (), proof=verified(DIFFERENCE)),
    CheckReport(NASTY, FACTS, (CheckFinding("error", "kind", NASTY),)),
    SchemeComparison((SchemeRun(NASTY, 0, {0: 1.0, 5: float("nan")}),), 1.0),
    probed(1.0),
    GuardReport(1, 8, (DIFFERENCE,)),
    computed(1),
)


def kinds(of: type) -> Iterator[type]:
    for kind in of.__subclasses__():
        yield from (kind, *kinds(kind))


def test_every_kind_of_report_is_tried():
    for module in pkgutil.walk_packages(hf_init.__path__, "hf_init."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    ours = {kind for kind in kinds(Report) if kind.__module__.startswith("hf_init.")}
    assert {type(report) for report in GOOD} == ours
    assert {type(report) for report in BAD} == {kind for kind in ours if kind.ok is not Report.ok}
    assert len({kind.schema for kind in ours}) == len(ours)
    assert all(name.partition("/")[2].isdecimal() for name in (kind.schema for kind in ours))


@pytest.mark.parametrize("report", [*GOOD, *BAD], ids=lambda report: f"{type(report).__name__}-{report.ok}")
def test_every_report_keeps_the_contract(report):
    """True or false; JSON that any parser reads; one short line, the whole, a notebook's and Markdown's tables."""
    good = report in GOOD
    assert report.ok is good and bool(report) is good
    document = json.loads(json.dumps(report.to_json(), allow_nan=False))
    assert (document["schema"], document["ok"]) == (report.schema, good)
    assert (
        repr(report).startswith(f"<{type(report).__name__}: ") and "\n" not in repr(report) and len(repr(report)) < 200
    )
    for text in (repr(report), str(report), report.to_markdown()):
        assert not {"\x1b", "\ue000"} & {*text} and text.encode()
    page = report._repr_html_()
    assert page.startswith("<div") and "<b>w" not in page
    assert len(str(report).splitlines()) < 30


@pytest.mark.parametrize("report", [*GOOD, *BAD], ids=lambda report: f"{type(report).__name__}-{report.ok}")
def test_what_is_wrong_is_an_error_that_says_what(report):
    if report.ok:
        report.raise_if_failed()
        return
    with pytest.raises(hf_init.HfInitError) as refused:
        report.raise_if_failed()
    assert type(refused.value) is report.error and len(str(refused.value)) > 20 and "\ue000" not in str(refused.value)
