#!/usr/bin/env python
"""Every model type of transformers' auto mappings through hf_init: its base checkpoint into each of its head classes.

    scripts/prove/sweep.py               all of them, on from where the results file ends (about an hour on 2 cores)
    scripts/prove/sweep.py bert gpt2     these, anew
    scripts/prove/sweep.py --part 20           a fixed twentieth of them
    scripts/prove/sweep.py --table             the table of what is in the results file
    scripts/prove/sweep.py --heads             heads of every kind on one trunk, instead (about half an hour)
    scripts/prove/sweep.py --growth            a layer more and a layer less in every stack, instead
    scripts/prove/sweep.py --tokens            tokens added to every language model, instead (about an hour)

Every type has a process of its own, a time limit, and fresh memory that is full of NaN.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import json
import os
import shutil
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any

os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_VERBOSITY="error", HF_HUB_DISABLE_PROGRESS_BARS="1")
sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parents[2])]

MODES = {
    "heads": "heads of every kind on one trunk, not pairs of classes",
    "growth": "a layer more and a layer less in every stack",
    "tokens": "tokens added to every language model",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns 1 if anything is wrong."""
    args = _parser().parse_args(arguments)
    what = f"_sweep_{args.mode}"
    results = args.results or Path(tempfile.gettempdir()) / f"hf_init-sweep-{args.mode}.jsonl"
    every = importlib.import_module(what).classes()  # here, before any fork: a child of two threads mustn't import it
    wanted = args.types or [name for name in every if in_part(name, args.part)]
    done = {} if args.types else {entry["type"]: entry for entry in read(results)}
    missing = [] if args.table else [name for name in wanted if name not in done]
    if missing:
        warm(what)
        for entry in run(missing, args.workers, args.limit, what):
            append(results, entry)
            done[entry["type"]] = entry
            print(line(entry), file=sys.stderr, flush=True)
    entries = [done[name] for name in wanted if name in done]
    print(table(entries))
    return int(any(pair["result"] == "wrong" for entry in entries for pair in entry["pairs"]))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("types", nargs="*", help="model types; none: all")
    parser.add_argument("--part", type=int, default=1, metavar="N", help="every N-th type, by a hash of its name")
    parser.set_defaults(mode="pairs")
    for mode, said in MODES.items():
        parser.add_argument(f"--{mode}", dest="mode", action="store_const", const=mode, help=said)
    parser.add_argument("--results", type=Path, help="a JSON-lines file, read first and added to")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--limit", type=float, default=120.0, help="seconds that one type may take")
    parser.add_argument("--table", action="store_true", help="run nothing")
    return parser


def in_part(model_type: str, part: int) -> bool:
    """Whether a type is in the fixed N-th part of all."""
    return int.from_bytes(hashlib.blake2b(model_type.encode(), digest_size=8).digest(), "little") % part == 0


def warm(what: str) -> None:
    """Runs a small type here, so that what all of them import is imported once: half the time of a type."""
    import torch

    torch.set_num_threads(1)  # a fork has none of the others, and would wait for them
    with tempfile.TemporaryDirectory(prefix="hf_init-sweep-") as folder:
        importlib.import_module(what).run_type("codegen", Path(folder))


def run(types: Sequence[str], workers: int, limit: float, what: str = "_sweep_pairs") -> Iterator[dict[str, Any]]:
    """The outcome of every type, as they come in."""
    with ThreadPoolExecutor(workers) as pool:
        for future in as_completed([pool.submit(run_one, name, limit, what) for name in types]):
            yield future.result()


def run_one(model_type: str, limit: float, what: str = "_sweep_pairs") -> dict[str, Any]:
    """The outcome of one type, from a process of its own that is ended at the limit.

    Args:
        what: the module whose ``run_type`` is asked.
    """
    folder = Path(tempfile.mkdtemp(prefix="hf_init-sweep-"))
    process = get_context("fork").Process(target=_child, args=(model_type, folder, what), daemon=True)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # the waiting threads hold nothing that a fork needs
            process.start()
        process.join(limit)
        if process.is_alive():
            process.kill()
            process.join()
        return _outcome(model_type, folder, process.exitcode, limit)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _child(model_type: str, folder: Path, what: str) -> None:
    import torch

    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    outcome = importlib.import_module(what).run_type(model_type, folder)
    (folder / "outcome.json").write_text(json.dumps(outcome.to_json()))


def _outcome(model_type: str, folder: Path, code: int | None, limit: float) -> dict[str, Any]:
    path = folder / "outcome.json"
    if path.is_file():
        return json.loads(path.read_text())
    why = f"took more than {limit:g} s" if code == -9 else f"its process ended with {code}"
    return {"type": model_type, "base": "", "unreachable": why, "seconds": limit, "parameters": 0, "pairs": []}


def read(path: Path) -> Iterator[dict[str, Any]]:
    if path.is_file():
        yield from map(json.loads, path.read_text().splitlines())


def append(path: Path, entry: dict[str, Any]) -> None:
    with path.open("a") as file:
        file.write(json.dumps(entry) + "\n")


def line(entry: dict[str, Any]) -> str:
    """One outcome in a line."""
    if entry["unreachable"]:
        return f"{entry['type']}: unreachable: {' '.join(entry['unreachable'].split())[:160]}"
    counts = Counter(pair["result"] for pair in entry["pairs"])
    return f"{entry['type']}: {', '.join(f'{many} {what}' for what, many in counts.items())} ({entry['seconds']} s)"


def table(entries: Iterable[dict[str, Any]]) -> str:
    """The counts, and every pair that didn't pass with its reason."""
    entries = list(entries)
    pairs = [(entry["type"], pair) for entry in entries for pair in entry["pairs"]]
    lost = [entry for entry in entries if entry["unreachable"]]
    lines = [f"{len(entries)} types, {len(entries) - len(lost)} reached, {len(pairs)} pairs"]
    for what in ("passed", "refused", "wrong", "unreachable"):
        some = [(model_type, pair) for model_type, pair in pairs if pair["result"] == what]
        beside = Counter(pair["plain"] for _, pair in some)
        seen = ", ".join(f"{many} {plain}" for plain, many in beside.most_common() if plain)
        lines.append(f"  {what:12} {len(some):5}" + (f"   plain transformers: {seen}" if seen else ""))
        ways = Counter(pair["why"] for _, pair in some if pair["why"]) if what == "passed" else {}
        lines += [f"{'':9}{many:5} after what a refusal advised: {way}" for way, many in ways.items()]
    damaged = [f"  {t} {p['head']}: {p['again']}" for t, p in pairs if p.get("again") and p["result"] == "passed"]
    lines += (
        ["", "right in the files, and damaged by every plain from_pretrained of them:", *damaged] if damaged else []
    )
    for what in ("wrong", "refused", "unreachable"):
        lines += ["", f"{what}:"] if any(pair["result"] == what for _, pair in pairs) else []
        lines += [f"  {t} {p['head']}: {' '.join(p['why'].split())[:400]}" for t, p in pairs if p["result"] == what]
    lines += ["", "types not reached:"] if lost else []
    lines += [f"  {entry['type']}: {' '.join(entry['unreachable'].split())[:200]}" for entry in lost]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
