"""Batches of rows with labels for several heads, and the losses of heads.

Needs torch and transformers only: this file travels with checkpoints as remote code.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch.nn import functional as F

from .configuration_multi_head import HeadSpec
from .kinds_multi_head import CHOICE, IGNORE_INDEX, KINDS, NUMBER_LOSSES, list_choices

Row: TypeAlias = Mapping[str, Any]


class Collator:
    """Rows to a batch; a head that a row has no label for gets -100 there, or NaN where its labels are numbers.

    A row of several choices stays one for a multiple-choice head. For other heads each choice becomes a row, with a
    label each, and these stand first: so the pairs of a reward stay together in any order of the rows.
    """

    def __init__(self, tokenizer: Any, specs: Mapping[str, HeadSpec]) -> None:
        self.tokenizer, self.specs = tokenizer, specs

    def __call__(self, rows: Sequence[Row]) -> dict[str, Any]:
        names = dict.fromkeys(name for row in rows for name, value in _labels_in(row).items() if value is not None)
        if unknown := [name for name in names if name not in self.specs]:
            raise ValueError(f"labels for no head: {', '.join(map(repr, unknown))}; {list_choices(self.specs)}")
        choice = _row_has_choices(rows[0]) and any(self.specs[name].kind == CHOICE for name in names or self.specs)
        ordered = rows if choice else sorted(rows, key=lambda row: not _row_has_choices(row))
        single = [part for row in ordered for part in _split_choices(row, labels=not choice)]
        batch = self._padded([{key: value for key, value in row.items() if key != "labels"} for row in single])
        labelled, lengths = rows if choice else single, [len(row.get("input_ids", ())) for row in single]
        padded = batch["input_ids"].shape[-1] if "input_ids" in batch else 0
        labels = {
            name: self._column(name, [_labels_in(row).get(name) for row in labelled], lengths, padded) for name in names
        }
        if choice:
            batch = {key: value.unflatten(0, (len(rows), -1)) for key, value in batch.items()}
        return {**batch, "labels": labels} if labels else batch

    def _padded(self, rows: list[dict[str, object]]) -> dict[str, torch.Tensor]:
        if "pixel_values" in rows[0]:
            return {key: torch.stack([torch.as_tensor(row[key]) for row in rows]) for key in rows[0]}
        return dict(self.tokenizer.pad(rows, return_tensors="pt"))

    def _column(self, name: str, values: Sequence[object], lengths: Sequence[int], padded: int) -> torch.Tensor:
        """Return the labels of one head.

        Args:
            lengths: how many tokens each row has. padded: how many after padding, 0 where rows have no tokens.
        """
        spec = self.specs[name]
        is_span, left = spec.loss == "span", getattr(self.tokenizer, "padding_side", "right") == "left"
        tensors = [None if value is None else torch.as_tensor(value) for value in values]
        shape = next(tuple(value.shape) for value in tensors if value is not None)
        per_token = not KINDS[spec.kind].pooled and not is_span
        if per_token:
            shape = (padded or max(len(value) for value in tensors if value is not None), *shape[1:])
        column = torch.full((len(tensors), *shape), float("nan") if spec.loss in NUMBER_LOSSES else IGNORE_INDEX)
        for row, value, length in zip(column, tensors, lengths, strict=False):
            if value is None:
                continue
            if per_token and padded and len(value) != length:
                raise ValueError(f"head {name!r}: {len(value)} labels for {length} tokens")
            before = padded - length if left else 0
            (row[before : before + len(value)] if per_token else row).copy_(value + before if is_span else value)
        return column


def _labels_in(row: Row) -> Mapping[str, Any]:
    return row.get("labels") or {}


def _row_has_choices(row: Row) -> bool:
    ids = row.get("input_ids")
    if ids is None or len(ids) == 0:
        return False
    return ids[0].dim() > 0 if isinstance(ids[0], torch.Tensor) else hasattr(ids[0], "__len__")


def _split_choices(row: Row, labels: bool) -> list[Row]:
    """Return a row of several choices as one row for each, with its label if ``labels``; any other row as it is."""
    if not _row_has_choices(row):
        return [row]
    num_choices, rest = len(row["input_ids"]), {key: value for key, value in row.items() if key != "labels"}
    by_head = {name: value for name, value in _labels_in(row).items() if value is not None} if labels else {}
    if wrong := [name for name, each in by_head.items() if not hasattr(each, "__len__") or len(each) != num_choices]:
        raise ValueError(f"a row of {num_choices} choices needs a label for each of head {wrong[0]!r}")
    parts = [{key: value[k] for key, value in rest.items()} for k in range(num_choices)]
    return [{**part, "labels": {name: value[k] for name, value in by_head.items()}} for k, part in enumerate(parts)]


def cross_entropy(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return the mean over labels that aren't -100; 0 where all are."""
    targets = labels.flatten()
    total = F.cross_entropy(logits.flatten(0, -2).float(), targets, ignore_index=IGNORE_INDEX, reduction="sum")
    return total / (targets != IGNORE_INDEX).sum().clamp(min=1)


