"""The public functions. Each brings what it needs when it is called."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

from hf_init import _verify
from hf_init._checkpoint import open_tensors
from hf_init._errors import PlanError, option
from hf_init._options import (
    CacheOptions,
    CodeOptions,
    DiffCallOptions,
    DriftCallOptions,
    ExtendOptions,
    HubOptions,
    PlanOptions,
    ResultOptions,
    chosen_options,
)
from hf_init._paths import user_path
from hf_init._progress import Progress, no_progress
from hf_init._signature import takes
from hf_init._verify import DiffReport, VerifyReport
from hf_init._write import prepare_extension, prepared

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from hf_init._architecture import Architecture
    from hf_init._checkpoint import Bases
    from hf_init._drift import DriftReport
    from hf_init._function import FunctionReport
    from hf_init._multihead import HeadListing
    from hf_init._plan import Plan


@takes(PlanOptions)
def plan(base: Bases, architecture: Architecture = None, **options: Unpack[PlanOptions]) -> Plan:
    """Return what ``extend`` would do: which tensors are kept, resized, new, tied or unused, and each scheme.

    Reads headers and shapes only: of a hub id, its small files and the headers of the others. The arguments are those
    of ``extend``, and what it would refuse is refused.

    Raises:
        HfInitError: bad input; the message says what to do.

    Example::

        print(plan("base", "BertForSequenceClassification", labels=["neg", "pos"]))
    """
    made, _ = prepared(base, architecture, headers_only=True, **options)
    return made.plan


@takes(ExtendOptions)
def extend(
    base: Bases,
    out: str | Path,
    architecture: Architecture = None,
    *,
    progress: Progress | None = None,
    **options: Unpack[ExtendOptions],
) -> VerifyReport:
    """Write an extended checkpoint folder to folder, without the model in memory, and verify it before it appears.

    Only a head that is fitted to ``examples`` takes the model into memory, once, to see its features. Under an
    initialized process group the first process works, the others wait, and all return the same or raise the same.

    Args:
        base: a checkpoint folder or a hub id; it is never written to. Or several, by the prefix that the names of each
            get, ``{"model.vision_tower.": FOLDER, ...}``; ``config`` is made of theirs, or that of the whole.
        out: a folder that doesn't exist yet, or is empty.
        architecture: a ``PreTrainedModel`` class, an ``AutoModelFor*`` class, a name; None: the checkpoint's own.
        progress: called with the bytes done since it was last called.

    Returns:
        The report of the proof, as ``verify`` gives it.

    Raises:
        HfInitError: bad input, or a byte that isn't what it should be. Nothing is left at ``out``.

    Example::

        extend("base", "out", "BertForSequenceClassification", labels=["neg", "pos"], seed=1)
    """
    from hf_init._shards import on_first_rank

    return on_first_rank(lambda: prepare_extension(base, out, architecture, **options).run(progress or no_progress))


@takes(HubOptions)
def convert(
    base: str | Path, out: str | Path, *, progress: Progress | None = None, **options: Unpack[HubOptions]
) -> VerifyReport:
    """Write a checkpoint in torch's own format (``pytorch_model.bin``) as safetensors, byte for byte, and verify it.

    Tensors go one by one from mapped files. Nothing in a file is run: one that asks for it is refused. What the
    checkpoint's own class ties, and the files repeat with the same values, is written once. Config and other files go
    along as with ``extend``.

    Args:
        base: a folder or a hub id, with one file or with shards; it is never written to.
        out: a folder that doesn't exist yet, or is empty.
        progress: called with the bytes done since it was last called.

    Returns:
        The report of the proof. The result's manifest has digests, by which ``verify`` proves it again.

    Raises:
        HfInitError: bad input, or a byte that isn't what it should be. Nothing is left at ``out``.

    Example::

        convert("old", "out").raise_if_failed()
    """
    from hf_init._write import prepare_conversion

    return prepare_conversion(base, out, **options).run(progress or no_progress)


@takes(ResultOptions)
def verify(
    out: str | Path,
    base: Bases | Literal[False] | None = None,
    *,
    progress: Progress | None = None,
    **options: Unpack[ResultOptions],
) -> VerifyReport:
    """Verify a result from its files: kept bytes against the base, new regions against their digests.

    Args:
        out: a folder that ``extend`` wrote.
        base: the checkpoint that it came from, a folder or a hub id, or what that one was extended from; None: the
            one in the manifest, if it is here or in the hub's cache at that commit. False: none, and what is kept is
            compared with the digests that ``extend(..., digest=True)`` recorded.
        progress: called with the bytes done since it was last called.

    Raises:
        CheckpointError: there is no manifest, or a folder that can't be read. A difference isn't an error: it is in
            the report, and ``raise_if_failed`` makes it one.

    Examples::

        verify("out").raise_if_failed()
        verify("out", merge=[verify("out", part=f"{number}/4") for number in (1, 2, 3, 4)])
    """
    if "merge" in options:  # the report of the whole from those of its parts
        reports = cast("Sequence[VerifyReport | str | Path]", options["merge"])
        if idle := [*(name for name in options if name != "merge"), *(["base"] if base is not None else [])]:
            raise PlanError(f"{option('merge')}: nothing is read; leave out {', '.join(map(option, idle))}")
        with open_tensors(user_path(out)) as result:
            parts = [reports] if isinstance(reports, str | Path) else [*reports]
            return _verify.merge_reports(parts, _verify.result_identity(user_path(out), result))
    if prefix := options.get("prefix"):
        if base is None or base is False or isinstance(base, Mapping):
            raise PlanError(f"{option('prefix', prefix)}: give the one folder that it is for, {option('base', 'DIR')}")
        base = {prefix: base}
    recompute, hub = None, chosen_options(options, HubOptions)
    if options.get("recompute"):
        if base is False:
            left_out = option("base", False)
            raise PlanError(f"{option('recompute')}: new values are made from the base, which {left_out} leaves out")
        from hf_init._load import recomputer

        asked = ("examples", "texts", "architecture", "trust_remote_code")
        recompute = recomputer(user_path(out), base, *(options.get(name) for name in asked), hub=hub)
    everything, part = options.get("everything", False), options.get("part", "")
    return _verify.verify_result(
        user_path(out), base, recompute=recompute, progress=progress, everything=everything, hub=hub, part=part
    )


@takes(DriftCallOptions)
def drift(
    base: str | Path | None,
    trained: str | Path,
    *,
    progress: Progress | None = None,
    **options: Unpack[DriftCallOptions],
) -> DriftReport:
    """Return what a training run did: every tensor and row of a trained checkpoint against what it was before.

    Without a plan, tensors are matched by their names.

    Args:
        base: the result of ``extend`` before training, or the checkpoint that it came from, a folder or a hub id
            (``ID@REV`` for a branch, a tag or a commit); None: what the manifest names.
        trained: a folder or a hub id in the HuggingFace layout, or a Trainer's output folder; a PEFT adapter's.
        progress: called with the bytes done since it was last called.

    Raises:
        HfInitError: a folder can't be read, or the plan is of another model. A difference isn't an error: it is in
            the report, and ``raise_if_failed`` makes it one.

    Example::

        print(drift("extended", "trained", frozen="kept"))
    """
    from hf_init import _drift

    frozen, prefix = options.get("frozen", "none"), options.get("prefix", "")
    hub = chosen_options(options, CacheOptions)
    return _drift.measure_drift(
        base, trained, options.get("plan"), frozen=frozen, progress=progress, prefix=prefix, hub=hub
    )


@takes(CodeOptions)
def same_function(
    base: str | Path, out: str | Path, *, seed: int = 0, **options: Unpack[CodeOptions]
) -> FunctionReport:
    """Run two checkpoints on the same inputs of the architecture, and compare what they give.

    The inputs (text, images, audio) are drawn from the seed. Where ``out`` is a result of ``extend``, the report is
    held to the claim of its plan; else to ``exact``. Both are in memory, one after the other.

    Raises:
        HfInitError: one of them can't be loaded or run. A difference isn't an error: it is in the report, and
            ``raise_if_failed`` makes one of it that breaks the claim.

    Example::

        print(same_function("base", "out"))
    """
    from hf_init._function import run_both

    return run_both(base, out, seed, options.get("trust_remote_code"))


@takes(HubOptions)
def heads(folder: str | Path, **options: Unpack[HubOptions]) -> HeadListing:
    """Return the heads of a checkpoint: their names, kinds, labels and sizes. Reads the config and headers only.

    Args:
        folder: a folder or a hub id, of a ``MultiHead`` or of any plain class.

    Raises:
        HfInitError: it can't be read.

    Example::

        print(heads("out"))
    """
    from hf_init._multihead import list_heads

    return list_heads(str(folder), **options)


@takes(DiffCallOptions)
def diff(
    a: str | Path, b: str | Path, *, progress: Progress | None = None, **options: Unpack[DiffCallOptions]
) -> DiffReport:
    """Compare any two checkpoints tensor by tensor, byte for byte; the same bytes under another name are found.

    Args:
        a, b: folders, hub ids (``ID@REV`` for a branch, a tag or a commit), or single ``.safetensors`` files.
        progress: called with the bytes done since it was last called.

    Raises:
        HfInitError: one of them can't be read, or a glob of ``only`` fits no tensor.

    Example::

        print(diff("a", "b"))
    """
    only = options.get("only") or ()
    globs = [only] if isinstance(only, str) else only
    by_layer, prefix = options.get("by_layer", False), options.get("prefix", "")
    return _verify.diff_checkpoints(a, b, globs, by_layer, progress, prefix, chosen_options(options, CacheOptions))


@takes(HubOptions)
def report(folder: str | Path, out: str | Path | None = None, **options: Unpack[HubOptions]) -> Path:
    """Write what a person wants to see of a result, or of any checkpoint: one HTML page, or one PNG picture.

    Args:
        folder: a folder that ``extend`` wrote, or any checkpoint, a folder or a hub id.
        out: a file that doesn't exist yet, ending in ``.html`` or ``.png``; None: ``hf_init-report.html`` here.

    Raises:
        HfInitError: matplotlib isn't installed (extra ``plot``), the file exists, the folder can't be read.

    Example::

        report("out", "out.html")
    """
    from hf_init._report import write_report

    return write_report(folder, None if out is None else Path(out), **options)
