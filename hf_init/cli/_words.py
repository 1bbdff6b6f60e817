"""The words of a command line as the values that functions take."""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from hf_init._errors import PlanError

EXAMPLES = {
    "--config": "KEY=VALUE, such as hidden_dropout_prob=0.2",
    "--map": "GLOB=HOW, such as 'classifier.*=leading' or 'classifier.*=[0, 1, null]'",
    "--rename-label": "OLD=NEW, such as neg=negative",
    "--label-counts": "LABEL=N, such as pos=120,neg=80",
    "--verbalizer": "LABEL=WORDS, such as 'pos=good,great'",
}


def target(args: argparse.Namespace) -> dict[str, Any]:
    """The keyword arguments of ``plan`` and ``extend``."""
    from hf_init._recipe import parse_init

    given = {
        "config": {key: _value(text) for key, text in pairs("--config", args.config).items()},
        "keep": {glob: _value(how) for glob, how in pairs("--map", args.map).items()},
        "recipe": args.recipe,
        "rules": [parse_init(text) for text in args.init],
        "seed": args.seed,
        "revision": args.revision,
        "trust_remote_code": args.trust_remote_code or None,
        **_head(args),
        **_tokens(args),
    }
    return {key: value for key, value in given.items() if value is not None}


def _head(args: argparse.Namespace) -> dict[str, Any]:
    return {
        "allow_new": args.allow_new,
        "labels": args.labels,
        "num_labels": args.num_labels,
        "rename_labels": pairs("--rename-label", args.rename_label) or None,
        "labels_keep": args.labels_keep,
        "entities": args.entities,
        "label_counts": _counts(args.label_counts),
        "target_mean": args.target_mean,
        "head": args.head,
        "examples": args.examples,
        "verbalizer": {label: names(listed) for label, listed in pairs("--verbalizer", args.verbalizer).items()}
        or None,
    }


def _counts(text: str | None) -> Any:
    """Numbers by label, or in the labels' order."""
    if text is None:
        return None
    if "=" not in text:
        return [_value(number) for number in names(text)]
    return {label: _value(number) for label, number in pairs("--label-counts", names(text)).items()}


def _tokens(args: argparse.Namespace) -> dict[str, Any]:
    from hf_init._token_file import read

    listed = [*(args.add_tokens or ()), *(read(args.add_tokens_file) if args.add_tokens_file else ())]
    if args.special and not listed:
        raise PlanError("--special: says that new tokens are control tokens; give them: --add-tokens T,T")
    return {
        "special_tokens" if args.special else "add_tokens": listed or None,
        "pad_to_multiple_of": args.pad_to_multiple_of,
        "allow_shrink": args.allow_shrink or None,
        "reinit_rows": args.reinit_rows,
        "tokenizer": args.tokenizer,
        "guarantee": args.guarantee,
        "row_scheme": args.row_scheme,
        "input_rows": args.input_rows,
        "output_rows": args.output_rows,
    }


def refuse_idle(args: argparse.Namespace) -> None:
    """Raises PlanError for options of ``verify`` that would be passed over: they mean nothing with the others."""
    trained = {"--frozen": args.frozen, "--plan": args.plan, "-o": args.picture}
    others = {"--no-base": args.no_base, "--recompute": args.recompute, "--examples": args.examples, "--all": args.all}
    problems = [
        *(f"{option} is for --after-training" for option in trained if trained[option] and not args.after_training),
        *(f"{option} isn't for --after-training" for option in others if others[option] and args.after_training),
    ]
    if args.examples and not args.recompute and not args.after_training:
        problems.append("--examples is for --recompute")
    if args.no_base and (args.base or args.recompute):
        problems.append("--no-base reads no base, which --base names and --recompute needs")
    if problems:
        raise PlanError("; ".join(problems) + "; leave out what isn't meant")


def texts_of(path: str) -> list[str]:
    """The texts of a file: its paragraphs, with an empty line between two."""
    try:
        return [part.strip() for part in Path(path).read_text(encoding="utf-8").split("\n\n") if part.strip()]
    except (OSError, ValueError) as error:
        raise PlanError(f"{path}: texts can't be read from it: {error}; give a text file in UTF-8") from error


def pairs(option: str, texts: Sequence[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for text in texts:
        key, equals, value = (part.strip() for part in text.partition("="))
        if not equals or not key or not value:
            raise PlanError(f"{option} {text!r}: expected {EXAMPLES[option]}")
        if key in found:
            raise PlanError(f"{option} {key}: given twice, as {found[key]!r} and as {value!r}; give it once")
        found[key] = value
    return found


def _value(text: str) -> Any:
    """A JSON value; anything else is a string."""
    try:
        return json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        return text


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} isn't JSON")


def whole(text: str) -> int:
    if not re.fullmatch(r"[+-]?\d{1,30}", text, re.ASCII):
        raise argparse.ArgumentTypeError(f"expected a whole number, not {text!r}")
    return int(text)


def wholes(text: str) -> list[int]:
    return [whole(number.strip()) for number in text.split(",")]


def texts(text: str) -> list[str]:
    return text.split(",")


def names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",")]
