"""What is checked of one tensor by reading it, and the differences that were found."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeAlias

import numpy as np

from hf_init._checkpoint import Checkpoint
from hf_init._plan import Manifest, entry_copies
from hf_init._tensors import Box, num_elements
from hf_init._verify.compare import ByteComparison, Progress, bytes_digest
from hf_init._verify.differences import TensorDiff
from hf_init._verify.headers import FormDifference
from hf_init._verify.ranges import are_one
from hf_init._verify.regions import ArrayRegion, RegionPart, StoredTensor, stored_tensor
from hf_init._verify.threads import VerifyJob, VerifyMeter, WorkerBuffers

KEPT = "kept bytes differ from the base"


@dataclass(frozen=True)
class Compared:
    """Regions of a tensor that should hold the same bytes as others."""

    name: str
    reason: str
    comparisons: tuple[ByteComparison, ...]
    everything: bool

    def found(self) -> Iterator[FormDifference]:
        """One difference: the first, and all the rows that differ."""
        tally = next((comparison.tally for comparison in self.comparisons), None)
        if tally and tally.first:
            yield {"name": self.name, "reason": self.reason, **tally.to_json(self.everything)}


@dataclass(frozen=True)
class Wanted:
    """A region of a tensor and what its digest should be, for each reason to know it."""

    region: dict[str, Any]
    part: RegionPart
    expected: dict[str, str]


@dataclass(frozen=True)
class Digested:
    """Regions of a tensor that should have the digests in the manifest."""

    name: str
    wanted: tuple[Wanted, ...]
    done: Progress
    seen: dict[int, str] = field(default_factory=dict)

    def jobs(self) -> Iterator[VerifyJob]:
        return (partial(self._digest, number, wanted) for number, wanted in enumerate(self.wanted))

    def _digest(self, number: int, wanted: Wanted, desk: WorkerBuffers) -> bool:
        self.seen[number] = seen = bytes_digest(wanted.part, desk.seen, self.done)
        return any(seen != expected for expected in wanted.expected.values())

    def found(self) -> Iterator[FormDifference]:
        """For each reason, the first region that differs, and how many do."""
        changed: dict[str, list[FormDifference]] = {}
        for number, seen in sorted(self.seen.items()):
            for reason, expected in self.wanted[number].expected.items():
                if seen != expected:
                    place = {"region": self.wanted[number].region, "seen": seen, "expected": expected}
                    changed.setdefault(reason, []).append(place)
        for reason, places in changed.items():
            yield {"name": self.name, "reason": reason, **places[0], "changed_regions": len(places)}


def check_kept(
    result: Checkpoint, base: Checkpoint, entry: dict[str, Any], meter: VerifyMeter, everything: bool
) -> Compared:
    """Every kept region against its source."""
    tally = _tally(result, entry["name"])
    comparisons = tuple(
        ByteComparison(
            seen := stored_tensor(result, entry["name"], copy["region"]),
            stored_tensor(base, copy["source"], copy["source_region"]),
            seen.region,
            tally,
            number,
            meter,
            everything,
        )
        for number, copy in enumerate(entry_copies(entry))
    )
    return Compared(entry["name"], KEPT, comparisons, everything)


def is_own(result: Checkpoint, base: Checkpoint, entry: dict[str, Any]) -> bool:
    """Whether all that is kept of a tensor is its source itself, by a link and at one place: only digests tell more."""
    pairs = (
        (
            stored_tensor(result, entry["name"], copy["region"]),
            stored_tensor(base, copy["source"], copy["source_region"]),
        )
        for copy in entry_copies(entry)
    )
    found = [are_one(seen, expected) for seen, expected in pairs]
    return bool(found) and all(found)


def check_tied(
    base: Checkpoint, entry: dict[str, Any], pairs: Iterable[tuple[dict[str, Any], dict[str, Any]]], everything: bool
) -> Iterator[Compared]:
    """What the base holds under a tied name, against what is kept for both; two tensors of the base."""
    for copy, other in pairs:
        seen = stored_tensor(base, other["source"], other["source_region"])
        expected = stored_tensor(base, copy["source"], copy["source_region"])
        comparison = ByteComparison(seen, expected, seen.region, _tally(base, other["source"]), everything=everything)
        reason = f"kept as {other['source']}, {copy['source']} differs from it in the base"
        yield Compared(entry["name"], reason, (comparison,), everything)


def check_new(result: Checkpoint, manifest: Manifest, entry: dict[str, Any], done: Progress) -> Digested:
    """Every new region against its digest."""
    return Digested(entry["name"], tuple(_wanted(result, entry, _new_digests(manifest, entry))), done)


def check_recorded(result: Checkpoint, manifest: Manifest, entry: dict[str, Any], done: Progress) -> Digested:
    """Every region, and the whole, against the digests that the manifest holds of them."""
    expected = [*_kept_digests(manifest, entry), *_new_digests(manifest, entry)]
    if manifest.tensor_digests is not None:
        whole = Box.whole(tuple(entry["shape"])).to_json()
        expected.append(("digest of the whole tensor", whole, manifest.tensor_digests[entry["name"]]))
    return Digested(entry["name"], tuple(_wanted(result, entry, expected)), done)


def as_recorded(result: Checkpoint, manifest: Manifest, entry: dict[str, Any], desk: WorkerBuffers) -> bool:
    """Whether the manifest holds digests of what is kept of a tensor, and it has them."""
    wanted = list(_wanted(result, entry, _kept_digests(manifest, entry)))
    return bool(wanted) and all(bytes_digest(each.part, desk.seen) in each.expected.values() for each in wanted)


def recomputed(result: Checkpoint, entry: dict[str, Any], fresh: Sequence[np.ndarray], everything: bool) -> Compared:
    """Every new region against its value derived again, as bytes and each of the size of its region."""
    tally = _tally(result, entry["name"])
    regions = [stored_tensor(result, entry["name"], part["region"]) for part in entry.get("new") or ()]
    comparisons = tuple(
        ByteComparison(part, _held(again, part), part.region, tally, number, everything=everything)
        for number, (part, again) in enumerate(zip(regions, fresh, strict=True))
    )
    return Compared(entry["name"], "recomputed value differs", comparisons, everything)


def size_fault(
    result: Checkpoint, entry: dict[str, Any], part: dict[str, Any], fresh: np.ndarray
) -> FormDifference | None:
    """That a value derived again doesn't fit its region."""
    region = stored_tensor(result, entry["name"], part["region"])
    expected = num_elements(region.shape) * region.width
    if fresh.nbytes == expected:
        return None
    reason = "recomputed value has another size"
    return {"name": entry["name"], "reason": reason, "seen": fresh.nbytes, "expected": expected}


