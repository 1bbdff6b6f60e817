"""The memory executor: a plan becomes a complete state dict, and the loaded model is proved against the files."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import ClassVar

import torch

from hf_init._base_report import Draw, Report
from hf_init._checkpoint import Reader, equal_bytes, region_of
from hf_init._errors import ProofError
from hf_init._fill import make_tensor, make_tensors, prove_duplicates, region_digests
from hf_init._load.mapped import watch_pages
from hf_init._plan import Plan, TensorPlan
from hf_init._shards import gathered_tensor, is_sharded, local_parts, num_threads, said_by_all, write_region
from hf_init._tensors import Box, Context, Region, Status, num_elements
from hf_init._text import format_count, join_names

_ROWS = 256  # of a tensor in memory, at a time


@dataclass(frozen=True, repr=False)
class LoadReport(Report):
    """What was proved of a model in memory.

    Attributes:
        counts: tensors by status.
        bytes_compared: kept bytes that were read and compared with the files: of a model that is divided among ranks,
            those that this rank holds, and those of resized tensors.
        bytes_mapped: kept bytes that are the files' own: unmodified pages of a mapping, which needn't be read.
        cast: kept tensors that the model holds in another dtype: equal to the one exact cast.
        restored: tensors that the library's own initialization had overwritten, and that were put back.
        unproved: tensors that an offloading device map hides, which can't be compared.
    """

    counts: Mapping[str, int]
    bytes_compared: int = 0
    cast: tuple[str, ...] = ()
    restored: tuple[str, ...] = ()
    unproved: tuple[str, ...] = field(default=())
    bytes_mapped: int = 0

    schema: ClassVar[str] = "hf_init.load/1"

    @property
    def bytes_proved(self) -> int:
        """Return how many kept bytes are those of the files, in whichever way it was proved."""
        return self.bytes_compared + self.bytes_mapped

    @property
    def headline(self) -> str:
        return f"proved: {format_count(self.bytes_proved)} kept bytes are those of the files"

    def parts(self, draw: Draw) -> Iterator[str]:
        lines = [self.headline]
        if self.cast:
            lines.append(f"  {len(self.cast)} tensors are the exact cast to the model's dtype: {join_names(self.cast)}")
        if self.restored:
            lines.append(f"  put back after the library's initialization overwrote them: {join_names(self.restored)}")
        if self.unproved:
            lines.append(f"  not compared, since they are offloaded: {join_names(self.unproved)}")
        yield "\n".join(lines)

    def document(self) -> Mapping[str, object]:
        return {
            "counts": self.counts,
            "bytes_compared": self.bytes_compared,
            "bytes_mapped": self.bytes_mapped,
            "cast": self.cast,
            "restored": self.restored,
            "unproved": self.unproved,
        }


@dataclass(frozen=True)
class LoadedTensor:
    """What a model holds for an entry of the plan, under its shape on disk.

    Attributes:
        own: whether it is the model's own memory, which writing to it writes to; not a copy converted from it.
    """

    tensor: torch.Tensor
    own: bool = True


@dataclass(frozen=True)
class StateDict:
    """Everything that the library's loader needs to load the target whole, under the names on disk.

    Attributes:
        values: kept tensors as lazy slices of the source's files, new and resized ones as tensors; nothing is left
            where the whole model has them.
        digests: of every new region.
    """

    values: dict[str, object]
    digests: dict[str, list[str]]


def compose(plan: Plan, reader: Reader, context: Context | None) -> StateDict:
    """Return the complete state dict of a plan: with it, the library has nothing left to initialize."""
    fresh = [tensor for tensor in plan.stored if not tensor.status.is_whole]
    values = make_tensors(fresh, reader, plan.seed, context)
    kept: dict[str, object] = {}
    places: set[object] = set()
    for tensor in plan.stored:
        if tensor.status.is_whole and tensor.source:
            place = reader.place(tensor.source)
            # Where the same bytes of a file are kept twice, then a copy: the two are not tied. What training does to
            # one must not happen to the other, nor may save_pretrained take them for one tensor and leave one out.
            kept[tensor.name] = reader.tensor(tensor.source).clone() if place in places else reader.slice(tensor.source)
            places.add(place)
    return StateDict(
        {tensor.name: values.get(tensor.name, kept.get(tensor.name)) for tensor in plan.stored},
        {tensor.name: region_digests(tensor, values[tensor.name]) for tensor in fresh},
    )


def prove(
    plan: Plan,
    reader: Reader,
    context: Context | None,
    made: StateDict,
    held: Callable[[TensorPlan], LoadedTensor | None],
) -> LoadReport:
    """Compare every tensor of a loaded model with what the plan says, byte for byte, and put back what differs.

    A tensor that is still mapped from its file, no page of it written to, is what the file holds without being read.
    Of one that is divided among ranks each compares its part, with the file or with what was made whole; nothing is
    gathered, and little is in memory at a time.

    Args:
        plan, reader, context, made: as ``compose`` took and gave them.
        held: what the model holds for an entry of the plan; None where it is offloaded.

    Raises:
        ProofError: a tensor differs and can't be put back; it names the tensor, the row and both values.
    """
    prove_duplicates(plan, reader)
    found = {tensor.name: held(tensor) for tensor in plan.stored if tensor.status is not Status.CARRIED}
    here = {name: each for name, each in found.items() if each is not None and each.tensor.device.type != "meta"}
    entries = [tensor for tensor in plan.stored if tensor.name in here]
    mapped = _mapped_tensors(entries, here, reader)
    rest = [tensor for tensor in entries if tensor.name not in mapped]
    reader.open(copy.source for tensor in rest for copy in tensor.kept)

    def holds(tensor: TensorPlan) -> bool:
        now = here[tensor.name].tensor
        if not is_sharded(now):
            return _is_as_planned(tensor, now, reader, made.digests)
        if tensor.status is Status.KEPT and tensor.source:
            return all(_equals_file(part, reader, tensor.source, box) for part, box in local_parts(now))
        value = made.values.pop(tensor.name)  # needed no more after this
        assert isinstance(value, torch.Tensor)
        return _is_as_planned(tensor, value, reader, made.digests) and all(
            _equal_blocks(part, value[box.slices].split(_ROWS) if box.shape else [value])
            for part, box in local_parts(now)
        )

    with ThreadPoolExecutor(num_threads()) as pool:
        # What was made goes first, so that it isn't in memory for longer than it must be.
        ordered = sorted(rest, key=lambda tensor: tensor.status is Status.KEPT)
        right = dict(zip((tensor.name for tensor in ordered), pool.map(holds, ordered), strict=True))
    tensors = [each.tensor for each in here.values()]
    names = {*said_by_all((t.name for t in rest if not right[t.name]), tensors)}
    wrong = [tensor for tensor in rest if tensor.name in names]
    faults = [_restore_tensor(tensor, here[tensor.name], reader, plan.seed, context) for tensor in wrong]
    if failed := said_by_all(filter(None, faults), tensors):
        raise ProofError("\n".join(failed))
    return LoadReport(
        plan.counts,
        sum(_compared_bytes(tensor, here[tensor.name].tensor) for tensor in rest),
        cast=tuple(t.name for t in entries if t.kept and _is_cast(t, here[t.name].tensor)),
        restored=tuple(tensor.name for tensor in wrong),
        unproved=tuple(name for name in found if name not in here),
        bytes_mapped=sum(here[name].tensor.nbytes for name in mapped),
    )


def _mapped_tensors(entries: Iterable[TensorPlan], here: Mapping[str, LoadedTensor], reader: Reader) -> frozenset[str]:
    """Return the kept tensors whose memory is the file's own."""
    whole = {
        t.name: t.source
        for t in entries
        if t.status is Status.KEPT and not _is_cast(t, here[t.name].tensor) and not is_sharded(here[t.name].tensor)
    }
    places = {name: reader.place(source) for name, source in whole.items() if source is not None}
    if not places:
        return frozenset()
    with watch_pages({path for path, _, _ in places.values()}) as pages:
        return frozenset(name for name, at in places.items() if pages and pages.hold(here[name].tensor, *at))


