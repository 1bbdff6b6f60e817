"""What can be said against a result from headers and manifest alone, without reading a value."""

from __future__ import annotations

from collections.abc import Iterator

from hf_init._checkpoint import Checkpoint, dtype_bits
from hf_init._plan import Manifest, entry_copies, region_fault
from hf_init._tensors import Status, region_from_json
from hf_init._verify.differences import Difference, PlanEntry
from hf_init._verify.tiling import tiling_fault


def extra_tensors(result: Checkpoint, manifest: Manifest) -> Iterator[Difference]:
    """Yield the tensors in the result's files that the plan doesn't have."""
    planned = {entry["name"] for entry in manifest.tensors}
    for name in result.entries:
        if name not in planned:
            yield {"name": name, "reason": "extra: in the result, not in the plan"}
    for shard, name in result.unmapped:
        yield {"name": name, "reason": f"extra: in {shard}, where the index doesn't have it"}


def unaccounted(base: Checkpoint, manifest: Manifest) -> Iterator[Difference]:
    """Yield tensors of the base that are neither a source nor listed as unused, and listed ones that it lacks."""
    unused = set(manifest.plan["unused"])
    sources = {entry["source"] for entry in manifest.tensors if "source" in entry}
    sources |= {copy["source"] for entry in manifest.tensors for copy in entry.get("kept") or ()}
    for name in base.entries:
        if name not in sources and name not in unused:
            yield {"name": name, "reason": "unaccounted: in the base, neither used nor listed as unused"}
    for name in manifest.plan["unused"]:
        if name not in base.entries:
            yield {"name": name, "reason": "listed as unused, not in the base"}


def stored_fault(result: Checkpoint, entry: PlanEntry) -> Difference | None:
    """Return a difference if a tensor that is tied, or left to the user's code, is in the files all the same."""
    if entry["name"] not in result.entries:
        return None
    why = f"tied to {entry['tied_to']}" if entry["status"] == Status.TIED else "left out by its scheme"
    return {"reason": f"{why}, and yet stored in the files"}


def check_form(result: Checkpoint, entry: PlanEntry) -> Difference | None:
    """Return what is wrong with a tensor's presence, dtype, shape or regions in the result; None if nothing is."""
    stored = result.entries.get(entry["name"])
    if stored is None:
        return {"reason": "missing: in the plan, not in the result"}
    if stored.dtype != entry["dtype"]:
        return {"reason": "dtype", "seen": stored.dtype, "expected": entry["dtype"]}
    if list(stored.shape) != entry["shape"]:
        return {"reason": "shape", "seen": list(stored.shape), "expected": entry["shape"]}
    if entry["status"] == Status.KEPT:
        return None
    parts = [*entry_copies(entry), *(entry.get("new") or ())]
    return tiling_fault(stored.shape, [region_from_json(part["region"], stored.shape) for part in parts])


def source_fault(base: Checkpoint, entry: PlanEntry, copy: PlanEntry) -> Difference | None:
    """Return why the source can't be what was copied; None if it can."""
    source = base.entries.get(copy["source"])
    if source is None:
        return {"reason": f"its source {copy['source']} is not in the base"}
    if source.dtype != entry["dtype"]:
        return {"reason": "dtype of its source in the base", "seen": source.dtype, "expected": entry["dtype"]}
    if (entry["status"] == Status.KEPT or dtype_bits(source.dtype) < 8) and list(source.shape) != entry["shape"]:
        return {"reason": "shape of its source in the base", "seen": list(source.shape), "expected": entry["shape"]}
    if fault := region_fault(copy["source_region"], source.shape):
        return {"reason": f"source {fault}"}
    seen = region_from_json(copy["source_region"], source.shape).shape
    expected = region_from_json(copy["region"], tuple(entry["shape"])).shape
    if seen != expected:
        return {"reason": "shape of the source region", "seen": list(seen), "expected": list(expected)}
    return None
