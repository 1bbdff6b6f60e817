"""What is checked of one tensor by reading it, and the differences that were found."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeAlias

import numpy as np

from hf_init._checkpoint import Checkpoint
from hf_init._manifest import Manifest, copies
from hf_init._spec import Box, count
from hf_init._verify._bytes import Comparison, Done, digest
from hf_init._verify._forms import Difference
from hf_init._verify._parts import Held, Part, Stored, stored
from hf_init._verify._stretches import are_one
from hf_init._verify._tally import Tally
from hf_init._verify._work import Desk, Job, Meter

KEPT = "kept bytes differ from the base"


@dataclass(frozen=True)
class Compared:
    """Regions of a tensor that should hold the same bytes as others."""

    name: str
    reason: str
    comparisons: tuple[Comparison, ...]
    everything: bool

    def found(self) -> Iterator[Difference]:
        """One difference: the first, and all the rows that differ."""
        tally = next((comparison.tally for comparison in self.comparisons), None)
        if tally and tally.first:
            yield {"name": self.name, "reason": self.reason, **tally.to_json(self.everything)}


@dataclass(frozen=True)
class Wanted:
    """A region of a tensor and what its digest should be, for each reason to know it."""

    region: dict[str, Any]
    part: Part
    expected: dict[str, str]


@dataclass(frozen=True)
class Digested:
    """Regions of a tensor that should have the digests in the manifest."""

    name: str
    wanted: tuple[Wanted, ...]
    done: Done
    seen: dict[int, str] = field(default_factory=dict)

    def jobs(self) -> Iterator[Job]:
        return (partial(self._digest, number, wanted) for number, wanted in enumerate(self.wanted))

    def _digest(self, number: int, wanted: Wanted, desk: Desk) -> bool:
        self.seen[number] = seen = digest(wanted.part, desk.seen, self.done)
        return any(seen != expected for expected in wanted.expected.values())

    def found(self) -> Iterator[Difference]:
        """For each reason, the first region that differs, and how many do."""
        changed: dict[str, list[Difference]] = {}
        for number, seen in sorted(self.seen.items()):
            for reason, expected in self.wanted[number].expected.items():
                if seen != expected:
                    place = {"region": self.wanted[number].region, "seen": seen, "expected": expected}
                    changed.setdefault(reason, []).append(place)
        for reason, places in changed.items():
            yield {"name": self.name, "reason": reason, **places[0], "changed_regions": len(places)}


def kept(result: Checkpoint, base: Checkpoint, entry: dict[str, Any], meter: Meter, everything: bool) -> Compared:
    """Every kept region against its source."""
    tally = _tally(result, entry["name"])
    comparisons = tuple(
        Comparison(
            seen := stored(result, entry["name"], copy["region"]),
            stored(base, copy["source"], copy["source_region"]),
            seen.region,
            tally,
            number,
            meter,
            everything,
        )
        for number, copy in enumerate(copies(entry))
    )
    return Compared(entry["name"], KEPT, comparisons, everything)


def is_own(result: Checkpoint, base: Checkpoint, entry: dict[str, Any]) -> bool:
    """Whether all that is kept of a tensor is its source itself, by a link and at one place: only digests tell more."""
    pairs = (
        (stored(result, entry["name"], copy["region"]), stored(base, copy["source"], copy["source_region"]))
        for copy in copies(entry)
    )
    found = [are_one(seen, expected) for seen, expected in pairs]
    return bool(found) and all(found)


def tied(
    base: Checkpoint, entry: dict[str, Any], pairs: Iterable[tuple[dict[str, Any], dict[str, Any]]], everything: bool
) -> Iterator[Compared]:
    """What the base holds under a tied name, against what is kept for both; two tensors of the base."""
    for copy, other in pairs:
        seen = stored(base, other["source"], other["source_region"])
        expected = stored(base, copy["source"], copy["source_region"])
        comparison = Comparison(seen, expected, seen.region, _tally(base, other["source"]), everything=everything)
        reason = f"kept as {other['source']}, {copy['source']} differs from it in the base"
        yield Compared(entry["name"], reason, (comparison,), everything)


def new(result: Checkpoint, manifest: Manifest, entry: dict[str, Any], done: Done) -> Digested:
    """Every new region against its digest."""
    return Digested(entry["name"], tuple(_wanted(result, entry, _new_digests(manifest, entry))), done)


def recorded(result: Checkpoint, manifest: Manifest, entry: dict[str, Any], done: Done) -> Digested:
    """Every region, and the whole, against the digests that the manifest holds of them."""
    expected = [*_kept_digests(manifest, entry), *_new_digests(manifest, entry)]
    if manifest.tensor_digests is not None:
        whole = Box.whole(tuple(entry["shape"])).to_json()
        expected.append(("digest of the whole tensor", whole, manifest.tensor_digests[entry["name"]]))
    return Digested(entry["name"], tuple(_wanted(result, entry, expected)), done)


def as_recorded(result: Checkpoint, manifest: Manifest, entry: dict[str, Any], desk: Desk) -> bool:
    """Whether the manifest holds digests of what is kept of a tensor, and it has them."""
    wanted = list(_wanted(result, entry, _kept_digests(manifest, entry)))
    return bool(wanted) and all(digest(each.part, desk.seen) in each.expected.values() for each in wanted)


def recomputed(result: Checkpoint, entry: dict[str, Any], fresh: Sequence[np.ndarray], everything: bool) -> Compared:
    """Every new region against its value derived again, as bytes and each of the size of its region."""
    tally = _tally(result, entry["name"])
    regions = [stored(result, entry["name"], part["region"]) for part in entry.get("new") or ()]
    comparisons = tuple(
        Comparison(part, _held(again, part), part.region, tally, number, everything=everything)
        for number, (part, again) in enumerate(zip(regions, fresh, strict=True))
    )
    return Compared(entry["name"], "recomputed value differs", comparisons, everything)


def size_fault(result: Checkpoint, entry: dict[str, Any], part: dict[str, Any], fresh: np.ndarray) -> Difference | None:
    """That a value derived again doesn't fit its region."""
    region = stored(result, entry["name"], part["region"])
    expected = count(region.shape) * region.width
    if fresh.nbytes == expected:
        return None
    reason = "recomputed value has another size"
    return {"name": entry["name"], "reason": reason, "seen": fresh.nbytes, "expected": expected}


