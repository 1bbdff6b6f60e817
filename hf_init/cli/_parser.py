"""The verbs and their options."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from typing import Any, NoReturn

from hf_init._errors import HfInitError
from hf_init.cli import _verbs
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
    for add in (_plan, _extend, _verify, _diff, _report, _schemes):
        add(verbs)
    return made


def _plan(verbs: Any) -> None:
    made = _verb(verbs, "plan", _verbs.plan)
    made.add_argument("base", metavar="BASE", help="a checkpoint folder or a hub id")
    _add_target(made)


def _extend(verbs: Any) -> None:
    made = _verb(verbs, "extend", _verbs.extend)
    made.add_argument("base", metavar="BASE", help="a checkpoint folder or a hub id")
    made.add_argument("out", metavar="OUT", help="a folder that doesn't exist yet, or is empty")
    made.add_argument("--max-shard-size", metavar="SIZE", help="such as 5GB; default: the base's own division")
    _add_target(made)


def _verify(verbs: Any) -> None:
    made = _verb(verbs, "verify", _verbs.verify)
    made.add_argument("out", metavar="OUT", help="a folder that extend wrote")
    made.add_argument("--base", help="the checkpoint it came from; default: the one in the manifest")
    made.add_argument("--recompute", action="store_true", help="derive every new value again from scheme and seed")


def _diff(verbs: Any) -> None:
    made = _verb(verbs, "diff", _verbs.diff)
    made.add_argument("a", metavar="A")
    made.add_argument("b", metavar="B")


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


def _add_target(parser: argparse.ArgumentParser) -> None:
    target = parser.add_argument_group("target")
    target.add_argument(
        "--architecture", metavar="CLASS", help="a class or AutoModelFor*; default: the checkpoint's own"
    )
    target.add_argument("--labels", metavar="A,B,C", type=names, help="label names in order")
    target.add_argument("--num-labels", metavar="N", type=whole, help="instead of their names")
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
    target.add_argument("--seed", metavar="N", type=whole, help="default: the recipe's, or 0")
    target.add_argument("--revision", metavar="REV", help="of a hub repository")
    target.add_argument("--trust-remote-code", action="store_true", help="run model code that the checkpoint brings")
