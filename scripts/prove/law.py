#!/usr/bin/env python
"""Checkpoints with one thing wrong: each must be refused with the tensor named, or the result be right all the same.

    scripts/prove/law.py                 forty model types, each of their head classes
    scripts/prove/law.py bert t5         these
    scripts/prove/law.py --rounds 20     so many faults of each kind for a class, drawn by --seed

A saved base lacks a tensor, has a module under another name, all names in a wrapper, a tensor more, or a matrix in
whole numbers. What is looked at is the plan: it names a place for every tensor, and is made of headers alone.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_VERBOSITY="error", HF_HUB_DISABLE_PROGRESS_BARS="1")
sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parents[2])]


def main(arguments: Sequence[str] | None = None) -> int:
    """Return 1 if anything is wrong."""
    from _law_cases import TYPES, trials

    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("types", nargs="*", default=TYPES.split(), help="model types")
    parser.add_argument("--rounds", type=int, default=3, help="faults of each kind, for each class")
    parser.add_argument("--classes", type=int, default=99, help="at most so many classes of a type")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(arguments)
    counts: Counter[str] = Counter()
    for model_type in args.types:
        for head, kind, outcome in trials(model_type, args.rounds, args.seed, args.classes):
            counts[f"{kind.split()[0]}: {outcome if outcome in ('refused', 'right') else 'wrong'}"] += 1
            if outcome not in ("refused", "right"):
                print(f"{model_type} {head}, {kind}: {outcome}", flush=True)
        counts["types"] += 1
    print("\n".join(f"{what} {number}" for what, number in sorted(counts.items())))
    return int(any(what.endswith("wrong") for what in counts))


if __name__ == "__main__":
    sys.exit(main())
