"""The two halves of writing an extension: everything that can be refused first, and then the work."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_init import _verify
from hf_init._errors import CheckpointError, PlanError, option
from hf_init._paths import outward_path, user_path
from hf_init._progress import Progress
from hf_init._tensors import Status
from hf_init._verify import Clones, VerifyReport

if TYPE_CHECKING:
    from hf_init._function import FunctionReport
    from hf_init._plan import Manifest, Plan
    from hf_init._prepare import Prepared
    from hf_init._write.files import Link
    from hf_init._write.other_files import FilesByFolder
    from hf_init._write.stage import StagingDir


_UNLISTED = (
    "the hub wasn't asked, and its listing isn't in the cache: files that were never downloaded don't go along, and "
    "aren't named"
)


@dataclass(frozen=True)
class WriteOptions:
    """How a result is written.

    Attributes:
        link: how a file that stays as it is gets there: ``copy``, ``hard``, ``symbolic``.
        max_bytes: of one file; None keeps the base's own division.
        digest: record digests of what is kept, so that the result can be proved without its base.
        resume: go on with what an interrupted run left, and leave the same to the next.
        rename: write beside the place and rename at the end; else write in place.
        prove_function: run base and result on the same inputs, and hold the plan's claim to what they give.
        push_to_hub: a repository to upload the result to; empty: none.
        token: for that.
    """

    link: Link = "copy"
    max_bytes: int | None = None
    digest: bool = False
    resume: bool = False
    rename: bool = True
    prove_function: bool = False
    push_to_hub: str = ""
    token: str | bool | None = None


@dataclass(frozen=True)
class Extension:
    """An extension that is planned and checked, and hasn't written anything yet.

    Attributes:
        room: the bytes that its files will take.
        beside: the files that go with the weights.
    """

    prepared: Prepared
    out: Path
    options: WriteOptions
    room: int
    beside: FilesByFolder

    @property
    def plan(self) -> Plan:
        return self.prepared.plan

    @property
    def nbytes(self) -> int:
        """Return what ``run`` reports to ``progress``: every byte is written, proved, and digested on request.

        A digest of what is kept of a resized tensor comes beside that of the tensor.
        """
        from hf_init._write.safetensors_file import file_bytes

        stored = sum(map(file_bytes, self.plan.stored))
        if not self.options.digest:
            return 2 * stored
        resized = [tensor for tensor in self.plan.stored if tensor.status is Status.RESIZED]
        return 3 * stored + sum(
            file_bytes(replace(tensor, shape=copy.region.shape)) for tensor in resized for copy in tensor.kept
        )

    def run(self, progress: Progress, log: Callable[[str], object] = lambda message: None) -> VerifyReport:
        """Write the result and prove it; see ``extend``."""
        from hf_init._load import with_fitted_values
        from hf_init._write.card import write_card
        from hf_init._write.stage import stage_result

        prepared = with_fitted_values(self.prepared)
        with stage_result(self.out, self.room, resume=self.options.resume, rename=self.options.rename) as stage:
            clones = replace(self, prepared=prepared)._write(stage, progress, log)
            base = prepared.target.base.location
            report = _verify.verify_result(stage.folder, base, progress=progress, clones=clones)
            report.raise_if_failed()
            if self.options.prove_function:
                report = replace(report, notes=(*report.notes, str(_prove_function(prepared, stage, self.out))))
            write_card(stage.folder, self.out, report)
        if self.options.push_to_hub:
            from hf_init._write.upload import upload

            uploaded = upload(self.out, self.options.push_to_hub, self.options.token)
            report = replace(report, notes=(*report.notes, uploaded))
        return report

    def _write(self, stage: StagingDir, progress: Progress, log: Callable[[str], object]) -> Clones:
        """Write everything into a folder that isn't at its place yet, the manifest last; return the result's clones."""
        from hf_init._plan import BaseRecord, Manifest
        from hf_init._prepare import quantization_config
        from hf_init._version import __version__
        from hf_init._write.other_files import carry_files, write_config
        from hf_init._write.writing import write

        prepared, options = self.prepared, self.options
        written = write(
            prepared.plan,
            prepared.source,
            stage,
            prepared.initial_values,
            link=options.link,
            max_bytes=options.max_bytes,
            total_parameters=prepared.model.num_parameters(),
            identity=prepared.model.config.to_json_string(use_diff=False),
            progress=progress,
            log=log,
        )
        carry_files(self.beside, stage.folder)
        write_config(prepared.model, stage.folder, quantization_config(prepared.target, prepared.plan))
        for change in prepared.change_plans:
            change.write(stage.folder)
        record = BaseRecord.of(prepared.source, "" if options.link == "copy" else options.link)
        manifest = Manifest(prepared.plan, record, written.digests, f"hf_init {__version__}")
        if options.digest:
            manifest = replace(manifest, **_verify.result_digests(stage.folder, prepared.plan.tensors, progress))
        manifest = replace(manifest, earlier=_earlier_manifests(prepared, manifest, stage.folder))
        # The stage flushes it with everything else, while the proof is read.
        manifest.save(stage.folder, flush=False, home=self.out)
        return written.clones


def prepare_extension(
    base: Any,
    out: str | Path,
    architecture: Any = None,
    *,
    max_shard_size: str | int | None = None,
    link: Link = "copy",
    digest: bool = False,
    resume: bool = False,
    rename: bool = True,
    prove_function: bool = False,
    push_to_hub: str | None = None,
    **words: Any,
) -> Extension:
    """Plan and check an extension, with the arguments of ``extend``: everything that can be refused is refused here."""
    from hf_init._write.files import plan_files
    from hf_init._write.other_files import carried_bytes, fetch_files
    from hf_init._write.writing import room_needed

    path = result_place(out, base.values() if isinstance(base, Mapping) else [base])
    config = words.get("config")
    asked = {**(config if isinstance(config, Mapping) else {}), **words}
    given = [key for key in ("dtype", "torch_dtype", "device_map", "max_memory") if asked.get(key) is not None]
    if given:
        raise PlanError(
            f"{', '.join(given)}: the bytes of a checkpoint are kept as they are, folder to folder; load the result "
            "with from_pretrained and give it there"
        )
    to_hub = push_to_hub or "", words.get("token")
    how = WriteOptions(link, _parse_size(max_shard_size), digest, resume, rename, prove_function, *to_hub)
    made, beside = prepared(base, architecture, **words)
    if prove_function and (made.source.parts or made.target.own is None or made.target.base.packed):
        raise PlanError(
            f"{option('prove_function')}: the base can't be run as a whole: it is of several checkpoints or quantized, "
            "or its class isn't known; leave it out"
        )
    for part in made.target.base.checkpoints:
        _check_nested(part.root, path)
    if push_to_hub:
        from hf_init._write.upload import check_upload

        check_upload(push_to_hub, words.get("token"))
    fetch_files(made.target.base, beside)
    files = plan_files(made.plan, made.source, link=how.link, max_bytes=how.max_bytes)
    room = room_needed(files, made.source, how.link, path) + carried_bytes(beside)
    return Extension(made, path, how, room, beside)


def result_place(out: str | Path, bases: Iterable[str | Path]) -> Path:
    """Return where a result is to be.

    Raises:
        PlanError: a result can't be there, or it would be in a base, or a base in it.
    """
    from hf_init._write.stage import check_existing

    if not str(out):
        raise PlanError("OUT is an empty name; give the folder that the result is to be")
    if "://" in str(out):
        raise PlanError(f"OUT is {out}, a URL; expected a folder here: write to one, and upload that when it is proved")
    path = outward_path(out)
    for folder in bases:
        _check_nested(user_path(folder), path)  # before the advice to remove what is there
    check_existing(path)
    return path


def prepared(base: Any, architecture: Any, **options: Any) -> tuple[Prepared, FilesByFolder]:
    """Return a plan with what its executors need, and the files that go along, from the options of ``extend``."""
    from hf_init._prepare import check_unloadable, prepare_plan
    from hf_init._write.other_files import files_beside, joined_files

    made = prepare_plan(base, architecture, **options)
    check_unloadable(made.target, made.plan)
    beside = files_beside(made.target.base)
    sources = (part.repository for part in made.target.base.checkpoints)
    notes = [_UNLISTED] if any(source and not source.listed for source in sources) else []
    plan = replace(made.plan, files=joined_files(beside), notes=(*made.plan.notes, *notes))
    return replace(made, plan=plan), beside


def _prove_function(prepared: Prepared, stage: StagingDir, home: Path) -> FunctionReport:
    """Run base and result, and put the outcome into the manifest.

    Raises:
        ProofError: the plan's claim doesn't hold.
    """
    from hf_init._checkpoint import BaseCheckpoint
    from hf_init._function import compare_functions
    from hf_init._plan import Manifest

    base = prepared.target.own
    assert base is not None
    out = replace(prepared.target, base=BaseCheckpoint.open(stage.folder), blocks={})
    report = compare_functions(base, out, prepared.plan.claim)
    report.raise_if_failed()
    manifest = replace(Manifest.load(stage.folder, home), function=report.to_json())
    manifest.save(stage.folder, flush=False, home=home)
    return report


def _earlier_manifests(prepared: Prepared, manifest: Manifest, folder: Path) -> tuple[Manifest, ...]:
    """Return what a result is to what its base was made from, if that is a result itself, which nothing has trained."""
    from hf_init._plan import MANIFEST_NAME, Manifest, is_plan_of, through

    base, source = prepared.target.base.folder, prepared.source
    if source.parts or not (base / MANIFEST_NAME).is_file():
        return ()
    try:
        before = Manifest.load(base)
    except CheckpointError:  # made by another version, or edited: of this result it says nothing
        return ()
    untrained = before.base.fingerprint and is_plan_of(before.plan, source)
    if not untrained or _verify.new_digests(base, before.tensors) != dict(before.digests):
        return ()
    known = {
        (tensor.name, fill.region): digest
        for tensor in manifest.tensors
        for fill, digest in zip(tensor.new, manifest.digests.get(tensor.name, ()), strict=False)
    }
    links = [(through(manifest.plan, link.plan), link.base) for link in (before, *before.earlier)]
    return tuple(
        Manifest(plan, record, _verify.new_digests(folder, plan.tensors, known), manifest.made_by)
        for plan, record in links
    )


def _check_nested(base: Path, out: Path) -> None:
    inner, outer = out.resolve(), base.resolve()
    if not outer.is_dir():
        return
    if inner == outer:
        raise PlanError(f"OUT is the base itself ({base}), which is never written to; give another place")
    if outer in inner.parents:
        raise PlanError(f"OUT ({out}) lies inside the base ({base}), which is never written to; give another place")
    if inner in outer.parents:
        raise PlanError(f"the base ({base}) lies inside OUT ({out}); give another place")


_SIZE_UNITS = {"KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


def _parse_size(size: str | int | None) -> int | None:
    if size is None or (isinstance(size, int) and not isinstance(size, bool) and size > 0):
        return size
    found = re.fullmatch(r"(\d+(?:\.\d+)?) ?([KMG]I?B)", str(size).strip(), re.ASCII | re.IGNORECASE)
    many = int(float(found[1]) * _SIZE_UNITS[found[2].upper()]) if found else 0
    if many < 1:
        raise PlanError(f"{option('max_shard_size')}: expected a size such as '5GB' or '500MiB', not {size!r}")
    return many
