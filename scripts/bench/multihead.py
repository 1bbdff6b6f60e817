"""What several heads on one trunk cost on MiniLM, against transformers' own classes with the same values.

One head against the plain class, in evaluation and in training (forward and backward), on one row and on eight; three
heads against three plain models. The two take turns on the same input and one thread; medians of the ratios of the
pairs, in processor time, in which what else runs on the machine doesn't count. Exits 1 where one head costs more than
2 % over the plain class (on eight rows), or three heads more than half of three models.

    python scripts/bench/multihead.py [--pairs 60]
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModel
from transformers.utils import logging

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from hf_init import MultiHead

BASE = Path(__file__).resolve().parents[2] / ".cache" / "all-MiniLM-L6-v2"
MOST, MOST_OF_THREE = 1.02, 0.5
LABELS = ["a", "b", "c"]
HEADS: dict[str, Any] = {
    "topic": {"kind": "sequence-classification", "labels": LABELS},
    "entities": {"kind": "token-classification", "labels": LABELS},
    "answer": "question-answering",
}
Batch = Mapping[str, torch.Tensor]
Pass = Callable[[], Any]


def multi(heads: Mapping[str, Any]) -> Any:
    config_class: Any = MultiHead.config_class
    model: Any = MultiHead(config_class(trunk=AutoConfig.from_pretrained(BASE), heads=heads))
    model.trunk.load_state_dict(AutoModel.from_pretrained(BASE).state_dict())
    return model


def batch(rows: int, tokens: int = 64) -> dict[str, torch.Tensor]:
    ids = torch.randint(1000, 20000, (rows, tokens))
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "token_type_ids": torch.zeros_like(ids)}


def labels(rows: int) -> dict[str, torch.Tensor]:
    found = {"topic": torch.ones(rows), "entities": torch.ones(rows, 64), "answer": torch.ones(rows, 2)}
    return {name: each.long() for name, each in found.items()}


def evaluation(model: Any, given: Batch) -> Pass:
    model.eval()

    def forward() -> None:
        with torch.inference_mode():
            model(**given)

    return forward


def training(model: Any, given: Mapping[str, Any]) -> Pass:
    model.train()

    def step() -> None:
        model(**given).loss.backward()
        model.zero_grad()

    return step


def ratio(ours: Pass, theirs: Pass, pairs: int) -> float:
    """Of processor time, the median over pairs that alternate which goes first."""
    for run in (ours, theirs, ours, theirs):
        run()
    found = []
    for k in range(pairs):
        times = {run: seconds(run) for run in ((ours, theirs) if k % 2 else (theirs, ours))}
        found.append(times[ours] / times[theirs])
    return statistics.median(found)


def seconds(run: Pass) -> float:
    start = time.process_time()
    run()
    return time.process_time() - start


def each(plain: list[Any], passes: Callable[[Any], Pass]) -> Pass:
    """One pass of each of several models."""
    runs = [passes(model) for model in plain]

    def run() -> None:
        for one in runs:
            one()

    return run


def of_one(rows: int, pairs: int) -> dict[str, float]:
    model, given = multi({"topic": HEADS["topic"]}), batch(rows)
    plain, told = model.export("topic"), labels(rows)["topic"]
    return {
        "evaluation": ratio(evaluation(model, given), evaluation(plain, given), pairs),
        "training": ratio(
            training(model, {**given, "labels": {"topic": told}}), training(plain, {**given, "labels": told}), pairs
        ),
    }


def of_three(rows: int, pairs: int) -> dict[str, float]:
    model, given, told = multi(HEADS), batch(rows), labels(rows)
    plain = [model.export(name) for name in HEADS]
    start, end = told["answer"].unbind(1)
    words: list[dict[str, Any]] = [{"labels": told["topic"]}, {"labels": told["entities"]}]
    words.append({"start_positions": start, "end_positions": end})
    trained = iter(words)
    return {
        "evaluation": ratio(evaluation(model, given), each(plain, lambda one: evaluation(one, given)), pairs),
        "training": ratio(
            training(model, {**given, "labels": told}),
            each(plain, lambda one: training(one, {**given, **next(trained)})),
            pairs,
        ),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--pairs", type=int, default=60)
    pairs = parser.parse_args().pairs
    torch.set_num_threads(1)
    torch.manual_seed(0)
    logging.disable_progress_bar()
    missed = False
    for rows, many, measure, most in (
        (1, "one head against its plain class", of_one, None),
        (8, "one head against its plain class", of_one, MOST),
        (8, "three heads against three models", of_three, MOST_OF_THREE),
    ):
        for what, found in measure(rows, pairs).items():
            bad = most is not None and found > most
            missed |= bad
            limit = "" if most is None else f" (at most {most}{', MISSED' if bad else ''})"
            print(f"{many}, {rows} x 64 tokens, {what}: {found:.3f} of its time{limit}", flush=True)
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
