"""Files for Hypothesis: a good document with parts of it drawn anew, from its own words and from anything at all."""

from __future__ import annotations

import json
from typing import Any

from _fuzz_mutate import JUNK
from hypothesis import strategies as st

Value = st.SearchStrategy[Any]


def files(good: bytes, framed: bool) -> st.SearchStrategy[bytes]:
    """Bytes of a file like the good one; of a safetensors file, a length before the document and values after it."""
    length = int.from_bytes(good[:8], "little") if framed else 0
    text, rest = (good[8 : 8 + length], good[8 + length :]) if framed else (good, b"")
    texts = st.one_of(_documents(json.loads(text)).map(_spelled), st.binary(max_size=64), st.text().map(_encoded))
    if not framed:
        return texts
    lengths = st.one_of(st.none(), st.none(), st.none(), st.integers(0, 2**64 - 1))
    values = st.one_of(st.just(rest), st.just(rest), st.binary(max_size=2 * len(rest)))
    return st.builds(_framed, texts, lengths, values)


def _framed(text: bytes, length: int | None, values: bytes) -> bytes:
    return (len(text) if length is None else length).to_bytes(8, "little") + text + values


def _documents(value: Any) -> Value:
    """The value itself, or with any of its parts drawn anew."""
    same = st.just(value)
    if isinstance(value, dict):
        whole = st.fixed_dictionaries({key: _documents(item) for key, item in value.items()})
        fewer = st.fixed_dictionaries({}, optional={key: _documents(item) for key, item in value.items()})
        more = st.builds(
            lambda known, other: {**known, **other}, whole, st.dictionaries(_words(), _anything(), max_size=2)
        )
        return st.one_of(same, whole, fewer, more, _anything())
    if isinstance(value, list):
        items = (
            st.lists(st.one_of(*map(_documents, value)), max_size=len(value) + 2) if value else st.lists(_anything())
        )
        return st.one_of(same, st.tuples(*map(_documents, value)).map(list), items, _anything())
    if isinstance(value, int) and not isinstance(value, bool):
        return st.one_of(same, st.integers(max(value - 9, -9), value + 9), st.integers(), _anything())
    return st.one_of(same, same, _anything())


def _words() -> st.SearchStrategy[str]:
    words = [item for item in JUNK if isinstance(item, str)]
    return st.one_of(st.sampled_from(words), st.text(max_size=9))


def _anything() -> Value:
    leaves = st.one_of(st.sampled_from(JUNK), st.integers(), st.floats(), _words())
    return st.one_of(
        leaves,
        st.recursive(
            leaves,
            lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_words(), inner, max_size=3),
            max_leaves=5,
        ),
    )


def _spelled(document: Any) -> bytes:
    return _encoded(json.dumps(document))


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")
