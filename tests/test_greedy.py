"""The scripts that show what rows of new tokens do: no convex row wins, no old logit moves, `auto` is judged fairly."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch

SCRIPTS = Path(__file__).parent.parent / "scripts"


@pytest.fixture
def script(monkeypatch) -> Iterator[Callable[[str], Any]]:
    """Imports a script by its name."""
    for folder in ("prove", "evidence"):
        monkeypatch.syspath_prepend(str(SCRIPTS / folder))
    yield import_module
    for name in ("greedy", "vocabulary", "domain_vocabulary"):
        sys.modules.pop(name, None)


@pytest.fixture
def prove(script) -> Any:
    return script("greedy")


TEXT = (
    "The interpreter evaluates the expression, and if the coroutine was cancelled an exception is raised in the "
    "subprocess; otherwise the asynchronous iterator yields the deserialized object. "
)
WORDS = [" deserialized", " coroutines", " asynchronously", " cancelling", " reimplemented", " frobnicate"]


@pytest.mark.slow
def test_on_smollm2_no_convex_row_wins_no_old_logit_moves_and_the_mean_keeps_its_bound(
    prove, smollm2, capsys, monkeypatch
):
    """Rows of another length aren't convex: called so, they are found out."""
    few = {name: prove.CONVEX[name] for name in ("auto", "auto(distribution)", "subtokens(weights=first)")}
    monkeypatch.setattr(prove, "CONVEX", {**few, "not": prove.OTHERS["subtokens(norm=median)"]})
    monkeypatch.setattr(prove, "OTHERS", {})
    (found,) = prove.proved(smollm2, WORDS, TEXT * 4, "float32", 64, 32)
    assert found.startswith("float32: not: ") and found.endswith("greedy choices change")
    assert "6 words, 64 positions" in capsys.readouterr().out


def test_windows_have_so_many_positions_in_all_each_behind_a_start_token(prove):
    found = [ids[0].tolist() for ids in prove.windows(range(10, 40), 0, 12, 5)]
    assert found == [[0, 10, 11, 12, 13], [0, 15, 16, 17, 18], [0, 20]]
    assert sum(len(ids[0]) for ids in prove.windows(range(3), 0, 12, 5)) == 4


STATES = [torch.eye(3) * 2, torch.tensor([[0.0, 1.0, 3.0]])]


def test_logits_are_compared_position_by_position(prove):
    rows = {"convex": torch.full((2, 3), 1 / 3), "wins": torch.tensor([[0.0, 9.0, 0.0]])}
    found = prove.seen(STATES, torch.eye(3), rows)
    convex, wins = found["convex"], found["wins"]
    assert (convex.positions, convex.changed, convex.unequal) == (4, 0, 0)
    assert convex.nearest == pytest.approx(2 - 2 / 3)
    assert (wins.changed, wins.unequal) == (2, 0) and wins.nearest == pytest.approx(2 - 18)
    probabilities = torch.tensor([0.0, 2, 0, 18]).softmax(0)
    assert wins.mass == pytest.approx(float(probabilities[3]))


def test_what_must_not_be_is_named(prove):
    bad = prove.Seen(positions=10, changed=2, unequal=3, nearest=-1.0, mass=0.5)
    assert [*prove.faults("auto", bad, 0.1, True)] == [
        "auto: 2 greedy choices change",
        "auto: 3 logits of old tokens differ",
    ]
    assert [*prove.faults("gaussian", bad, 0.1, False)] == []
    (more,) = prove.faults("auto(distribution)", prove.Seen(10, 0, 0, 1.0, 0.5), 0.1, True)
    assert "0.5 of the probability, more than 0.1" in more


def test_an_old_logit_that_differs_is_counted(prove):
    before = torch.tensor([[1.0, 2.0], [3.0, 0.0]])
    after = torch.tensor([[1.0, 2.0, 0.0], [3.0, -0.0, 0.0]])
    assert prove._seen(before, after).unequal == 1, "a zero with the other sign is another logit"


@pytest.fixture
def evidence(script) -> Any:
    return script("vocabulary")


@pytest.fixture
def run(evidence) -> Callable[..., Any]:
    """Of one seed, measured before any training on passages of a hundred bytes, in which these nats are lost."""
    return lambda scheme, *nats: evidence.SchemeRun(
        scheme, 0, {0: sum(nats) / math.log(2) / 100 / len(nats)}, {}, {0: nats}
    )


def test_auto_is_judged_against_the_library_and_within_noise_against_the_rest(evidence, run):
    compared = evidence.SchemeComparison
    ours, library = run("auto", 50.0, 60.0, 70.0), run("resize_token_embeddings", 51.0, 60.0, 70.0)
    noise, better = run("mean", 40.0, 69.0, 70.0), run("gaussian", 49.0, 58.9, 69.1)
    assert [*evidence.verdict(compared((ours, library, noise), 1.0))] == []
    (said,) = evidence.verdict(compared((ours, library, better), 1.0))
    assert said.startswith("auto at step 0 is 0.0144 behind gaussian (standard error 0.0")
    (said,) = evidence.verdict(compared((run("auto", 51.0, 60.0, 70.1), library), 1.0))
    assert "behind resize_token_embeddings" in said
    wide = replace(better, schemes={"rows": "subtokens(norm=centred)"})
    assert [*evidence.verdict(compared((ours, library, wide), 1.0))] == [], "it changes greedy choices"
    (said,) = evidence.outside(compared((ours, library, wide), 1.0))
    assert "auto at step 0 is 0.0144 behind gaussian" in said, "but it is said"


def test_lines_of_other_settings_are_passed_over_and_of_one_scheme_and_seed_the_last_counts(
    evidence, run, tmp_path, capsys, monkeypatch
):
    settings = {"words": 5, "steps": [0], "batch": 8, "longest": 9, "held_out": 3, "dtype": "float32", "base": "small"}
    other = {**settings, "words": 6}
    made = [(other, run("auto", 9.0, 9.0)), (settings, run("auto", 9.0, 8.0)), (settings, run("auto", 5.0, 6.0))]
    lines = [json.dumps({"settings": words, "base": 1.5, "run": each.to_json()}) for words, each in made]
    (tmp_path / "lines").write_text("\n".join(lines))
    options = ["--base", "small", "--words", 5, "--steps", 0, "--batch", 8, "--longest", 9, "--held-out", 3]
    monkeypatch.setattr("sys.argv", ["evidence", *map(str, options), "--lines", str(tmp_path / "lines"), "--table"])
    assert evidence.main() == 0
    said = capsys.readouterr().out
    assert f"{run('auto', 5.0, 6.0).bits[0]:.4f}" in said and "its own tokens: 1.5000" in said
    (tmp_path / "lines").write_text(lines[0])
    assert evidence.main() == 1 and "no run is there yet" in capsys.readouterr().out
