"""Values on the command line: an argparse argument and a parser for each form of option, and the way back."""

from __future__ import annotations

import argparse
import ast
import json
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from typing import NoReturn

from hf_init._errors import PlanError, option
from hf_init._options import Form, Option

Parse = Callable[[str, Sequence[str]], object]
"""From an option's name and its values, as often as it was given, to the value in Python."""

REPEATED: tuple[Form, ...] = ("repeated", "listed", "values", "pairs", "lists", "kinds", "places", "stacks")
EXACT = ("key_mapping", "drop", "allow_new")
"""Options that messages give a value for as it is to be typed."""
WITH_COMMAS: tuple[Form, ...] = ("listed", "values", "pairs", "lists")
_NEXT_PAIR = re.compile(r",(?=[\w .*?-]+=)")  # a comma before another KEY=; any other is of a value
EXAMPLES = {
    "config": "KEY=VALUE, such as hidden_dropout_prob=0.2",
    "model_kwargs": "KEY=VALUE, such as add_pooling_layer=false",
    "keep": "GLOB=HOW, such as 'classifier.*=leading' or 'classifier.*=[0, 1, null]'",
    "tower": "PREFIX=DIR, such as vision_model.=org/model",
    "key_mapping": "PATTERN=NEW, such as '^encoder=bert.encoder'",
    "rename_labels": "OLD=NEW, such as neg=negative",
    "rename_tokens": "OLD=NEW, such as '<|reserved_0|>=<|tool|>'",
    "label_counts": "LABEL=N, such as pos=120,neg=80",
    "add_heads": "NAME=KIND, such as topic=sequence-classification:news,sport",
    "rename_heads": "OLD=NEW, such as topic=theme",
    "take_heads": "NAME=DIR or NAME=DIR#THERE, such as topic=other or topic=other#theme",
    "layers": "a map, such as 0-5,new,6-11, or one for a stack, such as decoder=0,31",
    "verbalizer": "LABEL=W,W, such as 'pos=good,great'",
}


def add_option(group: argparse._ArgumentGroup, name: str, described: Option) -> None:
    """Add an option to a parser; left out, its value is None."""
    long, *without = option_names(name, described)
    names = [f"-{described.short}"] * bool(described.short) + [long]
    repeated = described.form in REPEATED
    text = described.help + (" (repeat" + " or use commas" * (described.form in WITH_COMMAS) + ")" if repeated else "")
    if described.form == "flag":
        group.add_argument(long, action="store_const", const=not described.default, dest=name, help=text)
        return
    if described.form == "either":
        for spelled, value in ((long, True), (without[0], False)):
            group.add_argument(spelled, action="store_const", const=value, dest=name, help=text if value else "not so")
        return
    if described.default not in (None, ""):
        text += f"; default: {described.default}"
    metavar = None if described.choices else described.metavar or name.upper()
    choices = described.choices or None
    group.add_argument(*names, dest=name, action="append", choices=choices, metavar=metavar, help=text)
    for no in without:
        group.add_argument(no, action="store_const", const=False, dest=name, help="without it")


def long_name(name: str) -> str:
    """Return an option's name on the command line."""
    return f"--{name.replace('_', '-')}"


def option_names(name: str, described: Option) -> list[str]:
    """Return the names of an option on the command line, without its letter."""
    if described.form == "flag":
        return [f"--no-{name}" if described.default is True else long_name(name)]
    long = long_name(name)
    return [long, f"--no-{long[2:]}"] if described.form in ("or no", "either") else [long]


def command_line_spelling(name: str, value: str) -> str:
    """Return an option of a message as the command line has it.

    Example:
        >>> command_line_spelling("keep", "{GLOB: 'leading'}"), command_line_spelling("rename", "False")
        ('--keep GLOB=leading', '--no-rename')
        >>> command_line_spelling("key_mapping", "{'^a': 'b.', 'c d': ''}")
        "--key-mapping '^a=b.' --key-mapping 'c d='"
        >>> command_line_spelling("drop", "")
        '--drop'
    """
    if value == "False":
        return f"--no-{name.replace('_', '-')}"
    if value and name in EXACT and not re.search(r"[\[{][A-Z]+\b", value):
        given = ast.literal_eval(value)
        texts = [f"{key}={new}" for key, new in given.items()] if isinstance(given, dict) else given
        return " ".join(f"{long_name(name)} {shlex.quote(text)}" for text in texts)
    plain = (
        re.sub(r"[\[\]{}'\"]", "", value)
        .replace(": ", "=")
        .replace(", ", ",")
        .replace("True", "true")
        .replace("False", "false")
    )
    return f"{long_name(name)} {plain}" if plain and value != "True" else long_name(name)


def option_values(given: Mapping[str, object], options: Mapping[str, Option]) -> dict[str, object]:
    """Return the values of those options that were given, as the functions in Python take them.

    Raises:
        PlanError: a value that can't be read, or two for an option that takes one.
    """
    values: dict[str, object] = {}
    for name, described in options.items():
        value = given.get(name)
        if isinstance(value, list):
            texts = [str(text) for text in value]
            if described.form not in REPEATED and len(texts) > 1:
                raise PlanError(f"{option(name)}: given twice, as {texts[0]!r} and as {texts[1]!r}; give it once")
            values[name] = PARSERS[described.form](name, texts)
        elif value is not None:
            values[name] = value
    return values


