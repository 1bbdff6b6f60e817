"""A short training of new rows alone."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from hf_init._probe._measure import logits_of, read
from hf_init._probe._report import Reading

# Of the standard deviation of the rows, a step: fifty steps can move an element by as much as it varies.
RATE = 0.02
# Adam divides a gradient by its own size. Most new tokens aren't in a batch, and the tiny gradients that push their
# logits down would move them as far as those of the tokens that are: measured, the loss then rises. This is above the
# ones and below the others.
EPSILON = 1e-3


@dataclass(frozen=True)
class Passage:
    """A piece of text in the ids of one tokenization, which begins after a start token."""

    text: str
    ids: tuple[int, ...]


def reading(model: Any, start: int, passages: Sequence[Passage]) -> Reading:
    """How well a model predicts passages."""
    total = Reading(0.0, 0, 0)
    for passage in passages:
        logits = logits_of(model, start, list(passage.ids))
        total += read(logits, torch.tensor(passage.ids), passage.text)
    return total


def trained(
    model: Any,
    leaves: Sequence[torch.nn.Parameter],
    batches: Iterator[tuple[torch.Tensor, torch.Tensor]],
    steps: Sequence[int],
    measure: Callable[[], float],
    rate: float,
) -> dict[int, float]:
    """Trains leaves by AdamW (betas .9, .999; epsilon 1e-3; no decay; a constant rate), and measures at some steps.

    Args:
        batches: of ids and of targets, each ``(passages, tokens)``; a target of -100 isn't counted.
        steps: after how many steps to measure; 0 is before any.
    """
    optimizer = torch.optim.AdamW(leaves, lr=rate, eps=EPSILON, weight_decay=0.0)
    found: dict[int, float] = {}
    for step in range(max(steps) + 1):
        if step in steps:
            found[step] = measure()
        if step < max(steps):
            ids, targets = next(batches)
            logits = model(input_ids=ids, use_cache=False).logits
            loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1).float(), targets.flatten())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return found


def batches(
    passages: Sequence[Passage], start: int, tokens: int, seed: int
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Batches of about this many tokens, in an order that the seed gives, without end; shorter passages are padded."""
    order = random.Random(seed)
    waiting: list[Passage] = []
    while True:
        some: list[Passage] = []
        while sum(len(passage.ids) for passage in some) < tokens:
            if not waiting:
                waiting = order.sample(list(passages), len(passages))
            some.append(waiting.pop())
        yield _stacked(some, start)


def _stacked(passages: Sequence[Passage], start: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Padding stands behind a causal model's eyes: it changes no logit before it, and isn't counted itself."""
    longest = max(len(passage.ids) for passage in passages)
    ids = torch.full((len(passages), longest), start)
    targets = torch.full((len(passages), longest), -100)
    for row, passage in enumerate(passages):
        many = len(passage.ids)
        ids[row, 1:many] = torch.tensor(passage.ids[:-1], dtype=torch.int64)
        targets[row, :many] = torch.tensor(passage.ids)
    return ids, targets
