"""With a plan: the kept and the new part of every tensor, each with what it was. Reads headers."""

from __future__ import annotations

from collections.abc import Iterator
from threading import Lock
from typing import Any

import numpy as np

from hf_init._checkpoint import Checkpoint, Entry, bits
from hf_init._drift._cast import castable
from hf_init._drift._frozen import KEPT
from hf_init._drift._measure import Pair
from hf_init._drift._subject import ALL, NEW, Recompute, Scene, Subject, apart, pair, stranger
from hf_init._manifest import copies, left_out, region_fault
from hf_init._spec import count, region_from_json
from hf_init._verify._parts import Held
from hf_init._verify._parts import stored as region_of


def planned(scene: Scene) -> Iterator[Subject]:
    entries, seen = {entry["name"]: entry for entry in scene.guide.entries}, set()
    for entry in entries.values():
        tied = entry["status"] == "tied"
        found = stored(scene.trained, entry)
        if found is not None:
            seen.add(found.name)
        if tied and found is not None:
            owner = entries[entry["tied_to"]]
            yield from _of(scene, {**owner, "name": entry["name"], "of": owner["name"]}, found)
        elif not tied:
            yield from _of(scene, entry, found)
    yield from (stranger(scene, entry) for entry in scene.trained.entries.values() if entry.name not in seen)


def faults(scene: Scene) -> Iterator[str]:
    for entry in scene.guide.entries:
        found = stored(scene.trained, entry)
        if found is not None and list(found.shape) != entry["shape"]:
            yield f"{found.name} has the shape {list(found.shape)}, the plan says {entry['shape']}"


def stored(trained: Checkpoint, entry: dict[str, Any]) -> Entry | None:
    """A planned tensor in the trained files: under its name on disk, or the one in the model."""
    return trained.entries.get(entry["name"]) or trained.entries.get(entry.get("parameter") or entry["name"])


def _of(scene: Scene, entry: dict[str, Any], found: Entry | None) -> Iterator[Subject]:
    """The parts of a planned tensor."""
    shape, new = tuple(entry["shape"]), entry.get("new") or []
    if found is None:
        if not left_out(entry):
            yield _missing(scene, entry, shape)
        return
    remark = f"tied to {entry['of']} in the plan, and stored by itself" if "of" in entry else ""
    whole = len(new) == 0 or not copies(entry)
    if copies(entry):
        yield _kept(scene, entry, found, ALL if whole else KEPT, remark)
    if new:
        yield _new(scene, entry, found, ALL if whole else NEW, remark)


def _missing(scene: Scene, entry: dict[str, Any], shape: tuple[int, ...]) -> Subject:
    origin = KEPT if copies(entry) else NEW
    return Subject(
        entry["name"],
        origin,
        scene.frozen.holds(_names(entry), origin),
        shape,
        entry["dtype"],
        count(shape),
        stored=False,
        ignored=entry.get("role") == "ignored",
        also=_names(entry),
    )


def _names(entry: dict[str, Any]) -> tuple[str, ...]:
    return entry["name"], entry.get("parameter") or entry["name"]


def _kept(scene: Scene, entry: dict[str, Any], found: Entry, portion: str, remark: str) -> Subject:
    regions = [(copy["region"], *_before(scene, entry, copy)) for copy in copies(entry)]
    faults = [fault for _, name, region in regions if (fault := _misfit(scene.base, name, region, found))]
    pairs = () if faults else tuple(pair(scene, found, *place) for place in regions)
    return Subject(
        found.name,
        KEPT,
        scene.frozen.holds((found.name, *_names(entry)), KEPT),
        found.shape,
        found.dtype,
        sum(count(region_from_json(region, found.shape).shape) for region, _, _ in regions),
        portion,
        _dtype(scene.base, regions[0][1]),
        pairs,
        fault=next(iter(faults), ""),
        remark=remark,
        also=_names(entry),
    )


def _before(scene: Scene, entry: dict[str, Any], copy: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Where in the base a kept region was: at the same place of the result before training, or in the source."""
    if scene.extended:
        return entry.get("of", entry["name"]), copy["region"]
    return copy["source"], copy["source_region"]


def _misfit(base: Checkpoint, name: str, region: dict[str, Any], found: Entry) -> str:
    """Why a region of the base can't be what a trained region was."""
    source = base.entries.get(name)
    if source is None:
        return f"{name} is not in the base"
    return region_fault(region, source.shape) or apart(source, found)


def _dtype(base: Checkpoint, name: str) -> str | None:
    return base.entries[name].dtype if name in base.entries else None


def _new(scene: Scene, entry: dict[str, Any], found: Entry, portion: str, remark: str) -> Subject:
    regions = [part["region"] for part in entry["new"]]
    pairs, dtype, fault = _fresh(scene, entry, found)
    digests = scene.guide.manifest.digests.get(entry.get("of", entry["name"]), []) if scene.guide.manifest else []
    stored_regions = [region_of(scene.trained, found.name, region) for region in regions]
    same = found.dtype == entry["dtype"]
    return Subject(
        found.name,
        NEW,
        scene.frozen.holds((found.name, *_names(entry)), NEW),
        found.shape,
        found.dtype,
        sum(count(region_from_json(region, found.shape).shape) for region in regions),
        portion,
        dtype,
        pairs,
        tuple(zip(stored_regions, digests, strict=True)) if digests and same else (),
        fault=fault,
        remark=remark,
        also=_names(entry),
    )


def _fresh(scene: Scene, entry: dict[str, Any], found: Entry) -> tuple[tuple[Pair, ...], str | None, str]:
    """What new regions were before training: in the extended base, or derived again."""
    if scene.extended:
        name = entry.get("of", entry["name"])
        fault = _misfit(scene.base, name, entry["new"][0]["region"], found)
        pairs = [] if fault else [pair(scene, found, part["region"], name, part["region"]) for part in entry["new"]]
        return tuple(pairs), _dtype(scene.base, name), fault
    if scene.recompute is None or left_out(entry) or (bits(entry["dtype"]) < 8):
        return (), None, ""
    if entry["dtype"] != found.dtype and not castable(entry["dtype"], found.dtype):
        return (), entry["dtype"], ""
    again = _again(scene.recompute)
    made = {key: value for key, value in entry.items() if key != "of"} | {"name": entry.get("of", entry["name"])}
    pairs = [_recomputed(scene, found, made, part, again) for part in entry["new"]]
    return tuple(pairs), entry["dtype"], ""


def _again(recompute: Recompute) -> Recompute:
    """One at a time: a scheme may ask the architecture, of which there is one."""
    lock = Lock()

    def locked(entry: dict[str, Any], part: dict[str, Any]) -> np.ndarray:
        with lock:
            return recompute(entry, part)

    return locked


def _recomputed(scene: Scene, found: Entry, entry: dict[str, Any], part: dict[str, Any], again: Recompute) -> Pair:
    after = region_of(scene.trained, found.name, part["region"])
    width = bits(entry["dtype"]) // 8

    def before() -> Held:
        raw = np.ascontiguousarray(again(entry, part)).reshape(-1).view(np.uint8)
        return Held(raw.view(f"<u{width}").reshape(after.shape))

    return Pair(after, before, entry["dtype"])
