"""Starting values of a new head: test accuracy after 0, 20, 100 and 500 steps of fine-tuning the whole model.

    python scripts/bench/heads.py                        both sets, five seeds; goes on where its results end
    python scripts/bench/heads.py --set digits           one of them
    python scripts/bench/heads.py --steps 0 20 100       less of it

Sets: docstrings of Python's standard library for MiniLM, and scikit-learn's digits 5 to 9 for a tiny vision transformer
that has seen 0 to 4. A seed is the head's draw, the order of the batches, and which 16 examples of each class a head
is solved from; these are of the training set that every method is trained on afterwards. One rate for trunk and head.
Prints the mean and the standard deviation over the seeds in percent; exits 1 where a head solved from examples doesn't
beat the library's default by more than the spread up to step 20, or is worse by more than it from step 500 on.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import sys
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_VERBOSITY="error", HF_HUB_DISABLE_PROGRESS_BARS="1")
sys.path[:0] = [str(folder) for folder in Path(__file__).resolve().parents[:3]]

CACHE = Path(__file__).resolve().parents[2] / ".cache"
SOLVED = ("class_means", "lda", "ridge", "logistic")
METHODS = ("model", "zeros", "verbalizer", *SOLVED)
SETS = ("text", "digits")
DEFAULT = "model"
EARLY, LATE = 20, 500  # up to the one, a solved head must be better; from the other on, no worse


@dataclass(frozen=True)
class Measured:
    """The share of a test set that a model gets right."""

    set: str
    method: str
    seed: int
    step: int
    accuracy: float


@dataclass(frozen=True)
class Run:
    """One model, to be trained; accuracy is measured at ``steps``."""

    set: str
    method: str
    seed: int
    steps: tuple[int, ...]


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns 1 where a solved head isn't what it should be."""
    args = _parser().parse_args(arguments)
    wanted = _runs(args.set, args.methods, args.seeds, tuple(sorted(args.steps)))
    if not args.table:
        from _heads_data import pretrained

        pretrained(args.cache)
        todo = [run for run in wanted if not _done(run, read(args.results))]
        with ProcessPoolExecutor(args.workers, mp_context=get_context("spawn")) as pool:
            for future in [pool.submit(measure, run, args.cache, args.results) for run in todo]:
                future.result()
    entries = [each for each in read(args.results) if any(_covers(run, each) for run in wanted)]
    wrong = judge(entries, args.set, args.methods, args.steps)
    print(table(entries, args.seeds))
    print("\n".join(wrong) if wrong else "every head solved from examples is as it should be")
    return int(bool(wrong))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--set", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--seeds", type=int, default=5, help="how many")
    parser.add_argument(
        "--steps", type=int, nargs="+", default=[0, EARLY, 100, LATE], help="where accuracy is measured"
    )
    parser.add_argument("--results", type=Path, default=CACHE / "bench_heads.jsonl", help="read first and added to")
    parser.add_argument("--cache", type=Path, default=CACHE, help="where the tiny vision transformer is, or goes")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--table", action="store_true", help="run nothing")
    return parser


def _runs(sets: Sequence[str], methods: Sequence[str], seeds: int, steps: tuple[int, ...]) -> list[Run]:
    """Seed by seed, so that what an interrupted run leaves is whole seeds."""
    every = [Run(name, method, seed, steps) for name in sets for seed in range(seeds) for method in methods]
    return [run for run in every if (run.set, run.method) != ("digits", "verbalizer")]


def _covers(run: Run, entry: Measured) -> bool:
    return (run.set, run.method, run.seed) == (entry.set, entry.method, entry.seed) and entry.step in run.steps


def _done(run: Run, entries: Iterable[Measured]) -> bool:
    return {entry.step for entry in entries if _covers(run, entry)} == set(run.steps)


def read(path: Path) -> list[Measured]:
    return [Measured(**json.loads(line)) for line in path.read_text().splitlines()] if path.is_file() else []


def measure(run: Run, cache: Path, results: Path) -> None:
    """Trains one model, and adds to the results what they don't have of it."""
    import torch
    from _heads_data import digits, rows, text

    torch.set_num_threads(1)
    torch.manual_seed(run.seed)
    chosen = text() if run.set == "text" else digits(cache)
    model = started(chosen, run.method, run.seed)
    train, test = _lightened(model, chosen.train, chosen.test)
    optimizer = torch.optim.AdamW(model.parameters(), lr=chosen.lr, weight_decay=0.0, fused=True)
    known, generator = read(results), random.Random(run.seed)
    for step in range(max(run.steps) + 1):
        if step in run.steps:
            entry = Measured(run.set, run.method, run.seed, step, accuracy(model, test))
            known = _added(results, known, entry)
        model.train()
        places = generator.sample(range(len(train["labels"])), chosen.batch)
        if step < max(run.steps):
            model(**rows(train, places)).loss.backward()
            optimizer.step()
            optimizer.zero_grad()


