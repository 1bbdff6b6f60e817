"""``verify``: a result folder against its own manifest and the base that it was made from."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from hf_init._checkpoint import Checkpoint, bits
from hf_init._errors import CheckpointError
from hf_init._manifest import Manifest, left_out, region_fault
from hf_init._spec import Box, Region, Shape, Status, count, region_from_json
from hf_init._verify._bytes import Meter, Tally, compare, digest
from hf_init._verify._report import VerifyReport
from hf_init._verify._tiling import tiling_fault

Recompute: TypeAlias = Callable[[dict[str, Any], dict[str, Any]], np.ndarray]
Difference: TypeAlias = dict[str, Any]


@dataclass(frozen=True)
class _Proof:
    """What every check needs."""

    result: Checkpoint
    base: Checkpoint
    manifest: Manifest
    recompute: Recompute | None
    meter: Meter


def verify(
    out: str | os.PathLike[str],
    base: str | os.PathLike[str] | None = None,
    recompute: Recompute | None = None,
    progress: Callable[[int], object] | None = None,
) -> VerifyReport:
    """Compare every byte of a result with what its manifest says: kept ones with the base, new ones with their digests.

    Args:
        out: the result's folder.
        base: the source's folder; by default the one that the manifest names.
        recompute: from a tensor's and a new region's entry in the plan to the bytes (uint8) due there.
        progress: called with the bytes done since it was last called.

    Raises:
        CheckpointError: a folder, a file or the manifest can't be read. A difference raises nothing: see the report.

    Example:
        >>> import tempfile, numpy, safetensors.numpy
        >>> folder = tempfile.TemporaryDirectory()
        >>> safetensors.numpy.save_file({"w": numpy.ones(3, "float32")}, f"{folder.name}/model.safetensors")
        >>> entry = {"name": "w", "status": "kept", "shape": [3], "dtype": "float32", "source": "w"}
        >>> base = {"path": folder.name, "fingerprint": Checkpoint.open(folder.name).fingerprint()}
        >>> Manifest({"tensors": [entry], "unused": []}, base, {}, "an example").save(folder.name)
        >>> verify(folder.name).ok
        True
        >>> folder.cleanup()
    """
    manifest = Manifest.load(out)
    with Checkpoint.open(out) as result, open_base(manifest, base) as source:
        proof = _Proof(result, source, manifest, recompute, Meter(progress))
        differences = (*_strangers(proof), *_tensors(proof), *_unaccounted(proof))
        return VerifyReport(
            _counts(manifest),
            proof.meter.compared,
            proof.meter.digested,
            differences,
            tuple(_notes(proof)),
            str(source.root),
        )


def open_base(manifest: Manifest, base: str | os.PathLike[str] | None) -> Checkpoint:
    """The checkpoint that a result came from: the one that is given, or where the manifest says it was."""
    if base is None and not Path(manifest.base["path"]).is_dir():
        raise CheckpointError(
            f"The base that the manifest names, {manifest.base['path']}, is not there. Say where it is now: "
            "verify(out, base=FOLDER), or --base FOLDER on the command line."
        )
    return Checkpoint.open(manifest.base["path"] if base is None else base)


def _counts(manifest: Manifest) -> dict[str, int]:
    found = Counter(entry["status"] for entry in manifest.tensors)
    by_status = {status.value: found[status.value] for status in Status}
    return {"tensors": len(manifest.tensors), **by_status, "unused": len(manifest.plan["unused"])}


def _notes(proof: _Proof) -> Iterator[str]:
    if proof.base.fingerprint() != proof.manifest.base["fingerprint"]:
        yield f"{proof.base.root} is not the very same files that the result was made from; the bytes decide"
    for checkpoint in (proof.result, proof.base):
        for stray in checkpoint.strays:
            yield f"{checkpoint.root}: {stray} is not read, another file goes before it"
    if proof.base.unmapped:
        yield f"{proof.base.root}: {len(proof.base.unmapped)} tensors in its files are not in its index, and not used"


def _strangers(proof: _Proof) -> Iterator[Difference]:
    """Tensors in the result's files that the plan doesn't have."""
    planned = {entry["name"] for entry in proof.manifest.tensors}
    for name in proof.result.entries:
        if name not in planned:
            yield {"name": name, "reason": "extra: in the result, not in the plan"}
    for shard, name in proof.result.unmapped:
        yield {"name": name, "reason": f"extra: in {shard}, where the index doesn't have it"}


def _unaccounted(proof: _Proof) -> Iterator[Difference]:
    """Tensors of the base that are neither a source nor listed as unused, and those listed that it doesn't have."""
    sources = {source for entry in proof.manifest.tensors for source in _sources(entry)}
    unused = set(proof.manifest.plan["unused"])
    for name in proof.base.entries:
        if name not in sources and name not in unused:
            yield {"name": name, "reason": "unaccounted: in the base, neither used nor listed as unused"}
    for name in sorted(unused - proof.base.entries.keys()):
        yield {"name": name, "reason": "listed as unused, not in the base"}