def _tally(checkpoint: Checkpoint, name: str) -> Tally:
    return Tally.of(stored(checkpoint, name).whole, checkpoint.entries[name].dtype)


def _held(fresh: np.ndarray, part: Stored) -> Held:
    words = np.ascontiguousarray(fresh).reshape(-1).view(np.uint8).view(f"<u{part.width}")
    return Held(words.reshape(part.shape))


Expected: TypeAlias = tuple[str, dict[str, Any], str]


def _new_digests(manifest: Manifest, entry: dict[str, Any]) -> Iterator[Expected]:
    digests = manifest.digests.get(entry["name"], ())
    for part, expected in zip(entry.get("new") or (), digests, strict=True):
        yield "digest of new bytes", part["region"], expected


def _kept_digests(manifest: Manifest, entry: dict[str, Any]) -> Iterator[Expected]:
    digests = (manifest.kept_digests or {}).get(entry["name"], ())
    for copy, expected in zip(copies(entry) if digests else (), digests, strict=True):
        yield "digest of kept bytes", copy["region"], expected


def _wanted(result: Checkpoint, entry: dict[str, Any], expected: Iterable[Expected]) -> Iterator[Wanted]:
    """Each region once, whoever wants it."""
    found: dict[str, tuple[dict[str, Any], dict[str, str]]] = {}
    for reason, region, hexes in expected:
        found.setdefault(json.dumps(region, sort_keys=True), (region, {}))[1][reason] = hexes
    for region, reasons in found.values():
        yield Wanted(region, stored(result, entry["name"], region), reasons)
