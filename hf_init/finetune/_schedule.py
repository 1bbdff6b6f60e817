"""Gradual unfreezing: which tensors open at which step, from the head down."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

from torch import nn

from hf_init._errors import PlanError
from hf_init._tensors import Status
from hf_init._text import join_names, text_table
from hf_init.finetune._model import PlanLike, blocks_of, depths, model_tensors, origin_of


@dataclass(frozen=True)
class UnfreezeStep:
    """Tensors that open together, at the start of a step (0 is the first)."""

    step: int
    names: tuple[str, ...]


@dataclass(frozen=True)
class Schedule:
    """The stages of gradual unfreezing, in the order of their steps."""

    stages: tuple[UnfreezeStep, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """Return everything that opens at some step: ``later`` of ``parameter_groups`` and ``check_optimizer``."""
        return tuple(name for stage in self.stages for name in stage.names)

    def opened(self, step: int) -> tuple[str, ...]:
        """Return what is open at a step."""
        return tuple(name for stage in self.stages if stage.step <= step for name in stage.names)

    def __str__(self) -> str:
        rows = [(str(stage.step), str(len(stage.names)), join_names(stage.names, 2)) for stage in self.stages]
        return text_table(f"unfreezing ({len(rows)} stages)", ("step", "tensors", ""), rows)


def unfreeze_schedule(
    model: nn.Module, plan: PlanLike = None, *, every: int, start: int | None = None, blocks: int = 1, lowest: int = 0
) -> Schedule:
    """Plan gradual unfreezing: what is new trains alone, then the pretrained blocks open one by one, the last first.

    The first stage is what follows the last block (a final norm, a pooler) together with that block; the last one is
    the embeddings. After Howard and Ruder, "Universal Language Model Fine-tuning for Text Classification" (2018), who
    open one layer an epoch.

    A resized tensor stays as ``freeze`` left it.

    Args:
        plan: as in ``freeze``.
        every: steps between two stages; with the steps of an epoch, one stage an epoch.
        start: the step of the first stage; None: ``every``. With a ``start`` and all blocks at once: linear probing,
            then fine-tuning (Kumar et al. 2022).
        blocks: how many open together.
        lowest: depths below it never open: 1 leaves the embeddings frozen.

    Raises:
        PlanError: a setting out of range, or the plan isn't the model's.

    Example::

        schedule = unfreeze_schedule(model, every=len(loader))
        groups = parameter_groups(model, lr=2e-5, new_lr=1e-3, layer_decay=0.8, later=schedule.names)
    """
    start = every if start is None else start
    if every < 1 or blocks < 1 or start < 0 or lowest < 0:
        raise PlanError(
            f"every={every}, blocks={blocks}, start={start}, lowest={lowest}: expected every and blocks of at least 1, "
            "start and lowest not negative"
        )
    tensors = model_tensors(model, origin_of(model, plan).plan)
    depth, last = depths(tensors), len(blocks_of(tensors))
    stages: defaultdict[int, list[str]] = defaultdict(list)
    for each in tensors:
        if each.status is Status.KEPT and depth[each.name] >= lowest:
            stages[max(last - depth[each.name], 0) // blocks].append(each.name)
    names = (tuple(stages[number]) for number in sorted(stages))
    return Schedule(tuple(UnfreezeStep(start + number * every, some) for number, some in enumerate(names)))
