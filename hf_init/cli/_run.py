"""One function a command: each calls a public function, and returns what it gives to be printed."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from hf_init._errors import PlanError
from hf_init._options import (
    CacheOptions,
    CheckOptions,
    ComparisonOptions,
    DiffOptions,
    DriftOptions,
    ExtendOptions,
    HubOptions,
    PlanOptions,
    ResultOptions,
    TowerOption,
    options_of,
)
from hf_init.cli._terminal import Outcome, Terminal
from hf_init.cli._values import long_name, option_values

if TYPE_CHECKING:
    from hf_init._base_report import Report
    from hf_init._checkpoint import Bases


def given_options(args: Namespace, group: type) -> dict[str, Any]:
    """Return the options of a group that were given, as keyword arguments."""
    return option_values(vars(args), options_of(group))


def given_bases(args: Namespace) -> Bases:
    """Return BASE, or the parts that ``--tower`` names with BASE as the rest.

    Raises:
        PlanError: there is neither, or they go with something that is for one checkpoint.
    """
    towers = given_options(args, TowerOption).get("tower")
    if not towers:
        if args.base is None:
            which = f"BASE or OUT is missing beside {args.out}" if getattr(args, "out", None) else "BASE is missing"
            raise PlanError(f"{which}: give a folder or a hub id, or all parts of a model: --tower PREFIX=DIR")
        return args.base
    if alone := [name for name in ("probe", "compare_schemes") if getattr(args, name, None)]:
        raise PlanError(f"{long_name(alone[0])} is for one checkpoint; leave it or --tower out")
    return {**({} if args.base is None else {"": args.base}), **towers}


def run_plan(args: Namespace, terminal: Terminal) -> Outcome:
    """Plan, and compare the schemes of new rows if that is asked for."""
    from hf_init import _api

    base = given_bases(args)
    compared = comparison_options(args)
    with terminal.hub_bars():
        plan = _api.plan(base, _text(args.architecture), **given_options(args, PlanOptions))
    if compared is None:
        return Outcome.of(plan)
    from hf_init._probe import compare_schemes

    comparison = compare_schemes(args.base, **compared, done=lambda run: terminal.notice(f"{run.scheme}: done"))
    return Outcome({**plan.to_json(), "comparison": comparison.to_json()}, (plan, comparison))


def comparison_options(args: Namespace) -> dict[str, Any] | None:
    """Return the keyword arguments of ``compare_schemes``; None: nothing is to be compared.

    Raises:
        PlanError: options that would be passed over.
    """
    given = given_options(args, ComparisonOptions)
    if "compare_schemes" not in given:
        if "steps" in given:
            raise PlanError("--steps is for --compare-schemes; leave it out, or give texts: --compare-schemes FILE")
        return None
    from hf_init._distill import paragraphs_of

    options = given_options(args, PlanOptions)
    tokens = ("add_tokens", "special_tokens", "add_tokens_file")
    if idle := {*options, *(["architecture"] if args.architecture else [])} - {*tokens, "seed"}:
        names = ", ".join(map(long_name, sorted(idle)))
        raise PlanError(f"--compare-schemes tries every scheme for the rows of new tokens; leave out {names}")
    return {
        "tokens": requested_tokens(options),
        "texts": paragraphs_of(given["compare_schemes"]),
        "steps": given.get("steps", 50),
        "seeds": (options.get("seed", 0),),
    }


def requested_tokens(options: Mapping[str, Any]) -> list[Any]:
    """Return all new tokens, as ``add_tokens`` takes them."""
    from hf_init._vocabulary import read_token_file

    listed = read_token_file(options["add_tokens_file"]) if "add_tokens_file" in options else []
    special = [{"token": token, "special": True} for token in options.get("special_tokens", ())]
    return [*options.get("add_tokens", ()), *listed, *special]


def run_extend(args: Namespace, terminal: Terminal) -> Outcome:
    """Write and verify a result, and probe it if that is asked for."""
    from hf_init._distill import paragraphs_of
    from hf_init._write import prepare_extension

    texts = paragraphs_of(args.probe[0]) if args.probe else None
    with terminal.hub_bars():
        extension = prepare_extension(
            given_bases(args), args.out, _text(args.architecture), **given_options(args, ExtendOptions)
        )
    plan = extension.plan
    if texts is not None:  # what can't be probed is refused while nothing is written
        from hf_init._probe import check_kind, checked_texts

        checked_texts(texts)
        for folder in (args.base, args.out):
            check_kind(folder, plan.architecture)
    with terminal.progress_bar("extend", lambda: extension.nbytes) as progress, terminal.stopped_by_signal():
        report = extension.run(progress, terminal.notice)
    document: dict[str, object] = {"out": args.out, "plan": plan.to_json(), "verify": report.to_json()}
    reports: list[Report] = [plan, report]
    if texts is not None:
        from hf_init._probe import probe_vocabulary

        base = extension.prepared.target.base
        probe = probe_vocabulary(base.name if base.source.repository is None else base.folder, args.out, texts)
        document["probe"] = probe.to_json()
        reports.append(probe)
    return Outcome(document, reports, f"written: {args.out}")


def run_convert(args: Namespace, terminal: Terminal) -> Outcome:
    """Write a folder in safetensors and verify it."""
    from hf_init._write import prepare_conversion

    with terminal.hub_bars():
        conversion = prepare_conversion(args.dir, args.out, **given_options(args, HubOptions))
    with terminal.progress_bar("convert", lambda: conversion.nbytes) as progress, terminal.stopped_by_signal():
        report = conversion.run(progress)
    document = {"out": args.out, "plan": conversion.plan.to_json(), "verify": report.to_json()}
    return Outcome(document, (conversion.plan, report), f"written: {args.out}")


def run_verify(args: Namespace, terminal: Terminal) -> Outcome:
    """Verify a result: base from the manifest unless it is given."""
    from hf_init import _api

    options = given_options(args, ResultOptions)
    if (idle := [name for name in ("examples", "texts") if name in options]) and "recompute" not in options:
        raise PlanError(f"--{idle[0]} is for --recompute; leave out what isn't meant")
    base = args.base if args.base is False else _text(args.base)
    if not args.after_training:
        with terminal.hub_bars(), terminal.progress_bar("verify", lambda: _nbytes(args.out, {})) as progress:
            return Outcome.of(_api.verify(args.out, base, progress=progress, **options))
    # Everything pretrained is to be as it was, wherever training has left it.
    hub = given_options(args, CacheOptions)
    if idle := [long_name(name) for name in options if name not in (*hub, "prefix")]:
        raise PlanError(f"--after-training compares what is kept, and nothing else; leave out {', '.join(idle)}")
    if base is False:
        raise PlanError(
            "--after-training compares with the base, or with the result before training; leave out --no-base"
        )
    prefix = {name: options[name] for name in ("prefix",) if name in options}
    with terminal.hub_bars(), terminal.progress_bar("verify", lambda: _nbytes(args.out, hub)) as progress:
        return Outcome.of(_api.drift(base, args.out, progress=progress, frozen="kept", **prefix, **hub))


def run_drift(args: Namespace, terminal: Terminal) -> Outcome:
    """Compare a trained folder with what it was before."""
    from hf_init import _api

    hub = given_options(args, CacheOptions)
    with terminal.hub_bars(), terminal.progress_bar("drift", lambda: _nbytes(args.trained, hub)) as progress:
        report = _api.drift(args.base, args.trained, progress=progress, **hub, **given_options(args, DriftOptions))
    if args.picture:
        report.draw(args.picture[0])
    return Outcome.of(report)


def run_check(args: Namespace, terminal: Terminal) -> Outcome:
    """Check a folder on one batch."""
    from hf_init._check import check_folder

    with terminal.hub_bars():
        report = check_folder(args.dir, **given_options(args, CheckOptions))
    if args.picture:
        report.draw(args.picture[0])
    return Outcome.of(report)


def run_diff(args: Namespace, terminal: Terminal) -> Outcome:
    """Compare two checkpoints."""
    from hf_init import _api

    hub = given_options(args, CacheOptions)
    with (
        terminal.hub_bars(),
        terminal.progress_bar("diff", lambda: min(_nbytes(args.a, hub), _nbytes(args.b, hub))) as progress,
    ):
        report = _api.diff(args.a, args.b, progress=progress, **hub, **given_options(args, DiffOptions))
    return Outcome.of(report)


def run_heads(args: Namespace, terminal: Terminal) -> Outcome:
    """List the heads of a checkpoint."""
    from hf_init import _api

    with terminal.hub_bars():
        listing = _api.heads(args.dir, **given_options(args, HubOptions))
    return Outcome.of(listing)


def run_report(args: Namespace, terminal: Terminal) -> Outcome:
    """Write a page or a picture."""
    from hf_init import _api

    with terminal.hub_bars():
        written = _api.report(args.dir, _text(args.out), **given_options(args, HubOptions))
    return Outcome({"written": str(written)}, text=f"written: {written}")


def run_schemes(args: Namespace, terminal: Terminal) -> Outcome:
    """Show the catalogue, or one scheme of it."""
    from hf_init.cli._catalogue import catalogue_entry, catalogue_json, catalogue_table, describe_scheme

    if args.name is None:
        return Outcome({"schemes": catalogue_json()}, text=catalogue_table())
    return Outcome(catalogue_entry(args.name).to_json(), text=describe_scheme(args.name))


def run_completion(args: Namespace, terminal: Terminal) -> Outcome:
    """Show the script by which a shell completes."""
    from hf_init.cli._completion import completion_script

    script = completion_script(args.shell)
    return Outcome({"script": script}, text=script)


def _text(values: list[str] | None) -> str | None:
    """Return the value of an option that is given once; None where it isn't given."""
    return values[0] if values else None


def _nbytes(folder: str, hub: Mapping[str, Any]) -> int:
    """Return the bytes of a checkpoint's tensors: the most that there is to compare."""
    from hf_init._checkpoint import open_tensors

    return open_tensors(folder, **hub).nbytes


RUN: Mapping[str, Callable[[Namespace, Terminal], Outcome]] = {
    "plan": run_plan,
    "extend": run_extend,
    "convert": run_convert,
    "verify": run_verify,
    "drift": run_drift,
    "diff": run_diff,
    "check": run_check,
    "heads": run_heads,
    "report": run_report,
    "schemes": run_schemes,
    "completion": run_completion,
}
