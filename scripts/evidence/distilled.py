"""What distilled rows are worth: read behind new tokens against `auto`, and against the published recipe.

The words are those of Python's documentation that save the most tokens, but for the ones that the defaults were tuned
on; texts to learn from and texts to measure on share no paragraph. Measured is, behind new tokens, the KL divergence
from the base behind their pieces and the share of greedy choices that are others; bits per byte before and after a
training of the rows; and, of the words that they have, the same on another domain: the docstrings of an installed
package. Seconds are of the processor. A run is a line of JSON in a file: what is there isn't run again.

    python scripts/evidence/distilled.py [--words 60] [--steps 0 50 200] [--seeds 0 1 2] [--only NAME ...] [--untied]
        [--scheme SCHEME] [--passages 16] [--epochs 1] [--held-out 48] [--dtype bfloat16] [--other numpy]
        [--lines FILE] [--table]
"""

from __future__ import annotations

import argparse
import importlib
import json
import random
import sysconfig
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from domain_vocabulary import docstrings, paragraphs, worth_a_token
from vocabulary import BASE, CACHE, untied

from hf_init._distill import places_behind, read_texts
from hf_init._prepare import resolve_target
from hf_init._probe.compare import Bench, _passages_of, new_rows
from hf_init._probe.probe import token_ids
from hf_init._probe.probe_report import Reading
from hf_init._probe.short_training import batches, readings, train_rows
from hf_init._probe.texts import passages
from hf_init._probe.train_rows import NewRows, grow_model, vocabulary_layers
from hf_init._text import text_table
from hf_init._vocabulary import TokenChange, load_tokenizer

LEFT_OUT = {"site-packages", "test", "tests", "lib2to3"}
TUNED = slice(0, 84, 7)
"""Of the words in their order, those that the defaults were tuned on."""


