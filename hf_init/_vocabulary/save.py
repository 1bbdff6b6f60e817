"""A tokenizer gets new tokens, and a result its files."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import AddedToken, PreTrainedTokenizerBase

from hf_init._architecture import quiet_library
from hf_init._checkpoint import read_object
from hf_init._errors import CheckpointError, PlanError
from hf_init._text import join_names, one_line
from hf_init._vocabulary.config_fields import token_ids
from hf_init._vocabulary.request import RequestedToken
from hf_init._vocabulary.tokenizer import FILES, UNREADABLE, ids_of, load_tokenizer

TEMPLATES = ("chat_template.jinja", "chat_template.json")
GENERATION = "generation_config.json"
RESTATED = ("added_tokens.json", "special_tokens_map.json")
"""Files of older versions that say again, and then otherwise, what tokenizer.json says."""


def extended_tokenizer(tokenizer: PreTrainedTokenizerBase, tokens: Sequence[RequestedToken]) -> dict[str, int]:
    """Adds tokens in their order; the id of each.

    Raises:
        PlanError: the tokenizer doesn't take one, or would never produce it: all at once.
    """
    for token in tokens:
        added = AddedToken(token.text, special=token.special, normalized=not token.special)
        tokenizer.add_tokens([added], special_tokens=token.special)
    known = ids_of(tokenizer)
    lost = [
        f"{token.text!r} ({_reading(tokenizer, token.text)})"
        for token in tokens
        if known.get(token.text) not in tokenizer.encode(token.text, add_special_tokens=False)
    ]
    if lost:
        raise PlanError(
            f"add_tokens: the tokenizer would never produce {join_names(lost)}: it normalizes them to something else; "
            "give each as it looks after normalization, or as a special token, which isn't normalized"
        )
    return {token.text: known[token.text] for token in tokens}


def _reading(tokenizer: PreTrainedTokenizerBase, text: str) -> str:
    ids = tokenizer.encode(text, add_special_tokens=False)
    return f"it reads {[*map(str, tokenizer.convert_ids_to_tokens(ids))]}" if ids else "it normalizes it away"


def save_tokenizer(tokenizer: PreTrainedTokenizerBase, folder: Path, replaced: bool) -> None:
    """Writes the tokenizer over the one that is in the folder, and reads it again.

    Args:
        replaced: it is another one: what the old one's files say must go.

    Raises:
        PlanError: the class can't be saved, or comes back otherwise.
    """
    for name in (*RESTATED, *FILES, *TEMPLATES) if replaced else RESTATED:
        (folder / name).unlink(missing_ok=True)
    try:
        with quiet_library():
            tokenizer.save_pretrained(str(folder))
        again = ids_of(load_tokenizer(folder))
    except (NotImplementedError, CheckpointError, *UNREADABLE) as error:
        raise PlanError(
            f"{type(tokenizer).__name__} can't be saved with its new tokens: {one_line(error)}; give the folder a "
            "tokenizer.json"
        ) from error
    wrong = sorted(text for text, id_ in ids_of(tokenizer).items() if again.get(text) != id_)
    if wrong:
        raise PlanError(
            f"{type(tokenizer).__name__} comes back from its own files without {join_names([*map(repr, wrong)])}; give "
            "the folder a tokenizer.json"
        )


def generation_ids(folder: Path) -> dict[str, Any]:
    """What a folder's generation config says of token ids; nothing where there is none.

    Raises:
        CheckpointError: it isn't a JSON object.
    """
    path = folder / GENERATION
    return token_ids(read_object(path)) if path.is_file() else {}


def renumber_generation(folder: Path, ids: Mapping[str, Any]) -> None:
    """Gives a carried generation config the ids that another tokenizer has for its tokens."""
    path = folder / GENERATION
    if not ids or not path.is_file():
        return
    data = json.loads(path.read_text(encoding="utf-8"))
    data |= {key: value for key, value in ids.items() if key in data}
    path.write_text(json.dumps(data, indent=2, sort_keys=True) + "\n", encoding="utf-8")
