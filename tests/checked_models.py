"""A small model that is fine, its batch and plan, and what a check finds in it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from hf_init import Plan, check

CLASSES = 4


class Net(nn.Module):
    """A trunk, an activation, a head; the loss is the cross entropy, or the square for one output."""

    def __init__(self, activation: Callable[..., Any] = torch.relu, outputs: int = CLASSES) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, 8)
        self.trunk = nn.Linear(8, 16)
        self.norm = nn.BatchNorm1d(16)
        self.drop = nn.Dropout(0.1)
        self.head = nn.Linear(16, outputs)
        self.activation = activation

    def forward(self, ids: torch.Tensor, labels: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
        hidden = self.drop(self.activation(self.trunk(self.norm_of(self.embed(ids)))))
        logits = self.head(hidden)
        if labels is None:
            return {"logits": logits}
        if labels.is_floating_point():
            return {"logits": logits, "loss": ((logits[:, 0] - labels) ** 2).mean()}
        return {"logits": logits, "loss": nn.functional.cross_entropy(logits.float(), labels)}

    def norm_of(self, hidden: torch.Tensor) -> torch.Tensor:
        return hidden


def net(**options: Any) -> Net:
    torch.manual_seed(0)
    model = Net(**options)
    nn.init.normal_(model.head.weight, std=0.02)
    nn.init.zeros_(model.head.bias)
    return model.eval()


def batch(floats: bool = False) -> dict[str, torch.Tensor]:
    labels = torch.arange(12) % CLASSES
    return {"ids": torch.arange(12) % 20, "labels": labels.float() - 1.5 if floats else labels}


def plan(model: nn.Module, *new: str) -> Plan:
    """A plan by which the named tensors are new, and the others kept."""
    entries = [_entry(name, tensor, name in new) for name, tensor in model.state_dict().items()]
    return Plan.from_json({"architecture": "Net", "seed": 0, "tensors": entries, "unused": []})


def _entry(name: str, tensor: torch.Tensor, new: bool) -> dict[str, Any]:
    dtype, region = str(tensor.dtype).removeprefix("torch."), {"start": [0] * tensor.dim(), "stop": list(tensor.shape)}
    entry = {"name": name, "shape": list(tensor.shape), "dtype": dtype, "parameter": name}
    if new:
        return {**entry, "status": "new", "new": [{"region": region, "scheme": {"name": "normal"}}]}
    kept = [{"region": region, "source": name, "source_region": region}]
    return {**entry, "status": "kept", "kept": kept, "source": name}


HEAD = ("head.weight", "head.bias")


def found(
    model: nn.Module, given: dict[str, Any] | None = None, optimizer: Any = None, new: Any = HEAD
) -> dict[str, Any]:
    """The findings by kind."""
    report = check(model, given or batch(), optimizer, plan(model, *new))
    return {finding.kind: finding for finding in report.findings}


def trained(model: nn.Module) -> nn.Module:
    """Without the parameters that its forward doesn't use."""
    for parameter in model.norm.parameters():
        parameter.requires_grad = False
    return model


# Each of these makes one thing wrong in a model that is fine without it.


def nan_weight(model: Net) -> None:
    model.trunk.weight.data[0, 0] = math.nan
