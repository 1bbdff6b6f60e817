"""What the loss should be at the start, from the shape of the logits, the labels, and the head's bias."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F

from hf_init._check.facts import Reference

IGNORED = -100
"""The label that the library's losses leave out."""


def reference_loss(
    logits: torch.Tensor, batch: Mapping[str, object], bias: torch.Tensor | None, problem: str
) -> Reference | None:
    """Return the loss of logits that are the head's bias alone; None where the labels are of no known kind.

    Args:
        logits: ``(..., classes)``.
        batch: with ``labels``.
        bias: of the head, ``(classes,)``.
        problem: the config's ``problem_type``, where it has one.
    """
    labels = batch.get("labels", batch.get("label"))
    if not isinstance(labels, torch.Tensor) or logits.ndim == 0:
        return None
    labels = labels.detach().cpu()
    start = torch.zeros(logits.shape[-1]) if bias is None else bias.detach().float().cpu()
    if problem == "regression" or (not problem and logits.shape[-1] == 1):
        values = labels.double().reshape(-1, len(start))
        error, variance = float(((values - start.double()) ** 2).mean()), float(values.var(0, unbiased=False).mean())
        formula = f"the mean square of the labels less the bias; the variance of the labels is {variance:.4g}"
        return Reference("regression", error, formula, variance)
    if problem == "multi_label_classification" or (labels.is_floating_point() and labels.shape == logits.shape):
        loss = float(F.binary_cross_entropy_with_logits(start.expand(labels.shape), labels.float()))
        formula = "the bias's prior on these labels" if bool(start.any()) else "ln 2: each label is as likely as not"
        return Reference("several labels", loss, formula)
    if labels.is_floating_point() or labels.ndim > logits.ndim - 1:
        return None
    counted = labels[labels != IGNORED]
    if not counted.numel() or int(counted.min()) < 0 or int(counted.max()) >= len(start):
        return None
    chances = F.log_softmax(start.double(), 0)
    loss, many = float(-chances[counted].mean()), len(start)
    formula = f"ln {many}: all {many} classes are equally likely"
    if bool((start != start[0]).any()):
        entropy = float(-(chances.exp() * chances).sum())
        formula = f"the bias's prior on these labels; its entropy is {entropy:.4g}, ln {many} is {math.log(many):.4g}"
    return Reference("classes", loss, formula)


def span_reference(length: int) -> Reference:
    """Return the reference for a start and an end among so many positions, all equally likely."""
    return Reference("span", math.log(length), f"ln {length}: all positions of the text are equally likely")
