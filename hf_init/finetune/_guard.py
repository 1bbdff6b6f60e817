"""Digests of what is frozen, taken once and compared whenever it is asked: which bytes moved, and where."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from hf_init._checkpoint import Checkpoint, Reader, equal_bytes, tensor_digest
from hf_init._errors import CheckpointError, PlanError, ProofError
from hf_init._tensors import Box, Region, Shape, num_elements
from hf_init._text import format_bytes, format_count
from hf_init._verify import jsonable
from hf_init.finetune._model import ModelTensor, PlanOrigin
from hf_init.finetune._rows import pick_rows, put_rows


@dataclass(frozen=True)
class GuardReport:
    """What became of everything frozen.

    Attributes:
        tensors: how many were compared.
        nbytes: of their frozen regions.
        differences: one dict each with ``name`` and ``reason``; where the old bytes are at hand also ``row``,
            ``index``, ``seen``, ``expected``, ``changed_rows`` and ``changed_elements``.
    """

    tensors: int
    nbytes: int
    differences: tuple[dict[str, Any], ...]

    @property
    def ok(self) -> bool:
        """Whether every frozen byte is what it was."""
        return not self.differences

    def to_json(self) -> dict[str, Any]:
        return {
            "ok": self.ok,
            "tensors": self.tensors,
            "bytes_compared": self.nbytes,
            "differences": jsonable(list(self.differences)),
        }

    def raise_if_moved(self) -> None:
        """Raise ProofError, naming tensors, rows and both values, unless everything is what it was."""
        if not self.ok:
            raise ProofError(
                f"{self._counted()} moved while frozen:\n{_listed(self.differences)}\n"
                "Something writes to these tensors: an optimizer made before freezing, code that assigns to them, or a "
                "module that updates itself in training mode."
            )

    def __str__(self) -> str:
        head = f"frozen and identical: {self.tensors} tensors, {format_bytes(self.nbytes)}"
        return head if self.ok else f"{self._counted()} moved while frozen\n{_listed(self.differences)}"

    def _counted(self) -> str:
        return "1 tensor" if len(self.differences) == 1 else f"{len(self.differences)} tensors"


@dataclass(frozen=True)
class FrozenDigests:
    """A frozen tensor: its regions, the digest of each, and their values where copies are kept."""

    place: ModelTensor
    regions: tuple[Region, ...]
    dtype: torch.dtype
    digests: tuple[str, ...]
    copies: tuple[torch.Tensor, ...] = ()

    @classmethod
    def of(cls, place: ModelTensor, regions: tuple[Region, ...], copies: bool) -> FrozenDigests:
        tensor = place.tensor.detach()
        parts = [pick_rows(tensor, region) for region in regions]
        kept = tuple(part.cpu().clone() for part in parts) if copies else ()
        return cls(place, regions, tensor.dtype, tuple(map(tensor_digest, parts)), kept)

    @property
    def nbytes(self) -> int:
        return sum(num_elements(region.shape) for region in self.regions) * self.dtype.itemsize

    def moved(self) -> str | None:
        """What is no longer as it was; None where all is."""
        tensor = self.place.tensor.detach()
        if tensor.dtype != self.dtype:
            return f"dtype is {tensor.dtype}, was {self.dtype}"
        now = (tensor_digest(pick_rows(tensor, region)) for region in self.regions)
        return None if all(a == b for a, b in zip(now, self.digests, strict=True)) else "not what it was"


class Guard:
    """Everything frozen in a model, under its names in the model."""

    def __init__(
        self, found: Iterable[tuple[ModelTensor, tuple[Region, ...]]], origin: PlanOrigin, copies: bool
    ) -> None:
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            held = list(pool.map(lambda item: FrozenDigests.of(item[0], item[1], copies), found))
        self.held: dict[str, FrozenDigests] = {each.place.name: each for each in held}
        self._origin = origin

    def release(self, names: Iterable[str]) -> None:
        """No longer watches these tensors."""
        for name in names:
            self.held.pop(name, None)

    def verify(self) -> GuardReport:
        """Compares every frozen byte with what it was, by SHA-256."""
        held = list(self.held.values())
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            reasons = list(pool.map(FrozenDigests.moved, held))
        moved = [(each, reason) for each, reason in zip(held, reasons, strict=True) if reason]
        with GuardFiles(self._origin) as files:
            differences = tuple(self._described(each, reason, files) for each, reason in moved)
        return GuardReport(len(held), sum(each.nbytes for each in held), differences)

    def refuse_changed(self) -> None:
        """The model must hold what the files hold from which the plan and its values come, where they are at hand.

        Raises:
            PlanError: the model was changed since; it names each tensor, the row and both values.
        """
        with GuardFiles(self._origin) as files:
            files.refuse_others(self.held.values())
            changed = [each for each in self.held.values() if not files.hold(each)]
            differences = [self._described(each, "differs from the files", files) for each in changed]
        if differences:
            raise PlanError(
                f"the model was changed since the plan was made:\n{_listed(differences)}\n"
                "Load it again from what the plan made; or freeze it as it is now, with check=False"
            )

    def _described(self, held: FrozenDigests, reason: str, files: GuardFiles) -> dict[str, Any]:
        """A difference with the place and both values, from the copies or from the files."""
        then = list(zip(held.regions, held.copies, strict=False)) or files.values(held)
        return {"name": held.place.name, "reason": reason, **_difference(held, then)}


class GuardFiles:
    """The folders that a model came from, where they are at hand: the result first, then the base.

    Nothing is mapped while what is compared is equal: what a process has mapped counts as its memory.
    """

    def __init__(self, origin: PlanOrigin) -> None:
        self._result, self._base = _opened(origin.folder), _opened(origin.base)
        self._stack = ExitStack()

    def __enter__(self) -> GuardFiles:
        self._readers = {id(each): self._stack.enter_context(Reader(each)) for each in self._sources}
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def hold(self, held: FrozenDigests) -> bool:
        """Whether the files hold a tensor's frozen regions as the model does, after the exact cast to its dtype."""
        source, places = self._places(held)
        tensor = held.place.tensor.detach().cpu()
        return all(self._holds(source, name, at, pick_rows(tensor, region)) for region, name, at in places)

    def values(self, held: FrozenDigests) -> list[tuple[Region, torch.Tensor]]:
        """The frozen regions with the files' values, in the dtype in which they were frozen."""
        source, places = self._places(held)
        read = self._readers[id(source)].tensor if places else None
        return [(region, pick_rows(read(name), at).to(held.dtype).clone()) for region, name, at in places if read]

    def refuse_others(self, found: Iterable[FrozenDigests]) -> None:
        """The files must be those of the plan.

        Raises:
            PlanError: a tensor has another shape in them; all are named.
        """
        wanted = [self._places(held) for held in found]
        faults = [
            f"{name} in {source.root} is {_x(source.entries[name].shape)}, which the plan's regions don't fit"
            for source, places in wanted
            for _, name, at in places
            if source and not _inside(at, source.entries[name].shape)
        ]
        if faults:
            raise PlanError("\n".join(["the checkpoint is another one than the plan's:", *faults]))

    @property
    def _sources(self) -> list[Checkpoint]:
        return [each for each in (self._result, self._base) if each is not None]

    def _places(self, held: FrozenDigests) -> tuple[Checkpoint | None, list[tuple[Region, str, Region]]]:
        """A checkpoint, and for every frozen region the tensor and the region in it; none where nothing is known."""
        if not held.place.whole:
            return None, []
        (entry,) = held.place.entries
        if self._result is not None and entry.name in self._result.entries:
            return self._result, [(region, entry.name, region) for region in held.regions]
        at_base = [(copy.region, copy.source, copy.source_region) for copy in entry.kept]
        known = self._base is not None and all(name in self._base.entries for _, name, _ in at_base)
        return (self._base, at_base) if known else (None, [])

    def _holds(self, source: Checkpoint | None, name: str, region: Region, now: torch.Tensor) -> bool:
        """Whether a region of a tensor in a file is what it is in memory."""
        reader = self._readers[id(source)]
        if source is not None and region == Box.whole(source.entries[name].shape):
            flat = now.reshape(-1)
            blocks = reader.blocks(name)
            return all(equal_bytes(flat[at : at + each.numel()], each.to(now.dtype)) for at, each in blocks)
        return equal_bytes(now, pick_rows(reader.tensor(name), region).to(now.dtype))


