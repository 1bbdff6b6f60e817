"""``verify_result``: a result folder against its own manifest and the base that it was made from."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np

from hf_init._checkpoint import Checkpoint
from hf_init._errors import CheckpointError
from hf_init._plan import Manifest, entry_copies, stored_entries
from hf_init._tensors import Status
from hf_init._text import join_names
from hf_init._verify import checks as _checks
from hf_init._verify.checks import KEPT, Compared, Digested
from hf_init._verify.headers import FormDifference, check_form, source_fault, strangers, too_many, unaccounted
from hf_init._verify.ranges import compare_all
from hf_init._verify.report import VerifyReport
from hf_init._verify.shared_blocks import Blocks
from hf_init._verify.threads import VerifyMeter, WorkerBuffers

Recompute: TypeAlias = Callable[[dict[str, Any], dict[str, Any]], np.ndarray]
Folders: TypeAlias = str | os.PathLike[str] | Mapping[str, str | os.PathLike[str]]
Base: TypeAlias = Folders | Literal[False] | None


@dataclass(frozen=True)
class _Proof:
    """What every check needs; without a base, kept bytes are proved by their digests."""

    result: Checkpoint
    base: Checkpoint | None
    manifest: Manifest
    everything: bool
    meter: VerifyMeter
    blocks: Blocks | None


def verify_result(
    out: str | os.PathLike[str],
    base: Base = None,
    recompute: Recompute | None = None,
    progress: Callable[[int], object] | None = None,
    everything: bool = False,
    blocks: bool = False,
) -> VerifyReport:
    """Compare every byte of a result with what its manifest says: kept ones with the base, new ones with their digests.

    A file that the result has from the base by a link is the base's own, whatever it holds: it isn't read against
    itself, and its bytes are counted apart, as linked, or compared with their digests if the manifest holds them.

    Args:
        out: the result's folder.
        base: the source's folder; by default the one that the manifest names. Where that isn't there, or for False,
            kept bytes are compared with their digests, if the manifest holds them.
        recompute: from a tensor's and a new region's entry in the plan to the bytes (uint8) due there.
        progress: called with the bytes done since it was last called, by one thread at a time.
        everything: list all that differs, and how much of it; else stop reading at the first difference.
        blocks: take the filesystem's word for bytes that lie in the same blocks of the disk, as after a copy by
            reflink: they aren't read, and are counted apart, as shared. For the proof of what has just been written.

    Raises:
        CheckpointError: a folder, a file or the manifest can't be read. A difference raises nothing: see the report.

    Example:
        >>> import tempfile, numpy, safetensors.numpy
        >>> folder = tempfile.TemporaryDirectory()
        >>> safetensors.numpy.save_file({"w": numpy.ones(3, "float32")}, f"{folder.name}/model.safetensors")
        >>> entry = {"name": "w", "status": "kept", "shape": [3], "dtype": "float32", "source": "w"}
        >>> base = {"path": folder.name, "fingerprint": Checkpoint.open(folder.name).fingerprint()}
        >>> Manifest({"tensors": [entry], "unused": []}, base, {}, "an example").save(folder.name)
        >>> verify_result(folder.name).ok
        True
        >>> folder.cleanup()
    """
    manifest = Manifest.load(out)
    with Checkpoint.open(out) as result, _base(manifest, base) or nullcontext() as source:
        proof = _Proof(result, source, manifest, everything, VerifyMeter(progress), Blocks() if blocks else None)
        differences = tuple(_differences(proof, recompute))
        return VerifyReport(
            _counts(manifest),
            proof.meter.compared,
            proof.meter.digested,
            differences,
            tuple(_notes(proof, differences)),
            None if source is None else str(source.root),
            everything or not differences,
            proof.meter.linked,
            proof.meter.shared,
        )


def open_base(manifest: Manifest, base: Folders | None) -> Checkpoint:
    """The checkpoint that a result came from: the one that is given, or where the manifest says it was.

    A result of several checkpoints has them by their prefixes, as one.
    """
    where = _named(manifest) if base is None else base
    gone = [str(folder) for folder in _each(where) if base is None and not Path(folder).is_dir()]
    if gone:
        raise CheckpointError(
            f"The base that the manifest names, {', '.join(gone)}, is not there. Say where it is now: "
            "verify(out, base=FOLDER), or --base FOLDER on the command line."
        )
    if isinstance(where, Mapping):
        return Checkpoint.merged({prefix: Checkpoint.open(folder) for prefix, folder in where.items()})
    return Checkpoint.open(where)


def _named(manifest: Manifest) -> Folders:
    return manifest.base.get("parts") or manifest.base["path"]


def _each(where: Folders) -> list[str | os.PathLike[str]]:
    return list(where.values()) if isinstance(where, Mapping) else [where]


def _base(manifest: Manifest, base: Base) -> Checkpoint | None:
    if base is False and manifest.kept_digests is None and any(map(entry_copies, manifest.tensors)):
        raise CheckpointError(
            "The manifest holds no digests of what was kept, so nothing proves it but the base. Give the base, or make "
            "the result again with digest=True (--digest)."
        )
    gone = base is None and not all(Path(folder).is_dir() for folder in _each(_named(manifest)))
    if base is False or (gone and manifest.kept_digests is not None):
        return None
    return open_base(manifest, base)


def _counts(manifest: Manifest) -> dict[str, int]:
    found = Counter(entry["status"] for entry in manifest.tensors)
    by_status = {status.value: found[status.value] for status in Status}
    return {"tensors": len(manifest.tensors), **by_status, "unused": len(manifest.plan["unused"])}


def _differences(proof: _Proof, recompute: Recompute | None) -> list[FormDifference]:
    """What the headers tell; if they may be right, or everything is asked for, what the bytes tell, too."""
    extra, missing = list(strangers(proof.result, proof.manifest)), []
    if proof.base is not None:
        missing = list(unaccounted(proof.base, proof.manifest))
    formal = [{"name": entry["name"], **fault} for entry in proof.manifest.tensors for fault in _formal(proof, entry)]
    if not proof.everything and (extra or formal or missing):
        return [*extra, *formal, *missing]
    found = _read(proof, formal, recompute)
    place = {entry["name"]: number for number, entry in enumerate(proof.manifest.tensors)}
    return [*extra, *sorted([*formal, *found], key=lambda difference: place[difference["name"]]), *missing]


def _formal(proof: _Proof, entry: dict[str, Any]) -> Iterator[FormDifference]:
    """What is wrong with a tensor's form, here and in the base."""
    if not stored_entries(entry):
        yield from too_many(proof.result, entry)
    elif fault := check_form(proof.result, entry):
        yield fault
        return
    base = proof.base
    if base is None:
        return
    for copy, other in _sources(proof, entry):
        if fault := source_fault(base, other, copy):
            yield {"source": copy["source"], **fault}
    if "source" in entry and entry["status"] == Status.TIED and not _pairs(proof, entry):
        yield {"reason": f"its source {entry['source']} is in the base, and nothing of it in {entry['tied_to']}"}


