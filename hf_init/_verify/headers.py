"""What can be said against a result from headers and manifest alone, without reading a value."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeAlias

from hf_init._checkpoint import Checkpoint, dtype_bits
from hf_init._plan import Manifest, entry_copies, region_fault
from hf_init._tensors import Status, region_from_json
from hf_init._verify.tiling import tiling_fault

FormDifference: TypeAlias = dict[str, Any]


def strangers(result: Checkpoint, manifest: Manifest) -> Iterator[FormDifference]:
    """Tensors in the result's files that the plan doesn't have."""
    planned = {entry["name"] for entry in manifest.tensors}
    for name in result.entries:
        if name not in planned:
            yield {"name": name, "reason": "extra: in the result, not in the plan"}
    for shard, name in result.unmapped:
        yield {"name": name, "reason": f"extra: in {shard}, where the index doesn't have it"}


def unaccounted(base: Checkpoint, manifest: Manifest) -> Iterator[FormDifference]:
    """Tensors of the base that are neither a source nor listed as unused, and those listed that it doesn't have."""
    sources = {source for entry in manifest.tensors for source in _sources(entry)}
    unused = set(manifest.plan["unused"])
    for name in base.entries:
        if name not in sources and name not in unused:
            yield {"name": name, "reason": "unaccounted: in the base, neither used nor listed as unused"}
    for name in manifest.plan["unused"]:
        if name not in base.entries:
            yield {"name": name, "reason": "listed as unused, not in the base"}


def _sources(entry: dict[str, Any]) -> Iterator[str]:
    if "source" in entry:
        yield entry["source"]
    yield from (copy["source"] for copy in entry.get("kept") or ())


def too_many(result: Checkpoint, entry: dict[str, Any]) -> Iterator[FormDifference]:
    """A tensor that is tied, or left to the user's code, and yet in the files."""
    if entry["name"] in result.entries:
        why = f"tied to {entry['tied_to']}" if entry["status"] == Status.TIED else "left out by its scheme"
        yield {"reason": f"{why}, and yet stored in the files"}


def check_form(result: Checkpoint, entry: dict[str, Any]) -> FormDifference | None:
    """A tensor's presence, dtype and shape in the result, and that its regions cover it once."""
    found = result.entries.get(entry["name"])
    if found is None:
        return {"reason": "missing: in the plan, not in the result"}
    if found.dtype != entry["dtype"]:
        return {"reason": "dtype", "seen": found.dtype, "expected": entry["dtype"]}
    if list(found.shape) != entry["shape"]:
        return {"reason": "shape", "seen": list(found.shape), "expected": entry["shape"]}
    return _tiling(entry)


def _tiling(entry: dict[str, Any]) -> FormDifference | None:
    if entry["status"] == Status.KEPT:
        return None
    shape = tuple(entry["shape"])
    parts = [*entry_copies(entry), *(entry.get("new") or ())]
    return tiling_fault(shape, [region_from_json(part["region"], shape) for part in parts])


def source_fault(base: Checkpoint, entry: dict[str, Any], copy: dict[str, Any]) -> FormDifference | None:
    """Why the source can't be what was copied."""
    source = base.entries.get(copy["source"])
    if source is None:
        return {"reason": f"its source {copy['source']} is not in the base"}
    if source.dtype != entry["dtype"]:
        return {"reason": "dtype of its source in the base", "seen": source.dtype, "expected": entry["dtype"]}
    if (entry["status"] == Status.KEPT or dtype_bits(source.dtype) < 8) and list(source.shape) != entry["shape"]:
        return {"reason": "shape of its source in the base", "seen": list(source.shape), "expected": entry["shape"]}
    fault = region_fault(copy["source_region"], source.shape)
    if fault:
        return {"reason": f"source {fault}"}
    seen = region_from_json(copy["source_region"], source.shape).shape
    expected = region_from_json(copy["region"], tuple(entry["shape"])).shape
    return (
        None
        if seen == expected
        else {"reason": "shape of the source region", "seen": list(seen), "expected": list(expected)}
    )
