"""Values of configs that are ids of tokens: found by their names, and moved where ids or roles move."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hf_init._checkpoint import read_object
from hf_init._vocabulary.config_fields import VocabularyFields, config_leaves
from hf_init._vocabulary.json_text import set_values

GENERATION = "generation_config.json"
_NAMES = re.compile(
    r"(.*_)?(token_ids?|token_index|suppress_tokens|(bad|force)_words_ids|forced_decoder_ids|sequence_bias|to_id"
    r"|(bos|eos|pad|unk|mask)_index)"
)
HIGHEST_ID_ENDS = ("clip_text_model", "clipseg_text_model", "groupvit_text_model", "xclip_text_model")
PAIRS = ("forced_decoder_ids", "sequence_bias")
"""Lists of pairs: a position and an id; ids and a number."""


@dataclass(frozen=True)
class MovedIds:
    """What becomes of the values that are ids.

    Attributes:
        config, generation: those that change, by path.
        lost: paths of those that name a token that is no more. unclear: of those in a part with ids of its own.
    """

    config: Mapping[str, object] = field(default_factory=dict)
    generation: Mapping[str, object] = field(default_factory=dict)
    lost: tuple[str, ...] = ()
    unclear: tuple[str, ...] = ()


def id_fields(data: Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, object]]:
    """Yield the values, by path, that are ids of tokens, whole lists and mappings of them too."""
    for key, value in data.items():
        if _NAMES.fullmatch(str(key)) and value is not None:
            yield f"{prefix}{key}", value
        elif isinstance(value, Mapping):
            yield from id_fields(value, f"{prefix}{key}.")


def ids_within(value: object) -> Iterator[int]:
    """Yield the ids in a value of such a field."""
    if isinstance(value, (list, Mapping)):
        for each in value.values() if isinstance(value, Mapping) else value:
            yield from ids_within(each)
    elif isinstance(value, int) and not isinstance(value, bool):
        yield value


def generation_values(folder: Path) -> dict[str, Any]:
    """Return a folder's generation config; nothing where there is none.

    Raises:
        CheckpointError: it isn't a JSON object.
    """
    path = folder / GENERATION
    return read_object(path) if path.is_file() else {}


def write_generation(folder: Path, ids: Mapping[str, object]) -> None:
    """Give a carried generation config the values that are other ones now."""
    path = folder / GENERATION
    if ids and path.is_file():
        path.write_text(set_values(path.read_text(encoding="utf-8"), ids), encoding="utf-8")


def moved_ids(
    fields: VocabularyFields,
    generation: Mapping[str, Any],
    new_id: Callable[[int], int | None],
    roles: Mapping[str, int],
) -> MovedIds:
    """Return the values that change where ``new_id`` says what an id becomes, and roles go to other ids.

    Args:
        roles: ids by ``pad``, ``eos``...: a field of that role gets the id, or has it added to its list.
    """
    config: dict[str, object] = {}
    lost: list[str] = []
    unclear: list[str] = []
    parts = {"", *(path[: path.rfind(".") + 1] for path in fields.counts)}
    for path, value in id_fields(fields.values):
        moved = _moved(path, value, new_id)
        if path[: path.rfind(".") + 1] not in parts:
            unclear += [path] * (moved != value)
        elif moved is None:
            lost.append(path)
        elif moved != value:
            config[path] = moved
    for path, value in config_leaves(fields.values):
        named = re.search(r"([^.]*)_(?:token_id|index)\Z", path)
        if named and named[1] in roles and path[: path.rfind(".") + 1] in parts:
            config |= {path: _with_role(config.get(path, value), roles[named[1]])}
            lost = [each for each in lost if each != path]
    after: dict[str, object] = {}
    for path, value in id_fields(generation):
        moved = _moved(path, value, new_id)
        lost += [f"{GENERATION}: {path}"] * (moved is None)
        after |= {} if moved is None or moved == value else {path: moved}
    for role, id_ in roles.items():
        path = f"{role}_token_id"
        if generation:
            after[path] = _with_role(after.get(path, generation.get(path)), id_)
            lost = [each for each in lost if each != f"{GENERATION}: {path}"]
    return MovedIds(config, after, tuple(lost), tuple(unclear))


def text_ends(
    fields: VocabularyFields, eos: int | None, before: Mapping[str, int], after: Mapping[str, int]
) -> dict[str, int]:
    """Return, by path, the end token of text towers that take the highest id for it, which may be a new token's now.

    An ``eos_token_id`` of 2 tells CLIP and its kin to do so
    (https://github.com/huggingface/transformers/pull/24773); the token's own id means the same for old texts.
    """
    if eos is None or eos != max(before.values()) or max(after.values()) <= eos:
        return {}
    leaves = dict(config_leaves(fields.values))
    parts = [
        path.removesuffix("eos_token_id")
        for path, value in leaves.items()
        if path.endswith("eos_token_id") and value == 2
    ]
    return {f"{part}eos_token_id": eos for part in parts if leaves.get(f"{part}model_type") in HIGHEST_ID_ENDS}


def _with_role(value: object, id_: int) -> object:
    """Return a field's value with the id of its role: a list has several, each of which stays."""
    return [*value, *([] if id_ in value else [id_])] if isinstance(value, list) else id_


def _moved(path: str, value: object, new_id: Callable[[int], int | None]) -> Any:
    """Return a value with each id in it moved; None where one has no new id. Numbers below 0 stand for no token."""
    if isinstance(value, int) and not isinstance(value, bool):
        return new_id(value) if value >= 0 else value
    if isinstance(value, Mapping):
        moved = {key: _moved(path, each, new_id) for key, each in value.items()}
        return None if None in moved.values() else moved
    if not isinstance(value, list):
        return value
    if path.rpartition(".")[2] in PAIRS and all(isinstance(each, list) and len(each) == 2 for each in value):
        ids = 1 if path.endswith(PAIRS[0]) else 0
        pairs = [[_moved("", each[k], new_id) if k == ids else each[k] for k in (0, 1)] for each in value]
        return None if any(pair[ids] is None for pair in pairs) else pairs
    moved_list = [_moved(path, each, new_id) for each in value]
    return None if None in moved_list else moved_list
