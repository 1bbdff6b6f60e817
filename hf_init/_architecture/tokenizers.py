"""What the library gives no public way to: added tokens of tokenizers in Python alone, and a class by its name."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path

from transformers import AddedToken
from transformers.models.auto.tokenization_auto import TOKENIZER_MAPPING_NAMES, tokenizer_class_from_name
from transformers.tokenization_python import PythonBackend, Trie

from hf_init._checkpoint import object_or_empty


def with_added_tokens(tokenizer: PythonBackend, tokens: Mapping[int, AddedToken]) -> PythonBackend:
    """Return a copy of a tokenizer whose added tokens are these, by their ids."""
    changed = deepcopy(tokenizer)
    # `add_tokens` only appends, and gives ids of its own: decoder, encoder and the trie that splits texts are set.
    changed._added_tokens_decoder = dict(tokens)
    changed._added_tokens_encoder = {token.content: id_ for id_, token in tokens.items()}
    changed.tokens_trie = Trie()
    changed._update_trie()
    return changed


def declared_vocabulary(folder: Path) -> frozenset[str]:
    """Return the files that a folder's tokenizer is read from, by the names that its class gives them."""
    config, settings = (object_or_empty(folder / name) for name in ("config.json", "tokenizer_config.json"))
    names = [each.get("tokenizer_class") for each in (settings, config)]
    names.append(TOKENIZER_MAPPING_NAMES.get(str(config.get("model_type"))))
    classes = [tokenizer_class_from_name(name) for name in names if isinstance(name, str)]
    declared = [getattr(cls, "vocab_files_names", None) for cls in classes]
    return frozenset(file for each in declared if isinstance(each, Mapping) for file in each.values())
