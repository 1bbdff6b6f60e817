"""Labels for a batch that has none, so that every head can be looked at."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from hf_init._multihead.kinds_multi_head import IGNORE_INDEX
from hf_init._multihead.modeling_multi_head import MultiHead


def labels_for(model: MultiHead, batch: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return labels of each head that can read the batch: every class in turn; 0 and 1 where answers are numbers."""
    with torch.no_grad():
        logits = model(**batch, return_loss=False).logits or {}
    return {name: _labels_of_kind(model.specs[name].kind, answers, batch) for name, answers in logits.items()}


def _labels_of_kind(kind: str, logits: torch.Tensor, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
    rows, outputs = torch.arange(len(logits)), logits.shape[-1]
    if kind == "language-model":
        return _without_padding(batch["input_ids"], batch, IGNORE_INDEX)
    if kind == "similarity":
        return rows // 2
    if kind == "question-answering":
        return (rows % logits.shape[1])[:, None].expand(-1, 2)
    if kind == "multi-label":
        return torch.nn.functional.one_hot(rows % outputs, outputs).float()
    if kind in ("regression", "reward"):
        numbers = ((rows + 1) % 2).float()
        return numbers if outputs == 1 else numbers[:, None].expand(-1, outputs)
    if logits.dim() < 3:
        return rows % outputs
    tokens = torch.arange(logits[..., 0].numel()).reshape(logits.shape[:2])
    if kind == "value":
        return _without_padding((tokens % 2).float(), batch, float("nan"))
    return _without_padding(tokens % outputs, batch, IGNORE_INDEX)


def _without_padding(labels: torch.Tensor, batch: Mapping[str, torch.Tensor], none: float) -> torch.Tensor:
    """Return token labels with ``none`` where the attention mask is 0."""
    mask = batch.get("attention_mask")
    return labels if mask is None or mask.shape != labels.shape else labels.masked_fill(mask == 0, none)