def started(chosen: Any, method: str, seed: int) -> Any:
    """The pretrained model with its new head."""
    import hf_init

    words: dict[str, Any] = dict(chosen.options)
    words |= {"recipe": {"default": method}} if method in ("model", "zeros") else {"head": method}
    if method in SOLVED:
        words["examples"] = [chosen.few(seed)]
    if method == "verbalizer":
        words["verbalizer"] = chosen.words
    return hf_init.from_pretrained(chosen.cls, chosen.base, labels=chosen.labels, seed=seed, **words)


def accuracy(model: Any, test: Any) -> float:
    import torch

    model.eval()
    with torch.no_grad():
        logits = model(**{key: value for key, value in test.items() if key != "labels"}).logits
    return float((logits.argmax(1) == test["labels"]).float().mean())


def _lightened(model: Any, *sets: Any) -> list[Any]:
    """The model with the embeddings of the words in the sets alone, and the sets by their new numbers.

    The rows of other words have no gradient, and without weight decay the optimizer would leave them as they are: the
    training is the same, and a step takes less of the time.
    """
    import torch

    if "input_ids" not in sets[0]:
        return list(sets)
    table = model.get_input_embeddings()
    used = torch.cat([each["input_ids"].flatten() for each in sets]).unique()
    place = None if table.padding_idx is None else int(torch.searchsorted(used, table.padding_idx))
    weight = table.weight.detach()[used]
    model.set_input_embeddings(torch.nn.Embedding.from_pretrained(weight, freeze=False, padding_idx=place))
    return [{**each, "input_ids": torch.searchsorted(used, each["input_ids"])} for each in sets]


def _added(path: Path, known: list[Measured], entry: Measured) -> list[Measured]:
    if any(_place(each) == _place(entry) for each in known):
        return known
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write(json.dumps(asdict(entry)) + "\n")
    return [*known, entry]


def _place(entry: Measured) -> tuple[str, str, int, int]:
    return entry.set, entry.method, entry.seed, entry.step


def of(entries: Iterable[Measured], name: str, method: str, step: int) -> dict[int, float]:
    """Accuracy by seed."""
    return {e.seed: e.accuracy for e in entries if (e.set, e.method, e.step) == (name, method, step)}


def spread(values: Iterable[float]) -> float:
    values = list(values)
    return statistics.stdev(values) if len(values) > 1 else 0.0


def judge(entries: Sequence[Measured], sets: Iterable[str], methods: Sequence[str], steps: Iterable[int]) -> list[str]:
    """What is wrong with the solved heads, a line each; seeds that both methods have are compared."""
    judged = [step for step in sorted(steps) if step <= EARLY or step >= LATE]
    solved = [method for method in methods if method in SOLVED]
    found = [_wrong(entries, name, method, step) for name in sets for method in solved for step in judged]
    return [line for line in found if line]


def _wrong(entries: Sequence[Measured], name: str, method: str, step: int) -> str:
    ours, theirs = of(entries, name, method, step), of(entries, name, DEFAULT, step)
    seeds = sorted(ours.keys() & theirs.keys())
    if not seeds:
        return f"{name}, step {step}: {method} and {DEFAULT} have no seed in common"
    a, b = [ours[seed] for seed in seeds], [theirs[seed] for seed in seeds]
    gain, margin = statistics.mean(a) - statistics.mean(b), max(spread(a), spread(b))
    if gain > margin if step <= EARLY else gain >= -margin:
        return ""
    return f"{name}, step {step}: {method} is {100 * gain:+.1f} points from {DEFAULT}, spread {100 * margin:.1f}"


def table(entries: Sequence[Measured], seeds: int) -> str:
    """Accuracy in percent by set, method and step; a count in brackets where there are fewer seeds."""
    lines: list[str] = []
    for name in (each for each in SETS if any(entry.set == each for entry in entries)):
        steps = sorted({entry.step for entry in entries if entry.set == name})
        lines.append(f"{name:12}" + "".join(f"{f'step {step}':>18}" for step in steps))
        for method in (each for each in METHODS if any((e.set, e.method) == (name, each) for e in entries)):
            cells = [_cell(list(of(entries, name, method, step).values()), seeds) for step in steps]
            lines.append(f"{method:12}" + "".join(f"{cell:>18}" for cell in cells))
        lines.append("")
    return "\n".join(lines)


def _cell(values: Sequence[float], seeds: int) -> str:
    if not values:
        return "-"
    count = "" if len(values) == seeds else f" ({len(values)})"
    return f"{100 * statistics.mean(values):.1f} ±{100 * spread(values):.1f}{count}"


if __name__ == "__main__":
    sys.exit(main())
