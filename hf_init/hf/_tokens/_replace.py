"""Another tokenizer in place of the base's: which rows go along, and which ids the configs name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from transformers import PreTrainedTokenizerBase

from hf_init.hf._tokens._splitter import ids_of

ROLES = ("bos", "eos", "pad", "unk", "sep", "cls", "mask")


def moved(old: Mapping[str, int], new: Mapping[str, int], rows: int) -> dict[int, int]:
    """For each id of the new tokenizer whose token the old one spells the same, the old one's id."""
    return {id_: old[text] for text, id_ in new.items() if text in old and old[text] < rows}


def renumbered(
    values: Mapping[str, Any], old: PreTrainedTokenizerBase, new: PreTrainedTokenizerBase
) -> tuple[dict[str, Any], list[str]]:
    """Config values that are ids of tokens, as the new tokenizer numbers them; and paths of those that it can't.

    A role (``bos_token_id``) goes to the new tokenizer's token of that role, anything else to the same token.
    """
    spelled = {id_: text for text, id_ in ids_of(old).items()}
    ids = ids_of(new)
    found, lost = {}, []
    for path, value in values.items():
        many = value if isinstance(value, list) else [value]
        same = [ids[spelled[id_]] for id_ in many if spelled.get(id_) in ids]
        role = _role(path, new)
        if role is not None and not isinstance(value, list):
            found[path] = role
        elif len(same) == len(many):
            found[path] = same if isinstance(value, list) else same[0]
        else:
            lost.append(path)
    return found, lost


def _role(path: str, new: PreTrainedTokenizerBase) -> int | None:
    name = path.rpartition(".")[2].removesuffix("_token_id")
    return getattr(new, f"{name}_token_id") if name in ROLES else None
