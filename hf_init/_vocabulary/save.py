"""Adding tokens to a tokenizer, and saving it into a result."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from transformers import AddedToken, PreTrainedTokenizerBase

from hf_init._architecture import quiet_library
from hf_init._checkpoint import read_object
from hf_init._errors import CheckpointError, PlanError
from hf_init._text import join_names, one_line
from hf_init._vocabulary.config_fields import token_id_fields
from hf_init._vocabulary.request import RequestedToken
from hf_init._vocabulary.tokenizer import FILES, UNREADABLE, ids_of, load_tokenizer

TEMPLATES = ("chat_template.jinja", "chat_template.json")
GENERATION = "generation_config.json"
RESTATED = ("added_tokens.json", "special_tokens_map.json")
"""Files of older versions that repeat what tokenizer.json says, and contradict it once it changes."""


def extended_tokenizer(tokenizer: PreTrainedTokenizerBase, tokens: Sequence[RequestedToken]) -> dict[str, int]:
    """Add tokens in their order, and return the id of each.

    Raises:
        PlanError: the tokenizer doesn't take one, or would never produce it: all at once.
    """
    for token in tokens:
        added = AddedToken(token.text, special=token.special, normalized=not token.special)
        tokenizer.add_tokens([added], special_tokens=token.special)
    known = ids_of(tokenizer)
    read = {token.text: tokenizer.encode(token.text, add_special_tokens=False) for token in tokens}
    lost = [
        f"{text!r} (it "
        + (f"reads {[*map(str, tokenizer.convert_ids_to_tokens(ids))]})" if ids else "normalizes it away)")
        for text, ids in read.items()
        if known.get(text) not in ids
    ]
    if lost:
        raise PlanError(
            f"add_tokens: the tokenizer would never produce {join_names(lost)}: it normalizes them to something else; "
            "give each as it looks after normalization, or as a special token, which isn't normalized"
        )
    return {token.text: known[token.text] for token in tokens}


def save_tokenizer(tokenizer: PreTrainedTokenizerBase, folder: Path, replaced: bool) -> None:
    """Write the tokenizer over the one that is in the folder, and read it back.

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
        read_back = ids_of(load_tokenizer(folder))
    except (NotImplementedError, CheckpointError, *UNREADABLE) as error:
        raise PlanError(
            f"{type(tokenizer).__name__} can't be saved with its new tokens: {one_line(error)}; give the folder a "
            "tokenizer.json"
        ) from error
    wrong = sorted(text for text, id_ in ids_of(tokenizer).items() if read_back.get(text) != id_)
    if wrong:
        raise PlanError(
            f"{type(tokenizer).__name__} comes back from its own files without {join_names([*map(repr, wrong)])}; give "
            "the folder a tokenizer.json"
        )


def generation_token_ids(folder: Path) -> dict[str, object]:
    """Return what a folder's generation config says of token ids; nothing where there is none.

    Raises:
        CheckpointError: it isn't a JSON object.
    """
    path = folder / GENERATION
    return token_id_fields(read_object(path)) if path.is_file() else {}


def renumber_generation(folder: Path, ids: Mapping[str, object]) -> None:
    """Give a carried generation config the ids that another tokenizer has for its tokens."""
    path = folder / GENERATION
    if not ids or not path.is_file():
        return
    data = json.loads(path.read_text(encoding="utf-8"))
    data |= {key: value for key, value in ids.items() if key in data}
    path.write_text(json.dumps(data, indent=2, sort_keys=True) + "\n", encoding="utf-8")
