"""``verify_result``: a result folder against its own manifest and the base that it was made from."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from itertools import islice
from types import MappingProxyType
from typing import Any, Literal, TypeAlias

import numpy as np
from typing_extensions import assert_never

from hf_init._checkpoint import Checkpoint, open_tensors
from hf_init._errors import CheckpointError, option
from hf_init._paths import user_path
from hf_init._plan import BaseFolders, Fill, Manifest, TensorPlan
from hf_init._progress import Progress
from hf_init._tensors import Copy, Status
from hf_init._text import join_names
from hf_init._verify import checks
from hf_init._verify.checks import KEPT, ByteCheck, DigestCheck
from hf_init._verify.differences import Difference
from hf_init._verify.headers import check_form, extra_tensors, source_fault, unaccounted
from hf_init._verify.parts import part_numbers, result_identity, share_of
from hf_init._verify.ranges import Clones, compare_all
from hf_init._verify.report import ProofPart, VerifyReport
from hf_init._verify.threads import VerifyMeter, WorkerBuffers

Recompute: TypeAlias = Callable[[TensorPlan, Fill], np.ndarray]


def verify_result(
    out: str | os.PathLike[str],
    base: BaseFolders | Literal[False] | None = None,
    recompute: Recompute | None = None,
    progress: Progress | None = None,
    everything: bool = False,
    clones: Clones = (),
    hub: Mapping[str, Any] = MappingProxyType({}),
    part: str = "",
) -> VerifyReport:
    """Compare every byte of a result with what its manifest says: kept ones with the base, new ones with their digests.

    A file that the result has from the base by a link is the base's own, whatever it holds: it isn't read against
    itself, and its bytes are counted apart, as linked, or compared with their digests if the manifest holds them.

    Args:
        out: the result's folder.
        base: the source, a folder or a hub id; by default the one that the manifest names, if it is here or in the
            hub's cache. Where it isn't, or for False, kept bytes are compared with their digests, if the manifest
            holds them.
        recompute: from a tensor and one of its new regions to the bytes (uint8) expected there.
        progress: called with the bytes done since it was last called, by one thread at a time.
        everything: list all that differs, and how much of it; else stop reading at the first difference.
        clones: files that the caller has just had cloned whole by the filesystem: those whose source and copy are
            still in the same state aren't read, and are counted apart.
        hub: of a base that is a hub id: ``revision``, ``subfolder``, ``token``, ``cache_dir``...
        part: K/N: look at one of N parts of the tensors; empty: at all. The first also says what the plan doesn't have.

    Raises:
        CheckpointError: a folder, a file or the manifest can't be read. A difference raises nothing: see the report.

    Example:
        >>> import tempfile, numpy, safetensors.numpy
        >>> folder = tempfile.TemporaryDirectory()
        >>> safetensors.numpy.save_file({"w": numpy.ones(3, "float32")}, f"{folder.name}/model.safetensors")
        >>> from hf_init._plan import BaseRecord, Plan
        >>> from hf_init._tensors import Box
        >>> whole = Box.whole((3,))
        >>> tensor = TensorPlan("w", Status.KEPT, (3,), "float32", (Copy(whole, "w", whole),), source="w")
        >>> base = BaseRecord.of(Checkpoint.open(folder.name))
        >>> Manifest(Plan("Tiny", 0, (tensor,)), base, {}, "an example").save(folder.name)
        >>> verify_result(folder.name).ok
        True
        >>> folder.cleanup()
    """
    number, of = part_numbers(part or "1/1")
    recorded = Manifest.load(out)
    manifest, opened = _proof_base(recorded, base, hub)
    with open_tensors(out) as result, opened or nullcontext() as source:
        share = share_of(manifest.tensors, number, of)
        proof = _Proof(result, source, manifest, share, everything, VerifyMeter(progress), clones)
        differences = tuple(proof.differences(recompute, number == 1))
        which = ProofPart(number, of, result_identity(user_path(out), result), recompute is not None) if part else None
        nbytes = proof.meter.nbytes
        return VerifyReport(
            counts={"tensors": len(manifest.tensors), **manifest.plan.counts},
            bytes_compared=nbytes["compared"],
            bytes_digested=nbytes["digested"],
            differences=differences,
            notes=tuple(proof.notes(recorded, differences)),
            base=None if source is None else str(source.root),
            complete=everything or not differences,
            bytes_linked=nbytes["linked"],
            bytes_cloned=nbytes["cloned"],
            part=which,
        )


def open_base(manifest: Manifest, base: BaseFolders | None = None, **hub: Any) -> tuple[Manifest, Checkpoint]:
    """Open the checkpoint that a result came from, by default as the manifest records it, and say what came from it.

    That is the manifest itself or, of a base that is a result, too, and for what that one came from, an earlier one.

    Args:
        base: a folder or a hub id; of several checkpoints, each by its prefix.
        hub: ``revision``, ``token``, ``cache_dir``, ``local_files_only``, ``force_download``.

    Raises:
        CheckpointError: it isn't there, or can't be read; the message has the command that fetches it.
    """
    links = (manifest, *manifest.earlier)
    if base is not None:
        named = (link for link in links if isinstance(base, str) and link.base.origin.name == base)
        given = next(named, manifest).base.open(base, **hub)
        return _link_from(given, links), given
    absent: list[CheckpointError] = []
    for link in links:
        try:
            return link, link.base.open(**hub)
        except CheckpointError as error:
            if all(origin.folder for origin in link.base.origins):  # it is here, and something is wrong with it
                raise
            absent.append(error)
    raise CheckpointError("\n".join(str(error.args[0]) for error in absent))


def _link_from(base: Checkpoint, links: Sequence[Manifest]) -> Manifest:
    """Return the manifest that is of this base: by its headers, else by the names that it needs, else the first."""
    for link in links:
        if link.base.fingerprint == base.fingerprint():
            return link
    for link in links:
        copies = ((tensor, copy) for tensor in link.tensors for copy in tensor.kept)
        if not any(unaccounted(base, link)) and not any(source_fault(base, *each) for each in copies):
            return link
    return links[0]


def _proof_base(
    manifest: Manifest, base: BaseFolders | Literal[False] | None, hub: Mapping[str, Any]
) -> tuple[Manifest, Checkpoint | None]:
    if base is False and manifest.kept_digests is None and any(tensor.kept for tensor in manifest.tensors):
        raise CheckpointError(
            "The manifest holds no digests of what was kept, so nothing proves it but the base. Give the base, or make "
            f"the result again with {option('digest', True)}."
        )
    converted = not manifest.base.fingerprint  # from torch's own format, which isn't read without torch
    if base is False or (base is None and converted and manifest.kept_digests is not None):
        return manifest, None
    try:
        return open_base(manifest, base, **hub)
    except CheckpointError:
        here = all(origin.folder for origin in manifest.base.origins)
        if base is not None or here or manifest.kept_digests is None:
            raise
        return manifest, None


@dataclass(frozen=True)
class _Proof:
    """What every check needs, and of which tensors; without a base, kept bytes are proved by their digests."""

    result: Checkpoint
    base: Checkpoint | None
    manifest: Manifest
    tensors: Sequence[TensorPlan]
    everything: bool
    meter: VerifyMeter
    clones: Clones

    def differences(self, recompute: Recompute | None, first_part: bool) -> list[Difference]:
        """Return what the headers tell; if they may be right, or everything is wanted, what the bytes tell, too."""
        extra = list(extra_tensors(self.result, self.manifest)) if first_part else []
        missing = list(unaccounted(self.base, self.manifest)) if first_part and self.base is not None else []
        formal = [{"name": tensor.name, **fault} for tensor in self.tensors for fault in self._formal(tensor)]
        if not self.everything and (extra or formal or missing):
            return [*extra, *formal, *missing]
        read = self._read_differences({difference["name"] for difference in formal}, recompute)
        order = {tensor.name: number for number, tensor in enumerate(self.manifest.tensors)}
        return [*extra, *sorted([*formal, *read], key=lambda difference: order[difference["name"]]), *missing]

    def _formal(self, tensor: TensorPlan) -> Iterator[Difference]:
        """Yield what is wrong with a tensor's form, here and in the base."""
        if fault := check_form(self.result, tensor):
            yield fault
            if tensor.stored:
                return
        if self.base is None:
            return
        match tensor.status:
            case Status.TIED:
                copies, form = [copy for copy, _ in self._tied_pairs(tensor)], self._tied_to(tensor)
                if tensor.source is not None and not copies:
                    yield {
                        "reason": f"its source {tensor.source} is in the base, and nothing of it in {tensor.tied_to}"
                    }
            case Status.KEPT | Status.RESIZED | Status.NEW | Status.CARRIED:
                copies, form = tensor.kept, tensor
            case _:
                assert_never(tensor.status)
        for copy in copies:
            if fault := source_fault(self.base, form, copy):
                yield {"source": copy.source, **fault}

    def _tied_to(self, tensor: TensorPlan) -> TensorPlan:
        return next(other for other in self.manifest.tensors if other.name == tensor.tied_to)

    def _tied_pairs(self, tensor: TensorPlan) -> list[tuple[Copy, Copy]]:
        """Return, of a tied tensor that the base has under its own name, each region there and that kept for both."""
        if tensor.source is None:
            return []
        return [(replace(copy, source=tensor.source), copy) for copy in self._tied_to(tensor).kept]

    def _read_differences(self, malformed: set[str], recompute: Recompute | None) -> list[Difference]:
        """Return what is found by reading, all of it or the first; tensors whose form is wrong aren't read."""
        tensors = [tensor for tensor in self.tensors if tensor.name not in malformed]
        planned = list(self._planned_checks(tensors, malformed))
        comparisons = [each for check in planned if isinstance(check, ByteCheck) for each in check.comparisons]
        digests = (job for check in planned if isinstance(check, DigestCheck) for job in check.jobs())
        compare_all(comparisons, digests, self.everything, self.clones)
        differences = [difference for check in planned for difference in check.differences()]
        if recompute is not None and (self.everything or not differences):
            recomputed = (
                difference
                for tensor in tensors
                if tensor.stored
                for values in [[recompute(tensor, fill) for fill in tensor.new]]  # in the caller's own thread
                for difference in checks.recomputed_differences(self.result, tensor, values, self.everything)
            )
            differences += recomputed if self.everything else islice(recomputed, 1)
        return differences if self.everything else differences[:1]

    def _planned_checks(self, tensors: list[TensorPlan], malformed: set[str]) -> Iterator[ByteCheck | DigestCheck]:
        """Yield the checks in the order of what matters: kept bytes, tied ones, new ones."""
        result, base, manifest = self.result, self.base, self.manifest
        digested = self.meter.counting("digested")
        stored = [tensor for tensor in tensors if tensor.stored]
        if base is None:
            yield from (checks.check_recorded(result, manifest, tensor, digested) for tensor in stored)
            return
        recorded = manifest.kept_digests is not None
        linked = {tensor.name for tensor in stored if recorded and checks.is_linked(result, base, tensor)}
        for tensor in stored:
            if tensor.name not in linked:
                yield checks.check_kept(result, base, tensor, self.meter, self.everything)
        for tensor in tensors:
            if tensor.status is Status.TIED and tensor.tied_to not in malformed:
                yield from checks.check_tied(base, tensor, self._tied_pairs(tensor), self.everything)
        for tensor in stored:
            check = checks.check_recorded if tensor.name in linked else checks.check_new
            yield check(result, manifest, tensor, digested)

    def notes(self, recorded: Manifest, differences: tuple[Difference, ...]) -> Iterator[str]:
        """Yield what else is to be said of the proof: its base, if it is another, and files that aren't read."""
        base, link = self.base, self.manifest
        if link is not recorded:
            number = 1 + recorded.earlier.index(link)
            yield (
                f"compared with {link.base.origin.name}, from which {number} extension{'s' * (number > 1)} led to "
                f"{recorded.base.origin.name}, the base; what those made new has been compared with its digests"
            )
        if base is None:
            yield (
                "without the base: what was kept has been compared with the digests in the manifest, and is proved as "
                "far as that file can be trusted"
            )
        else:
            yield from _other_base(base, link)
            moved = {difference["name"] for difference in differences if difference["reason"] == KEPT}
            with WorkerBuffers() as buffers:
                good = [
                    tensor.name
                    for tensor in link.tensors
                    if tensor.name in moved and checks.has_kept_digests(self.result, link, tensor, buffers)
                ]
            if good:
                kept = f"what was kept in {join_names(good)}"
                yield f"{kept} has the digests that were recorded: it is the base that has changed"
        for checkpoint in filter(None, (self.result, base)):
            for stray in checkpoint.strays:
                yield f"{checkpoint.root}: {stray} is not read, another file goes before it"
        if base is not None and base.unmapped:
            yield f"{base.root}: {len(base.unmapped)} tensors in its files are not in its index, and not used"


def _other_base(base: Checkpoint, manifest: Manifest) -> Iterator[str]:
    """Say that the base is another one, without reading it: by the names in the hub's cache, or by its headers."""
    recorded, blobs = manifest.base.sha256, base.blobs()
    wrong = [shard for shard in blobs if recorded.get(shard, blobs[shard]) != blobs[shard]]
    if wrong:
        yield (
            f"{base.root} is not the base that the result was made from: {join_names(wrong)} "
            f"{'has' if len(wrong) == 1 else 'have'} another SHA-256 than the manifest says; the bytes decide"
        )
    elif base.fingerprint() != manifest.base.fingerprint:
        yield f"{base.root} is not the very same files that the result was made from; the bytes decide"
