"""One target tensor made from its plan: what the memory and the disk executor share. It decides nothing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import chain
from typing import TYPE_CHECKING

import torch
from typing_extensions import assert_never

from hf_init._checkpoint import Reader, region_of, tensor_digest
from hf_init._errors import ProofError, option
from hf_init._shards import num_threads
from hf_init._tensors import Context, Region, Rows, Status
from hf_init.schemes import Scheme, finish

if TYPE_CHECKING:
    from hf_init._plan import Plan, TensorPlan
    from hf_init._tensors import Slot


def make_tensor(plan: TensorPlan, reader: Reader, seed: int, context: Context | None = None) -> torch.Tensor:
    """Make the target tensor of a plan's entry, of ``plan.shape`` and ``plan.dtype``.

    A kept tensor is a mapped view of the source. What is new is drawn in float32 by its scheme and rounded once.
    """
    match plan.status:
        case Status.KEPT | Status.CARRIED:
            assert plan.source is not None
            return reader.tensor(plan.source)
        case Status.NEW:
            ((scheme, slot),) = slots_of(plan, reader, seed, context)
            return draw_slot(scheme, slot)
        case Status.RESIZED:
            return _composed_tensor(plan, reader, seed, context)
        case Status.TIED:
            raise ValueError(f"{plan.name} is tied to {plan.tied_to}: that tensor is made, and not this one")
        case _:
            assert_never(plan.status)


def make_tensors(
    plans: Iterable[TensorPlan], reader: Reader, seed: int, context: Context | None = None
) -> dict[str, torch.Tensor]:
    """Make the tensors of several entries by name, in their order, on all cores: no value depends on another.

    Schemes that ask the architecture take turns.
    """
    plans = list(plans)
    for plan in plans:  # opened here, once: what threads share must be there before them
        reader.open(copy.source for copy in plan.kept)
    with ThreadPoolExecutor(num_threads()) as pool:
        waiting = {plan.name: pool.submit(make_tensor, plan, reader, seed) for plan in plans if not plan.needs_model}
        alone = {plan.name: make_tensor(plan, reader, seed, context) for plan in plans if plan.needs_model}
        return {plan.name: alone[plan.name] if plan.needs_model else waiting[plan.name].result() for plan in plans}


def slots_of(
    plan: TensorPlan, reader: Reader, seed: int, context: Context | None = None
) -> Iterator[tuple[Scheme, Slot]]:
    """Yield every new region with its scheme, where the tensor's pretrained elements can be read."""

    def trained() -> Iterator[torch.Tensor]:
        for copy in plan.kept:
            yield from reader.rows(copy.source, copy.source_region)

    for scheme, slot in plan.slots(seed, context):
        yield scheme, replace(slot, trained=trained if plan.kept else None, source=reader.tensor)


def kept_values(plan: TensorPlan, reader: Reader) -> Iterator[tuple[Region, torch.Tensor]]:
    """Yield every kept region with the source's elements for it."""
    for copy in plan.kept:
        yield copy.region, region_of(reader.tensor(copy.source), copy.source_region)


def draw_slot(scheme: Scheme, slot: Slot) -> torch.Tensor:
    """Draw the finished values of one slot, in the slot's dtype."""
    return finish(scheme, slot).contiguous()


def region_digests(plan: TensorPlan, tensor: torch.Tensor) -> list[str]:
    """Return the SHA-256 of the bytes of every new region, in the plan's order."""
    return [tensor_digest(region_of(tensor, fill.region)) for fill in plan.new]


def prove_duplicates(plan: Plan, reader: Reader) -> None:
    """Raise if a source holds different bytes under the two names of a tied tensor: tying keeps one of them.

    Raises:
        ProofError: the values differ; it names both tensors and the way to keep both.
    """
    for tensor in plan.tensors:
        if tensor.status is not Status.TIED or tensor.source is None or tensor.tied_to is None:
            continue
        for copy in plan[tensor.tied_to].kept:
            if not reader.same(copy.source, tensor.source):
                raise ProofError(
                    f"{tensor.name} and {tensor.tied_to} are one tensor in the model, but the checkpoint holds "
                    f"different values in {tensor.source} and {copy.source}; say which of them goes: "
                    + option("drop", [tensor.source])
                )


def _composed_tensor(plan: TensorPlan, reader: Reader, seed: int, context: Context | None) -> torch.Tensor:
    result = torch.empty(plan.shape, dtype=getattr(torch, plan.dtype))
    drawn = ((slot.region, draw_slot(scheme, slot)) for scheme, slot in slots_of(plan, reader, seed, context))
    for region, values in chain(kept_values(plan, reader), drawn):
        if isinstance(region, Rows):
            result.index_copy_(region.dim, torch.tensor(region.index), values)
        else:
            result[region.slices] = values
    return result
