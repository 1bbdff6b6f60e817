"""A training loop under watch: what opens, what is logged, what is proved, at which step."""

from __future__ import annotations

from collections.abc import Iterable
from types import TracebackType

import torch
from torch import nn

from hf_init._errors import PlanError
from hf_init._shards import gathered_tensor, is_under_zero3
from hf_init._tensors import Region, Status
from hf_init.finetune._freeze import Frozen
from hf_init.finetune._groups import check_optimizer
from hf_init.finetune._rows import pick_rows
from hf_init.finetune._schedule import Schedule


class Watch:
    """Open what a schedule says, and prove every so many steps, and at the end, that nothing frozen has moved.

    For a plain loop, and for one under accelerate, whose ``prepare`` changes no parameter. Trainer has a callback.

    Args:
        frozen: what ``freeze`` or ``train_only_new`` gave.
        every: steps between two proofs; None: only at the end.
        schedule: of ``unfreeze_schedule``.
        optimizer: checked at once: it must hold everything that trains, now or later, and nothing else.

    Raises:
        PlanError: the optimizer was made before freezing, or ``every`` is below 1.

    Example::

        with Watch(frozen, every=500, optimizer=optimizer) as watch:
            for batch in loader:
                watch.begin_step()
                model(**batch).loss.backward()
                optimizer.step()
                optimizer.zero_grad()
                watch.end_step()
    """

    def __init__(
        self,
        frozen: Frozen,
        *,
        every: int | None = None,
        schedule: Schedule | None = None,
        optimizer: torch.optim.Optimizer | None = None,
    ) -> None:
        if every is not None and every < 1:
            raise PlanError(f"every is {every}, expected at least 1 step, or None for a proof at the end only")
        self.frozen, self.every, self.schedule = frozen, every, schedule or Schedule(())
        self.step = 0
        if optimizer is not None:
            check_optimizer(optimizer, frozen.model, self.schedule.names)

    def begin_step(self, step: int | None = None) -> tuple[str, ...]:
        """Open what the schedule says, and return the names. ``step`` counts from 0; None: counted by ``end_step``.

        What opened before an interruption opens at once when training resumes at a later step.
        """
        self.step = self.step if step is None else step
        opened = self.schedule.opened(self.step)
        names = [name for name in self.frozen.names if name in opened]
        return self.frozen.thaw(names) if names else ()

    def end_step(self) -> None:
        """Raise ProofError where a proof is due and something frozen has moved."""
        self.step += 1
        if self.every is not None and self.step % self.every == 0:
            self.frozen.raise_if_moved()

    def norms(self) -> dict[str, float]:
        """Return the norms of what is new and what is pretrained, and of their gradients (those that there are now)."""
        parts = self.frozen.new_parts.parts if self.frozen.new_parts else ()
        apart = {part.origin.name for part, _ in parts}
        new: Pairs = [(parameter.grad, parameter) for _, parameter in parts]
        pretrained: Pairs = []
        for each in self.frozen.tensors:
            tensor = each.tensor
            if not isinstance(tensor, nn.Parameter):
                continue
            if each.status is Status.RESIZED and each.whole:  # by its regions
                pretrained += [_region_of(tensor, region) for region in each.kept]
                new += [] if each.name in apart else [_region_of(tensor, region) for region in each.new]
            elif each.name not in apart:
                (new if each.status is Status.NEW else pretrained).append((tensor.grad, tensor))
        norms = {}
        for name, pairs in (("new", new), ("pretrained", pretrained)):
            norms[f"norm/{name}"] = _total_norm(values for _, values in pairs)
            if not any(is_under_zero3(values) for _, values in pairs):  # whose gradients are gone after backward
                norms[f"grad_norm/{name}"] = _total_norm(grad for grad, _ in pairs if grad is not None)
        return norms

    def __enter__(self) -> Watch:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.frozen.raise_if_moved()


Pairs = list[tuple[torch.Tensor | None, torch.Tensor]]
"""Gradients with their values."""


def _region_of(tensor: nn.Parameter, region: Region) -> tuple[torch.Tensor | None, torch.Tensor]:
    grad = None if tensor.grad is None else pick_rows(gathered_tensor(tensor.grad), region)
    return grad, pick_rows(gathered_tensor(tensor), region)


def _total_norm(tensors: Iterable[torch.Tensor]) -> float:
    norms = []
    for tensor in tensors:  # where DTensors can work it out among the ranks, they do
        whole = gathered_tensor(tensor) if is_under_zero3(tensor) else tensor.detach()
        norms.append(gathered_tensor(whole.norm(dtype=torch.float32)).cpu())
    return float(torch.stack(norms).norm()) if norms else 0.0