def _tally(checkpoint: Checkpoint, name: str) -> TensorDiff:
    return TensorDiff.of(stored_tensor(checkpoint, name).whole, checkpoint.entries[name].dtype)


def _held(fresh: np.ndarray, part: StoredTensor) -> ArrayRegion:
    words = np.ascontiguousarray(fresh).reshape(-1).view(np.uint8).view(f"<u{part.width}")
    return ArrayRegion(words.reshape(part.shape))


Expected: TypeAlias = tuple[str, dict[str, Any], str]


def _new_digests(manifest: Manifest, entry: dict[str, Any]) -> Iterator[Expected]:
    digests = manifest.digests.get(entry["name"], ())
    for part, expected in zip(entry.get("new") or (), digests, strict=True):
        yield "digest of new bytes", part["region"], expected


def _kept_digests(manifest: Manifest, entry: dict[str, Any]) -> Iterator[Expected]:
    digests = (manifest.kept_digests or {}).get(entry["name"], ())
    for copy, expected in zip(entry_copies(entry) if digests else (), digests, strict=True):
        yield "digest of kept bytes", copy["region"], expected


def _wanted(result: Checkpoint, entry: dict[str, Any], expected: Iterable[Expected]) -> Iterator[Wanted]:
    """Each region once, whoever wants it."""
    found: dict[str, tuple[dict[str, Any], dict[str, str]]] = {}
    for reason, region, hexes in expected:
        found.setdefault(json.dumps(region, sort_keys=True), (region, {}))[1][reason] = hexes
    for region, reasons in found.values():
        yield Wanted(region, stored_tensor(result, entry["name"], region), reasons)
