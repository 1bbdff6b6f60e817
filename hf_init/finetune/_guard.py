"""Digests of what is frozen, taken once and compared with what is there now: which bytes moved, and where."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch

from hf_init._base_report import Draw, Report
from hf_init._checkpoint import Checkpoint, Reader, equal_bytes, tensor_digest
from hf_init._errors import CheckpointError, PlanError
from hf_init._plan import format_shape, region_fault
from hf_init._shards import gathered_tensor, is_sharded, said_by_all, write_region
from hf_init._tensors import Box, Region, num_elements
from hf_init._text import format_bytes, format_count, text_table
from hf_init._verify import draw_differences
from hf_init.finetune._model import ModelTensor, PlanOrigin
from hf_init.finetune._rows import pick_rows


@dataclass(frozen=True, repr=False)
class GuardReport(Report):
    """What became of everything frozen; true if nothing moved.

    Attributes:
        tensors: how many were compared.
        nbytes: of their frozen regions.
        differences: one dict each with ``name`` and ``reason``; where the old bytes are at hand also ``row``,
            ``index``, ``seen``, ``expected``, ``changed_rows`` and ``changed_elements``.
    """

    tensors: int
    nbytes: int
    differences: tuple[Mapping[str, object], ...]

    schema: ClassVar[str] = "hf_init.guard/1"

    @property
    def ok(self) -> bool:
        """Return whether every frozen byte is what it was."""
        return not self.differences

    @property
    def headline(self) -> str:
        if self.ok:
            return f"frozen and identical: {self.tensors} tensors, {format_bytes(self.nbytes)}"
        return f"{len(self.differences)} tensor{'s' if len(self.differences) > 1 else ''} moved while frozen"

    @property
    def failure(self) -> str:
        return (
            f"{self.headline}:\n{draw_differences(text_table, self.differences)}\n"
            "Something writes to these tensors: an optimizer made before freezing, code that assigns to them, or a "
            "module that updates itself in training mode."
        )

    def document(self) -> Mapping[str, object]:
        return {"tensors": self.tensors, "bytes_compared": self.nbytes, "differences": self.differences}

    def parts(self, draw: Draw) -> Iterator[str]:
        yield self.headline
        yield draw_differences(draw, self.differences)


@dataclass(frozen=True)
class FrozenDigests:
    """A frozen tensor: its regions, the digest of each, and their values where copies are kept."""

    origin: ModelTensor
    regions: tuple[Region, ...]
    dtype: torch.dtype
    digests: tuple[str, ...]
    copies: tuple[torch.Tensor, ...] = ()

    @classmethod
    def of(cls, origin: ModelTensor, regions: tuple[Region, ...], copies: bool) -> FrozenDigests:
        """Take the digests of a tensor's regions as they are now."""
        tensor = gathered_tensor(origin.tensor)
        parts = [pick_rows(tensor, region) for region in regions]
        kept = tuple(part.cpu().clone() for part in parts) if copies else ()
        return cls(origin, regions, tensor.dtype, tuple(map(tensor_digest, parts)), kept)

    @property
    def nbytes(self) -> int:
        return sum(num_elements(region.shape) for region in self.regions) * self.dtype.itemsize

    def reason_moved(self) -> str:
        """Return what is no longer as it was; empty where all is."""
        tensor = gathered_tensor(self.origin.tensor)
        if tensor.dtype != self.dtype:
            return f"dtype is {tensor.dtype}, was {self.dtype}"
        now = (tensor_digest(pick_rows(tensor, region)) for region in self.regions)
        return "" if all(a == b for a, b in zip(now, self.digests, strict=True)) else "not what it was"

    def difference(self, reason: str, values: Sequence[tuple[Region, torch.Tensor]]) -> dict[str, object]:
        """Return the reason, and the first index at which the tensor differs from older values, with both."""
        now = gathered_tensor(self.origin.tensor).cpu()
        moved, old = torch.zeros(now.shape, dtype=torch.bool), now.clone()
        for region, older in values:
            write_region(moved, region, _tensor_bits(pick_rows(now, region)) != _tensor_bits(older))
            write_region(old, region, older)
        result: dict[str, object] = {"name": self.origin.name, "reason": reason}
        indices = moved.nonzero()
        if not len(indices):
            return result
        index = tuple(indices[0].tolist())
        return result | {
            "row": index[0] if index else 0,
            "index": list(index),
            "seen": now[index].item(),
            "expected": old[index].item(),
            "changed_rows": len(indices[:, 0].unique()) if now.ndim else 1,
            "changed_elements": len(indices),
        }


