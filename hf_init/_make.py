"""One target tensor made from its plan: what the memory and the disk executor share. It decides nothing."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from itertools import zip_longest
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors import safe_open

from hf_init._checkpoint import bits
from hf_init._errors import CheckpointError, ProofError
from hf_init._runs import gather, opened, outer, runs
from hf_init._spec import Context, Region, Rows, Status
from hf_init.schemes import Scheme, finish

if TYPE_CHECKING:
    from hf_init._checkpoint import Checkpoint
    from hf_init._plan import Plan, TensorPlan
    from hf_init._spec import Slot


# A multiple of every element's size; small enough to stay in a processor's cache while two of them are compared.
BLOCK = 1 << 20


class Reader:
    """The tensors of a checkpoint as torch sees them: mapped, not read, until they are used.

    A context manager; ``shards`` may be opened in any order and stay open until the end.
    """

    def __init__(self, source: Checkpoint) -> None:
        self._source = source
        self._stack = ExitStack()
        self._open: dict[str, Any] = {}
        self._paths: dict[str, Path] = {}
        self._lock = Lock()

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *_: object) -> None:
        self._open.clear()
        self._stack.close()

    def tensor(self, name: str) -> torch.Tensor:
        """The whole tensor, mapped: it must not be written to."""
        return self._shard(name).get_tensor(self._source.entries[name].key)

    def slice(self, name: str) -> Any:
        """What the library's own loader takes in place of a tensor, and reads when it is ready for it."""
        return self._shard(name).get_slice(self._source.entries[name].key)

    def place(self, name: str) -> tuple[Path, int, int]:
        """The file of a tensor, and where in it its bytes start and stop."""
        entry = self._source.entries[name]
        if entry.shard not in self._paths:
            self._paths[entry.shard] = self._source.local(entry.shard)
        return self._paths[entry.shard], entry.start, entry.stop

    def rows(self, name: str, region: Region) -> Iterator[torch.Tensor]:
        """A region's elements, read some of its leading slices at a time: ``(some, *region.shape[1:])``.

        Raises:
            CheckpointError: the file can't be read, or has become shorter.
        """
        entry = self._source.entries[name]
        shape = (replace(region, of=entry.shape) if isinstance(region, Rows) else region).shape
        places = runs(region, entry.shape, bits(entry.dtype), entry.start, max(outer(region, entry.shape), 1))
        each = places.many // max(shape[0], 1)
        some = max(BLOCK // max(each * places.size, 1), 1)
        with opened(self._source.local(entry.shard)) as file:
            for first in range(0, shape[0] if each else 0, some):
                last = min(first + some, shape[0])
                data = gather(file, places.starts(first * each, last * each), places.size)
                values = torch.from_numpy(data.reshape(-1)).view(getattr(torch, entry.dtype))
                yield values.reshape(last - first, *shape[1:])

    def blocks(self, name: str) -> Iterator[tuple[int, torch.Tensor]]:
        """A tensor's elements, read a block at a time, each with the place of its first; little stays in memory."""
        entry = self._source.entries[name]
        dtype = getattr(torch, entry.dtype)
        with open(self._source.root / entry.shard, "rb", buffering=0) as file:
            for start in range(entry.start, entry.stop, BLOCK):
                data = bytearray(min(BLOCK, entry.stop - start))
                if os.preadv(file.fileno(), [data], start) != len(data):
                    raise CheckpointError(f"{file.name} ends before {name!r} does: it was changed while it was read")
                yield (start - entry.start) // dtype.itemsize, torch.frombuffer(data, dtype=dtype)

    def open(self, names: Iterable[str]) -> None:
        """Maps the files of these tensors."""
        for name in names:
            self._shard(name)

    def _shard(self, name: str) -> Any:
        shard = self._source.entries[name].shard
        with self._lock:
            if shard not in self._open:
                path = str(self._source.root / shard)
                self._open[shard] = self._stack.enter_context(safe_open(path, framework="pt", device="cpu"))
            return self._open[shard]


def make(plan: TensorPlan, reader: Reader, seed: int, context: Context | None = None) -> torch.Tensor:
    """The target tensor of a plan's entry, of ``plan.shape`` and ``plan.dtype``.

    A kept tensor is a mapped view of the source. What is new is drawn in float32 by its scheme and rounded once.
    """
    if plan.status is Status.KEPT:
        assert plan.source is not None
        return reader.tensor(plan.source)
    if plan.status is Status.NEW:
        ((scheme, slot),) = slots(plan, reader, seed, context)
        return drawn(scheme, slot)
    return _composed(plan, reader, seed, context)


def make_all(
    plans: Iterable[TensorPlan], reader: Reader, seed: int, context: Context | None = None
) -> dict[str, torch.Tensor]:
    """The tensors of several entries by name, in their order; drawn by all cores, as no value depends on another.

    Schemes that ask the architecture take turns.
    """
    plans = list(plans)
    for plan in plans:  # opened here, once: what threads share must be there before them
        reader.open(copy.source for copy in plan.kept)
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        waiting = {plan.name: pool.submit(make, plan, reader, seed) for plan in plans if not _asks(plan)}
        asked = {plan.name: make(plan, reader, seed, context) for plan in plans if _asks(plan)}
        return {plan.name: asked[plan.name] if _asks(plan) else waiting[plan.name].result() for plan in plans}


def _asks(plan: TensorPlan) -> bool:
    return any(fill.scheme.asks for fill in plan.new)


def slots(plan: TensorPlan, reader: Reader, seed: int, context: Context | None = None) -> Iterator[tuple[Scheme, Slot]]:
    """Every new region with its scheme, where the tensor's pretrained elements can be read."""
    trained = (lambda: _trained(plan, reader)) if plan.kept else None
    for scheme, slot in plan.slots(seed, context):
        yield scheme, replace(slot, trained=trained, source=reader.tensor)


def _trained(plan: TensorPlan, reader: Reader) -> Iterator[torch.Tensor]:
    for copy in plan.kept:
        yield from reader.rows(copy.source, copy.source_region)


def kept(plan: TensorPlan, reader: Reader) -> Iterator[tuple[Region, torch.Tensor]]:
    """Every kept region with the source's elements for it."""
    for copy in plan.kept:
        yield copy.region, part(reader.tensor(copy.source), copy.source_region)


def drawn(scheme: Scheme, slot: Slot) -> torch.Tensor:
    """The finished values of one slot, in the slot's dtype."""
    return finish(scheme, slot).contiguous()


def digests(plan: TensorPlan, tensor: torch.Tensor) -> list[str]:
    """SHA-256 of the bytes of every new region, in the plan's order."""
    return [digest(part(tensor, fill.region)) for fill in plan.new]


def digest(tensor: torch.Tensor) -> str:
    """SHA-256 of a tensor's bytes, row by row."""
    return hashlib.sha256(as_bytes(tensor).numpy().data).hexdigest()


def as_bytes(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor's bytes as a flat ``uint8`` tensor; no copy where it is contiguous on the CPU."""
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)


def part(tensor: torch.Tensor, region: Region) -> torch.Tensor:
    """The elements of a region, as a tensor of the region's shape."""
    if isinstance(region, Rows):
        return tensor.index_select(region.dim, torch.tensor(region.index))
    return tensor[region.slices]


def equal_bytes(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Whether two tensors hold the same bytes; eight at a time, as integers.

    Floating point would take -0.0 for 0.0 and would not take NaN for itself. By numpy, since torch's comparison wakes
    every thread it has for each call.
    """
    left, right = as_bytes(a).numpy(), as_bytes(b).numpy()
    words = left.size // 8 * 8
    return (
        left.size == right.size
        and np.array_equal(left[:words].view(np.uint64), right[:words].view(np.uint64))
        and np.array_equal(left[words:], right[words:])
    )


def prove_duplicates(plan: Plan, reader: Reader) -> None:
    """A source that holds a tied tensor under both names must hold the same bytes: tying keeps one of the two.

    Raises:
        ProofError: the values differ; it names both tensors and the way to keep both.
    """
    for tensor in plan.tensors:
        if tensor.status is not Status.TIED or tensor.source is None or tensor.tied_to is None:
            continue
        for copy in plan[tensor.tied_to].kept:
            if not _equal(reader, copy.source, tensor.source):
                raise ProofError(
                    f"the config ties {tensor.name} to {tensor.tied_to}, but the checkpoint holds different values in "
                    f"{tensor.source} and {copy.source}; keep both with tie_word_embeddings=False "
                    "(--config tie_word_embeddings=false)"
                )


def _equal(reader: Reader, a: str, b: str) -> bool:
    pairs = zip_longest(reader.blocks(a), reader.blocks(b), fillvalue=(0, torch.empty(0)))
    return all(equal_bytes(left, right) for (_, left), (_, right) in pairs)


def _composed(plan: TensorPlan, reader: Reader, seed: int, context: Context | None) -> torch.Tensor:
    result = torch.empty(plan.shape, dtype=getattr(torch, plan.dtype))
    for region, values in _pieces(plan, reader, seed, context):
        if isinstance(region, Rows):
            result.index_copy_(region.dim, torch.tensor(region.index), values)
        else:
            result[region.slices] = values
    return result


def _pieces(
    plan: TensorPlan, reader: Reader, seed: int, context: Context | None
) -> Iterator[tuple[Region, torch.Tensor]]:
    yield from kept(plan, reader)
    for scheme, slot in slots(plan, reader, seed, context):
        yield slot.region, drawn(scheme, slot)
