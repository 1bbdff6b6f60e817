"""The config fields that count a vocabulary, and the tensors whose size follows them, read off the class itself."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TypeGuard

import torch
from transformers import CONFIG_MAPPING, PreTrainedConfig

from hf_init._architecture import BAD_VALUE, Target, copy_config, quiet_library, text_config
from hf_init._errors import PlanError
from hf_init._tensors import TensorSpec
from hf_init._text import join_names, one_line

NOT_SIZES = ("vocab_offset", "type_vocab_size")
STEP = 64
"""By how many tokens the vocabulary is grown to see what grows with it: a multiple of what tables are rounded to."""


@dataclass(frozen=True)
class VocabularyFields:
    """What a config says of its vocabulary.

    Attributes:
        rows: of the vocabulary's tables.
        counts: paths of the fields that say so; dots lead into nested configs.
        others: fields with vocab in their name that say another number.
        values: the whole config, nested as it is.
        reserved: where ids begin that mean something else than tokens, by path.
        offset: the id of the first row: more than 0 for tables that go on where others end (Idefics').
    """

    rows: int
    counts: tuple[str, ...]
    others: Mapping[str, int]
    values: Mapping[str, object]
    reserved: Mapping[str, int]
    offset: int = 0

    def rows_of(self, ids: Collection[int]) -> set[int]:
        """Return the rows of the tables that ids of tokens have."""
        return {*range(self.rows)} & {id_ - self.offset for id_ in ids}

    def of_ids(self, end: int) -> VocabularyFields:
        """Return the same of the tables that have the ids up to ``end``, where those of this one are fewer."""
        behind = self.others.get("additional_vocab_size", 0)
        if self.rows < end <= self.rows + behind:
            others = {**dict.fromkeys(self.counts, self.rows), **self.others}
            del others["additional_vocab_size"]
            return replace(self, rows=behind, counts=("additional_vocab_size",), others=others, offset=self.rows)
        sizes = {path: size for path, size in self.others.items() if _field_name(path) == "vocab_size" and size >= end}
        if end <= self.rows or not sizes:
            return self
        rows, known = min(sizes.values()), {**dict.fromkeys(self.counts, self.rows), **self.others}
        return replace(
            self,
            rows=rows,
            counts=tuple(path for path, size in known.items() if size == rows),
            others={path: size for path, size in known.items() if size != rows},
        )


def vocabulary_fields(raw: Mapping[str, object]) -> VocabularyFields:
    """Return what a raw ``config.json`` says of its vocabulary, the class's defaults included.

    Raises:
        PlanError: it has no vocabulary.
    """
    config = _known_config(raw)
    values = raw if config is None else config.to_dict()
    fields = dict(config_leaves(values))
    size = "vocab_size" if config is None else config.attribute_map.get("vocab_size", "vocab_size")
    named = {path: value for path, value in fields.items() if _field_name(path) in ("vocab_size", size)}
    vocab = {p for p in fields if "vocab" in _field_name(p)} - {p for p in fields if _field_name(p) in NOT_SIZES}
    sizes = {path: v for path, v in fields.items() if _is_positive(v) and (path in named or path in vocab)}
    rows = None if config is None else getattr(text_config(config), "vocab_size", None)
    if not _is_positive(rows):
        rows = next((value for path, value in sizes.items() if path in named), None)
    if rows is None:
        raise PlanError(f"a {raw.get('model_type')} has no vocabulary: its config has no vocab_size")
    return VocabularyFields(
        rows,
        tuple(path for path, value in sizes.items() if value == rows),
        {path: value for path, value in sizes.items() if value != rows},
        values,
        {path: v for path, v in fields.items() if _field_name(path) == "vocab_offset" and _is_positive(v)},
    )


def _known_config(raw: Mapping[str, object]) -> PreTrainedConfig | None:
    """Return the config of transformers that this one is of; None for a model type that transformers doesn't have."""
    if raw.get("model_type") not in CONFIG_MAPPING:
        return None
    cls: type[PreTrainedConfig] = CONFIG_MAPPING[str(raw["model_type"])]
    try:
        with quiet_library():
            return cls.from_dict(dict(raw))
    except BAD_VALUE as error:
        raise PlanError(f"config.json: {cls.__name__} can't be made of it: {one_line(error)}") from error


def config_leaves(data: Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, object]]:
    """Yield every value with its path; those further up first."""
    yield from ((f"{prefix}{key}", value) for key, value in data.items() if not isinstance(value, Mapping))
    for key, value in data.items():
        if isinstance(value, Mapping):
            yield from config_leaves(value, f"{prefix}{key}.")


