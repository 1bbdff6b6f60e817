"""Damage for files that hold a JSON document: in its structure, in its text, and in the bytes around it."""

from __future__ import annotations

import copy
import json
from random import Random
from typing import Any

JUNK: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2, 7, 255, 2**31, 2**32 + 1, 2**53, 2**63 - 1, 2**63, 2**64, 10**30, -(2**63), 0.0,
    -0.0, 0.5, 1e308, float("nan"), float("inf"), "", " ", "kept", "tied", "F32", "BF16", "F4", "w", "../../etc/passwd",
    "/etc/passwd", "a/b", "..", "\0", "\ud800", "é" * 9, "x" * 5000, "model.safetensors", "__metadata__", "skip",
    "normal(std=1e999)", "constant(val=__import__('os'))", [], [[]], [0], [-1], [0, 0], [2**62, 2**62], list(range(40)),
    [1] * 33, {}, {"": {}}, {"start": [0], "stop": [1]}, {"dim": 0, "index": [0]}, {"name": "skip"},
    {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]},
)  # fmt: skip

SCRAPS = (b"\0", b"\xff\xfe", b"{", b"}", b"[" * 50, b'"', b",", b":", b"NaN", b"-0", b"1e999", b"\\ud800", b"9" * 40)


def damaged(random: Random, data: bytes, framed: bool) -> bytes:
    """A file that was good, with one to four things wrong in it (now and then none).

    Args:
        framed: the document stands behind its length in eight bytes, and values stand behind it.
    """
    text, rest = _split(data) if framed else (data, b"")
    if random.random() < 0.85:
        text = _restructured(random, text)
    if random.random() < 0.15:
        text = _scribbled(random, text)
    if not framed:
        return text
    whole = _length(random, len(text)).to_bytes(8, "little") + text + _values(random, rest)
    return _scribbled(random, whole) if random.random() < 0.1 else whole


def _split(data: bytes) -> tuple[bytes, bytes]:
    stop = 8 + int.from_bytes(data[:8], "little")
    return data[8:stop], data[stop:]


def _length(random: Random, true: int) -> int:
    if random.random() < 0.93:
        return true
    return random.choice((0, 1, 2, true - 1, true + 1, 2 * true, 10**8, 10**8 + 1, 2**32, 2**63, 2**64 - 1)) % 2**64


def _values(random: Random, rest: bytes) -> bytes:
    if random.random() < 0.9:
        return rest
    return random.choice((b"", rest[:-1], rest + b"\0", rest[: len(rest) // 2], rest * 2))


def _scribbled(random: Random, text: bytes) -> bytes:
    """The same bytes with some of them changed, gone, doubled, or others put in."""
    at = random.randrange(len(text) + 1)
    until = min(len(text), at + random.choice((1, 1, 2, 8, 64)))
    middle = random.choice(
        (b"", text[at:until] * 2, random.choice(SCRAPS), bytes(b ^ 1 << random.randrange(8) for b in text[at:until]))
    )
    return text[:at] + middle + text[until:]


def _restructured(random: Random, text: bytes) -> bytes:
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        return text
    for _ in range(random.choice((1, 1, 1, 2, 3))):
        document = _changed(random, document)
    made = json.dumps(document)
    if random.random() < 0.05 and made.startswith("{") and len(made) > 2:
        made = made[:-1] + ", " + made[1:]  # every name twice
    if random.random() < 0.01:
        made = made.replace("0", "[" * 3000 + "]" * 3000, 1)
    return made.encode("utf-8", "surrogatepass")


def _changed(random: Random, document: Any) -> Any:
    """One value of the document replaced, nudged, removed, renamed, or put in another's place."""
    places = list(_places(document))
    path = random.choice(places)
    if not path:
        return random.choice(JUNK) if random.random() < 0.2 else document
    holder = _at(document, path[:-1])
    key, value = path[-1], _at(document, path)
    kind = random.randrange(6)
    if kind == 0:
        holder[key] = _nudged(random, value)
    elif kind == 1:
        del holder[key]
    elif kind == 2 and isinstance(holder, dict):
        holder[random.choice([str(key) + "x", *map(str, holder)])] = holder.pop(key)
    elif kind == 3:
        holder[key] = copy.deepcopy(_at(document, random.choice(places)))
    elif kind == 4 and isinstance(holder, list):
        holder.insert(random.randrange(len(holder) + 1), copy.deepcopy(value))
    else:
        holder[key] = copy.deepcopy(random.choice(JUNK))
    return document


def _nudged(random: Random, value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, int):
        return [value] if random.random() < 0.5 else str(value)
    return random.choice(
        (value + 1, value - 1, -value, value * 2, value // 2, value + 2**32, value * 2**20, float(value))
    )


def _places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, item in items for place in _places(item, (*path, key)))]


def _at(document: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        document = document[key]
    return document
