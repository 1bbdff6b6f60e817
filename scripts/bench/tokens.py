"""Ten thousand words added to MiniLM: a plan and an extension, against the library's own way in the same run.

The library loads the tokenizer, adds the words and saves it, and with the model resizes and saves that, too; it tries
no word in a text. Both sides are measured in processor seconds, after the imports. Exits 1 where a plan takes more
than 10 s.

    python scripts/bench/tokens.py [--words 10000]
"""

from __future__ import annotations

import argparse
import itertools
import random
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import transformers

import hf_init

BASE = Path(__file__).resolve().parents[2] / ".cache" / "all-MiniLM-L6-v2"
SYLLABLES = (
    "cyt",
    "hep",
    "neo",
    "pol",
    "ase",
    "ine",
    "oxi",
    "meth",
    "phen",
    "gly",
    "cer",
    "amid",
    "ster",
    "thio",
    "pyr",
)
SECONDS = 10.0


def made_words(many: int) -> list[str]:
    """Words that look like a science's, none twice."""
    pairs = ["".join(parts) for parts in itertools.product(SYLLABLES, repeat=4)]
    return sorted(random.Random(0).sample(pairs, many))


def library(words: Sequence[str], folder: Path, whole: bool) -> None:
    """Add the words by the library's own way."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(BASE)
    tokenizer.add_tokens(list(words))
    tokenizer.save_pretrained(folder)
    if whole:
        model: Any = transformers.AutoModel.from_pretrained(BASE)
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
        model.save_pretrained(folder)


def processor_seconds(work: Callable[[], object]) -> float:
    """Measure what all threads of the process spend."""
    start = time.process_time()
    work()
    return time.process_time() - start


def main() -> int:
    """Measure, print, judge."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--words", type=int, default=10_000)
    words = made_words(parser.parse_args().words)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        hf_init.plan(BASE, add_tokens=words[:1])
        taken = {
            "the library adds the words to the tokenizer": lambda: library(words, folder / "tokenizer", whole=False),
            "hf_init plans": lambda: hf_init.plan(BASE, add_tokens=words),
            "the library, with the model": lambda: library(words, folder / "library", whole=True),
            "hf_init extends and proves": lambda: hf_init.extend(
                BASE, folder / "out", add_tokens=words, existing="skip"
            ),
        }
        seconds = {what: processor_seconds(work) for what, work in taken.items()}
    for what, spent in seconds.items():
        print(f"{what:45} {spent:6.1f} s")
    return int(seconds["hf_init plans"] > SECONDS)


if __name__ == "__main__":
    raise SystemExit(main())