def _opened(folder: Path | None) -> Checkpoint | None:
    """A folder without weights, such as a Trainer's, tells nothing."""
    if folder is None:
        return None
    try:
        return Checkpoint.open(folder)
    except CheckpointError:
        return None


def _inside(region: Region, shape: Shape) -> bool:
    """Whether a region is one of a tensor of this shape; a whole one must be all of it."""
    if not isinstance(region, Box):
        return region.dim < len(shape) and max(region.index, default=-1) < shape[region.dim]
    return len(region.stop) == len(shape) and all(b <= n for b, n in zip(region.stop, shape, strict=True))


def _x(shape: Shape) -> str:
    return "x".join(map(str, shape)) or "scalar"


def _difference(held: FrozenDigests, then: Sequence[tuple[Region, torch.Tensor]]) -> dict[str, Any]:
    """The first place at which a tensor isn't what it was, with both values; nothing where that isn't known."""
    now = held.place.tensor.detach().cpu()
    moved = torch.zeros(now.shape, dtype=torch.bool)
    old = now.clone()
    for region, values in then:
        put_rows(moved, region, tensor_bits(pick_rows(now, region)) != tensor_bits(values))
        put_rows(old, region, values)
    places = moved.nonzero()
    if not len(places):
        return {}
    index = tuple(places[0].tolist())
    rows = len(places[:, 0].unique()) if now.ndim else 1
    values = {"seen": now[index].item(), "expected": old[index].item()}
    place = {"row": index[0] if index else 0, "index": list(index)}
    return {**place, **values, "changed_rows": rows, "changed_elements": len(places)}


def _told(difference: dict[str, Any]) -> str:
    """One difference in a line."""
    text = f"{difference['name']}: {difference['reason']}"
    if "row" not in difference:
        return text
    rows = f"{difference['changed_rows']} row{'s' if difference['changed_rows'] > 1 else ''} changed"
    values = f"seen {difference['seen']}, expected {difference['expected']}"
    return f"{text} at row {difference['row']}, index {difference['index']} ({rows}): {values}"


def _listed(differences: Sequence[dict[str, Any]], most: int = 5) -> str:
    more = [f"... and {len(differences) - most} more"] if len(differences) > most else []
    return "\n".join(f"  {line}" for line in (*map(_told, differences[:most]), *more))


def tensor_bits(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor's elements as whole numbers of their width: -0.0 is not 0.0, and NaN is itself."""
    widths = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    return tensor.contiguous().view(widths[tensor.dtype.itemsize])


def element_counts(held: Iterable[FrozenDigests]) -> str:
    """How much is frozen, in words."""
    found = list(held)
    return f"{format_count(len(found))} tensors, {format_bytes(sum(each.nbytes for each in found))}"
