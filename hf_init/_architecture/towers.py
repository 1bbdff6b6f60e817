"""Several checkpoints as the parts of one model: the config of the whole, made of theirs."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from transformers import PreTrainedConfig, PreTrainedModel

from hf_init._architecture.classes import class_of
from hf_init._architecture.config import BAD_VALUE
from hf_init._architecture.library import quiet_library
from hf_init._checkpoint import BaseCheckpoint
from hf_init._errors import PlanError, option
from hf_init._text import join_names, one_line

SAME_WORD = {"language": "text", "llm": "text", "image": "vision", "visual": "vision", "speech": "audio"}


def with_config(
    base: BaseCheckpoint, architecture: object, trust: bool | None
) -> tuple[BaseCheckpoint, PreTrainedConfig | None]:
    """Return a base of several checkpoints whose config is that of the whole, or with it as an object.

    It is the config of the part that has one of the class's own type; else one that the class's config makes of those
    of the parts, each in the field that its prefix names.

    Raises:
        PlanError: the class isn't known, has no such fields, or they can't be told apart.
    """
    parts = {prefix: BaseCheckpoint.of_part(part) for prefix, part in base.source.parts}
    own = parts.get("", next(iter(parts.values())))
    cls = class_of(architecture, own.config, own.folder, trust)
    kind: Any = getattr(cls, "config_class", None)
    if not issubclass(cls, PreTrainedModel) or kind is None or (architecture is None and "" not in parts):
        raise PlanError(
            f"{cls.__name__} doesn't say how the parts of a model ({join_names([*parts])}) are put together; give its "
            f"class: {option('architecture', 'CLASS')}"
        )
    lead = [part for part in (own, *parts.values()) if part.config.get("model_type") == kind.model_type]
    if lead:
        return replace(base, folder=lead[0].folder, config=lead[0].config), None
    fields = _fields_of_parts(cls, kind, {prefix: part.config for prefix, part in parts.items()})
    try:
        with quiet_library():
            return base, kind(**fields)
    except BAD_VALUE as error:
        raise PlanError(
            f"{kind.__name__} can't be made of the configs of {join_names([*parts])}: {one_line(error)}; give it as an "
            "object in Python: config=..."
        ) from error


def _fields_of_parts(cls: type, kind: Any, configs: Mapping[str, Mapping[str, object]]) -> dict[str, object]:
    """Return the config of each part by the field of the whole that it is for."""
    free = list(kind.sub_configs)
    if not free:
        raise PlanError(
            f"{cls.__name__} takes a {kind.__name__}, which no part has ({join_names([*configs])}) and which has no "
            f"fields for theirs; give one as an object in Python: config={kind.__name__}(...)"
        )
    fields: dict[str, object] = {}
    waiting = dict(configs)
    for prefix, config in configs.items():
        named = [field for field in free if _words(prefix) & _words(field)]
        if len(named) == 1:
            free.remove(named[0])
            del waiting[prefix]
            fields[named[0]] = _decoder(named[0], free, kind, config)
    if len(waiting) == len(free) == 1:  # the one that is left is for the field that is left
        fields[free[0]] = _decoder(free[0], free, kind, waiting.popitem()[1])
    if waiting:
        raise PlanError(
            f"which config of {kind.__name__} ({', '.join(kind.sub_configs)}) is that of {join_names([*waiting])}? Its "
            "prefix doesn't say; give the config of the whole as an object in Python: config=..."
        )
    return fields


def _words(name: str) -> set[str]:
    words = {word for word in re.split(r"[._\d]+", name) if word and word not in ("config", "model")}
    return {SAME_WORD.get(word, word) for word in words}


def _decoder(field: str, free: list[str], kind: Any, config: Mapping[str, object]) -> Mapping[str, object]:
    """Return a part's config for a field; that of a decoder reads what the encoder gives."""
    inner = config.get(field)
    mine = dict(inner) if isinstance(inner, Mapping) else dict(config)  # of a whole model, the part of that name
    reads = field == "decoder" and "encoder" in kind.sub_configs
    return {**mine, "is_decoder": True, "add_cross_attention": True} if reads else mine
