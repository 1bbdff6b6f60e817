"""JSON objects edited as text: what isn't touched keeps every byte, its order and its indentation."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence

_DECODER = json.JSONDecoder()
_SPACE = re.compile(r"[ \t\r\n]*")
_KEY = r'"(?:[^"\\]|\\.)*"'


def set_values(text: str, values: Mapping[str, object]) -> str:
    """Return the text of an object with these values: in place of what is under a key, or at the end.

    Example:
        >>> set_values('{"a": 1, "b": [2,3]}', {"a": None, "c": 4})
        '{"a": null, "b": [2,3], "c": 4}'
    """
    spans, end = _value_spans(text)
    style = _Style(text)
    text = _insert(
        text, 0, end, [style.item(key, value, 1) for key, value in values.items() if key not in spans], style
    )
    for (start, stop), key in sorted(((spans[key], key) for key in values if key in spans), reverse=True):
        text = text[:start] + style.value(values[key], 1) + text[stop:]
    return text


def add_items(text: str, key: str, items: Sequence[object] | Mapping[str, object]) -> str:
    """Return the text of an object with more items at the end of the list, or object, under a key; made if need be.

    Example:
        >>> add_items('{"a":[1],"b":{}}', "b", {"x": 2})
        '{"a":[1],"b":{"x":2}}'
    """
    spans, _ = _value_spans(text)
    start, stop = spans.get(key, (0, 0))
    if text[start:stop] in ("", "null"):
        return set_values(text, {key: items})
    inside = text[start + 1 : stop - 1]
    style = _Style(text, one_line=inside.strip() != "" and "\n" not in inside)
    if isinstance(items, Mapping):
        added = [style.item(name, value, 2) for name, value in items.items()]
    else:
        added = [style.value(value, 2) for value in items]
    return _insert(text, start, stop - 1, added, style, depth=1)


def replace_strings(text: str, renamed: Mapping[str, str]) -> str:
    """Return JSON with these strings replaced wherever one stands whole, as a key or as a value.

    Example:
        >>> replace_strings('{"a": "ab", "b": ["a"]}', {"a": "c"})
        '{"c": "ab", "b": ["c"]}'
    """

    ascii_only = _Style(text).ascii
    forms = {
        json.dumps(old, ensure_ascii=escaped): json.dumps(new, ensure_ascii=ascii_only)
        for old, new in renamed.items()
        for escaped in (True, False)
    }
    return re.sub(_KEY, lambda found: forms.get(found[0], found[0]), text)


class _Style:
    """How a text writes its values: indentation (None: on one line), what follows a colon, what is escaped."""

    def __init__(self, text: str, one_line: bool = False) -> None:
        first = re.match(r"\s*\{(?:\s*\n([ \t]+))?", text)
        self.indent = first[1] if first and not one_line else None
        self.colon = ": " if not re.match(rf"\s*\{{\s*{_KEY}:\S", text) else ":"
        self.ascii = text.isascii() and "\\u" in text

    @property
    def comma(self) -> str:
        return "," if self.indent is not None or self.colon == ":" else ", "

    def value(self, value: object, depth: int) -> str:
        separators, indent = (self.comma, self.colon), self.indent
        text = json.dumps(value, ensure_ascii=self.ascii, indent=indent, separators=separators)
        return text.replace("\n", "\n" + (indent or "") * depth)

    def item(self, key: str, value: object, depth: int) -> str:
        return json.dumps(key, ensure_ascii=self.ascii) + self.colon + self.value(value, depth)


def _insert(text: str, start: int, end: int, items: Sequence[str], style: _Style, depth: int = 0) -> str:
    """Put items in front of the bracket at ``end``, behind what is there."""
    if not items:
        return text
    stop = len(text[:end].rstrip())
    line = "" if style.indent is None else "\n" + style.indent * (depth + 1)
    between = style.comma + line
    if text[:stop].endswith(("{", "[")) and stop == len(text[: start + 1].rstrip()):
        return text[:stop] + line + between.join(items) + line[: -len(style.indent or " ")] + text[end:]
    return text[:stop] + between + between.join(items) + text[stop:]


def _value_spans(text: str) -> tuple[dict[str, tuple[int, int]], int]:
    """Return where the value of each key of an object begins and ends, and where its closing brace is."""
    spans: dict[str, tuple[int, int]] = {}
    at = _skip(text, _skip(text, 0) + 1)
    while text[at] != "}":
        key, at = _DECODER.raw_decode(text, at)
        start = _skip(text, _skip(text, at) + 1)
        _, at = _DECODER.raw_decode(text, start)
        spans[key] = (start, at)
        at = _skip(text, at)
        at = _skip(text, at + 1) if text[at] == "," else at
    return spans, at


def _skip(text: str, at: int) -> int:
    found = _SPACE.match(text, at)
    return at if found is None else found.end()
