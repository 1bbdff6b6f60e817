"""The config fields that count a vocabulary, and the tensors whose size follows them: asked of the class itself."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from transformers import CONFIG_MAPPING, PreTrainedConfig, PreTrainedModel

from hf_init._architecture import BAD_VALUE, Target, copy_config, quiet_library
from hf_init._errors import PlanError
from hf_init._tensors import TensorSpec
from hf_init._text import join_names, one_line

STEP = 64
"""By how many tokens the vocabulary is grown to see what grows with it: a multiple of what tables are rounded to."""


@dataclass(frozen=True)
class VocabularyFields:
    """What a config says of its vocabulary.

    Attributes:
        rows: of the vocabulary's tables.
        counts: paths of the fields that say so; dots lead into nested configs.
        others: fields with vocab in their name that say another number.
        ids: paths of the fields that hold a token's id, or several.
        reserved: where ids begin that mean something else than tokens, by path.
    """

    rows: int
    counts: tuple[str, ...]
    others: Mapping[str, int]
    ids: Mapping[str, Any]
    reserved: Mapping[str, int]


def fields_of(raw: Mapping[str, Any]) -> VocabularyFields:
    """What a raw ``config.json`` says of its vocabulary, the class's defaults included.

    Raises:
        PlanError: it has no vocabulary.
    """
    kind = CONFIG_MAPPING[raw["model_type"]] if raw.get("model_type") in CONFIG_MAPPING else None
    config = _made(kind, raw) if kind else None
    leaves = dict(_leaves(config.to_dict() if config is not None else raw))
    names = {"vocab_size", getattr(kind, "attribute_map", {}).get("vocab_size", "vocab_size")}
    sizes = {path: v for path, v in leaves.items() if _counts(path, names) and _is_number(v)}
    rows = getattr(config.get_text_config(), "vocab_size", None) if config is not None else None
    rows = rows if _is_number(rows) else next((v for path, v in sizes.items() if _leaf(path) in names), None)
    if rows is None:
        raise PlanError(f"a {raw.get('model_type')} has no vocabulary: its config has no vocab_size")
    return VocabularyFields(
        rows,
        tuple(path for path, value in sizes.items() if value == rows),
        {path: value for path, value in sizes.items() if value != rows},
        token_ids(leaves),
        {path: value for path, value in leaves.items() if _leaf(path) == "vocab_offset" and _is_number(value)},
    )


def _made(kind: Any, raw: Mapping[str, Any]) -> PreTrainedConfig:
    try:
        with quiet_library():
            return kind.from_dict(dict(raw))
    except BAD_VALUE as error:
        raise PlanError(f"config.json: {kind.__name__} can't be made of it: {one_line(error)}") from error


def _leaves(data: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every value with its path; those further up first."""
    yield from ((f"{prefix}{key}", value) for key, value in data.items() if not isinstance(value, Mapping))
    for key, value in data.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{key}.")


def _counts(path: str, names: set[str]) -> bool:
    leaf = _leaf(path)
    return leaf in names or ("vocab" in leaf and leaf not in ("vocab_offset", "type_vocab_size"))


def token_ids(leaves: Mapping[str, Any]) -> dict[str, Any]:
    """The values, by path, that are ids of tokens."""
    ends = ("token_id", "token_ids", "token_index", "suppress_tokens")
    return {path: value for path, value in leaves.items() if _leaf(path).endswith(ends) and value is not None}


def _leaf(path: str) -> str:
    return path.rpartition(".")[2]


def _is_number(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def moving_fields(target: Target, counts: tuple[str, ...]) -> dict[str, int]:
    """The dimension of every tensor that grows with the vocabulary, by its name in memory.

    The class is built once more, on meta, with a larger vocabulary: what is larger then is what moves.

    Raises:
        PlanError: nothing moves, or something moves by several rows a token.
    """
    shapes = {name: tuple(tensor.shape) for name, tensor in target.model.state_dict().items()}
    larger = {name: tuple(t.shape) for name, t in _larger(target, counts).state_dict().items() if name in shapes}
    grown = {name: [b - a for a, b in zip(shapes[name], shape, strict=True)] for name, shape in larger.items()}
    found = {name: steps for name, steps in grown.items() if any(steps)}
    wrong = [f"{name} (by {[*filter(None, s)]} for {STEP} tokens)" for name, s in found.items() if sum(s) != STEP]
    if wrong:
        raise PlanError(f"{join_names(wrong)}: not one row a token, so which row is which token's isn't known")
    if not found:
        raise PlanError(f"{target.cls.__name__}: no tensor grows with {', '.join(counts)}; it has no vocabulary")
    return {name: steps.index(STEP) for name, steps in found.items()}


def _larger(target: Target, counts: tuple[str, ...]) -> PreTrainedModel:
    here = dict(_leaves(target.config.to_dict()))
    missing = [path for path in counts if path not in here]
    if missing:
        raise PlanError(f"{target.cls.__name__} has no config field {', '.join(missing)}; use the base's own class")
    config = copy_config(target.config, {path: here[path] + STEP for path in counts})
    return target.rebuilt(config)


def sides_of(tables: Mapping[str, tuple[TensorSpec, int]], target: Target) -> dict[str, str]:
    """What each vocabulary-sized tensor is to the model, by name.

    ``input``, ``output``, both (``tied``), the ``bias`` of an output matrix, or that of a tied one (``tied_bias``).
    """
    sides = {name: _side(tensor, dim, target) for name, (tensor, dim) in tables.items()}
    bias = "tied_bias" if "tied" in sides.values() and "output" not in sides.values() else "bias"
    return {name: bias if side == "bias" else side for name, side in sides.items()}


def _side(tensor: TensorSpec, dim: int, target: Target) -> str:
    if len(tensor.shape) == 1 or tensor.shape[:dim] == (1,) * (len(tensor.shape) - 1):
        return "bias"
    names = [tensor.parameter, *(tie.name for tie in target.layout.ties if tie.of == tensor.name)]
    sides = {"input" if dim or _looks_up(target.model, name) else "output" for name in names}
    return "tied" if len(sides) > 1 else sides.pop()


def _looks_up(model: PreTrainedModel, name: str) -> bool:
    return isinstance(model.get_submodule(name.rpartition(".")[0]), torch.nn.Embedding)
