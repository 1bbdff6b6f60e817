"""One function a verb: each calls a public function and shows what it gives."""

from __future__ import annotations

from argparse import Namespace
from typing import TYPE_CHECKING, Any

from hf_init.cli._terminal import DIFFERS, DONE, hub_bars, notice, print_result, progress_bar, stopped_by_signal
from hf_init.cli._words import check_idle, comparison, target_options, texts_of

if TYPE_CHECKING:
    from hf_init._plan import Plan


def run_plan(args: Namespace) -> int:
    """What would be kept, resized, new, tied, unused, and by which scheme."""
    from hf_init import _api

    compared = comparison(args)
    with hub_bars():
        made = _api.plan(args.base, args.architecture, **target_options(args))
    if compared is None:
        return print_result(args, made.to_json(), made)
    found = _compared(args, compared)
    return print_result(args, {**made.to_json(), "comparison": found.to_json()}, f"{made}\n\n{found}")


def _compared(args: Namespace, words: dict[str, Any]) -> Any:
    from hf_init._probe import compare_schemes

    return compare_schemes(args.base, **words, done=lambda run: notice(f"{run.scheme}: done"))


def run_extend(args: Namespace) -> int:
    """Write and prove OUT."""
    from hf_init._write import prepare_extension

    texts = texts_of(args.probe) if args.probe else None
    how = {"max_shard_size": args.max_shard_size, "link": args.link, "digest": args.digest, "resume": args.resume}
    with hub_bars():
        extension = prepare_extension(
            args.base, args.out, args.architecture, rename=not args.no_rename, **how, **target_options(args)
        )
    if texts is not None:
        _check_unprobed(args, extension.plan, texts)
    with progress_bar("extend", lambda: extension.nbytes) as progress, stopped_by_signal():
        report = extension.run(progress, notice)
    made = extension.plan
    probe = _probed(args, texts) if texts is not None else None
    document = {"out": args.out, "plan": made.to_json(), "verify": report.to_json()}
    if probe is not None:
        document["probe"] = probe.to_json()
    parts = (made, report, *([] if probe is None else [probe]), f"written: {args.out}")
    return print_result(args, document, "\n\n".join(map(str, parts)))


def _check_unprobed(args: Namespace, made: Plan, texts: list[str]) -> None:
    """What can't be probed is refused while nothing is written."""
    from hf_init._probe import check_kind, checked_texts

    checked_texts(texts)
    for what in (args.base, args.out):
        check_kind(what, made.architecture)


def _probed(args: Namespace, texts: list[str]) -> Any:
    from hf_init._probe import probe_vocabulary

    return probe_vocabulary(args.base, args.out, texts)


def run_verify(args: Namespace) -> int:
    """Prove a result again: base from the manifest unless it is given."""
    from hf_init import _api

    check_idle(args)
    if args.after_training:
        return _after_training(args)
    base = False if args.no_base else args.base
    with progress_bar("verify", lambda: _nbytes(args.out)) as progress:
        report = _api.verify(
            args.out, base, recompute=args.recompute, examples=args.examples, everything=args.all, progress=progress
        )
    print_result(args, report.to_json(), report)
    return DONE if report.ok else DIFFERS


def _after_training(args: Namespace) -> int:
    from hf_init import _api

    with progress_bar("verify", lambda: _nbytes(args.out)) as progress:
        report = _api.drift(args.base, args.out, args.plan, frozen=args.frozen or "kept", progress=progress)
    if args.picture:
        report.draw(args.picture)
    print_result(args, report.to_json(), report)
    return DONE if report.ok else DIFFERS


def run_check(args: Namespace) -> int:
    """Before training: what one batch tells about a model's start."""
    from hf_init._check import check_folder

    report = check_folder(args.dir, args.text, args.labels, train=args.train)
    if args.picture:
        report.draw(args.picture)
    print_result(args, report.to_json(), report)
    return DONE if report.ok else DIFFERS


def run_diff(args: Namespace) -> int:
    """Any two checkpoints, tensor by tensor, row by row."""
    from hf_init import _api

    with progress_bar("diff", lambda: min(_nbytes(args.a), _nbytes(args.b))) as progress:
        report = _api.diff(args.a, args.b, progress=progress)
    print_result(args, report.to_json(), report)
    return DONE if report.identical else DIFFERS


def run_heads(args: Namespace) -> int:
    """The heads of a checkpoint: names, kinds, labels, sizes."""
    from hf_init import _api

    with hub_bars():
        found = _api.heads(args.dir)
    return print_result(args, found.to_json(), found)


def run_report(args: Namespace) -> int:
    """Histograms and tables in one page or picture: new against pretrained."""
    from hf_init import _api

    written = _api.report(args.dir, args.out)
    return print_result(args, {"written": str(written)}, f"written: {written}")


def run_schemes(args: Namespace) -> int:
    """The catalogue: formula, settings, when to use it, source."""
    from hf_init.schemes.catalogue import catalogue_entry, catalogue_json, catalogue_table, describe_scheme

    if args.name is None:
        return print_result(args, catalogue_json(), catalogue_table())
    return print_result(args, catalogue_entry(args.name).to_json(), describe_scheme(args.name))


def _nbytes(folder: str) -> int:
    """The bytes of a checkpoint's tensors: the most that there is to compare."""
    from hf_init._checkpoint import Checkpoint

    return Checkpoint.open(folder).nbytes
