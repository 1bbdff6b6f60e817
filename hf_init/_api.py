"""The verbs: plan, extend, verify, diff, report, drift, check. Each fetches what it needs when it is called."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from hf_init import _verify
from hf_init._errors import PlanError
from hf_init._progress import Progress, no_progress
from hf_init._verify import DiffReport, VerifyReport
from hf_init._write import prepare_extension, prepared

if TYPE_CHECKING:
    from hf_init._checkpoint import Bases
    from hf_init._drift import DriftReport
    from hf_init._multihead import HeadListing
    from hf_init._plan import Plan, RecipeLike


def plan(
    base: Bases,
    architecture: Any = None,
    *,
    recipe: RecipeLike = None,
    seed: int | None = None,
    labels: Sequence[str] | None = None,
    add_tokens: Sequence[Any] | None = None,
    keep: Mapping[str, Any] | None = None,
    **options: Any,
) -> Plan:
    """What an extension would do: which tensors are kept, resized, new, tied or unused, and each scheme.

    Reads headers and shapes only: of a hub id, its small files and the headers of the others. The arguments are those
    of ``extend``.

    Raises:
        HfInitError: bad input; the message says what to do.

    Example::

        print(plan("base", "BertForSequenceClassification", labels=["neg", "pos"]))
    """
    words = {"labels": labels, "add_tokens": add_tokens, **options}
    return prepared(base, architecture, recipe=recipe, seed=seed, keep=keep, headers_only=True, **words).plan


def extend(
    base: Bases,
    out: str | Path,
    architecture: Any = None,
    *,
    recipe: RecipeLike = None,
    seed: int | None = None,
    labels: Sequence[str] | None = None,
    add_tokens: Sequence[Any] | None = None,
    keep: Mapping[str, Any] | None = None,
    max_shard_size: str | int | None = None,
    link: str = "copy",
    digest: bool = False,
    resume: bool = False,
    rename: bool = True,
    progress: Progress | None = None,
    **options: Any,
) -> VerifyReport:
    """Writes an extended checkpoint folder to folder, without the model in memory, and proves it before it appears.

    Only a head that is solved from ``examples`` takes the model into memory, once, to see its features.

    Args:
        base: a checkpoint folder or a hub id; it is never written to. Or several, by the prefix that the names of each
            get, ``{"model.vision_tower.": FOLDER, ...}``, with ``config`` that of the whole.
        out: a folder that doesn't exist yet, or is empty.
        architecture: a ``PreTrainedModel`` class, an ``AutoModelFor*`` class, a name; None: the checkpoint's own.
        recipe: a ``Recipe``, a mapping, a known one's name, or the path of a YAML file; None: the architecture's own
            initialization.
        seed: instead of the recipe's.
        labels: label names in order.
        add_tokens: new tokens, each a text or a mapping with ``token`` and ``description``.
        keep: what is kept of a tensor that changes: a glob to ``"leading"``, ``"none"``, a list with a source row or
            None for each row, or boxes (see ``hf_init._plan.mapping``).
        max_shard_size: such as ``"5GB"``, or bytes; None keeps the base's own division into files.
        link: how a file that stays as it is gets there: ``"copy"`` (by reflink or within the kernel where the system
            can), ``"hard"``, ``"symbolic"``.
        digest: record digests of all that is kept, so that the result can be proved without its base.
        resume: go on with what an interrupted run to the same place left; where this one is interrupted, leave the
            same to the next.
        rename: write beside ``out`` and rename at the end; False writes in place, for systems that can't rename.
        progress: called with the bytes done since it was last called.
        options: config values; hub options; of labels ``num_labels``, ``rename_labels``, ``labels_keep``,
            ``label_counts``; of one head ``head``, ``examples``, ``verbalizer``, ``allow_new``; of named heads on one
            trunk ``add_heads``, ``remove_heads``, ``rename_heads``, ``take_heads``, ``name_head``, ``export_head``; of
            tokens ``special_tokens``, ``pad_to_multiple_of``, ``allow_shrink``, ``reinit_rows``, ``tokenizer``,
            ``guarantee``.

    Returns:
        The report of the proof, as ``verify`` gives it.

    Raises:
        HfInitError: bad input, or a byte that isn't what it should be. Nothing is left at ``out``.

    Example::

        extend("base", "out", "BertForSequenceClassification", labels=["neg", "pos"])
    """
    words = {"labels": labels, "add_tokens": add_tokens, "recipe": recipe, "seed": seed, "keep": keep, **options}
    how = {"max_shard_size": max_shard_size, "link": link, "digest": digest, "resume": resume, "rename": rename}
    return prepare_extension(base, out, architecture, **how, **words).run(progress or no_progress)


def verify(
    out: str | Path,
    base: Bases | Literal[False] | None = None,
    *,
    recompute: bool = False,
    examples: Any = None,
    everything: bool = False,
    progress: Progress | None = None,
) -> VerifyReport:
    """Proves a result again, from the files: kept bytes against the base, new regions against their digests.

    Args:
        out: a folder that ``extend`` wrote.
        base: the checkpoint that it came from; None: where the manifest says it was. False: none, and what is kept is
            compared with the digests that ``extend(..., digest=True)`` recorded.
        recompute: derive every new value again from its scheme and seed, and compare.
        examples: with ``recompute``, those that a head was solved from.
        everything: list all that differs, each with how much; else stop at the first.
        progress: called with the bytes done since it was last called.

    Raises:
        CheckpointError: there is no manifest, or a folder that can't be read. A difference isn't an error: it is in
            the report, and ``raise_if_failed`` makes it one.

    Example::

        verify("out").raise_if_failed()
    """
    if recompute and base is False:
        raise PlanError("recompute: new values are made from the base, which base=False leaves out; give one of them")
    again = _recomputer(Path(out), base, examples) if recompute else None
    return _verify.verify_result(Path(out), base, recompute=again, progress=progress, everything=everything)


def drift(
    base: str | Path | None, trained: str | Path, plan: Any = None, *, frozen: Any = "none", progress: Any = None
) -> DriftReport:
    """What a training run did: every tensor and row of a trained checkpoint against what it was before.

    Args:
        base: the result of ``extend`` before training, or the checkpoint that it came from; None: what the manifest
            names.
        trained: a folder in the HuggingFace layout, or a Trainer's output folder; a PEFT adapter's.
        plan: a ``Plan`` or a folder with a manifest; None: the manifest in ``trained`` or in ``base``. Without one
            tensors are brought together by their names.
        frozen: what was meant to stay: ``"none"``, ``"kept"`` (everything pretrained), globs, or a sequence of those.
        progress: called with the bytes done since it was last called.

    Raises:
        HfInitError: a folder can't be read, or the plan is of another model. A difference isn't an error: it is in
            the report, and ``raise_if_failed`` makes it one.

    Example::

        print(drift("extended", "trained", frozen="kept"))
    """
    from hf_init import _drift

    return _drift.measure_drift(base, trained, plan, frozen=frozen, progress=progress)


def heads(folder: str | Path, **hub: Any) -> HeadListing:
    """The heads of a checkpoint: their names, kinds, labels and sizes. Reads the config and headers only.

    Args:
        folder: a folder or a hub id, of a ``MultiHead`` or of any plain class.

    Raises:
        HfInitError: it can't be read.

    Example::

        print(heads("out"))
    """
    from hf_init._multihead import list_heads

    return list_heads(str(folder), **hub)


def diff(a: str | Path, b: str | Path, *, progress: Progress | None = None) -> DiffReport:
    """Compares any two checkpoints tensor by tensor, byte for byte.

    Raises:
        CheckpointError: one of them can't be read.

    Example::

        diff("a", "b").identical
    """
    return _verify.diff_checkpoints(Path(a), Path(b), progress=progress)


def report(folder: str | Path, out: str | Path | None = None) -> Path:
    """Writes what a person wants to see of a result, or of any checkpoint: one HTML page, or one PNG picture.

    Args:
        folder: a folder that ``extend`` wrote, or any checkpoint.
        out: a file that doesn't exist yet, ending in ``.html`` or ``.png``; None: ``hf_init-report.html`` here.

    Raises:
        HfInitError: matplotlib isn't installed (extra ``plot``), the file exists, the folder can't be read.

    Example::

        report("out", "out.html")
    """
    from hf_init._report import write_report

    return write_report(Path(folder), None if out is None else Path(out))


def _recomputer(out: Path, base: Any, examples: Any) -> Callable[[Any, Any], Any]:
    from hf_init._load import recomputer

    return recomputer(out, base, examples)
