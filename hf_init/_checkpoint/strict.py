"""JSON from an untrusted file: strict, bounded, and every refusal is a CheckpointError."""

from __future__ import annotations

import json
import os
import reprlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NoReturn, TypeGuard

from hf_init._errors import CheckpointError

LIMIT = 100_000_000
"""The most bytes of JSON that one file may hold; safetensors has the same cap for a header."""

AGAIN = "Copy or download the file again."
GIVE_FOLDER = "give a folder that save_pretrained wrote, or a hub id"


def read_object(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file; raise CheckpointError when it is missing, too large or not one JSON object."""
    if not os.path.isfile(path):
        raise CheckpointError(f"{path} is not there, or is not a file.")
    try:
        size = path.stat().st_size
        if size > LIMIT:
            raise CheckpointError(f"{path} has {size} bytes, more than the {LIMIT} allowed. {AGAIN}")
        return parse_object(path.read_bytes(), str(path))
    except OSError as error:
        raise CheckpointError(f"{path} can't be read: {error.strerror}. Check its permissions.") from None


def object_or_empty(path: Path) -> dict[str, Any]:
    """Return the JSON object in a small file; an empty one where there is none: who needs it says what is wrong."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return document if isinstance(document, dict) else {}


def parse_object(data: bytes, what: str) -> dict[str, Any]:
    """Return the JSON object in ``data``; ``what`` names it in errors.

    Raises:
        CheckpointError: not UTF-8, not JSON, a name that occurs twice in one object, or not an object.

    Example:
        >>> parse_object(b'{"a": 1}', "an example")
        {'a': 1}
    """

    def refuse(name: str) -> NoReturn:
        raise ValueError(f"{name} is not JSON")

    try:
        text = data.decode("utf-8")
        value = json.loads(text, object_pairs_hook=_names_once, parse_constant=refuse, parse_int=_strict_int)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{what} is not valid JSON: {error}. {AGAIN}") from None
    if not isinstance(value, dict):
        raise CheckpointError(f"{what} is not a JSON object: {short_name(value)}. {AGAIN}")
    return value


def _names_once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """Refuse two equal names: Python's own parser keeps the last of them, other parsers the first."""
    seen: dict[str, object] = {}
    for name, value in pairs:
        name.encode()  # a lone surrogate, legal in JSON text, can be neither printed nor a file name
        if isinstance(value, str):
            value.encode("utf-8", "surrogateescape")  # Python has a file's name that isn't UTF-8 in this way
        if name in seen:
            raise ValueError(
                f"the name {short_name(name)} occurs twice, as {short_name(seen[name])} and as {short_name(value)}"
            )
        seen[name] = value
    return seen


def _strict_int(text: str) -> int:
    """Refuse -0: other parsers take it for a float, and a header with it for no header."""
    if text == "-0":
        raise ValueError("-0 is not an integer")
    return int(text)


def check_faults(what: str, faults: Iterable[str], advice: str = AGAIN) -> None:
    """Raise one CheckpointError that names the faults (the first eight in full); nothing when there are none."""
    if listed := list(faults):
        more = [f"... and {len(listed) - 8} more"] if len(listed) > 8 else []
        lines = "".join(f"\n  {fault}" for fault in listed[:8] + more)
        raise CheckpointError(f"{what} is refused:{lines}\n{advice}")


def is_count(value: object) -> TypeGuard[int]:
    """Return whether a JSON value is an integer from 0 to 2**63 - 1; true and false are not."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63


def is_shape(value: object) -> TypeGuard[list[int]]:
    """Return whether a JSON value is a list of counts."""
    return isinstance(value, list) and all(map(is_count, value))


def is_json_object(value: object) -> TypeGuard[dict[str, object]]:
    return isinstance(value, dict)


def is_json_list(value: object) -> TypeGuard[list[object]]:
    return isinstance(value, list)


def short_name(value: object) -> str:
    """Return the ``repr`` of an untrusted value, cut to a length fit for a message."""
    return reprlib.repr(value)
