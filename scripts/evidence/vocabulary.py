"""Which scheme for the rows of new tokens learns fastest: bits per byte after 0, 50 and 200 steps on the new rows.

The words are those of Python's documentation that save the most tokens (domain_vocabulary.py); every scheme
that fits the model runs under every seed, and so do both modes of the library's `resize_token_embeddings`. A run is a
line of JSON in a file: what is there already isn't run again, so that a long table can be made in parts. Prints the
table of the lines that are there; ends with 1 where `auto` is worse than a mode of the library at any column, or
behind the best scheme in the hull of the old rows by more than the noise. What beats it out of the hull, where old
greedy choices change, is said and doesn't count.

    python scripts/evidence/vocabulary.py [--words 500] [--steps 0 50 200] [--seeds 0 1 2] [--only GLOB ...]
        [--batch 128] [--longest 64] [--held-out 48] [--dtype float32] [--untied] [--lines FILE] [--table]
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from domain_vocabulary import paragraphs, python_documentation, worth_a_token
from safetensors.torch import load_file, save_file

from hf_init._probe.compare import LIBRARY, Bench
from hf_init._probe.comparison import SchemeComparison, SchemeRun
from hf_init._vocabulary.tokenizer import load_tokenizer

CACHE = Path(__file__).resolve().parents[2] / ".cache"
BASE = CACHE / "SmolLM2-135M-Instruct"
SIGMAS = 2.0
"""Standard errors, over the held-out passages, within which two schemes are alike."""


def untied(base: Path, out: Path) -> Path:
    """Write a copy of a checkpoint, in one file, whose head is a separate table with the same values."""
    if not (out / "config.json").is_file():
        out.mkdir(parents=True, exist_ok=True)
        tensors = load_file(base / "model.safetensors")
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
        save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
        for file in base.glob("*.json"):
            (out / file.name).write_bytes(file.read_bytes())
        config = json.loads((base / "config.json").read_text(encoding="utf-8"))
        (out / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": False}), encoding="utf-8")
    return out


def lines(file: Path, settings: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the lines of a file that were written under these settings."""
    all_lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()] if file.is_file() else []
    return [line for line in all_lines if line["settings"] == settings]


def verdict(comparison: SchemeComparison) -> Iterator[str]:
    """Yield where `auto` is worse than a mode of the library, or behind the best scheme in the hull beyond noise.

    Over the seeds that both have. Rows out of the hull change greedy choices, as `auto` doesn't: see ``outside``.
    """
    rivals = (name for name in comparison.ranked if name in LIBRARY or not _leaves_hull(comparison, name))
    return _behind(comparison, rivals)


def outside(comparison: SchemeComparison) -> Iterator[str]:
    """Yield where a scheme out of the hull is better than `auto` beyond noise, at the price of greedy choices."""
    return _behind(comparison, (name for name in comparison.ranked if _leaves_hull(comparison, name)))


def _behind(comparison: SchemeComparison, names: Iterable[str]) -> Iterator[str]:
    for name in names if "auto" in comparison.ranked else ():
        pair = _both(comparison, "auto", name)
        for step in pair.steps:
            behind, error = pair.behind("auto", name, step)
            if behind > (0 if name in LIBRARY else SIGMAS * error):
                yield f"auto at step {step} is {behind:.4f} behind {name} (standard error {error:.4f})"


def _both(comparison: SchemeComparison, *names: str) -> SchemeComparison:
    """Return the runs of some schemes under the seeds that all of them have."""
    seeds = set.intersection(*({run.seed for run in comparison.runs if run.scheme == name} for name in names))
    runs = (run for run in comparison.runs if run.scheme in names and run.seed in seeds)
    return SchemeComparison(tuple(runs), comparison.base)


def _leaves_hull(comparison: SchemeComparison, name: str) -> bool:
    filled = [text for run in comparison.runs if run.scheme == name for text in run.schemes.values()]
    return any("norm=" in text or text.startswith("gaussian") for text in filled)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--base", type=Path, default=BASE)
    parser.add_argument("--words", type=int, default=500)
    parser.add_argument("--steps", type=int, nargs="+", default=[0, 50, 200])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--batch", type=int, default=128, help="tokens of one step, about")
    parser.add_argument("--longest", type=int, default=64, help="tokens of a passage, at most")
    parser.add_argument("--held-out", type=int, default=48, help="held-out passages that are measured")
    parser.add_argument("--dtype", default="float32", help="of the frozen model; the new rows are float32")
    parser.add_argument("--only", nargs="*", default=["*"], help="globs on the names of schemes")
    parser.add_argument("--untied", action="store_true", help="on a copy whose head is a table of its own")
    parser.add_argument("--lines", type=Path, default=CACHE / "evidence_vocabulary.jsonl")
    parser.add_argument("--table", action="store_true", help="print the table of what is there, and run nothing")
    return parser.parse_args()


def run_all(args: argparse.Namespace, folder: Path, settings: dict[str, Any]) -> None:
    """Run what isn't in the file yet, and write it there."""
    parts = paragraphs(python_documentation())
    words = [word for word, _ in worth_a_token(parts, load_tokenizer(folder), args.words)]
    bench = Bench.of(folder, words, parts, args.batch, args.longest, args.held_out, args.dtype)
    finished = lines(args.lines, settings)
    base = next((line["base"] for line in finished), None) or bench.base_bits()
    chosen = {
        name: options for name, options in bench.schemes().items() if any(fnmatch.fnmatch(name, g) for g in args.only)
    }
    start = time.perf_counter()
    for run in bench.runs(chosen, args.seeds, args.steps, [SchemeRun.from_json(line["run"]) for line in finished]):
        with args.lines.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"settings": settings, "base": base, "run": run.to_json()}) + "\n")
        shown = ", ".join(f"{step}: {bits:.4f}" for step, bits in run.bits.items())
        print(f"{run.scheme}, seed {run.seed}: {shown} (after {time.perf_counter() - start:.0f} s)", flush=True)


def main() -> int:
    args = arguments()
    folder = untied(args.base, args.base.parent / f"{args.base.name}-untied") if args.untied else args.base
    settings = {name: getattr(args, name) for name in ("words", "steps", "batch", "longest", "held_out", "dtype")}
    settings |= {"base": folder.name}
    if not args.table:
        run_all(args, folder, settings)
    finished = lines(args.lines, settings)
    if not finished:
        print("no run is there yet")
        return 1
    # Of one scheme and seed the last line counts: what fills a scheme's rows may have changed since the first.
    runs = {(line["run"]["scheme"], line["run"]["seed"]): SchemeRun.from_json(line["run"]) for line in finished}
    comparison = SchemeComparison(tuple(runs.values()), finished[0]["base"])
    worse = [*verdict(comparison)]
    verdicts = worse or [
        "auto is at least as good as both modes of the library, and within noise of the best in the hull"
    ]
    verdicts = [*verdicts, *(f"out of the hull, where greedy choices change: {each}" for each in outside(comparison))]
    print(comparison)
    print("\n".join(verdicts))
    return 1 if worse else 0


if __name__ == "__main__":
    raise SystemExit(main())
