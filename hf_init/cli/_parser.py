"""The verbs and their options."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from typing import Any, NoReturn

from hf_init._errors import HfInitError
from hf_init.cli import _verbs
from hf_init.cli._options import add_target
from hf_init.cli._words import names, whole


class _Parser(argparse.ArgumentParser):
    """Bad usage is refused as bad input is: in one message, by ``main``."""

    def error(self, message: str) -> NoReturn:
        raise HfInitError(f"{message}; see `{self.prog} --help`")

    def exit(self, status: int = 0, message: str | None = None) -> NoReturn:
        sys.stdout.flush()  # that nobody reads the help is noticed here, not when the interpreter ends
        super().exit(status, message)


def parser() -> argparse.ArgumentParser:
    """The whole command line."""
    made = _Parser(
        prog="hf-init",
        allow_abbrev=False,
        description="Extend a pretrained checkpoint: initialize only what is new, and prove the rest untouched.",
    )
    verbs = made.add_subparsers(required=True, metavar="VERB")
    for add in (_plan, _extend, _verify, _check, _diff, _heads, _report, _schemes):
        add(verbs)
    return made


def _plan(verbs: Any) -> None:
    made = _verb(verbs, "plan", _verbs.plan)
    made.add_argument("base", metavar="BASE", help="a checkpoint folder or a hub id")
    add_target(made)
    rows = made.add_argument_group("schemes of new rows")
    rows.add_argument(
        "--compare-schemes", metavar="FILE", help="with new tokens: train their rows for a few steps from every scheme "
        "on these texts, and list the schemes, best first (of a hub id the weights are fetched)",
    )  # fmt: skip
    rows.add_argument("--steps", metavar="N", type=whole, help="of that training; default: 50")


def _extend(verbs: Any) -> None:
    made = _verb(verbs, "extend", _verbs.extend)
    made.add_argument("base", metavar="BASE", help="a checkpoint folder or a hub id")
    made.add_argument("out", metavar="OUT", help="a folder that doesn't exist yet, or is empty")
    add_target(made)
    files = made.add_argument_group("files")
    files.add_argument("--max-shard-size", metavar="SIZE", help="such as 5GB; default: the base's own division")
    files.add_argument(
        "--link", choices=("copy", "hard", "symbolic"), default="copy", help="how files that stay as they are get there"
    )
    files.add_argument("--digest", action="store_true", help="record digests: OUT can be proved without its base")
    files.add_argument("--resume", action="store_true", help="go on with what an interrupted run to OUT left")
    files.add_argument("--no-rename", action="store_true", help="write in place, where the system can't rename")
    files.add_argument("--probe", metavar="FILE", help="with new tokens: what they do to the model on these texts")


def _verify(verbs: Any) -> None:
    made = _verb(verbs, "verify", _verbs.verify)
    made.add_argument("out", metavar="OUT", help="a folder that extend wrote")
    made.add_argument("--base", help="the checkpoint it came from; default: the one in the manifest")
    made.add_argument("--no-base", action="store_true", help="prove what is kept by the digests that --digest recorded")
    made.add_argument("--recompute", action="store_true", help="derive every new value again from scheme and seed")
    made.add_argument("--examples", metavar="FILE", help="with --recompute: those that a head was solved from")
    made.add_argument("--all", action="store_true", help="list all that differs; else stop at the first")
    made.add_argument(
        "--after-training", action="store_true", help="OUT was trained since: prove that what was meant to stay did"
    )
    made.add_argument(
        "--frozen", metavar="WHAT", action="append", default=[], help="after training: kept (the default), none, or a "
        "glob on names; !GLOB takes out; the last that fits counts (repeat)",
    )  # fmt: skip
    made.add_argument("--plan", metavar="DIR", help="after training: a folder with the manifest, if OUT has none")
    made.add_argument("-o", dest="picture", metavar="FILE.png", help="after training: a picture of what moved")


def _check(verbs: Any) -> None:
    made = _verb(verbs, "check", _verbs.check)
    made.add_argument("dir", metavar="DIR", help="a folder that extend wrote, or any other")
    made.add_argument("--text", metavar="TEXT", action="append", help="of the batch (repeat); default: some of its own")
    made.add_argument("--labels", metavar="N,N", type=names, help="of the texts: numbers or names")
    made.add_argument("--train", action="store_true", help="in training mode: with dropout and batch statistics")
    made.add_argument("-o", dest="picture", metavar="FILE.png", help="a picture of activations and gradients")


def _diff(verbs: Any) -> None:
    made = _verb(verbs, "diff", _verbs.diff)
    made.add_argument("a", metavar="A")
    made.add_argument("b", metavar="B")


def _heads(verbs: Any) -> None:
    made = _verb(verbs, "heads", _verbs.heads)
    made.add_argument("dir", metavar="DIR", help="a checkpoint folder or a hub id")


def _report(verbs: Any) -> None:
    made = _verb(verbs, "report", _verbs.report)
    made.add_argument("dir", metavar="DIR", help="a folder that extend wrote, or any checkpoint")
    made.add_argument("-o", dest="out", metavar="FILE", help="FILE.html or FILE.png; default: hf_init-report.html here")


def _schemes(verbs: Any) -> None:
    made = _verb(verbs, "schemes", _verbs.schemes)
    made.add_argument("name", metavar="NAME", nargs="?", help="one scheme, a page")


def _verb(verbs: Any, name: str, run: Callable[[argparse.Namespace], int]) -> argparse.ArgumentParser:
    parser = verbs.add_parser(name, help=run.__doc__, description=run.__doc__, allow_abbrev=False)
    parser.add_argument("--json", action="store_true", help="one JSON document on standard output, and nothing else")
    parser.set_defaults(run=run)
    return parser
