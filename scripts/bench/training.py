"""What the mechanisms of hf_init.finetune cost a training step on MiniLM, and what memory: against plain training.

Two cases, each against plain training of the same parameters by the same optimizer (AdamW): a new head with everything
else frozen and watched; a position table that grew, of which the new rows train, against the whole table training.
The two take steps in turn, on the same batches and one thread; medians of the ratios of the pairs, in processor time,
in which what else runs on the machine doesn't count. Memory is the peak of resident memory, proofs included, each in a
process of its own. Exits 1 where a target is missed.

    python scripts/bench/training.py [--pairs 40] [--case head|rows]
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import BertForSequenceClassification
from transformers.utils import logging

import hf_init
from hf_init.finetune import Watch, parameter_groups, train_only_new

BASE = Path(__file__).resolve().parents[2] / ".cache" / "all-MiniLM-L6-v2"
MOST = 1.03
LONGER: dict[str, Any] = {"max_position_embeddings": 768, "keep": {"*position_embeddings.weight": "leading"}}
TABLE = "bert.embeddings.position_embeddings.weight"


def model_of(case: str) -> Any:
    options = LONGER if case == "rows" else {}
    return hf_init.from_pretrained(BertForSequenceClassification, BASE, num_labels=3, **options)


def ours(case: str, every: int | None) -> Callable[[dict[str, torch.Tensor]], None]:
    model = model_of(case)
    frozen = train_only_new(model)
    watch = Watch(frozen, every=every)
    optimizer = torch.optim.AdamW(parameter_groups(model, lr=1e-4))
    return _stepper(model, optimizer, watch.begin_step, watch.end_step)


def plain(case: str) -> Callable[[dict[str, torch.Tensor]], None]:
    """As by hand: the head, and in the other case the whole table, require gradients and nothing else does."""
    model = model_of(case)
    model.requires_grad_(False)
    model.classifier.requires_grad_(True)
    if case == "rows":
        model.get_parameter(TABLE).requires_grad_(True)
    return _stepper(model, torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4))


def _stepper(
    model: Any, optimizer: torch.optim.Optimizer, before: Callable[[], Any] = tuple, after: Callable[[], Any] = tuple
) -> Callable[[dict[str, torch.Tensor]], None]:
    model.train()

    def step(batch: dict[str, torch.Tensor]) -> None:
        before()
        model(**batch).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        after()

    return step


def batches(many: int) -> list[dict[str, torch.Tensor]]:
    torch.manual_seed(0)
    return [
        {"input_ids": torch.randint(1000, 30000, (8, 64)), "labels": torch.randint(0, 3, (8,))} for _ in range(many)
    ]


def overhead(case: str, pairs: int) -> float:
    """The median ratio of a step of ours to a plain one, taken in turn; the proof between steps isn't in it."""
    steps = ours(case, None), plain(case)
    ratios, times = [], ([], [])
    for number, batch in enumerate(batches(pairs + 3)):
        took = {}
        for which in (0, 1) if number % 2 else (1, 0):
            start = time.process_time()
            steps[which](batch)
            took[which] = time.process_time() - start
            times[which].append(took[which])
        ratios.append(took[0] / took[1])
    ratio = statistics.median(ratios[3:])
    mine, other = (statistics.median(each[3:]) * 1000 for each in times)
    print(f"{case}: {mine:.1f} ms a step, plain {other:.1f} ms; median of {pairs} ratios {ratio:.3f} (at most {MOST})")
    return ratio


def proof(case: str) -> float:
    """Seconds of one proof of everything frozen."""
    frozen = train_only_new(model_of(case))
    times = []
    for _ in range(5):
        start = time.perf_counter()
        frozen.raise_if_moved()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def peak(which: str, case: str) -> None:
    """In a process of its own: the peak of its resident memory, over some steps."""
    step = ours(case, 4) if which == "ours" else plain(case)
    for batch in batches(8):
        step(batch)
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    print(int(status["VmHWM"].split()[0]) / 1024)


def memory(case: str) -> float:
    """MiB by which the peak of ours is above that of plain training; the smaller of three runs each."""
    peaks = {which: min(_child(which, case) for _ in range(3)) for which in ("ours", "plain")}
    more = peaks["ours"] - peaks["plain"]
    print(f"{case}: peak {peaks['ours']:.0f} MiB, plain {peaks['plain']:.0f} MiB ({more:+.0f} MiB)")
    return more


def _child(which: str, case: str) -> float:
    command = [sys.executable, __file__, "--child", which, "--case", case]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return float(done.stdout.splitlines()[-1])


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--pairs", type=int, default=40)
    parser.add_argument("--case", choices=["head", "rows"], action="append")
    parser.add_argument("--child", choices=["ours", "plain"], help=argparse.SUPPRESS)
    args = parser.parse_args()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    torch.set_num_threads(1)
    cases = args.case or ["head", "rows"]
    if args.child:
        peak(args.child, cases[0])
        return 0
    good = [(overhead(case, args.pairs) <= MOST, memory(case) <= 8) for case in cases]
    print(f"one proof of {BASE.name}: {proof('head') * 1000:.0f} ms")
    return 0 if all(all(each) for each in good) else 1


if __name__ == "__main__":
    raise SystemExit(main())
