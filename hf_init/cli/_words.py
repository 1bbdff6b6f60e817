"""The words of a command line as the values that functions take."""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Sequence
from typing import Any, NoReturn

from hf_init._errors import PlanError

EXAMPLES = {
    "--config": "KEY=VALUE, such as hidden_dropout_prob=0.2",
    "--map": "GLOB=HOW, such as 'classifier.*=leading' or 'classifier.*=[0, 1, null]'",
}


def target(args: argparse.Namespace) -> dict[str, Any]:
    """The keyword arguments of ``plan`` and ``extend``."""
    from hf_init._recipe import parse_init

    given = {
        "config": {key: _value(text) for key, text in pairs("--config", args.config).items()},
        "keep": {glob: _value(how) for glob, how in pairs("--map", args.map).items()},
        "labels": args.labels,
        "num_labels": args.num_labels,
        "recipe": args.recipe,
        "rules": [parse_init(text) for text in args.init],
        "seed": args.seed,
        "revision": args.revision,
        "trust_remote_code": args.trust_remote_code or None,
    }
    return {key: value for key, value in given.items() if value is not None}


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


def names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",")]
