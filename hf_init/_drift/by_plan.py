"""With a plan: the kept and the new part of every tensor, each with what it was. Reads headers."""

from __future__ import annotations

from collections.abc import Iterator
from threading import Lock
from typing import Any

import numpy as np

from hf_init._checkpoint import Checkpoint, TensorEntry, dtype_bits
from hf_init._drift.cast import castable
from hf_init._drift.frozen_globs import KEPT
from hf_init._drift.measure import TensorPair
from hf_init._drift.parts import ALL, NEW, DriftInputs, Recompute, TensorPart, is_apart, pair_part, stranger
from hf_init._plan import entry_copies, is_left_out, region_fault
from hf_init._tensors import num_elements, region_from_json
from hf_init._verify import ArrayRegion
from hf_init._verify import stored_tensor as region_of


def planned_parts(scene: DriftInputs) -> Iterator[TensorPart]:
    entries, seen = {entry["name"]: entry for entry in scene.guide.entries}, set()
    for entry in entries.values():
        tied = entry["status"] == "tied"
        found = planned_tensors(scene.trained, entry)
        if found is not None:
            seen.add(found.name)
        if tied and found is not None:
            owner = entries[entry["tied_to"]]
            yield from _of(scene, {**owner, "name": entry["name"], "of": owner["name"]}, found)
        elif not tied:
            yield from _of(scene, entry, found)
    yield from (stranger(scene, entry) for entry in scene.trained.entries.values() if entry.name not in seen)


def plan_faults(scene: DriftInputs) -> Iterator[str]:
    for entry in scene.guide.entries:
        found = planned_tensors(scene.trained, entry)
        if found is not None and list(found.shape) != entry["shape"]:
            yield f"{found.name} has the shape {list(found.shape)}, the plan says {entry['shape']}"


def planned_tensors(trained: Checkpoint, entry: dict[str, Any]) -> TensorEntry | None:
    """A planned tensor in the trained files: under its name on disk, or the one in the model."""
    return trained.entries.get(entry["name"]) or trained.entries.get(entry.get("parameter") or entry["name"])


def _of(scene: DriftInputs, entry: dict[str, Any], found: TensorEntry | None) -> Iterator[TensorPart]:
    """The parts of a planned tensor."""
    shape, new = tuple(entry["shape"]), entry.get("new") or []
    if found is None:
        if not is_left_out(entry):
            yield _missing(scene, entry, shape)
        return
    remark = f"tied to {entry['of']} in the plan, and stored by itself" if "of" in entry else ""
    whole = len(new) == 0 or not entry_copies(entry)
    if entry_copies(entry):
        yield _kept(scene, entry, found, ALL if whole else KEPT, remark)
    if new:
        yield _new(scene, entry, found, ALL if whole else NEW, remark)


def _missing(scene: DriftInputs, entry: dict[str, Any], shape: tuple[int, ...]) -> TensorPart:
    origin = KEPT if entry_copies(entry) else NEW
    return TensorPart(
        entry["name"],
        origin,
        scene.frozen.holds(_names(entry), origin),
        shape,
        entry["dtype"],
        num_elements(shape),
        stored=False,
        ignored=entry.get("role") == "ignored",
        also=_names(entry),
    )


def _names(entry: dict[str, Any]) -> tuple[str, ...]:
    return entry["name"], entry.get("parameter") or entry["name"]


def _kept(scene: DriftInputs, entry: dict[str, Any], found: TensorEntry, portion: str, remark: str) -> TensorPart:
    regions = [(copy["region"], *_before(scene, entry, copy)) for copy in entry_copies(entry)]
    faults = [fault for _, name, region in regions if (fault := _misfit(scene.base, name, region, found))]
    pairs = () if faults else tuple(pair_part(scene, found, *place) for place in regions)
    return TensorPart(
        found.name,
        KEPT,
        scene.frozen.holds((found.name, *_names(entry)), KEPT),
        found.shape,
        found.dtype,
        sum(num_elements(region_from_json(region, found.shape).shape) for region, _, _ in regions),
        portion,
        _dtype(scene.base, regions[0][1]),
        pairs,
        fault=next(iter(faults), ""),
        remark=remark,
        also=_names(entry),
    )


def _before(scene: DriftInputs, entry: dict[str, Any], copy: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Where in the base a kept region was: at the same place of the result before training, or in the source."""
    if scene.extended:
        return entry.get("of", entry["name"]), copy["region"]
    return copy["source"], copy["source_region"]


def _misfit(base: Checkpoint, name: str, region: dict[str, Any], found: TensorEntry) -> str:
    """Why a region of the base can't be what a trained region was."""
    source = base.entries.get(name)
    if source is None:
        return f"{name} is not in the base"
    return region_fault(region, source.shape) or is_apart(source, found)


def _dtype(base: Checkpoint, name: str) -> str | None:
    return base.entries[name].dtype if name in base.entries else None


def _new(scene: DriftInputs, entry: dict[str, Any], found: TensorEntry, portion: str, remark: str) -> TensorPart:
    regions = [part["region"] for part in entry["new"]]
    pairs, dtype, fault = _fresh(scene, entry, found)
    digests = scene.guide.manifest.digests.get(entry.get("of", entry["name"]), []) if scene.guide.manifest else []
    stored_regions = [region_of(scene.trained, found.name, region) for region in regions]
    same = found.dtype == entry["dtype"]
    return TensorPart(
        found.name,
        NEW,
        scene.frozen.holds((found.name, *_names(entry)), NEW),
        found.shape,
        found.dtype,
        sum(num_elements(region_from_json(region, found.shape).shape) for region in regions),
        portion,
        dtype,
        pairs,
        tuple(zip(stored_regions, digests, strict=True)) if digests and same else (),
        fault=fault,
        remark=remark,
        also=_names(entry),
    )


def _fresh(
    scene: DriftInputs, entry: dict[str, Any], found: TensorEntry
) -> tuple[tuple[TensorPair, ...], str | None, str]:
    """What new regions were before training: in the extended base, or derived again."""
    if scene.extended:
        name = entry.get("of", entry["name"])
        fault = _misfit(scene.base, name, entry["new"][0]["region"], found)
        pairs = (
            [] if fault else [pair_part(scene, found, part["region"], name, part["region"]) for part in entry["new"]]
        )
        return tuple(pairs), _dtype(scene.base, name), fault
    if scene.recompute is None or is_left_out(entry) or (dtype_bits(entry["dtype"]) < 8):
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


def _recomputed(
    scene: DriftInputs, found: TensorEntry, entry: dict[str, Any], part: dict[str, Any], again: Recompute
) -> TensorPair:
    after = region_of(scene.trained, found.name, part["region"])
    width = dtype_bits(entry["dtype"]) // 8

    def before() -> ArrayRegion:
        raw = np.ascontiguousarray(again(entry, part)).reshape(-1).view(np.uint8)
        return ArrayRegion(raw.view(f"<u{width}").reshape(after.shape))

    return TensorPair(after, before, entry["dtype"])