def key_value_pairs(name: str, texts: Sequence[str]) -> dict[str, str]:
    """Return KEY=VALUE texts as a mapping; a key may come once."""
    pairs: dict[str, str] = {}
    for text in texts:
        key, equals, value = (part.strip() for part in text.partition("="))
        if not equals or not key or not (value or name == "key_mapping"):
            raise PlanError(f"{option(name)} {text!r}: expected {EXAMPLES[name]}")
        if key in pairs:
            raise PlanError(f"{option(name)} {key}: given twice, as {pairs[key]!r} and as {value!r}; give it once")
        pairs[key] = value
    return pairs


def json_or_text(text: str) -> object:
    """Return a JSON value; anything else is a string."""
    try:
        return json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        return text


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} isn't JSON")


def split_names(text: str) -> list[str]:
    """Return names between commas, without the spaces around them."""
    return [name.strip() for name in text.split(",")]


def whole_number(name: str, text: str) -> int:
    """Return a whole number in plain digits."""
    if not re.fullmatch(r"[+-]?\d{1,30}", text, re.ASCII):
        raise PlanError(f"{option(name)}: expected a whole number, not {text!r}")
    return int(text)


def decimal(name: str, text: str) -> float:
    """Return a number."""
    try:
        return float(text)
    except ValueError:
        raise PlanError(f"{option(name)}: expected a number, not {text!r}") from None


def label_counts(name: str, text: str) -> object:
    """Return numbers by label, or in the labels' order."""
    if "=" not in text:
        return [json_or_text(number) for number in split_names(text)]
    return {label: json_or_text(number) for label, number in key_value_pairs(name, split_names(text)).items()}


def head_kind(name: str, text: str) -> dict[str, object]:
    """Return ``KIND``, its settings in brackets if any, its labels behind a colon if any."""
    parts = re.fullmatch(r"([\w-]+)(?:\((.*?)\))?(?::(.*))?", text.strip(), re.DOTALL)
    if parts is None:
        raise PlanError(f"{option(name)} {text!r}: expected {EXAMPLES[name]}")
    kind, settings, listed = parts.groups()
    pairs = key_value_pairs(name, split_names(settings) if settings else ())
    head = {"kind": kind, **{key: json_or_text(value) for key, value in pairs.items()}}
    if listed is None:
        return head
    labels = split_names(listed)
    numbered = len(labels) == 1 and labels[0].isdecimal()
    return {**head, "labels": int(labels[0]) if numbered else labels}


def head_place(name: str, text: str) -> tuple[str, str]:
    """Return the folder of a head and its name there; empty where it is the only one."""
    folder, _, there = text.partition("#")
    return folder, there


def stack_maps(name: str, texts: Sequence[str]) -> object:
    """Return an index map, or one for each stack that is named: ``encoder=0-3``."""
    if len(texts) == 1 and ("=" not in texts[0] or texts[0].strip().startswith("every")):
        return texts[0]
    return key_value_pairs(name, texts)


def _each_value(parse: Callable[[str, str], object]) -> Parse:
    """Return a parser of KEY=VALUE texts, with a parser for the values."""
    return lambda name, texts: {key: parse(name, value) for key, value in key_value_pairs(name, texts).items()}


def _each_pair(parse: Callable[[str, str], object]) -> Parse:
    """Return a parser of KEY=VALUE,KEY=VALUE texts, with a parser for the values."""
    each_value = _each_value(parse)
    return lambda name, texts: each_value(name, [pair for text in texts for pair in split_pairs(text)])


def split_pairs(text: str) -> list[str]:
    """Return the KEY=VALUE texts between commas; a comma inside brackets, or with no other KEY= after it, is a value's.

    Example:
        >>> split_pairs('a=[1, 2],b=x,y,c={"d":"e,f=g"}')
        ['a=[1, 2]', 'b=x,y', 'c={"d":"e,f=g"}']
    """
    pairs = [""]
    for part in _NEXT_PAIR.split(text):
        whole = all(pairs[-1].count(start) <= pairs[-1].count(end) for start, end in ("[]", "{}", "()"))
        if pairs[-1] and whole:
            pairs.append(part)
        else:
            pairs[-1] += f",{part}" if pairs[-1] else part
    return pairs


PARSERS: Mapping[Form, Parse] = {
    "text": lambda name, texts: texts[0],
    "or no": lambda name, texts: texts[0],
    "number": lambda name, texts: whole_number(name, texts[0]),
    "decimal": lambda name, texts: decimal(name, texts[0]),
    "names": lambda name, texts: split_names(texts[0]),
    "texts": lambda name, texts: texts[0].split(","),
    "numbers": lambda name, texts: [whole_number(name, number.strip()) for number in texts[0].split(",")],
    "repeated": lambda name, texts: list(texts),
    "listed": lambda name, texts: [each for text in texts for each in split_names(text)],
    "counts": lambda name, texts: label_counts(name, texts[0]),
    "pairs": _each_pair(lambda name, value: value),
    "values": _each_pair(lambda name, value: json_or_text(value)),
    "lists": _each_pair(lambda name, value: split_names(value)),
    "kinds": _each_value(head_kind),
    "places": _each_value(head_place),
    "stacks": stack_maps,
}