class Guard:
    """The digests of everything frozen in a model, by its names in the model."""

    def __init__(
        self, regions: Iterable[tuple[ModelTensor, tuple[Region, ...]]], origin: PlanOrigin, copies: bool
    ) -> None:
        pairs = list(regions)
        with _pool_for(origin for origin, _ in pairs) as pool:
            frozen = list(pool.map(lambda pair: FrozenDigests.of(pair[0], pair[1], copies), pairs))
        self.digests = {each.origin.name: each for each in frozen}
        self._origin = origin

    @property
    def amount(self) -> str:
        """Return how much is frozen, in words."""
        nbytes = sum(each.nbytes for each in self.digests.values())
        return f"{format_count(len(self.digests))} tensors, {format_bytes(nbytes)}"

    def release(self, names: Iterable[str]) -> None:
        """Stop watching these tensors."""
        for name in names:
            self.digests.pop(name, None)

    def verify(self) -> GuardReport:
        """Compare every frozen byte with what it was, by SHA-256; all ranks return what any of them has seen."""
        frozen = list(self.digests.values())
        with _pool_for(each.origin for each in frozen) as pool:
            reasons = list(pool.map(FrozenDigests.reason_moved, frozen))
        moved = [(each, reason) for each, reason in zip(frozen, reasons, strict=True) if reason]
        with GuardFiles(self._origin) as files:
            seen = [
                each.difference(reason, [*zip(each.regions, each.copies, strict=False)] or files.values(each))
                for each, reason in moved
            ]
        differences = said_by_all(seen, (each.origin.tensor for each in frozen))
        return GuardReport(len(frozen), sum(each.nbytes for each in frozen), differences)

    def check_unchanged(self) -> None:
        """Raise PlanError unless the model holds what the files hold that the plan is of, where they are at hand.

        It names each tensor, the row and both values.
        """
        with GuardFiles(self._origin) as files:
            files.check_shapes(self.digests.values())
            changed = [each for each in self.digests.values() if not files.equal(each)]
            seen = [each.difference("differs from the files", files.values(each)) for each in changed]
        differences = said_by_all(seen, (each.origin.tensor for each in self.digests.values()))
        if differences:
            raise PlanError(
                f"the model was changed since the plan was made:\n{draw_differences(text_table, differences)}\n"
                "Load it again from what the plan made; or freeze it as it is now, with check=False"
            )


class GuardFiles:
    """The folders that a model came from, where they are at hand: the result first, then the base.

    Nothing is mapped while what is compared is equal: what a process has mapped counts as its memory.
    """

    def __init__(self, origin: PlanOrigin) -> None:
        self._result, self._base = _open_weights(origin.folder), _open_weights(origin.base)
        self._stack = ExitStack()

    def __enter__(self) -> GuardFiles:
        sources = [each for each in (self._result, self._base) if each is not None]
        self._readers = {id(each): self._stack.enter_context(Reader(each)) for each in sources}
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def equal(self, frozen: FrozenDigests) -> bool:
        """Return whether the files hold a tensor's frozen regions as the model does, after the cast to its dtype."""
        source, regions = self._regions_in_files(frozen)
        if source is None:
            return True
        reader, tensor = self._readers[id(source)], gathered_tensor(frozen.origin.tensor).cpu()
        for region, name, region_there in regions:
            now = pick_rows(tensor, region)
            if region_there == Box.whole(source.entries[name].shape):
                blocks, flat = reader.blocks(name), now.reshape(-1)
                same = all(equal_bytes(flat[at : at + each.numel()], each.to(now.dtype)) for at, each in blocks)
            else:
                same = equal_bytes(now, pick_rows(reader.tensor(name), region_there).to(now.dtype))
            if not same:
                return False
        return True

    def values(self, frozen: FrozenDigests) -> list[tuple[Region, torch.Tensor]]:
        """Return the frozen regions with the files' values, in the dtype in which they were frozen."""
        source, regions = self._regions_in_files(frozen)
        if source is None:
            return []
        read = self._readers[id(source)].tensor
        return [(region, pick_rows(read(name), there).to(frozen.dtype).clone()) for region, name, there in regions]

    def check_shapes(self, frozen: Iterable[FrozenDigests]) -> None:
        """Raise PlanError, naming all tensors of another shape, unless the files are those of the plan."""
        faults = [
            f"{name} in {source.root} is {format_shape(source.entries[name].shape)}, which the plan's regions don't fit"
            for source, regions in map(self._regions_in_files, frozen)
            for _, name, there in regions
            if source and region_fault(there, source.entries[name].shape)
        ]
        if faults:
            raise PlanError("\n".join(["the checkpoint is another one than the plan's:", *faults]))

    def _regions_in_files(self, frozen: FrozenDigests) -> tuple[Checkpoint | None, list[tuple[Region, str, Region]]]:
        """Return a checkpoint, and for each frozen region the name and region in it; None where nothing is known."""
        if not frozen.origin.whole:
            return None, []
        (entry,) = frozen.origin.entries
        if self._result is not None and entry.name in self._result.entries:
            return self._result, [(region, entry.name, region) for region in frozen.regions]
        if self._base is None or any(copy.source not in self._base.entries for copy in entry.kept):
            return None, []
        return self._base, [(copy.region, copy.source, copy.source_region) for copy in entry.kept]


def _pool_for(origins: Iterable[ModelTensor]) -> ThreadPoolExecutor:
    """Return threads to look at tensors with: one where any is gathered from the ranks, all in the same order."""
    return ThreadPoolExecutor(1 if any(is_sharded(origin.tensor) for origin in origins) else os.cpu_count())


def _open_weights(folder: Path | None) -> Checkpoint | None:
    """Open a checkpoint; None for a folder without weights, such as a Trainer's."""
    if folder is None:
        return None
    try:
        return Checkpoint.open(folder)
    except CheckpointError:
        return None


def _tensor_bits(tensor: torch.Tensor) -> torch.Tensor:
    """Return elements as whole numbers of their width: -0.0 is not 0.0, and NaN is itself."""
    widths = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    return tensor.contiguous().view(widths[tensor.dtype.itemsize])
