"""What is checked of one tensor by reading it, and the differences that this finds."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TypeAlias

import numpy as np

from hf_init._checkpoint import Checkpoint
from hf_init._plan import Manifest, TensorPlan
from hf_init._progress import Progress
from hf_init._tensors import Box, Copy, Region, num_elements
from hf_init._verify.compare import ByteComparison, bytes_digest
from hf_init._verify.differences import Difference, TensorDiff
from hf_init._verify.ranges import compare_all, same_file_bytes
from hf_init._verify.regions import ArrayRegion, RegionPart, StoredTensor, stored_tensor
from hf_init._verify.threads import VerifyJob, VerifyMeter, WorkerBuffers

KEPT = "kept bytes differ from the base"

ExpectedDigest: TypeAlias = tuple[str, Region, str]
"""A reason to know the digest of a region, the region, and the digest."""


@dataclass(frozen=True)
class ByteCheck:
    """Regions of a tensor that should hold the same bytes as others."""

    name: str
    reason: str
    comparisons: tuple[ByteComparison, ...]
    everything: bool

    def differences(self) -> Iterator[Difference]:
        """Yield one difference: the first, and all the rows that differ."""
        diff = next((comparison.diff for comparison in self.comparisons), None)
        if diff and diff.first:
            yield {"name": self.name, "reason": self.reason, **diff.to_json(self.everything)}


@dataclass(frozen=True)
class _DigestedRegion:
    """A region of a tensor and what its digest should be, for each reason to know it."""

    region: Region
    part: RegionPart
    expected: dict[str, str]


@dataclass(frozen=True)
class DigestCheck:
    """Regions of a tensor that should have the digests in the manifest."""

    name: str
    regions: tuple[_DigestedRegion, ...]
    progress: Progress
    seen: dict[int, str] = field(default_factory=dict)

    def jobs(self) -> Iterator[VerifyJob]:
        return (partial(self._digest, number) for number in range(len(self.regions)))

    def _digest(self, number: int, buffers: WorkerBuffers) -> bool:
        each = self.regions[number]
        self.seen[number] = seen = bytes_digest(each.part, buffers.seen, self.progress)
        return any(seen != expected for expected in each.expected.values())

    def differences(self) -> Iterator[Difference]:
        """Yield, for each reason, the first region that differs, and how many do."""
        changed: dict[str, list[Difference]] = {}
        for number, seen in sorted(self.seen.items()):
            for reason, expected in self.regions[number].expected.items():
                if seen != expected:
                    one = {"region": self.regions[number].region.to_json(), "seen": seen, "expected": expected}
                    changed.setdefault(reason, []).append(one)
        for reason, differing in changed.items():
            yield {"name": self.name, "reason": reason, **differing[0], "changed_regions": len(differing)}


def check_kept(
    result: Checkpoint, base: Checkpoint, tensor: TensorPlan, meter: VerifyMeter, everything: bool
) -> ByteCheck:
    """Return the check of every kept region against its source."""
    diff = _empty_diff(result, tensor.name)
    comparisons = tuple(
        ByteComparison(seen, expected, seen.region, diff, number, meter, everything)
        for number, (seen, expected) in enumerate(_kept_pairs(result, base, tensor))
    )
    return ByteCheck(tensor.name, KEPT, comparisons, everything)


def is_linked(result: Checkpoint, base: Checkpoint, tensor: TensorPlan) -> bool:
    """Return whether all that is kept of a tensor is its source itself, by a link: only digests tell more."""
    kinds = [same_file_bytes(seen, expected) for seen, expected in _kept_pairs(result, base, tensor)]
    return bool(kinds) and all(kinds)


def _kept_pairs(
    result: Checkpoint, base: Checkpoint, tensor: TensorPlan
) -> Iterator[tuple[StoredTensor, StoredTensor]]:
    for copy in tensor.kept:
        yield (
            stored_tensor(result, tensor.name, copy.region),
            stored_tensor(base, copy.source, copy.source_region),
        )


def check_tied(
    base: Checkpoint, tensor: TensorPlan, pairs: Iterable[tuple[Copy, Copy]], everything: bool
) -> Iterator[ByteCheck]:
    """Yield the checks of what the base has under a tied name against what is kept for both: two tensors of it."""
    for copy, other in pairs:
        seen = stored_tensor(base, other.source, other.source_region)
        expected = stored_tensor(base, copy.source, copy.source_region)
        diff = _empty_diff(base, other.source)
        comparison = ByteComparison(seen, expected, seen.region, diff, everything=everything)
        reason = f"kept as {other.source}, {copy.source} differs from it in the base"
        yield ByteCheck(tensor.name, reason, (comparison,), everything)


def check_new(result: Checkpoint, manifest: Manifest, tensor: TensorPlan, progress: Progress) -> DigestCheck:
    """Return the check of every new region against its digest."""
    return DigestCheck(tensor.name, _regions_once(result, tensor, _new_digests(manifest, tensor)), progress)


def check_recorded(result: Checkpoint, manifest: Manifest, tensor: TensorPlan, progress: Progress) -> DigestCheck:
    """Return the check of every region, and of the whole, against the digests that the manifest has of them."""
    expected = [*_kept_digests(manifest, tensor), *_new_digests(manifest, tensor)]
    if manifest.tensor_digests is not None:
        whole = Box.whole(tensor.shape)
        expected.append(("digest of the whole tensor", whole, manifest.tensor_digests[tensor.name]))
    return DigestCheck(tensor.name, _regions_once(result, tensor, expected), progress)


def has_kept_digests(result: Checkpoint, manifest: Manifest, tensor: TensorPlan, buffers: WorkerBuffers) -> bool:
    """Return whether the manifest has digests of what is kept of a tensor, and those are its digests."""
    regions = _regions_once(result, tensor, _kept_digests(manifest, tensor))
    return bool(regions) and all(bytes_digest(each.part, buffers.seen) in each.expected.values() for each in regions)


def recomputed_differences(
    result: Checkpoint, tensor: TensorPlan, values: Sequence[np.ndarray], everything: bool
) -> Iterator[Difference]:
    """Compare every new region with its recomputed bytes, one array a region, and yield what differs."""
    name, reason = tensor.name, "recomputed value has another size"
    regions = [stored_tensor(result, name, fill.region) for fill in tensor.new]
    pairs = list(zip(regions, values, strict=True))
    sizes = [(fresh.nbytes, num_elements(region.shape) * region.width) for region, fresh in pairs]
    if wrong := [{"seen": seen, "expected": expected} for seen, expected in sizes if seen != expected]:
        yield from ({"name": name, "reason": reason, **fault} for fault in wrong)
        return
    diff = _empty_diff(result, name)
    elements = (np.ascontiguousarray(fresh).reshape(-1).view(np.uint8).view(f"<u{of.width}") for of, fresh in pairs)
    comparisons = tuple(
        ByteComparison(of, ArrayRegion(fresh.reshape(of.shape)), of.region, diff, number, everything=everything)
        for number, (of, fresh) in enumerate(zip(regions, elements, strict=True))
    )
    compare_all(comparisons, everything=everything)
    yield from ByteCheck(name, "recomputed value differs", comparisons, everything).differences()


def _empty_diff(checkpoint: Checkpoint, name: str) -> TensorDiff:
    return TensorDiff.of(stored_tensor(checkpoint, name).whole, checkpoint.entries[name].dtype)


def _new_digests(manifest: Manifest, tensor: TensorPlan) -> Iterator[ExpectedDigest]:
    digests = manifest.digests.get(tensor.name, ())
    for fill, expected in zip(tensor.new, digests, strict=True):
        yield "digest of new bytes", fill.region, expected


def _kept_digests(manifest: Manifest, tensor: TensorPlan) -> Iterator[ExpectedDigest]:
    digests = (manifest.kept_digests or {}).get(tensor.name, ())
    for copy, expected in zip(tensor.kept if digests else (), digests, strict=True):
        yield "digest of kept bytes", copy.region, expected


def _regions_once(
    result: Checkpoint, tensor: TensorPlan, expected: Iterable[ExpectedDigest]
) -> tuple[_DigestedRegion, ...]:
    """Return each region once, with all the reasons to know its digest."""
    regions: dict[Region, dict[str, str]] = {}
    for reason, region, digest in expected:
        regions.setdefault(region, {})[reason] = digest
    return tuple(
        _DigestedRegion(region, stored_tensor(result, tensor.name, region), reasons)
        for region, reasons in regions.items()
    )
