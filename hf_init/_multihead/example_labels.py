"""Labels for a batch that has none, so that every head can be looked at."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from hf_init._multihead.kinds_multi_head import IGNORE_INDEX
from hf_init._multihead.modeling_multi_head import MultiHead


def labels_for(model: MultiHead, batch: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """For each head that can read the batch: every class in turn, 0 and 1 in turn where answers are numbers."""
    with torch.no_grad():
        logits = model(**batch, return_loss=False).logits or {}
    mask = batch.get("attention_mask")
    return {name: _labels(model.specs[name].kind, found, batch, mask) for name, found in logits.items()}


def _labels(kind: str, logits: torch.Tensor, batch: Mapping[str, Any], mask: torch.Tensor | None) -> torch.Tensor:
    rows, outputs = torch.arange(len(logits)), logits.shape[-1]
    if kind == "language-model":
        return _masked(batch["input_ids"], mask, IGNORE_INDEX)
    if kind == "similarity":
        return rows // 2
    if kind == "question-answering":
        return (rows % logits.shape[1])[:, None].expand(-1, 2)
    if kind == "multi-label":
        return torch.nn.functional.one_hot(rows % outputs, outputs).float()
    if kind in ("regression", "reward"):
        found = ((rows + 1) % 2).float()
        return found if outputs == 1 else found[:, None].expand(-1, outputs)
    if kind == "value":
        tokens = torch.arange(logits[..., 0].numel()).reshape(logits.shape[:2]) % 2
        return _masked(tokens.float(), mask, float("nan"))
    if logits.dim() == 3:
        return _masked(torch.arange(logits[..., 0].numel()).reshape(logits.shape[:2]) % outputs, mask, IGNORE_INDEX)
    return rows % outputs


def _masked(labels: torch.Tensor, mask: torch.Tensor | None, none: float) -> torch.Tensor:
    return labels if mask is None or mask.shape != labels.shape else labels.masked_fill(mask == 0, none)
