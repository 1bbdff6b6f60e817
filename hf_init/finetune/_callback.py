"""A Trainer under watch."""

from __future__ import annotations

from pathlib import Path
from typing import TypedDict

import torch
from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from typing_extensions import NotRequired, Unpack

from hf_init._errors import PlanError
from hf_init.finetune._freeze import Frozen, Resized, freeze
from hf_init.finetune._groups import check_optimizer
from hf_init.finetune._model import PlanLike, unwrapped
from hf_init.finetune._schedule import Schedule
from hf_init.finetune._watch import Watch


class HookArguments(TypedDict):
    """What Trainer hands to its hooks by name."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    lr_scheduler: object
    processing_class: object
    train_dataloader: object
    eval_dataloader: object
    metrics: NotRequired[dict[str, float]]
    logs: NotRequired[dict[str, float]]


class FinetuneCallback(TrainerCallback):
    """Freeze by a plan before Trainer makes its optimizer, log, open what a schedule says, and prove.

    It prints how many parameters train. Give it to ``Trainer(callbacks=[...])``: one added later comes after the
    optimizer. With groups of your own, freeze first and give what ``freeze`` returned. Logged beside the loss:
    ``norm/new``, ``norm/pretrained``, ``grad_norm/new`` and ``grad_norm/pretrained`` (after clipping). Every checkpoint
    gets the manifest.

    Args:
        plan: what ``freeze`` takes, or what it gave.
        resized: as in ``freeze``; by default only the new rows of resized tensors train.
        verify_every: steps between two proofs; None: only at the end. A byte of what is frozen that moved stops the
            training with ProofError, which names the tensor.
        schedule: of ``unfreeze_schedule``.
        dtype: as in ``freeze``: in which what is new trains; None: in float32 where it has 16 bits.

    Raises:
        PlanError: as ``freeze``, and where the optimizer isn't made for what is frozen, before the first step.

    Example::

        trainer = Trainer(model, args, train_dataset=data, callbacks=[FinetuneCallback("sentiment", verify_every=500)])
    """

    def __init__(
        self,
        plan: PlanLike | Frozen = None,
        *,
        resized: Resized = "new",
        verify_every: int | None = None,
        schedule: Schedule | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        self._plan, self._every, self._schedule = plan, verify_every, schedule
        self._resized: Resized = resized
        self._dtype = dtype
        self._watch: Watch | None = None
        self._norms: dict[str, float] = {}

    @property
    def frozen(self) -> Frozen:
        """Return what is frozen, from the making of the Trainer on."""
        return self.watch.frozen

    @property
    def watch(self) -> Watch:
        """Return the watch, from the making of the Trainer on."""
        if self._watch is None:
            raise PlanError("nothing is frozen yet: give the callback to Trainer(callbacks=[...])")
        return self._watch

    def on_init_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Unpack[HookArguments]
    ) -> None:
        self._start(kwargs["model"])

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Unpack[HookArguments]
    ) -> None:
        model, watch = kwargs["model"], self._start(kwargs["model"])
        if watch.frozen.model is not unwrapped(model):
            raise PlanError("the model that trains isn't the one that was frozen; freeze what Trainer is given")
        check_optimizer(kwargs["optimizer"], model, watch.schedule.names)
        watch.begin_step(state.global_step)
        if state.is_world_process_zero:
            watch.frozen.print_trainable_parameters()

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Unpack[HookArguments]
    ) -> None:
        self.watch.begin_step(state.global_step)

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Unpack[HookArguments]
    ) -> None:
        """Take the norms for a log, at the steps that are logged: the gradients are whole and clipped here."""
        step = state.global_step + 1
        if step % max(state.logging_steps, 1) == 0 or (step == 1 and args.logging_first_step):
            self._norms = self.watch.norms()

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Unpack[HookArguments]
    ) -> None:
        self.watch.end_step()

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Unpack[HookArguments]
    ) -> None:
        logs = kwargs.get("logs")
        if logs is not None and "loss" in logs and self._norms:
            logs.update(self._norms)
            state.log_history[-1].update(self._norms)
            self._norms = {}

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Unpack[HookArguments]
    ) -> None:
        self._save_manifest(Path(args.output_dir or "", f"checkpoint-{state.global_step}"), state)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Unpack[HookArguments]
    ) -> None:
        self.frozen.raise_if_moved()
        self._save_manifest(Path(args.output_dir or ""), state)

    def _start(self, model: nn.Module) -> Watch:
        if self._watch is None:
            given = self._plan
            frozen = (
                given if isinstance(given, Frozen) else freeze(model, given, resized=self._resized, dtype=self._dtype)
            )
            self._watch = Watch(frozen, every=self._every, schedule=self._schedule)
        return self._watch

    def _save_manifest(self, folder: Path, state: TrainerState) -> None:
        if state.is_world_process_zero and folder.is_dir():
            self.frozen.save_manifest(folder)
