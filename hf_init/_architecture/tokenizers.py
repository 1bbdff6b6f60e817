"""Tokenizers in Python alone (``PythonBackend``), whose added tokens the library gives no public way to change."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy

from transformers import AddedToken
from transformers.tokenization_python import PythonBackend, Trie


def with_added_tokens(tokenizer: PythonBackend, tokens: Mapping[int, AddedToken]) -> PythonBackend:
    """Return a copy of a tokenizer whose added tokens are these, by their ids."""
    changed = deepcopy(tokenizer)
    # `add_tokens` only appends, and gives ids of its own: decoder, encoder and the trie that splits texts are set.
    changed._added_tokens_decoder = dict(tokens)
    changed._added_tokens_encoder = {token.content: id_ for id_, token in tokens.items()}
    changed.tokens_trie = Trie()
    changed._update_trie()
    return changed
