"""The verbs and their options."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from typing import Any, NoReturn

from hf_init._errors import HfInitError
from hf_init.cli import _verbs
from hf_init.cli._words import split_names, split_texts, whole_number, whole_numbers


def add_target(parser: argparse.ArgumentParser) -> None:
    """Those of ``plan`` and ``extend``."""
    _add_class(parser.add_argument_group("target"))
    _add_head(parser.add_argument_group("labels and heads"))
    _add_heads(parser.add_argument_group("several heads on one trunk"))
    _add_tokens(parser.add_argument_group("tokens"))


def _add_class(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--architecture", metavar="CLASS", help="a class or AutoModelFor*; default: the checkpoint's own"
    )
    group.add_argument("--config", metavar="KEY=VALUE", action="append", default=[], help="a config value (repeat)")
    group.add_argument(
        "--map", metavar="GLOB=HOW", action="append", default=[], help="what is kept of a tensor that changes shape: "
        "leading (each element at its index, the rest is new), none, or JSON such as [2, 0, null]: a source row or "
        "none for each row (repeat)",
    )  # fmt: skip
    group.add_argument("--recipe", metavar="FILE", help="rules and schemes, in YAML")
    group.add_argument(
        "--init", metavar="GLOB=SCHEME", action="append", default=[], help="a rule before the recipe's, such as "
        "'classifier.weight=normal(std=0.02)' (repeat)",
    )  # fmt: skip
    group.add_argument("--seed", metavar="N", type=whole_number, help="default: the recipe's, or 0")
    group.add_argument(
        "--allow-new", metavar="GLOB", action="append", help="only what a glob names may be new (repeat)"
    )
    group.add_argument("--revision", metavar="REV", help="of a hub repository")
    group.add_argument("--trust-remote-code", action="store_true", help="run model code that the checkpoint brings")


def _add_head(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--labels", metavar="A,B,C", type=split_names, help="label names in order")
    group.add_argument("--num-labels", metavar="N", type=whole_number, help="instead of their names")
    group.add_argument(
        "--rename-label", metavar="OLD=NEW", action="append", default=[], help="its row is kept (repeat)"
    )
    group.add_argument("--entities", metavar="A,B", type=split_names, help="instead: O, and B- and I- of each")
    group.add_argument(
        "--labels-keep", choices=("names", "leading", "none"), help="rows follow their labels' names (the default), "
        "or their places, or all are new",
    )  # fmt: skip
    group.add_argument(
        "--label-counts", metavar="A=N,B=N", help="examples of each label, or their shares: biases start at the prior"
    )
    group.add_argument("--target-mean", metavar="X", type=float, help="of a regression: the bias starts there")
    group.add_argument("--head", metavar="METHOD", help="class_means, lda, ridge, logistic, or verbalizer")
    group.add_argument("--examples", metavar="FILE", help="labelled, for METHOD: .jsonl, .json, .csv or .tsv")
    group.add_argument(
        "--verbalizer", metavar="LABEL=WORDS", action="append", default=[], help="the words of a label, with commas "
        "between them (repeat)",
    )  # fmt: skip


def _add_heads(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--add-head", metavar="NAME=KIND", action="append", default=[], help="such as "
        "topic=sequence-classification:news,sport or 'topic=sequence-classification(pooling=mean,depth=2):news,sport' "
        "(repeat)",
    )  # fmt: skip
    group.add_argument("--remove-head", metavar="NAME", action="append", help="(repeat)")
    group.add_argument("--rename-head", metavar="OLD=NEW", action="append", default=[], help="(repeat)")
    group.add_argument(
        "--take-head", metavar="NAME=DIR", action="append", default=[], help="the head of another checkpoint on "
        "the same trunk; DIR#THERE where it has several (repeat)",
    )  # fmt: skip
    group.add_argument("--name-head", metavar="NAME", help="of the one head that BASE has; default: its kind")
    group.add_argument("--export-head", metavar="NAME", help="of several: OUT is the plain class with this one alone")


def _add_tokens(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--add-tokens", metavar="T,T", type=split_texts, help="new tokens, as they are, spaces included")
    group.add_argument("--add-tokens-file", metavar="FILE", help="a token a line, or JSON with descriptions")
    group.add_argument("--special", action="store_true", help="they are control tokens, which no text contains")
    group.add_argument("--pad-to-multiple-of", metavar="N", type=whole_number, help="rows of the vocabulary's tables")
    group.add_argument("--allow-shrink", action="store_true", help="rows may go; those of tokens are named")
    group.add_argument("--reinit-rows", metavar="N,N", type=whole_numbers, help="ids whose rows are made anew")
    group.add_argument("--tokenizer", metavar="DIR", help="another tokenizer instead: equal tokens keep their rows")
    group.add_argument("--guarantee", metavar="WHAT", help="distribution, greedy or learning")
    group.add_argument("--row-scheme", metavar="SCHEME", help="of all new rows, such as mean or subtokens(norm=median)")
    group.add_argument("--input-rows", metavar="SCHEME", help="of the embedding's alone")
    group.add_argument("--output-rows", metavar="SCHEME", help="of the language-model head's alone")


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
    made = _verb(verbs, "plan", _verbs.run_plan)
    made.add_argument("base", metavar="BASE", help="a checkpoint folder or a hub id")
    add_target(made)
    rows = made.add_argument_group("schemes of new rows")
    rows.add_argument(
        "--compare-schemes", metavar="FILE", help="with new tokens: train their rows for a few steps from every scheme "
        "on these texts, and list the schemes, best first (of a hub id the weights are fetched)",
    )  # fmt: skip
    rows.add_argument("--steps", metavar="N", type=whole_number, help="of that training; default: 50")


def _extend(verbs: Any) -> None:
    made = _verb(verbs, "extend", _verbs.run_extend)
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
    made = _verb(verbs, "verify", _verbs.run_verify)
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
    made = _verb(verbs, "check", _verbs.run_check)
    made.add_argument("dir", metavar="DIR", help="a folder that extend wrote, or any other")
    made.add_argument("--text", metavar="TEXT", action="append", help="of the batch (repeat); default: some of its own")
    made.add_argument("--labels", metavar="N,N", type=split_names, help="of the texts: numbers or names")
    made.add_argument("--train", action="store_true", help="in training mode: with dropout and batch statistics")
    made.add_argument("-o", dest="picture", metavar="FILE.png", help="a picture of activations and gradients")


def _diff(verbs: Any) -> None:
    made = _verb(verbs, "diff", _verbs.run_diff)
    made.add_argument("a", metavar="A")
    made.add_argument("b", metavar="B")


def _heads(verbs: Any) -> None:
    made = _verb(verbs, "heads", _verbs.run_heads)
    made.add_argument("dir", metavar="DIR", help="a checkpoint folder or a hub id")


def _report(verbs: Any) -> None:
    made = _verb(verbs, "report", _verbs.run_report)
    made.add_argument("dir", metavar="DIR", help="a folder that extend wrote, or any checkpoint")
    made.add_argument("-o", dest="out", metavar="FILE", help="FILE.html or FILE.png; default: hf_init-report.html here")


def _schemes(verbs: Any) -> None:
    made = _verb(verbs, "schemes", _verbs.run_schemes)
    made.add_argument("name", metavar="NAME", nargs="?", help="one scheme, a page")


def _verb(verbs: Any, name: str, run: Callable[[argparse.Namespace], int]) -> argparse.ArgumentParser:
    parser = verbs.add_parser(name, help=run.__doc__, description=run.__doc__, allow_abbrev=False)
    parser.add_argument("--json", action="store_true", help="one JSON document on standard output, and nothing else")
    parser.set_defaults(run=run)
    return parser