def _sources(entry: dict[str, Any]) -> Iterator[str]:
    if "source" in entry:
        yield entry["source"]
    yield from (copy["source"] for copy in entry.get("kept") or ())


def _tensors(proof: _Proof) -> Iterator[Difference]:
    for entry in proof.manifest.tensors:
        for difference in _tensor(proof, entry):
            yield {"name": entry["name"], **difference}


def _tensor(proof: _Proof, entry: dict[str, Any]) -> Iterator[Difference]:
    if entry["status"] == Status.TIED or left_out(entry):
        yield from _unstored(proof, entry)
        return
    fault = _form(proof.result, entry) or _tiling(entry)
    if fault:
        yield fault
    else:
        yield from _kept(proof, entry)
        yield from _new(proof, entry)


def _unstored(proof: _Proof, entry: dict[str, Any]) -> Iterator[Difference]:
    """A tensor that is tied, or left to the user's code: not in the files."""
    tied = entry["status"] == Status.TIED
    if entry["name"] in proof.result.entries:
        why = f"tied to {entry['tied_to']}" if tied else "left out by its scheme"
        yield {"reason": f"{why}, and yet stored in the files"}
    if tied and "source" in entry:
        yield from _tied(proof, entry)


def _tied(proof: _Proof, entry: dict[str, Any]) -> Iterator[Difference]:
    """What the base holds under a tied name must be what is kept in the tensor that it is tied to."""
    other = next(other for other in proof.manifest.tensors if other["name"] == entry["tied_to"])
    copies = [{**copy, "source": entry["source"]} for copy in _copies(other)]
    if not copies:
        yield {"reason": f"its source {entry['source']} is in the base, and nothing of it in {entry['tied_to']}"}
    for copy, kept in zip(copies, _copies(other), strict=True):
        fault = _source_fault(proof.base, other, copy)
        if fault:
            yield {"source": copy["source"], **fault}
        elif _source_fault(proof.base, other, kept) is None:
            yield from _twice(proof.base, copy, kept)


def _twice(base: Checkpoint, copy: dict[str, Any], kept: dict[str, Any]) -> Iterator[Difference]:
    """The same region of two tensors of the base, one of which is kept for both."""
    (seen, region), (expected, other) = (_source(base, kept), _source(base, copy))
    tally = Tally.of(seen, base.entries[kept["source"]].dtype)
    compare(seen, region, expected, other, tally)
    if tally.first:
        yield {"reason": f"kept as {kept['source']}, {copy['source']} differs from it in the base", **tally.to_json()}


def _form(result: Checkpoint, entry: dict[str, Any]) -> Difference | None:
    """A tensor's presence, dtype and shape in the result."""
    found = result.entries.get(entry["name"])
    if found is None:
        return {"reason": "missing: in the plan, not in the result"}
    if found.dtype != entry["dtype"]:
        return {"reason": "dtype", "seen": found.dtype, "expected": entry["dtype"]}
    if list(found.shape) != entry["shape"]:
        return {"reason": "shape", "seen": list(found.shape), "expected": entry["shape"]}
    return None


