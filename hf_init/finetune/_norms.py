"""Running statistics that don't move: norms that stay in evaluation mode while the model trains."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import nn
from torch.utils.hooks import RemovableHandle

STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


def hold_statistics(modules: Iterable[nn.Module]) -> list[RemovableHandle]:
    """Keeps modules in evaluation mode at every pass, whatever ``model.train()`` has set in between."""
    return [module.register_forward_pre_hook(_evaluate) for module in modules]


def _evaluate(module: nn.Module, inputs: Any) -> None:
    module.training = False