def _sources(proof: _Proof, entry: dict[str, Any]) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """What should be in the base for a tensor, each with the entry whose form it should have."""
    if entry["status"] == Status.TIED:
        return [(copy, _owner(proof, entry)) for copy, _ in _pairs(proof, entry)]
    return [(copy, entry) for copy in entry_copies(entry)]


def _owner(proof: _Proof, entry: dict[str, Any]) -> dict[str, Any]:
    return next(other for other in proof.manifest.tensors if other["name"] == entry["tied_to"])


def _pairs(proof: _Proof, entry: dict[str, Any]) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Of a tied tensor that the base held under its own name, too: each region there, and the one kept for both."""
    if "source" not in entry:
        return []
    return [({**copy, "source": entry["source"]}, copy) for copy in entry_copies(_owner(proof, entry))]


def _read(proof: _Proof, formal: list[FormDifference], recompute: Recompute | None) -> list[FormDifference]:
    """What is found by reading, all of it or the first; tensors whose form is wrong aren't read."""
    wrong = {difference["name"] for difference in formal}
    entries = [entry for entry in proof.manifest.tensors if entry["name"] not in wrong]
    checks = list(_wanted(proof, entries, wrong))
    comparisons = [each for check in checks if isinstance(check, Compared) for each in check.comparisons]
    digests = (job for check in checks if isinstance(check, Digested) for job in check.jobs())
    compare_all(comparisons, digests, proof.everything, proof.blocks)
    found = [difference for check in checks for difference in check.found()]
    if recompute is not None and (proof.everything or not found):
        again = (
            difference for entry in filter(stored_entries, entries) for difference in _again(proof, entry, recompute)
        )
        found += again if proof.everything else [first for first, _ in zip(again, range(1), strict=False)]
    return found if proof.everything else found[:1]