def _tiling(entry: dict[str, Any]) -> Difference | None:
    if entry["status"] == Status.KEPT:
        return None
    shape = tuple(entry["shape"])
    parts = [*(entry.get("kept") or ()), *(entry.get("new") or ())]
    return tiling_fault(shape, [region_from_json(part["region"], shape) for part in parts])


def _kept(proof: _Proof, entry: dict[str, Any]) -> Iterator[Difference]:
    """Every kept region against its source; the first differing place, and all the rows that differ."""
    seen = proof.result.array(entry["name"])
    tally = Tally.of(seen, entry["dtype"])
    for copy in _copies(entry):
        fault = _source_fault(proof.base, entry, copy)
        if fault:
            yield {"source": copy["source"], **fault}
            continue
        place = _place(copy["region"], seen, tuple(entry["shape"]))
        compare(seen, place, *_source(proof.base, copy), tally, proof.meter.compare)
    if tally.first:
        yield {"reason": "kept bytes differ from the base", **tally.to_json()}


def _copies(entry: dict[str, Any]) -> list[dict[str, Any]]:
    if entry["status"] != Status.KEPT:
        return entry.get("kept") or []
    whole = Box.whole(tuple(entry["shape"])).to_json()
    return [{"region": whole, "source": entry["source"], "source_region": whole}]


def _source_fault(base: Checkpoint, entry: dict[str, Any], copy: dict[str, Any]) -> Difference | None:
    """Why the source can't be what was copied, known without its bytes."""
    source = base.entries.get(copy["source"])
    if source is None:
        return {"reason": f"its source {copy['source']} is not in the base"}
    if source.dtype != entry["dtype"]:
        return {"reason": "dtype of its source in the base", "seen": source.dtype, "expected": entry["dtype"]}
    if (entry["status"] == Status.KEPT or bits(source.dtype) < 8) and list(source.shape) != entry["shape"]:
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


def _source(base: Checkpoint, copy: dict[str, Any]) -> tuple[np.ndarray, Region]:
    array = base.array(copy["source"])
    return array, _place(copy["source_region"], array, base.entries[copy["source"]].shape)


def _place(region: dict[str, Any], array: np.ndarray, shape: Shape) -> Region:
    """The region of the array that holds a tensor; of elements that share bytes it holds the bytes, and all of them."""
    return region_from_json(region, shape) if array.shape == shape else Box.whole(array.shape)


def _new(proof: _Proof, entry: dict[str, Any]) -> Iterator[Difference]:
    """Every new region against its digest, and against its value derived again."""
    array, changed = proof.result.array(entry["name"]), []
    for part, expected in zip(entry.get("new") or (), proof.manifest.digests.get(entry["name"], ()), strict=True):
        seen = digest(array, _place(part["region"], array, tuple(entry["shape"])), proof.meter.digest)
        if seen != expected:
            changed.append({"region": part["region"], "seen": seen, "expected": expected})
    if changed:
        yield {"reason": "digest of new bytes", **changed[0], "changed_regions": len(changed)}
    if proof.recompute is not None:
        yield from _again(proof.recompute, entry, array)


def _again(recompute: Recompute, entry: dict[str, Any], array: np.ndarray) -> Iterator[Difference]:
    tally = Tally.of(array, entry["dtype"])
    for part in entry.get("new") or ():
        place = _place(part["region"], array, tuple(entry["shape"]))
        fresh, expected = recompute(entry, part), count(place.shape) * array.itemsize
        if fresh.nbytes != expected:
            yield {"reason": "recomputed value has another size", "seen": fresh.nbytes, "expected": expected}
            continue
        again = np.ascontiguousarray(fresh).reshape(-1).view(np.uint8).view(array.dtype).reshape(place.shape)
        compare(array, place, again, Box.whole(place.shape), tally)
    if tally.first:
        yield {"reason": "recomputed value differs", **tally.to_json()}
