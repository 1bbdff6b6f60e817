"""Fine-tune an extended checkpoint: train the new, treat the pretrained with care, prove at the end what moved.

    python scripts/finetune.py head             MiniLM with a new head; everything pretrained is frozen
    python scripts/finetune.py head-then-all    the head alone first, then everything, with a rate for each
    python scripts/finetune.py tokens           SmolLM2 with new tokens, of which only the new rows train

The data are the docstrings of Python's standard library, which every machine has: which part of the library one is
from (head), or words that it uses and the tokenizer splits (tokens). Writes to --out, .cache/finetuned by default.
"""

from __future__ import annotations

import argparse
import ast
import random
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm
from transformers import AutoTokenizer, BertForSequenceClassification, LlamaForCausalLM
from transformers.utils import logging

import hf_init
from hf_init import drift
from hf_init.finetune import Schedule, Watch, freeze, parameter_groups, train_only_new, unfreeze_schedule

CACHE = Path(__file__).resolve().parent.parent / ".cache"
PARTS = {
    "asyncio": ["asyncio"],
    "email": ["email", "smtplib.py", "imaplib.py", "mailbox.py"],
    "numbers": ["decimal.py", "_pydecimal.py", "fractions.py", "statistics.py", "random.py", "numbers.py"],
    "processes": ["multiprocessing", "concurrent", "threading.py", "subprocess.py"],
    "testing": ["unittest", "doctest.py"],
    "web": ["http", "urllib", "socketserver.py", "xmlrpc", "wsgiref"],
}
WORDS = [" operand", " operands", " coroutine", " coroutines", " charset", " mailbox", " doctest", " docstring",
         " iterable", " watcher", " multipart", " whitespace"]  # fmt: skip


@dataclass(frozen=True)
class Example:
    """A docstring, and the number of the part that it is from."""

    text: str
    part: int


@dataclass(frozen=True)
class Task:
    """A model to train, and how a batch of examples becomes its input."""

    base: Path
    cls: Any
    options: dict[str, Any]
    tokens: tuple[str, ...] = ()
    length: int = 64

    def batch(self, tokenizer: Any, examples: list[Example]) -> dict[str, torch.Tensor]:
        texts = [example.text for example in examples]
        batch = tokenizer(texts, padding=True, truncation=True, max_length=self.length, return_tensors="pt")
        if self.tokens:
            return {**batch, "labels": batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)}
        return {**batch, "labels": torch.tensor([example.part for example in examples])}


CLASSIFY = Task(
    CACHE / "all-MiniLM-L6-v2", BertForSequenceClassification, {"labels": list(PARTS), "recipe": "transformer"}
)
NAME = Task(
    CACHE / "SmolLM2-135M-Instruct",
    LlamaForCausalLM,
    {"add_tokens": WORDS},
    tuple(WORDS),
)


def docstrings() -> list[Example]:
    """Return the docstrings of at least 40 letters in the parts' files, in a fixed random order."""
    root = Path(sysconfig.get_paths()["stdlib"])
    texts: set[tuple[str, int]] = set()
    for number, names in enumerate(PARTS.values()):
        for path in (each for name in names for each in sorted([*(root / name).rglob("*.py"), root / name])):
            texts |= {(text, number) for text in _docstrings(path)} if path.is_file() else set()
    examples = [Example(*each) for each in sorted(texts)]
    random.Random(0).shuffle(examples)
    return examples


def _docstrings(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Module):
            text = " ".join((ast.get_docstring(node) or "").split())
            if len(text) >= 40:
                yield text


@torch.no_grad()
def evaluate(model: Any, tokenizer: Any, task: Task, examples: list[Example]) -> str:
    model.eval()
    losses, right = [], 0
    for start in range(0, len(examples), 16):
        batch = task.batch(tokenizer, examples[start : start + 16])
        out = model(**batch)
        losses.append(float(out.loss))
        right += 0 if task.tokens else int((out.logits.argmax(-1) == batch["labels"]).sum())
    accuracy = "" if task.tokens else f", accuracy {right / len(examples):.1%}"
    return f"loss {sum(losses) / len(losses):.3f}{accuracy}"


def train(model: Any, tokenizer: Any, task: Task, mode: str, examples: list[Example], steps: int, size: int) -> Any:
    """Train a model, and return what was frozen, proved."""
    frozen, schedule = (freeze(model), None) if mode != "tokens" else (train_only_new(model), None)
    if mode == "head-then-all":
        schedule = unfreeze_schedule(model, every=1, start=steps // 2, blocks=model.config.num_hidden_layers + 1)
    later = (schedule or Schedule(())).names
    groups = parameter_groups(model, lr=5e-5, new_lr=5e-3, weight_decay=0.01, layer_decay=0.9, later=later)
    optimizer = torch.optim.AdamW(groups)
    generator = random.Random(1)
    bar = tqdm(range(steps), desc=mode, mininterval=1)
    with Watch(frozen, every=50, schedule=schedule, optimizer=optimizer) as watch:
        model.train()
        for _ in bar:
            if opened := watch.begin_step():
                tqdm.write(f"step {watch.step}: {len(opened)} pretrained tensors open")
            loss = model(**task.batch(tokenizer, generator.sample(examples, size))).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            watch.end_step()
            bar.set_postfix(loss=f"{float(loss.detach()):.3f}")
    return frozen


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("mode", choices=["head", "head-then-all", "tokens"])
    parser.add_argument("--out", type=Path, default=CACHE / "finetuned", help="a folder that doesn't exist yet")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--batch", type=int, default=16)
    args = parser.parse_args()
    logging.disable_progress_bar()
    torch.manual_seed(0)

    task = NAME if args.mode == "tokens" else CLASSIFY
    start, trained = args.out / "extended", args.out / "trained"
    print(hf_init.extend(task.base, start, task.cls, seed=0, **task.options))
    model = task.cls.from_pretrained(start, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(start)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token

    examples = docstrings()
    if task.tokens:
        examples = [each for each in examples if any(word in each.text for word in WORDS)]
    test, rest = examples[: len(examples) // 8], examples[len(examples) // 8 :]
    print(f"{len(rest)} docstrings to train on, {len(test)} to test; before: {evaluate(model, tokenizer, task, test)}")
    frozen = train(model, tokenizer, task, args.mode, rest, args.steps, args.batch)
    print(f"after: {evaluate(model, tokenizer, task, test)}")

    model.save_pretrained(trained)
    tokenizer.save_pretrained(trained)
    frozen.save_manifest(trained)
    print(frozen.verify())
    print(drift(start, trained, frozen="none" if args.mode == "head-then-all" else "kept"))


if __name__ == "__main__":
    main()
