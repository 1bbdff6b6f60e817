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
    "--add-head": "NAME=KIND, such as topic=sequence-classification:news,sport",
    "--rename-head": "OLD=NEW, such as topic=theme",
    "--take-head": "NAME=DIR or NAME=DIR#THERE, such as topic=other or topic=other#theme",
    "--verbalizer": "LABEL=WORDS, such as 'pos=good,great'",
}


def target_options(args: argparse.Namespace) -> dict[str, Any]:
    """The keyword arguments of ``plan`` and ``extend``."""
    from hf_init._plan import parse_init

    given = {
        "config": {key: _value(text) for key, text in key_value_pairs("--config", args.config).items()},
        "keep": {glob: _value(how) for glob, how in key_value_pairs("--map", args.map).items()},
        "recipe": args.recipe,
        "rules": [parse_init(text) for text in args.init],
        "seed": args.seed,
        "revision": args.revision,
        "trust_remote_code": args.trust_remote_code or None,
        **_head(args),
        **_heads(args),
        **_tokens(args),
    }
    return {key: value for key, value in given.items() if value is not None}


def _head(args: argparse.Namespace) -> dict[str, Any]:
    return {
        "allow_new": args.allow_new,
        "labels": args.labels,
        "num_labels": args.num_labels,
        "rename_labels": key_value_pairs("--rename-label", args.rename_label) or None,
        "labels_keep": args.labels_keep,
        "entities": args.entities,
        "label_counts": _counts(args.label_counts),
        "target_mean": args.target_mean,
        "head": args.head,
        "examples": args.examples,
        "verbalizer": {
            label: split_names(listed) for label, listed in key_value_pairs("--verbalizer", args.verbalizer).items()
        }
        or None,
    }


def _heads(args: argparse.Namespace) -> dict[str, Any]:
    taken = key_value_pairs("--take-head", args.take_head)
    return {
        "add_heads": {name: _spec(text) for name, text in key_value_pairs("--add-head", args.add_head).items()} or None,
        "remove_heads": args.remove_head,
        "rename_heads": key_value_pairs("--rename-head", args.rename_head) or None,
        "take_heads": {name: _place(text) for name, text in taken.items()} or None,
        "name_head": args.name_head,
        "export_head": args.export_head,
    }


def _spec(text: str) -> dict[str, Any]:
    """``KIND``, its settings in brackets if any, its labels behind a colon if any."""
    found = re.fullmatch(r"([\w-]+)(?:\((.*?)\))?(?::(.*))?", text.strip(), re.DOTALL)
    if found is None:
        raise PlanError(f"--add-head {text!r}: expected {EXAMPLES['--add-head']}")
    kind, settings, listed = found.groups()
    given: dict[str, Any] = {
        key: _value(value)
        for key, value in key_value_pairs("--add-head", split_names(settings or "") if settings else ()).items()
    }
    labels = split_names(listed) if listed else []
    if len(labels) == 1 and labels[0].isdecimal():
        given["labels"] = int(labels[0])
    elif listed is not None:
        given["labels"] = labels
    return {"kind": kind, **given}


def _place(text: str) -> tuple[str, str]:
    folder, _, name = text.partition("#")
    return folder, name


def _counts(text: str | None) -> Any:
    """Numbers by label, or in the labels' order."""
    if text is None:
        return None
    if "=" not in text:
        return [_value(number) for number in split_names(text)]
    return {label: _value(number) for label, number in key_value_pairs("--label-counts", split_names(text)).items()}


def comparison(args: argparse.Namespace) -> dict[str, Any] | None:
    """The keyword arguments of ``compare_schemes``; None: nothing is to be compared.

    Raises:
        PlanError: options that would be passed over.
    """
    if args.compare_schemes is None:
        if args.steps is not None:
            raise PlanError("--steps is for --compare-schemes; leave it out, or give texts: --compare-schemes FILE")
        return None
    given = {name for name, value in vars(args).items() if value not in (None, [], False)}
    if idle := given - {*COMPARED, "run", "json"}:
        options = ", ".join(f"--{name.replace('_', '-')}" for name in sorted(idle))
        raise PlanError(f"--compare-schemes tries every scheme for the rows of new tokens; leave out {options}")
    tokens = [token if isinstance(token, dict) else {"token": token} for token in _listed(args)]
    return {
        "tokens": [{**token, "special": True} for token in tokens] if args.special else tokens,
        "texts": texts_of(args.compare_schemes),
        "steps": 50 if args.steps is None else args.steps,
        "seeds": (args.seed or 0,),
    }


COMPARED = ("base", "add_tokens", "add_tokens_file", "special", "seed", "compare_schemes", "steps")


def _listed(args: argparse.Namespace) -> list[Any]:
    """New tokens, from the command line and from a file."""
    from hf_init._vocabulary import read_token_file

    return [*(args.add_tokens or ()), *(read_token_file(args.add_tokens_file) if args.add_tokens_file else ())]


def _tokens(args: argparse.Namespace) -> dict[str, Any]:
    listed = _listed(args)
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


def check_idle(args: argparse.Namespace) -> None:
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


def key_value_pairs(option: str, texts: Sequence[str]) -> dict[str, str]:
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


def whole_number(text: str) -> int:
    if not re.fullmatch(r"[+-]?\d{1,30}", text, re.ASCII):
        raise argparse.ArgumentTypeError(f"expected a whole number, not {text!r}")
    return int(text)


def whole_numbers(text: str) -> list[int]:
    return [whole_number(number.strip()) for number in text.split(",")]


def split_texts(text: str) -> list[str]:
    return text.split(",")


def split_names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",")]
