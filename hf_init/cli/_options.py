"""The options that say what a base is extended into."""

from __future__ import annotations

import argparse

from hf_init.cli._words import names, texts, whole, wholes


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
    group.add_argument("--seed", metavar="N", type=whole, help="default: the recipe's, or 0")
    group.add_argument(
        "--allow-new", metavar="GLOB", action="append", help="only what a glob names may be new (repeat)"
    )
    group.add_argument("--revision", metavar="REV", help="of a hub repository")
    group.add_argument("--trust-remote-code", action="store_true", help="run model code that the checkpoint brings")


def _add_head(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--labels", metavar="A,B,C", type=names, help="label names in order")
    group.add_argument("--num-labels", metavar="N", type=whole, help="instead of their names")
    group.add_argument(
        "--rename-label", metavar="OLD=NEW", action="append", default=[], help="its row is kept (repeat)"
    )
    group.add_argument("--entities", metavar="A,B", type=names, help="instead: O, and B- and I- of each")
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
    group.add_argument("--add-tokens", metavar="T,T", type=texts, help="new tokens, as they are, spaces included")
    group.add_argument("--add-tokens-file", metavar="FILE", help="a token a line, or JSON with descriptions")
    group.add_argument("--special", action="store_true", help="they are control tokens, which no text contains")
    group.add_argument("--pad-to-multiple-of", metavar="N", type=whole, help="rows of the vocabulary's tables")
    group.add_argument("--allow-shrink", action="store_true", help="rows may go; those of tokens are named")
    group.add_argument("--reinit-rows", metavar="N,N", type=wholes, help="ids whose rows are made anew")
    group.add_argument("--tokenizer", metavar="DIR", help="another tokenizer instead: equal tokens keep their rows")
    group.add_argument("--guarantee", metavar="WHAT", help="distribution, greedy or learning")
    group.add_argument("--row-scheme", metavar="SCHEME", help="of all new rows, such as mean or subtokens(norm=median)")
    group.add_argument("--input-rows", metavar="SCHEME", help="of the embedding's alone")
    group.add_argument("--output-rows", metavar="SCHEME", help="of the language-model head's alone")