def _wanted(proof: _Proof, entries: list[dict[str, Any]], wrong: set[str]) -> Iterator[Compared | Digested]:
    """In the order of what matters: kept bytes, tied ones, new ones."""
    result, base, manifest, meter = proof.result, proof.base, proof.manifest, proof.meter
    held = [entry for entry in entries if stored_entries(entry)]
    if base is None:
        yield from (_checks.check_recorded(result, manifest, entry, meter.digest) for entry in held)
        return
    recorded = manifest.kept_digests is not None
    linked = {entry["name"] for entry in held if recorded and _checks.is_own(result, base, entry)}
    for entry in held:
        if entry["name"] not in linked:
            yield _checks.check_kept(result, base, entry, meter, proof.everything)
    for entry in entries:
        if entry["status"] == Status.TIED and entry["tied_to"] not in wrong:
            yield from _checks.check_tied(base, entry, _pairs(proof, entry), proof.everything)
    for entry in held:
        which = _checks.check_recorded if entry["name"] in linked else _checks.check_new
        yield which(result, manifest, entry, meter.digest)


def _again(proof: _Proof, entry: dict[str, Any], recompute: Recompute) -> Iterator[FormDifference]:
    """New regions whose values, derived again, are others; the schemes run in the caller's own thread."""
    parts = entry.get("new") or ()
    fresh = [recompute(entry, part) for part in parts]
    faults = [_checks.size_fault(proof.result, entry, part, values) for part, values in zip(parts, fresh, strict=True)]
    if any(faults):
        yield from filter(None, faults)
        return
    check = _checks.recomputed(proof.result, entry, fresh, proof.everything)
    compare_all(check.comparisons, everything=proof.everything)
    yield from check.found()


def _notes(proof: _Proof, differences: tuple[FormDifference, ...]) -> Iterator[str]:
    base, manifest = proof.base, proof.manifest
    if base is None:
        yield (
            "without the base: what was kept has been compared with the digests in the manifest, and is proved as far "
            "as that file can be trusted"
        )
    else:
        yield from _identity(base, manifest)
        yield from _blame(proof, [difference["name"] for difference in differences if difference["reason"] == KEPT])
    for checkpoint in filter(None, (proof.result, base)):
        for stray in checkpoint.strays:
            yield f"{checkpoint.root}: {stray} is not read, another file goes before it"
    if base is not None and base.unmapped:
        yield f"{base.root}: {len(base.unmapped)} tensors in its files are not in its index, and not used"


def _identity(base: Checkpoint, manifest: Manifest) -> Iterator[str]:
    """That the base is another one, told without reading it: by the names in the hub's cache, or by its headers."""
    recorded_as, named = manifest.base.get("sha256", {}), base.blobs()
    wrong = [shard for shard in named if recorded_as.get(shard, named[shard]) != named[shard]]
    if wrong:
        yield (
            f"{base.root} is not the base that the result was made from: {join_names(wrong)} "
            f"{'has' if len(wrong) == 1 else 'have'} another SHA-256 than the manifest says; the bytes decide"
        )
    elif base.fingerprint() != manifest.base["fingerprint"]:
        yield f"{base.root} is not the very same files that the result was made from; the bytes decide"


def _blame(proof: _Proof, names: list[str]) -> Iterator[str]:
    """Which of the two sides changed, where digests tell."""
    entries = [entry for entry in proof.manifest.tensors if entry["name"] in names]
    with WorkerBuffers() as desk:
        good = [entry["name"] for entry in entries if _checks.as_recorded(proof.result, proof.manifest, entry, desk)]
    if good:
        yield f"what was kept in {join_names(good)} has the digests that were recorded: it is the base that has changed"
