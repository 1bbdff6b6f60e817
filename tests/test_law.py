"""Nothing is lost or drawn unasked, whatever is wrong with a checkpoint: a share of ``scripts/prove/law.py``."""

from __future__ import annotations

import shutil
from pathlib import Path
from random import Random

import pytest
import transformers

SCRIPTS = Path(__file__).parent.parent / "scripts" / "prove"


@pytest.fixture
def scripts(monkeypatch) -> None:
    monkeypatch.syspath_prepend(str(SCRIPTS))


def outcomes(types: str, rounds: int, most: int) -> tuple[set[str], list[str]]:
    """The kinds of fault that were tried, and what was neither refused by name nor right."""
    from _law_cases import trials

    kinds, wrong = set[str](), list[str]()
    for model_type in types.split():
        for head, fault, outcome in trials(model_type, rounds, 0, most):
            kinds.add(f"{fault.split()[0]} {outcome}" if outcome in ("refused", "right") else "wrong")
            wrong += [] if outcome in ("refused", "right") else [f"{model_type} {head}, {fault}: {outcome}"]
    return kinds, wrong


REFUSED = {f"{kind} refused" for kind in ("removed", "renamed", "wrapped", "foreign", "packed")}


def test_a_fault_is_refused_by_name_or_harmless(scripts):
    kinds, wrong = outcomes("bert", rounds=3, most=2)
    assert wrong == [] and kinds >= REFUSED


@pytest.mark.slow
def test_a_fault_of_any_of_forty_types_is_refused_by_name_or_harmless(scripts):
    from _law_cases import TYPES

    kinds, wrong = outcomes(TYPES, rounds=1, most=3)
    assert len(TYPES.split()) >= 40 and wrong == [] and kinds >= REFUSED


@pytest.mark.parametrize(
    ("checks", "kind", "says"),
    [
        ("PLAN_CHECKS", "removed", "is drawn"), ("PLAN_CHECKS", "renamed", "is lost"),
        ("PLAN_CHECKS", "wrapped", "is lost"), ("PLAN_CHECKS", "foreign", "is lost"),
        ("INPUT_CHECKS", "packed", "is of packed numbers"),
    ],
)  # fmt: skip
def test_without_the_checks_it_is_seen(scripts, bases, tmp_path, monkeypatch, checks, kind, says):
    from _law_cases import Pair, faults

    base = shutil.copytree(bases("bert"), tmp_path / "base", copy_function=shutil.copyfile)
    pair = Pair.of(base, transformers.BertForTokenClassification)
    assert pair is not None and pair.drop == ("pooler.*",)
    monkeypatch.setattr(f"hf_init._prepare.prepare.{checks}", ())
    monkeypatch.setattr("hf_init._checkpoint.packed.packed_weights", lambda entries: [])
    random = Random(1)
    found = [fault for _ in range(5) for fault in faults(pair.header, random) if fault.kind == kind]
    assert any(says in pair.outcome(fault) for fault in found)