def _is_cast(tensor: TensorPlan, now: torch.Tensor) -> bool:
    return str(now.dtype) != f"torch.{tensor.dtype}"


def _is_as_planned(tensor: TensorPlan, now: torch.Tensor, reader: Reader, made: Mapping[str, list[str]]) -> bool:
    if tensor.status is Status.KEPT and tensor.source:
        flat = now.detach().cpu().contiguous().reshape(-1)
        blocks = reader.blocks(tensor.source)
        return all(_equal_after_cast(flat[start : start + block.numel()], block) for start, block in blocks)
    parts = ((region_of(now, copy.region), copy) for copy in tensor.kept)
    if not all(_equals_file(part, reader, copy.source, copy.source_region) for part, copy in parts):
        return False
    digests = made.get(tensor.name, [])
    return not digests if _is_cast(tensor, now) else region_digests(tensor, now) == digests


def _equal_after_cast(now: torch.Tensor, want: torch.Tensor) -> bool:
    """Return whether bytes are equal, after the one exact cast where the model's dtype is another."""
    return equal_bytes(now, want.to(now.dtype))


def _equals_file(now: torch.Tensor, reader: Reader, name: str, region: Region) -> bool:
    """Return whether elements are what a file has in a region, which is read a block at a time."""
    return _equal_blocks(now, reader.rows(name, region) if region.shape else [reader.tensor(name)])


def _equal_blocks(now: torch.Tensor, blocks: Iterable[torch.Tensor]) -> bool:
    """Return whether elements are those of blocks of rows, one behind the other; of a scalar, of the only one."""
    start = 0
    for block in blocks:
        if not now.ndim:
            return _equal_after_cast(now, block)
        if not _equal_after_cast(now[start : start + len(block)], block):
            return False
        start += len(block)
    return start == len(now) or not now.numel()


def _compared_bytes(tensor: TensorPlan, now: torch.Tensor) -> int:
    if is_sharded(now) and tensor.status is Status.KEPT:
        return sum(local.nbytes for local, _ in local_parts(now))
    return sum(num_elements(copy.region.shape) for copy in tensor.kept) * now.element_size()


def _restore_tensor(
    tensor: TensorPlan, held: LoadedTensor, reader: Reader, seed: int, context: Context | None
) -> str | None:
    """Put back what a tensor should hold; return what is wrong with it where that can't be."""
    want = make_tensor(tensor, reader, seed, context)
    if held.own:
        write_region(held.tensor, Box.whole(tensor.shape), want.to(held.tensor.device))
    now = gathered_tensor(held.tensor)
    if _equal_after_cast(now, want):
        return None
    want = want.to(now.dtype).to(now.device)
    differs = (now != want) & ~(now.isnan() & want.isnan()) if now.is_floating_point() else now != want
    first = tuple(int(i) for i in differs.nonzero()[0]) if bool(differs.any()) else ()
    return (
        f"{tensor.name} {list(first)}: the model holds {now[first].flatten()[:1].tolist()}, "
        f"expected {want[first].flatten()[:1].tolist()}; the model can't be trusted"
    )
