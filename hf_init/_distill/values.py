"""The distilled rows of a plan, as whole tensors, made with the base in memory."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from transformers import PreTrainedModel
from transformers.utils import logging

from hf_init._architecture import Target, load_plainly, quiet_library, without_zero3
from hf_init._checkpoint import Reader
from hf_init._distill.journal import RowJournal
from hf_init._distill.occurrences import ReadTexts
from hf_init._distill.rows import distilled_rows
from hf_init._errors import PlanError
from hf_init._fill import slots_of
from hf_init._plan import Plan, TensorPlan
from hf_init._tensors import Rows
from hf_init.schemes import Distilled


def reading_base(target: Target) -> Target:
    """Return a target's base as its own class, if it reads one text: a causal model, or an encoder.

    Raises:
        PlanError: it isn't one.
    """
    own = target.own
    if own is None or getattr(own.config, "is_encoder_decoder", False):
        seen = (
            f"{target.base.name} can't be run as a whole" if own is None else f"{own.cls.__name__} reads two at a time"
        )
        raise PlanError(
            f"texts: rows are distilled from the states of a model that reads one text, and {seen}; leave out texts"
        )
    return own


def distilled_values(plan: Plan, base: Target, read: ReadTexts, go_on: bool) -> dict[str, torch.Tensor]:
    """Return the tensors with distilled rows, by their names on disk: float32, whole, 0 elsewhere.

    Args:
        base: as its own class; it is loaded on the CPU, and freed.
        go_on: from the rows that a stopped run made; a proof makes all of them.
    """
    tensors = [tensor for tensor in plan.stored if any(isinstance(fill.scheme, Distilled) for fill in tensor.new)]
    if not tensors:
        return {}
    # Half of the time and of the memory where the processor multiplies bfloat16, and rows no worse. Attention written
    # out, since the fused one goes backward ten times as slowly as forward there.
    fast = base.dtype == torch.bfloat16 and torch.backends.cpu.get_cpu_capability().startswith("AVX512")
    options = {"dtype": torch.bfloat16 if fast else torch.float32, "attn_implementation": "eager"}
    with quiet_library(), without_zero3():
        model = load_plainly(base.cls, str(base.base.folder), config=base.config, **options)
    model.eval().requires_grad_(False)
    journals: list[RowJournal] | None = [] if go_on else None
    with Reader(base.base.source) as reader:
        values = {tensor.name: _values(tensor, base, reader, plan.seed, model, read, journals) for tensor in tensors}
    for journal in journals or ():
        journal.close()
    return values


def _values(
    tensor: TensorPlan,
    base: Target,
    reader: Reader,
    seed: int,
    model: PreTrainedModel,
    read: ReadTexts,
    journals: list[RowJournal] | None,
) -> torch.Tensor:
    whole = torch.from_numpy(np.zeros(tensor.shape, np.float32))  # pages that nothing is written to take no memory
    for scheme, slot in slots_of(tensor, reader, seed):
        if not isinstance(scheme, Distilled) or not isinstance(slot.region, Rows):
            continue
        ids = slot.region.index
        found = [(each.start, each.tokens) for id_ in ids for each in read.found.get(id_, ())]
        depends = (seed, tensor.name, scheme.to_json(), ids, found, str(model.dtype))
        journal = RowJournal.of(Path(base.base.folder), tensor.shape[1], *depends)
        rows = {} if journals is None else journal.rows()
        for number, row in rows.items():
            whole[ids[number]] = row
        left = [number for number in range(len(ids)) if number not in rows]
        bar = logging.tqdm(total=len(ids), initial=len(rows), desc="distill", unit="token", leave=False, disable=None)
        with bar:
            for number, row in distilled_rows(model, read, ids, scheme.start(slot), scheme, seed, left):
                whole[ids[number]] = row
                if journals is not None:
                    journal.keep(number, row)
                bar.update()
        if journals is not None:
            journals.append(journal)
    return whole
