"""A short training of new rows alone."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch

from hf_init._probe.probe_report import Reading

T = TypeVar("T")

# Of the standard deviation of the rows, a step: fifty steps can move an element by as much as it varies.
RATE = 0.02
# Adam divides a gradient by its own size. Most new tokens aren't in a batch, and the tiny gradients that push their
# logits down would move them as far as those of the tokens that are: measured, the loss then rises. This is above the
# ones and below the others.
EPSILON = 1e-3
PASSED = -100


@dataclass(frozen=True)
class Passage:
    """A piece of text in the ids of one tokenization, which begins after a start token."""

    text: str
    ids: tuple[int, ...]


def readings(model: Any, start: int, passages: Sequence[Passage], tokens: int = 256) -> list[Reading]:
    """How well a model predicts each of some passages, read in batches of about this many tokens."""
    found: dict[int, Reading] = {}
    by_length = sorted(range(len(passages)), key=lambda place: len(passages[place].ids))
    for places in _groups(by_length, lambda place: len(passages[place].ids), tokens):
        some = [passages[place] for place in places]
        ids, targets = _stacked(some, start)
        with torch.inference_mode():
            nats = _nats(model, ids, targets)
        for place, passage, lost in zip(places, some, nats.sum(1).tolist(), strict=True):
            found[place] = Reading(lost, len(passage.ids), len(passage.text.encode()))
    return [found[place] for place in range(len(passages))]


def trained(
    model: Any,
    leaves: Sequence[torch.nn.Parameter],
    batches: Iterator[tuple[torch.Tensor, torch.Tensor]],
    steps: Sequence[int],
    measure: Callable[[], T],
    rate: float,
) -> dict[int, T]:
    """Trains leaves by AdamW (betas .9, .999; epsilon 1e-3; no decay; a constant rate), and measures at some steps.

    Args:
        batches: of ids and of targets, each ``(passages, tokens)``; a target of ``PASSED`` isn't counted.
        steps: after how many steps to measure; 0 is before any.
    """
    optimizer = torch.optim.AdamW(leaves, lr=rate, eps=EPSILON, weight_decay=0.0)
    found: dict[int, T] = {}
    for step in range(max(steps) + 1):
        if step in steps:
            found[step] = measure()
        if step < max(steps):
            ids, targets = next(batches)
            loss = _nats(model, ids, targets).sum() / (targets != PASSED).sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return found


def batches(
    passages: Sequence[Passage], start: int, tokens: int, seed: int
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Batches of about this many tokens, in an order that the seed gives, without end.

    Passages of like length go together, so that little is padded.
    """
    order = random.Random(seed)
    while True:
        by_length = sorted(order.sample(list(passages), len(passages)), key=lambda passage: len(passage.ids))
        groups = [*_groups(by_length, lambda passage: len(passage.ids), tokens)]
        for some in order.sample(groups, len(groups)):
            yield _stacked(some, start)


def _groups(things: Sequence[T], size: Callable[[T], int], most: int) -> Iterator[list[T]]:
    """Neighbours in groups, each closed as soon as it has this much."""
    some: list[T] = []
    for thing in things:
        some.append(thing)
        if sum(map(size, some)) >= most:
            yield some
            some = []
    if some:
        yield some


def _nats(model: Any, ids: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """The loss of each target, 0 where there is none."""
    logits = model(input_ids=ids, use_cache=False).logits.float()
    lost = torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), targets.flatten(), ignore_index=PASSED, reduction="none"
    )
    return lost.unflatten(0, targets.shape)


def _stacked(passages: Sequence[Passage], start: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Padding stands behind a causal model's eyes: it changes no logit before it, and isn't counted itself."""
    longest = max(len(passage.ids) for passage in passages)
    ids = torch.full((len(passages), longest), start)
    targets = torch.full((len(passages), longest), PASSED)
    for row, passage in enumerate(passages):
        many = len(passage.ids)
        ids[row, 1:many] = torch.tensor(passage.ids[:-1], dtype=torch.int64)
        targets[row, :many] = torch.tensor(passage.ids)
    return ids, targets