def next_token(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Compare the answer at each token with the label of the token after it: the labels are the ids themselves."""
    return cross_entropy(logits[:, :-1], labels[:, 1:])


def span(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Compare with start and end ``(rows, 2)`` among the tokens; those beyond the text don't count."""
    known = labels.masked_fill((labels < 0) | (labels >= logits.shape[1]), IGNORE_INDEX)
    return (cross_entropy(logits[..., 0], known[:, 0]) + cross_entropy(logits[..., 1], known[:, 1])) / 2


def _mean_of_known(loss: Callable[..., torch.Tensor]) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    """Return the mean of an elementwise loss over labels that aren't NaN; 0 where all are."""

    def mean(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        answers = (logits.squeeze(-1) if labels.dim() < logits.dim() else logits).float()
        known = ~labels.isnan()
        each = loss(answers, labels.nan_to_num().to(answers), reduction="none")
        return each.masked_fill(~known, 0).sum() / known.sum().clamp(min=1)

    return mean


def contrastive(vectors: torch.Tensor, labels: torch.Tensor, temperature: float = 0.05) -> torch.Tensor:
    """Draw rows of one group together and away from all others (Khosla et al. 2020, their outer sum)."""
    known = labels != IGNORE_INDEX
    other = known[None] & ~torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    scores = vectors.float() @ vectors.float().T / temperature
    scores = scores.masked_fill(~other, torch.finfo(scores.dtype).min)  # finite, for the gradient of a row without any
    alike = other & known[:, None] & (labels[:, None] == labels[None])
    logs = (scores - scores.logsumexp(1, keepdim=True)).masked_fill(~alike, 0)
    return -(logs.sum(1) / alike.sum(1).clamp(min=1)).sum() / alike.any(1).sum().clamp(min=1)


def preference(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Prefer, of the rows 2k and 2k+1, the one with the higher label (Bradley and Terry 1952)."""
    answers, labels = logits.float().flatten(), labels.flatten()
    if len(labels) % 2 and not bool(labels[-1].isnan()):
        raise ValueError(f"a preference needs pairs of rows, and the batch has {len(labels)}")
    even = len(labels) // 2 * 2
    first, second = answers[:even].view(-1, 2).unbind(1)
    sign = torch.sign(labels[:even:2] - labels[1:even:2]).nan_to_num().to(first)
    return -(F.logsigmoid(sign * (first - second)) * sign.abs()).sum() / sign.abs().sum().clamp(min=1)


LOSSES: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "cross_entropy": cross_entropy,
    "binary_cross_entropy": _mean_of_known(F.binary_cross_entropy_with_logits),
    "mse": _mean_of_known(F.mse_loss),
    "l1": _mean_of_known(F.l1_loss),
    "huber": _mean_of_known(F.huber_loss),
    "next_token": next_token,
    "span": span,
    "contrastive": contrastive,
    "preference": preference,
}
