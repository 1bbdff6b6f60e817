"""Output rows in the convex hull of the old ones never win: greedy choices on ten thousand positions of real text.

The words of Python's documentation that save the most tokens (scripts/evidence/domain_vocabulary.py) are added to
SmolLM2; the text is that documentation, in old tokens, of which the model's states are computed once. For every
scheme the logits are the product of those states with the extended table, as the extended model makes it. Counted are
the positions whose likeliest token is another one, and old logits that aren't the same to the byte; shown besides are
how near the likeliest new token ever comes, and the most probability that all new tokens take. Exits 1 where a convex
scheme changes a choice, where an old logit of float32 differs, or where the mean row takes more than n/(V+n).

    python scripts/prove/greedy.py [--positions 10000] [--words 500] [--dtype float32 bfloat16] [--window 512]
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import linear

from hf_init._prepare.prepare import prepare_plan
from hf_init._probe.compare import new_rows
from hf_init._probe.probe import load_model, start_id, token_ids
from hf_init._text import format_count, text_table
from hf_init._vocabulary.tokenizer import load_tokenizer

sys.path.append(str(Path(__file__).resolve().parents[1] / "evidence"))

from domain_vocabulary import paragraphs, python_documentation, worth_a_token

BASE = Path(__file__).resolve().parents[2] / ".cache" / "SmolLM2-135M-Instruct"
WEIGHTS = ("uniform", "characters", "characters_first", "exp_first", "exp_last", "first", "last")
CONVEX: Mapping[str, Mapping[str, Any]] = {
    "auto": {},
    "auto(distribution)": {"guarantee": "distribution"},
    **{f"subtokens(weights={each})": {"row_scheme": f"subtokens(weights={each})"} for each in WEIGHTS},
}
OTHERS: Mapping[str, Mapping[str, Any]] = {
    "subtokens(norm=median)": {"row_scheme": "subtokens(norm=median)"},
    "gaussian": {"row_scheme": "gaussian"},
}
SLACK = 1e-4
"""A softmax in float32 adds up to 1 but for this."""


@dataclass(frozen=True)
class Seen:
    """What a scheme's rows do to the logits of one text.

    Attributes:
        changed: positions at which the likeliest token is another one.
        unequal: logits of old tokens that differ in any bit.
        nearest: the least by which the likeliest old token is ahead of the likeliest new one.
        mass: the most probability that the new tokens take at a position.
    """

    positions: int
    changed: int
    unequal: int
    nearest: float
    mass: float


def windows(ids: Sequence[int], start: int, most: int, length: int) -> Iterator[torch.Tensor]:
    """Windows of a text, each behind a start token, of so many positions in all: ``(1, length)`` a window."""
    for done in range(0, min(most, len(ids)), length):
        yield torch.tensor([[start, *ids[done : min(done + length, most) - 1]]])


def states(model: Any, inputs: Iterable[torch.Tensor]) -> list[torch.Tensor]:
    """What the output layer is given at every position: ``(positions, d)`` a window."""
    with torch.inference_mode():
        return [model.base_model(input_ids=ids, use_cache=False).last_hidden_state[0] for ids in inputs]


def output_rows(base: Path, words: Sequence[str], asked: Mapping[str, Any], model: Any) -> torch.Tensor:
    """The output rows that an extension of the base would write."""
    new = new_rows(prepare_plan(base, None, add_tokens=words, seed=0, **asked), model)
    return new.rows if new.head is None else new.head


def seen(found: Iterable[torch.Tensor], old: torch.Tensor, rows: Mapping[str, torch.Tensor]) -> dict[str, Seen]:
    """Compares the logits from a table with those from the table with some rows behind it, or others."""
    whole = {name: torch.cat([old, new.to(old.dtype)]) for name, new in rows.items()}
    parts: dict[str, list[Seen]] = {name: [] for name in rows}
    for state in found:
        before = linear(state, old)
        for name, table_ in whole.items():
            parts[name].append(_seen(before, linear(state, table_)))
    return {name: _together(some) for name, some in parts.items()}


def _seen(before: torch.Tensor, after: torch.Tensor) -> Seen:
    same, new = after[:, : before.shape[1]], after[:, before.shape[1] :]
    bits = torch.int32 if before.dtype == torch.float32 else torch.int16
    return Seen(
        len(before),
        int((before.argmax(1) != after.argmax(1)).sum()),
        int((before.view(bits) != same.contiguous().view(bits)).sum()),
        float((same.amax(1).float() - new.amax(1).float()).min()),
        float(after.float().softmax(1)[:, before.shape[1] :].sum(1).max()),
    )


def _together(parts: Sequence[Seen]) -> Seen:
    return Seen(
        sum(part.positions for part in parts),
        sum(part.changed for part in parts),
        sum(part.unequal for part in parts),
        min(part.nearest for part in parts),
        max(part.mass for part in parts),
    )


def faults(name: str, found: Seen, bound: float, exact: bool) -> Iterator[str]:
    """What mustn't be."""
    if name in CONVEX and found.changed:
        yield f"{name}: {found.changed} greedy choices change"
    if exact and found.unequal:
        yield f"{name}: {found.unequal} logits of old tokens differ"
    if name == "auto(distribution)" and found.mass > bound * (1 + SLACK):
        yield f"{name}: the new tokens take up to {found.mass:.3g} of the probability, more than {bound:.3g}"


def proved(base: Path, words: Sequence[str], text: str, dtype: str, most: int, window: int) -> Iterator[str]:
    """Prints what every scheme does, and gives what mustn't be."""
    model, tokenizer = load_model(base, getattr(torch, dtype)), load_tokenizer(base)
    start = time.perf_counter()
    found = states(model, windows(token_ids(tokenizer, text), start_id(tokenizer), most, window))
    positions = sum(map(len, found))
    print(f"{dtype}: states of {format_count(positions)} positions in {time.perf_counter() - start:.0f} s", flush=True)
    head = model.get_output_embeddings()
    assert head is not None, "a causal model has output rows"
    old = head.weight.detach()
    new = {name: output_rows(base, words, asked, model) for name, asked in {**CONVEX, **OTHERS}.items()}
    bound, rows = len(words) / (len(old) + len(words)), []
    for name, one in seen(found, old, new).items():
        kind = "convex" if name in CONVEX else "not convex"
        rows.append(
            (name, kind, format_count(one.changed), format_count(one.unequal), f"{one.nearest:.3f}", f"{one.mass:.2e}")
        )
        yield from (f"{dtype}: {fault}" for fault in faults(name, one, bound, dtype == "float32"))
    heads = ("scheme", "", "choices that change", "old logits that differ", "nearest new logit", "most probability")
    title = f"{len(words)} words, {format_count(positions)} positions, {dtype}; n/(V+n) is {bound:.2e}"
    print(text_table(title, heads, rows), flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--base", type=Path, default=BASE)
    parser.add_argument("--positions", type=int, default=10_000)
    parser.add_argument("--words", type=int, default=500)
    parser.add_argument("--dtype", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--window", type=int, default=512, help="positions that see each other")
    args = parser.parse_args()
    parts = paragraphs(python_documentation())
    words = [word for word, _ in worth_a_token(parts, load_tokenizer(args.base), args.words)]
    text = "\n\n".join(parts[:: max(1, len(parts) // 200)])
    wrong = [w for dtype in args.dtype for w in proved(args.base, words, text, dtype, args.positions, args.window)]
    print("\n".join(wrong) if wrong else "no convex scheme changes a greedy choice")
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
