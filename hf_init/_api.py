"""The verbs: plan, extend, verify, diff, report. Each fetches what it needs when it is called."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_init import _verify
from hf_init._errors import PlanError
from hf_init._verify import DiffReport, VerifyReport

if TYPE_CHECKING:
    from hf_init._plan import Plan
    from hf_init._recipe import RecipeLike
    from hf_init.hf._prepare import Prepared

Progress = Callable[[int], object]


def plan(
    base: str | Path,
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

    Reads headers and shapes only. The arguments are those of ``extend``.

    Raises:
        HfInitError: bad input; the message says what to do.

    Example::

        print(plan("base", "BertForSequenceClassification", labels=["neg", "pos"]))
    """
    words = {"labels": labels, "add_tokens": add_tokens, **options}
    return _prepared(base, architecture, recipe=recipe, seed=seed, keep=keep, **words).plan


def extend(
    base: str | Path,
    out: str | Path,
    architecture: Any = None,
    *,
    recipe: RecipeLike = None,
    seed: int | None = None,
    labels: Sequence[str] | None = None,
    add_tokens: Sequence[Any] | None = None,
    keep: Mapping[str, Any] | None = None,
    max_shard_size: str | int | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> VerifyReport:
    """Writes an extended checkpoint folder to folder, without the model in memory, and proves it before it appears.

    Args:
        base: a checkpoint folder or a hub id; it is never written to.
        out: a folder that doesn't exist yet, or is empty.
        architecture: a ``PreTrainedModel`` class, an ``AutoModelFor*`` class, a name; None: the checkpoint's own.
        recipe: a ``Recipe``, a mapping, a known one's name, or the path of a YAML file; None: the architecture's own
            initialization.
        seed: instead of the recipe's.
        labels: label names in order.
        add_tokens: new tokens, each a text or a mapping with ``token`` and ``description``.
        keep: what is kept of a tensor that changes: a glob to ``"leading"``, ``"none"``, a list with a source row or
            None for each row, or boxes (see ``hf_init._keep``).
        max_shard_size: such as ``"5GB"``, or bytes; None keeps the base's own division into files.
        progress: called with the bytes done since it was last called.
        options: config values, hub options.

    Returns:
        The report of the proof, as ``verify`` gives it.

    Raises:
        HfInitError: bad input, or a byte that isn't what it should be. Nothing is left at ``out``.

    Example::

        extend("base", "out", "BertForSequenceClassification", labels=["neg", "pos"])
    """
    words = {"labels": labels, "add_tokens": add_tokens, **options}
    extension = prepare_extension(
        base, out, architecture, max_shard_size=max_shard_size, recipe=recipe, seed=seed, keep=keep, **words
    )
    return extension.run(progress or _silent)


@dataclass(frozen=True)
class Extension:
    """An extension that is planned and checked, and hasn't written anything yet."""

    prepared: Prepared
    out: Path
    max_bytes: int | None = None

    @property
    def plan(self) -> Plan:
        return self.prepared.plan

    @property
    def nbytes(self) -> int:
        """What ``run`` has to do and reports to ``progress``: every byte is written once and proved once."""
        return 2 * _stored(self.plan)

    def run(self, progress: Progress) -> VerifyReport:
        """Writes the result and proves it; see ``extend``."""
        from hf_init._write import staged
        from hf_init.hf._files import bytes_of_others

        folder = self.prepared.target.folder
        with staged(self.out, _stored(self.plan) + bytes_of_others(folder)) as stage:
            _write(self.prepared, stage, self.max_bytes, progress)
            report = _verify.verify(stage, folder, progress=progress)
            report.raise_if_failed()
        return report


def prepare_extension(
    base: str | Path,
    out: str | Path,
    architecture: Any = None,
    *,
    max_shard_size: str | int | None = None,
    **words: Any,
) -> Extension:
    """The first half of ``extend``, with the same arguments: everything that can be refused is refused here."""
    from hf_init._write import refuse_existing

    place = _place(out)
    _refuse_nested(Path(os.path.expanduser(base)), place)  # before the advice to remove what is there
    refuse_existing(place)
    _refuse_memory_options(words)
    max_bytes = _bytes(max_shard_size)
    prepared = _prepared(base, architecture, **words)
    _refuse_nested(prepared.target.folder, place)
    return Extension(prepared, place, max_bytes)


def verify(
    out: str | Path, base: str | Path | None = None, *, recompute: bool = False, progress: Progress | None = None
) -> VerifyReport:
    """Proves a result again, from the files: kept bytes against the base, new regions against their digests.

    Args:
        out: a folder that ``extend`` wrote.
        base: the checkpoint that it came from; None: where the manifest says it was.
        recompute: derive every new value again from its scheme and seed, and compare.
        progress: called with the bytes done since it was last called.

    Raises:
        CheckpointError: there is no manifest, or a folder that can't be read. A difference isn't an error: it is in
            the report, and ``raise_if_failed`` makes it one.

    Example::

        verify("out").raise_if_failed()
    """
    again = _recomputer(Path(out), None if base is None else Path(base)) if recompute else None
    return _verify.verify(Path(out), None if base is None else Path(base), recompute=again, progress=progress)


def diff(a: str | Path, b: str | Path, *, progress: Progress | None = None) -> DiffReport:
    """Compares any two checkpoints tensor by tensor, byte for byte.

    Raises:
        CheckpointError: one of them can't be read.

    Example::

        diff("a", "b").identical
    """
    return _verify.diff(Path(a), Path(b), progress=progress)


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
    from hf_init import _report

    return _report.report(Path(folder), None if out is None else Path(out))


def _prepared(
    base: str | Path,
    architecture: Any,
    *,
    recipe: RecipeLike = None,
    seed: int | None = None,
    keep: Mapping[str, Any] | None = None,
    rules: Sequence[Any] = (),
    **options: Any,
) -> Prepared:
    from hf_init.hf._prepare import prepare, refuse_unloadable
    from hf_init.hf._target import resolve

    target = resolve(base, architecture, **options)
    prepared = prepare(target, recipe, seed=seed, keep=keep, rules=rules)
    refuse_unloadable(target, prepared.plan)
    return prepared


def _stored(plan: Plan) -> int:
    """The bytes of all tensors in the result's files."""
    from hf_init._write import nbytes

    return sum(nbytes(tensor) for tensor in plan.stored)


def _write(prepared: Prepared, stage: Path, max_bytes: int | None, progress: Progress) -> None:
    """Everything of a result, into a folder that isn't at its place yet; the manifest last."""
    from hf_init._manifest import Manifest
    from hf_init._version import __version__
    from hf_init._write import write
    from hf_init.hf._files import carry, write_config

    source, folder = prepared.source, prepared.target.folder
    digests = write(
        prepared.plan,
        source,
        stage,
        prepared.context,
        max_bytes=max_bytes,
        total_parameters=prepared.model.num_parameters(),
        progress=progress,
    )
    carry(folder, stage)
    write_config(prepared.model, stage)
    for terms in prepared.terms:
        terms.write(stage)
    base = {"path": str(folder.resolve()), "name": prepared.target.base, "fingerprint": source.fingerprint()}
    Manifest(plan=prepared.plan.to_json(), base=base, digests=digests, made_by=f"hf_init {__version__}").save(stage)


def _recomputer(out: Path, base: Path | None) -> Callable[[Any, Any], Any]:
    from hf_init.hf._again import recomputer

    return recomputer(out, base)


def _place(out: str | Path) -> Path:
    if not str(out):
        raise PlanError("OUT is an empty name; give the folder that the result is to be")
    return Path(os.path.abspath(os.path.expanduser(out)))


def _refuse_memory_options(options: Mapping[str, Any]) -> None:
    config = options.get("config")
    asked = {**(config if isinstance(config, Mapping) else {}), **options}
    given = [key for key in ("dtype", "torch_dtype", "device_map", "max_memory") if asked.get(key) is not None]
    if given:
        raise PlanError(
            f"{', '.join(given)}: the bytes of a checkpoint are kept as they are, folder to folder; load the result "
            "with from_pretrained and give it there"
        )


def _refuse_nested(base: Path, out: Path) -> None:
    inner, outer = out.resolve(), base.resolve()
    if not outer.is_dir():
        return
    if inner == outer:
        raise PlanError(f"OUT is the base itself ({base}), which is never written to; give another place")
    if outer in inner.parents:
        raise PlanError(f"OUT ({out}) lies inside the base ({base}), which is never written to; give another place")
    if inner in outer.parents:
        raise PlanError(f"the base ({base}) lies inside OUT ({out}); give another place")


UNITS = {"KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


def _bytes(size: str | int | None) -> int | None:
    if size is None or (isinstance(size, int) and not isinstance(size, bool) and size > 0):
        return size
    found = re.fullmatch(r"(\d+(?:\.\d+)?) ?([KMG]I?B)", str(size).strip(), re.ASCII | re.IGNORECASE)
    many = int(float(found[1]) * UNITS[found[2].upper()]) if found else 0
    if many < 1:
        raise PlanError(f"max_shard_size: expected a size such as '5GB' or '500MiB', not {size!r}")
    return many


def _silent(done: int) -> None:
    """Nobody watches."""