@dataclass(frozen=True)
class Trial:
    """A model, its new words, and texts to learn from and to measure on.

    Attributes:
        benches: of each domain, by its name, with the passages to measure.
    """

    folder: Path
    words: tuple[str, ...]
    texts: tuple[str, ...]
    benches: dict[str, Bench]

    @classmethod
    def of(cls, folder: Path, args: argparse.Namespace) -> Trial:
        parts = [*dict.fromkeys(paragraphs(documentation()))]
        random.Random(0).shuffle(parts)
        held, texts = parts[: len(parts) // 3], parts[len(parts) // 3 :]
        words = [word for word, _ in worth_a_token(texts, load_tokenizer(folder), 10_000, args.least)]
        del words[TUNED]
        words = words[: args.words]
        seen = texts if any(args.steps) else texts[:500]
        bench = Bench.of(folder, words, seen, 128, 64, 3, args.dtype)
        domains = {"python": held, args.other: other_texts(args.other, {*parts})}
        benches = {name: _measured_on(bench, words, each, args.held_out) for name, each in domains.items()}
        return cls(folder, tuple(words), tuple(texts), benches)


def documentation() -> list[str]:
    """Return the language reference that comes with Python, and the docstrings of all its modules and packages."""
    topics: dict[str, str] = importlib.import_module("pydoc_data.topics").topics
    files = sorted(Path(sysconfig.get_path("stdlib")).rglob("*.py"))
    return [
        *(topics[name] for name in sorted(topics)),
        *(text for file in files if LEFT_OUT.isdisjoint(file.parts) for text in docstrings(file)),
    ]


def other_texts(package: str, known: set[str]) -> list[str]:
    """Return the paragraphs of a package's docstrings, but for those that are known already."""
    spec = find_spec(package)
    assert spec is not None and spec.submodule_search_locations
    files = (file for folder in spec.submodule_search_locations for file in sorted(Path(folder).rglob("*.py")))
    parts = paragraphs(text for file in files if "tests" not in file.parts for text in docstrings(file))
    return [part for part in dict.fromkeys(parts) if part not in known]


def _measured_on(bench: Bench, words: Sequence[str], texts: Sequence[str], held_out: int) -> Bench:
    """Return a bench with its model and training, and passages of other texts to measure on."""
    before, after = load_tokenizer(bench.folder), new_tokenizer(bench)
    new = frozenset(after.convert_tokens_to_ids([*words]))
    some = random.Random(0).sample(texts, len(texts))
    pieces = passages(
        (text for text in some if any(word in text for word in words)), lambda text: len(token_ids(before, text)), 64
    )
    chosen = [*islice((piece for piece in pieces if not new.isdisjoint(token_ids(after, piece))), held_out)]
    places = tuple(tuple(places_behind(text, before, after, new)) for text in chosen)
    return replace(bench, held_out=_passages_of(chosen, after), plain=_passages_of(chosen, before), places=places)


def published(trial: Trial, seed: int, args: argparse.Namespace) -> NewRows:
    """Train rows as the paper does: plainly, a batch of snippets of all tokens at a time, its teacher read each time.

    Snippets of 50 tokens with the word in them, AdamW at a constant rate of 1e-3 behind a short warm-up, the mean
    squared error of the last hidden states behind the word, from the mean of the pieces (arXiv 2505.20133).
    """
    bench = trial.benches["python"]
    bench.model.set_attn_implementation("eager")  # on a processor the fused one goes backward several times as slowly
    rows = new_rows(bench._prepared({"row_scheme": "subtokens"}, seed), bench.model)
    auto = new_rows(bench._prepared({}, seed), bench.model)
    after = new_tokenizer(bench)
    read = read_texts(trial.texts, load_tokenizer(trial.folder), after, after.convert_tokens_to_ids([*trial.words]))
    order = random.Random(seed)
    snippets = []
    for id_, found in read.found.items():
        some = order.sample(found, min(args.passages, len(found)))
        snippets += [(id_, each) for each in some for _ in range(args.epochs)]
    order.shuffle(snippets)
    with grow_model(bench.model, replace(rows, head=auto.head)) as parameters:
        table, backbone = parameters[0], bench.model.base_model
        optimizer = torch.optim.AdamW([table], lr=1e-3, betas=(0.9, 0.95), weight_decay=0.0)
        size = 16
        for start in range(0, len(snippets), size):
            optimizer.param_groups[0]["lr"] = 1e-3 * min(1.0, (start / size + 1) / 5)
            losses = []
            for id_, each in snippets[start : start + size]:
                old = read.around([each.start], 24, 25)
                now = [id_ if token < 0 else token for token in each.tokens]
                before, behind = old[:, :-25], old[:, -25 + each.length :]
                new = torch.cat([before, torch.tensor([now]), behind], 1)
                with torch.no_grad():
                    expected = backbone(input_ids=old).last_hidden_state[:, before.shape[1] + each.length - 1 :]
                seen = backbone(input_ids=new).last_hidden_state[:, before.shape[1] + len(now) - 1 :]
                losses.append((seen - expected).square().mean())
            optimizer.zero_grad()
            torch.stack(losses).mean().backward()
            optimizer.step()
        trained = table.detach().clone()
    return replace(rows, rows=trained, head=auto.head)


def new_tokenizer(bench: Bench) -> Any:
    _, changes = resolve_target(bench.folder, None, add_tokens=bench.tokens)
    return next(change.change.tokenizer for change in changes if isinstance(change, TokenChange))


def schemes(trial: Trial, args: argparse.Namespace) -> dict[str, Callable[[int], NewRows]]:
    bench = trial.benches["python"]

    def planned(**options: Any) -> Callable[[int], NewRows]:
        return lambda seed: new_rows(bench._prepared(options, seed), bench.model)

    return {
        "auto": planned(),
        "distilled": planned(row_scheme=args.scheme, texts=trial.texts),
        "input rows alone": planned(input_rows=args.scheme, texts=trial.texts),
        "written": planned(row_scheme="distilled(written=12)"),
        "published": lambda seed: published(trial, seed, args),
    }


def run(trial: Trial, make: Callable[[int], NewRows], seed: int, args: argparse.Namespace) -> dict[str, Any]:
    """Return what is measured of one scheme under one seed."""
    start = time.process_time()
    rows = make(seed)
    found: dict[str, Any] = {"seconds a token": (time.process_time() - start) / len(rows.ids)}
    bench = trial.benches["python"]
    old = [id_ for id_ in range(len(vocabulary_layers(bench.model)[0].weight)) if id_ not in rows.ids]
    with grow_model(bench.model, rows) as parameters:
        for name, each in trial.benches.items():
            found |= {f"{name}: {what}": value for what, value in each.read_on(old, rows.ids).items()}
        trained = train_rows(
            bench.model,
            parameters,
            batches(bench.training, bench.start, bench.batch_tokens, seed),
            args.steps,
            lambda: sum(readings(bench.model, bench.start, bench.held_out), Reading(0.0, 0, 0)).bits_per_byte,
            bench.rate,
        )
    return {**found, **{f"bits at {step}": bits for step, bits in trained.items()}}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--base", type=Path, default=BASE)
    parser.add_argument("--words", type=int, default=60)
    parser.add_argument("--least", type=int, default=10, help="times that a word is in the texts")
    parser.add_argument("--steps", type=int, nargs="+", default=[0, 50, 200])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--only", nargs="*", default=["auto", "distilled", "published"])
    parser.add_argument("--scheme", default="distilled", help="with its settings")
    parser.add_argument("--passages", type=int, default=16, help="of a word, for the published recipe")
    parser.add_argument("--epochs", type=int, default=1, help="of them")
    parser.add_argument("--held-out", type=int, default=48, help="passages that are measured, of each domain")
    parser.add_argument("--dtype", default="float32", help="of the model that is measured")
    parser.add_argument("--other", default="numpy", help="an installed package, whose docstrings are the other domain")
    parser.add_argument("--untied", type=Path, help="a folder: on a copy there whose head is a table of its own")
    parser.add_argument("--lines", type=Path, default=CACHE / "evidence_distilled.jsonl")
    parser.add_argument("--table", action="store_true", help="print what is there, and run nothing")
    return parser.parse_args()


def main() -> int:
    args = arguments()
    torch.set_num_threads(1)
    folder = untied(args.base, args.untied) if args.untied else args.base
    kept = ("words", "least", "steps", "scheme", "passages", "epochs", "held_out", "dtype", "other")
    settings = {**{name: getattr(args, name) for name in kept}, "untied": args.untied is not None}
    lines = [json.loads(line) for line in args.lines.read_text().splitlines()] if args.lines.is_file() else []
    lines = [line for line in lines if line["settings"] == settings]
    there = {(line["scheme"], line["seed"]) for line in lines}
    wanted = [(name, seed) for seed in args.seeds for name in args.only if (name, seed) not in there]
    if wanted and not args.table:
        trial = Trial.of(folder, args)
        base = trial.benches["python"].base_bits()
        for name, seed in wanted:
            line = {"scheme": name, "seed": seed, "base": base, **run(trial, schemes(trial, args)[name], seed, args)}
            lines.append({"settings": settings, **line})
            with args.lines.open("a", encoding="utf-8") as file:
                file.write(json.dumps(lines[-1]) + "\n")
            print(line, flush=True)
    columns = [name for name in (lines[0] if lines else {}) if name not in ("settings", "scheme", "seed", "base")]
    rows = [[line["scheme"], str(line["seed"]), *(f"{line[name]:.4f}" for name in columns)] for line in lines]
    print(f"base in its own tokens: {lines[0]['base']:.4f} bits per byte" if lines else "no run is there yet")
    print(text_table("", ("scheme", "seed", *columns), rows))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