def _field_name(path: str) -> str:
    return path.rpartition(".")[2]


def _is_positive(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def vocabulary_dims(target: Target, counts: tuple[str, ...]) -> dict[str, int]:
    """Return the dimension of every tensor that grows with the vocabulary, by its name in memory.

    The class is built once more, on meta, with a larger vocabulary: what is larger then grows with it.

    Raises:
        PlanError: nothing grows, or something grows by several rows a token.
    """
    sizes = {path: value for path, value in config_leaves(target.config.to_dict()) if _is_positive(value)}
    missing = [path for path in counts if path not in sizes]
    if missing:
        raise PlanError(f"{target.cls.__name__} has no config field {', '.join(missing)}; use the base's own class")
    larger = target.rebuilt(copy_config(target.config, {path: sizes[path] + STEP for path in counts})).state_dict()
    grown = {
        name: [b - a for a, b in zip(tensor.shape, larger[name].shape, strict=True)]
        for name, tensor in target.model.state_dict().items()
        if name in larger
    }
    steps = {name: more for name, more in grown.items() if any(more)}
    wrong = [f"{name} (by {[*filter(None, s)]} for {STEP} tokens)" for name, s in steps.items() if sum(s) != STEP]
    if wrong:
        raise PlanError(f"{join_names(wrong)}: not one row a token, so which row is which token's isn't known")
    if not steps:
        raise PlanError(f"{target.cls.__name__}: no tensor grows with {', '.join(counts)}; it has no vocabulary")
    return {name: more.index(STEP) for name, more in steps.items()}


def table_sides(tables: Mapping[str, tuple[TensorSpec, int]], target: Target) -> dict[str, str]:
    """Return what each vocabulary-sized tensor is to the model, by name.

    ``input``, ``output``, both (``tied``), the ``bias`` of an output matrix, or that of a tied one (``tied_bias``).
    """
    sides: dict[str, str] = {}
    products: dict[str, str] = {}  # sides of output matrices, by the module that multiplies with them
    for name, (tensor, dim) in tables.items():
        names = [tensor.parameter, *(tie.name for tie in target.layout.ties if tie.of == tensor.name)]
        owners = [target.model.get_submodule(each.rpartition(".")[0]) for each in names]
        of_owners = {"input" if dim or isinstance(owner, torch.nn.Embedding) else "output" for owner in owners}
        vector = len(tensor.shape) == 1 or tensor.shape[:dim] == (1,) * (len(tensor.shape) - 1)
        sides[name] = "bias" if vector else "tied" if len(of_owners) > 1 else of_owners.pop()
        if sides[name] in ("output", "tied"):
            layers = [
                each for each, owner in zip(names, owners, strict=True) if not isinstance(owner, torch.nn.Embedding)
            ]
            products |= {each.rsplit(".", 2)[0]: sides[name] for each in layers}
    # The other half of an output matrix (MobileBERT's) stands beside the layer, along the other dimension: a new row is
    # a mixture of old ones only where both halves take the same weights.
    for name, (tensor, dim) in tables.items():
        if dim and sides[name] == "input":
            sides[name] = products.get(tensor.parameter.rsplit(".", 2)[0], "input")
    tied = "tied" in sides.values() and "output" not in sides.values()
    return {name: "tied_bias" if tied and side == "bias" else side for name, side in sides.items()}
