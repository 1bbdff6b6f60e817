"""The command line: one function a verb, each parses, calls a public function, prints."""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

from hf_init._errors import HfInitError, PlanError

EXAMPLES = {
    "--config": "KEY=VALUE, such as hidden_dropout_prob=0.2",
    "--map": "GLOB=HOW, such as 'classifier.*=leading' or 'classifier.*=[0, 1, null]'",
}
DONE, DIFFERS, REFUSED = 0, 1, 2


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns 0 (done, or identical), 1 (a difference) or 2 (bad usage or bad input)."""
    try:
        args = _parser().parse_args(argv)
        return args.run(args)
    except HfInitError as error:
        return _refused(str(error))
    except BrokenPipeError:
        return _reader_gone()
    except OSError as error:
        return _refused(f"{error.filename}: {error.strerror}" if error.filename else str(error))
    except KeyboardInterrupt:
        return _refused("interrupted; an unfinished result is never left behind")


def plan(args: argparse.Namespace) -> int:
    """What would be kept, resized, new, tied, unused, and by which scheme."""
    from hf_init import _api

    with _hub_bars():
        made = _api.plan(args.base, args.architecture, **_target(args))
    return _say(args, made.to_json(), made)


def extend(args: argparse.Namespace) -> int:
    """Write and prove OUT."""
    from hf_init import _api

    with _hub_bars():
        extension = _api.prepare_extension(
            args.base, args.out, args.architecture, max_shard_size=args.max_shard_size, **_target(args)
        )
    with _bar("extend", lambda: extension.nbytes) as progress:
        report = extension.run(progress)
    made = extension.plan
    document = {"out": args.out, "plan": made.to_json(), "verify": report.to_json()}
    return _say(args, document, f"{made}\n\n{report}\n\nwritten: {args.out}")


def verify(args: argparse.Namespace) -> int:
    """Prove a result again: base from the manifest unless it is given."""
    from hf_init import _api

    with _bar("verify", lambda: _nbytes(args.out)) as progress:
        report = _api.verify(args.out, args.base, recompute=args.recompute, progress=progress)
    _say(args, report.to_json(), report)
    return DONE if report.ok else DIFFERS


def diff(args: argparse.Namespace) -> int:
    """Any two checkpoints, tensor by tensor, row by row."""
    from hf_init import _api

    with _bar("diff", lambda: min(_nbytes(args.a), _nbytes(args.b))) as progress:
        report = _api.diff(args.a, args.b, progress=progress)
    _say(args, report.to_json(), report)
    return DONE if report.identical else DIFFERS


def report(args: argparse.Namespace) -> int:
    """Histograms and tables in one page or picture: new against pretrained."""
    from hf_init import _api

    written = _api.report(args.dir, args.out)
    return _say(args, {"written": str(written)}, f"written: {written}")


def schemes(args: argparse.Namespace) -> int:
    """The catalogue: formula, settings, when to use it, source."""
    from hf_init.schemes.catalogue import describe, entry, table, to_json

    if args.name is None:
        return _say(args, to_json(), table())
    return _say(args, entry(args.name).to_json(), describe(args.name))


class _Parser(argparse.ArgumentParser):
    """Bad usage is refused as bad input is: in one message, by ``main``."""

    def error(self, message: str) -> NoReturn:
        raise HfInitError(f"{message}; see `{self.prog} --help`")

    def exit(self, status: int = 0, message: str | None = None) -> NoReturn:
        sys.stdout.flush()  # that nobody reads the help is noticed here, not when the interpreter ends
        super().exit(status, message)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="hf-init",
        allow_abbrev=False,
        description="Extend a pretrained checkpoint: initialize only what is new, and prove the rest untouched.",
    )
    verbs = parser.add_subparsers(required=True, metavar="VERB")
    made = _verb(verbs, "plan", plan)
    made.add_argument("base", metavar="BASE", help="a checkpoint folder or a hub id")
    _add_target(made)
    made = _verb(verbs, "extend", extend)
    made.add_argument("base", metavar="BASE", help="a checkpoint folder or a hub id")
    made.add_argument("out", metavar="OUT", help="a folder that doesn't exist yet, or is empty")
    made.add_argument("--max-shard-size", metavar="SIZE", help="such as 5GB; default: the base's own division")
    _add_target(made)
    made = _verb(verbs, "verify", verify)
    made.add_argument("out", metavar="OUT", help="a folder that extend wrote")
    made.add_argument("--base", help="the checkpoint it came from; default: the one in the manifest")
    made.add_argument("--recompute", action="store_true", help="derive every new value again from scheme and seed")
    made = _verb(verbs, "diff", diff)
    made.add_argument("a", metavar="A")
    made.add_argument("b", metavar="B")
    made = _verb(verbs, "report", report)
    made.add_argument("dir", metavar="DIR", help="a folder that extend wrote, or any checkpoint")
    made.add_argument("-o", dest="out", metavar="FILE", help="FILE.html or FILE.png; default: hf_init-report.html here")
    made = _verb(verbs, "schemes", schemes)
    made.add_argument("name", metavar="NAME", nargs="?", help="one scheme, a page")
    return parser


def _verb(verbs: Any, name: str, run: Callable[[argparse.Namespace], int]) -> argparse.ArgumentParser:
    parser = verbs.add_parser(name, help=run.__doc__, description=run.__doc__, allow_abbrev=False)
    parser.add_argument("--json", action="store_true", help="one JSON document on standard output, and nothing else")
    parser.set_defaults(run=run)
    return parser


def _add_target(parser: argparse.ArgumentParser) -> None:
    target = parser.add_argument_group("target")
    target.add_argument(
        "--architecture", metavar="CLASS", help="a class or AutoModelFor*; default: the checkpoint's own"
    )
    target.add_argument("--labels", metavar="A,B,C", type=_names, help="label names in order")
    target.add_argument("--num-labels", metavar="N", type=_whole, help="instead of their names")
    target.add_argument("--config", metavar="KEY=VALUE", action="append", default=[], help="a config value (repeat)")
    target.add_argument(
        "--map", metavar="GLOB=HOW", action="append", default=[], help="what is kept of a tensor that changes shape: "
        "leading (each element at its index, the rest is new), none, or JSON such as [2, 0, null]: a source row or "
        "none for each row (repeat)",
    )  # fmt: skip
    target.add_argument("--recipe", metavar="FILE", help="rules and schemes, in YAML")
    target.add_argument(
        "--init", metavar="GLOB=SCHEME", action="append", default=[], help="a rule before the recipe's, such as "
        "'classifier.weight=normal(std=0.02)' (repeat)",
    )  # fmt: skip
    target.add_argument("--seed", metavar="N", type=_whole, help="default: the recipe's, or 0")
    target.add_argument("--revision", metavar="REV", help="of a hub repository")
    target.add_argument("--trust-remote-code", action="store_true", help="run model code that the checkpoint brings")


def _target(args: argparse.Namespace) -> dict[str, Any]:
    """The keyword arguments of ``plan`` and ``extend``."""
    from hf_init._recipe import parse_init

    given = {
        "config": {key: _value(text) for key, text in _pairs("--config", args.config).items()},
        "keep": {glob: _value(how) for glob, how in _pairs("--map", args.map).items()},
        "labels": args.labels,
        "num_labels": args.num_labels,
        "recipe": args.recipe,
        "rules": [parse_init(text) for text in args.init],
        "seed": args.seed,
        "revision": args.revision,
        "trust_remote_code": args.trust_remote_code or None,
    }
    return {key: value for key, value in given.items() if value is not None}


def _pairs(option: str, texts: Sequence[str]) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for text in texts:
        key, equals, value = (part.strip() for part in text.partition("="))
        if not equals or not key or not value:
            raise PlanError(f"{option} {text!r}: expected {EXAMPLES[option]}")
        if key in pairs:
            raise PlanError(f"{option} {key}: given twice, as {pairs[key]!r} and as {value!r}; give it once")
        pairs[key] = value
    return pairs


def _value(text: str) -> Any:
    """A JSON value; anything else is a string."""
    try:
        return json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        return text


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} isn't JSON")


def _whole(text: str) -> int:
    if not re.fullmatch(r"[+-]?\d{1,30}", text, re.ASCII):
        raise argparse.ArgumentTypeError(f"expected a whole number, not {text!r}")
    return int(text)


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",")]


def _say(args: argparse.Namespace, document: Any, text: Any) -> int:
    print(json.dumps(document, indent=2) if args.json else text, flush=True)
    return DONE


def _refused(message: str) -> int:
    print(f"hf-init: {message}", file=sys.stderr)
    return REFUSED


def _reader_gone() -> int:
    """Whoever read the pipe has had enough: nothing more to say, not even at the interpreter's exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return DONE


def _nbytes(folder: str) -> int:
    """The bytes of a checkpoint's tensors: the most that there is to compare."""
    from hf_init._checkpoint import Checkpoint

    return Checkpoint.open(folder).nbytes


@contextmanager
def _bar(title: str, total: Callable[[], int]) -> Iterator[Callable[[int], object]]:
    """A progress bar on a terminal; nothing in a pipe."""
    if not sys.stderr.isatty():
        yield _unseen
        return
    from tqdm import tqdm

    with tqdm(desc=title, total=total(), unit="B", unit_scale=True, leave=False) as bar:
        yield bar.update


def _unseen(done: int) -> None:
    """Nobody watches."""


@contextmanager
def _hub_bars() -> Iterator[None]:
    """The bars of huggingface_hub, which it would draw into a pipe as well, on a terminal only."""
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    if sys.stderr.isatty() or are_progress_bars_disabled():
        yield
        return
    disable_progress_bars()
    try:
        yield
    finally:
        enable_progress_bars()
