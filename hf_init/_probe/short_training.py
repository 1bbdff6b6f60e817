"""A short training of new rows alone."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from transformers import PreTrainedModel

from hf_init._probe.probe_report import Reading

T = TypeVar("T")

# Of the standard deviation of the rows, a step: fifty steps can move an element by as much as it varies.
RATE = 0.02
# Adam divides a gradient by its own size. Most new tokens aren't in a batch, and the tiny gradients that push their
# logits down would move them as far as those of the tokens that are: measured, the loss then rises. This is above the
# ones and below the others.
EPSILON = 1e-3
IGNORED = -100


@dataclass(frozen=True)
class Passage:
    """A piece of text in the ids of one tokenization, which begins after a start token."""

    text: str
    ids: tuple[int, ...]


def readings(model: PreTrainedModel, start: int, passages: Sequence[Passage], tokens: int = 256) -> list[Reading]:
    """Return how well a model predicts each passage; they are read in batches of about this many tokens."""
    result: dict[int, Reading] = {}
    by_length = sorted(range(len(passages)), key=lambda index: len(passages[index].ids))
    for indices in _batched(by_length, lambda index: len(passages[index].ids), tokens):
        batch = [passages[index] for index in indices]
        with torch.inference_mode():
            losses = _losses(model, *_stack_passages(batch, start)).sum(1).tolist()
        for index, passage, loss in zip(indices, batch, losses, strict=True):
            result[index] = Reading(loss, len(passage.ids), len(passage.text.encode()))
    return [result[index] for index in range(len(passages))]


def train_rows(
    model: PreTrainedModel,
    rows: Sequence[torch.nn.Parameter],
    batches: Iterator[tuple[torch.Tensor, torch.Tensor]],
    steps: Sequence[int],
    measure: Callable[[], T],
    rate: float,
) -> dict[int, T]:
    """Train rows by AdamW (betas .9, .999; epsilon 1e-3; no decay; a constant rate), and return what is measured.

    Args:
        batches: of ids and of targets, each ``(passages, tokens)``; a target of ``IGNORED`` isn't counted.
        steps: after how many steps to measure; 0 is before any.
    """
    optimizer = torch.optim.AdamW(rows, lr=rate, eps=EPSILON, weight_decay=0.0)
    measured: dict[int, T] = {}
    for step in range(max(steps) + 1):
        if step in steps:
            measured[step] = measure()
        if step < max(steps):
            ids, targets = next(batches)
            loss = _losses(model, ids, targets).sum() / (targets != IGNORED).sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return measured


def batches(
    passages: Sequence[Passage], start: int, tokens: int, seed: int
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield batches of about this many tokens, in an order that the seed gives, without end.

    Passages of like length go together, so that little is padded.
    """
    order = random.Random(seed)
    while True:
        by_length = sorted(order.sample(list(passages), len(passages)), key=lambda passage: len(passage.ids))
        groups = [*_batched(by_length, lambda passage: len(passage.ids), tokens)]
        for batch in order.sample(groups, len(groups)):
            yield _stack_passages(batch, start)


def _batched(items: Sequence[T], size: Callable[[T], int], total: int) -> Iterator[list[T]]:
    """Yield neighbours in groups, each closed as soon as its sizes add up to this."""
    group: list[T] = []
    for item in items:
        group.append(item)
        if sum(map(size, group)) >= total:
            yield group
            group = []
    if group:
        yield group


def _losses(model: PreTrainedModel, ids: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Return the loss of each target in nats, 0 where there is none."""
    logits = model(input_ids=ids, use_cache=False).logits.float()
    losses = torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORED, reduction="none"
    )
    return losses.unflatten(0, targets.shape)


def _stack_passages(passages: Sequence[Passage], start: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return ids and targets, padded behind: that changes no logit before it of a causal model, and isn't counted."""
    longest = max(len(passage.ids) for passage in passages)
    ids = torch.full((len(passages), longest), start)
    targets = torch.full((len(passages), longest), IGNORED)
    for row, passage in enumerate(passages):
        length = len(passage.ids)
        ids[row, 1:length] = torch.tensor(passage.ids[:-1], dtype=torch.int64)
        targets[row, :length] = torch.tensor(passage.ids)
    return ids, targets
