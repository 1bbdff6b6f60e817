"""The judgement and the table of ``scripts/bench/heads.py``: what must not be is noticed."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parent.parent / "scripts" / "bench"
STEPS = [0, 20, 100, 500]


@pytest.fixture
def bench(monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPTS))
    import heads

    return heads


def entries(bench, **curves):
    """Two seeds, half a point to each side of a curve over ``STEPS``; the spread is 0.7 points."""
    return [
        bench.Measured("digits", method, seed, step, accuracy + (0.005 if seed else -0.005))
        for method, curve in curves.items()
        for step, accuracy in zip(STEPS, curve, strict=True)
        for seed in range(2)
    ]


def judged(bench, ridge, model=(0.2, 0.3, 0.6, 0.9), steps=STEPS):
    return bench.judge(entries(bench, model=model, ridge=ridge), ["digits"], ["model", "ridge"], steps)


def test_better_at_first_and_no_worse_at_the_end_is_right(bench):
    assert judged(bench, (0.8, 0.8, 0.85, 0.9)) == []
    assert judged(bench, (0.8, 0.8, 0.5, 0.894)) == []  # within the spread; step 100 is shown, not judged


@pytest.mark.parametrize(
    ("ridge", "said"),
    [
        ((0.206, 0.8, 0.85, 0.9), "step 0: ridge is +0.6 points"),  # no more than the spread
        ((0.8, 0.1, 0.85, 0.9), "step 20: ridge is -20.0 points"),
        ((0.8, 0.8, 0.85, 0.89), "step 500: ridge is -1.0 points"),
    ],
)
def test_a_head_that_is_not_better_early_or_is_worse_late_is_noticed(bench, ridge, said):
    (line,) = judged(bench, ridge)
    assert said in line and "spread 0.7" in line


def test_only_seeds_that_both_methods_have_are_compared(bench):
    lucky = bench.Measured("digits", "ridge", 7, 0, 1.0)
    known = [*entries(bench, model=(0.2,) * 4, ridge=(0.1,) * 4), lucky]
    assert "-10.0 points" in bench.judge(known, ["digits"], ["ridge"], [0])[0]
    (missing,) = bench.judge([lucky], ["digits"], ["ridge"], [0])
    assert "no seed in common" in missing


def test_what_is_measured_is_not_measured_again(bench):
    (run,) = bench._runs(["digits"], ["ridge"], 1, tuple(STEPS))
    known = entries(bench, ridge=(0.1,) * 4)
    assert bench._done(run, known)
    assert not bench._done(run, known[:-2])
    assert bench._runs(["digits"], ["verbalizer"], 5, (0,)) == []


@pytest.mark.parametrize(("early", "code"), [(0.8, 0), (0.2, 1)])
def test_the_table_is_made_from_the_results_and_the_exit_status_is_the_judgement(bench, tmp_path, capsys, early, code):
    results = tmp_path / "results.jsonl"
    known = entries(bench, model=(0.2, 0.3, 0.6, 0.9), ridge=(early, 0.8, 0.85, 0.9))[:-1]
    results.write_text("".join(json.dumps(asdict(entry)) + "\n" for entry in known))
    options = ["--set", "digits", "--methods", "model", "ridge", "--seeds", "2", "--results", str(results), "--table"]
    assert bench.main(options) == code
    shown = capsys.readouterr().out
    assert "20.0 ±0.7" in shown and "89.5 ±0.0 (1)" in shown
    assert ("step 0: ridge" in shown) == bool(code)
