"""A start-up check: what one batch tells about a model, before hours of training are spent on it."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from hf_init._check.judge import judge_facts
from hf_init._check.observe import New, observe
from hf_init._check.report import CheckReport
from hf_init._errors import CheckpointError
from hf_init._shards import check_here, check_undivided
from hf_init.finetune import PlanLike, model_tensors, origin_of, unwrapped


def check(
    model: nn.Module,
    batch: Mapping[str, object],
    optimizer: torch.optim.Optimizer | None = None,
    plan: PlanLike = None,
    verbose: bool = False,
) -> CheckReport:
    """Run one batch forward and backward, and say what is wrong with the start: loss, activations, gradients, dtypes.

    The model is left as it was found: parameters, buffers, gradients, training mode, hooks and random states. It runs
    in the mode that it is in: call ``model.train()`` before for a check with dropout and batch statistics.

    Args:
        model: a model of transformers, or any module that returns a loss.
        batch: the keyword arguments of its forward, labels among them; tensors are moved to the model's device.
        optimizer: the one that will train it; checked against what requires gradients.
        plan: which parameters are new: a ``Plan``, or the folder that ``extend`` wrote; None: the model's own
            ``init_plan``, or that of the folder that it was loaded from. Without one all of the model is judged alike.
        verbose: print every layer; else the three that are farthest from what is usual in the model.

    Raises:
        PlanError: the plan is of another model, the model makes no loss of the batch, or it is divided among ranks.
        CheckpointError: the plan's folder can't be read.

    Example::

        report = check(model, tokenizer(texts, return_tensors="pt", padding=True) | {"labels": labels}, optimizer)
        print(report)
        report.raise_if_failed()
    """
    bare = unwrapped(model)
    check_undivided(bare, "check it before that: every rank would see the facts of its own part")
    check_here(bare)
    new: New | None = None  # where there is no plan, nobody knows
    try:
        origin = origin_of(bare, plan)
    except CheckpointError:
        if plan is not None:
            raise
    else:
        places = {name: each for each in model_tensors(bare, origin.plan) for name in (each.name, *each.aliases)}
        new = {name: places[name].new for name, _ in bare.named_parameters() if name in places and places[name].new}
    facts = observe(bare, batch, optimizer, new)
    return CheckReport(type(bare).__name__, facts, judge_facts(facts), verbose)
