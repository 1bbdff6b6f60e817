"""The target's model without values: by its constructor, or by the library's loader where an option asks for more."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import torch
from transformers import PreTrainedConfig, PreTrainedModel

from hf_init._architecture import (
    Addresses,
    build_on_meta,
    load_on_meta,
)
from hf_init._checkpoint import TensorEntry
from hf_init._errors import PlanError
from hf_init._plan import TensorPlan
from hf_init._prepare.target import LOAD_OPTIONS, Target
from hf_init._text import one_line

UNBUILDABLE = (
    ImportError,
    LookupError,
    TypeError,
    ValueError,
    AttributeError,
    RuntimeError,
    ArithmeticError,
    AssertionError,
)
"""What the constructors of models raise for values that they can't use."""

NOT_ON_META = ("device_map", "max_memory", "key_mapping")
IMPLEMENTATIONS = frozenset({"attn_implementation", "experts_implementation"})
WITHOUT_LOADING = frozenset(LOAD_OPTIONS) - {"use_kernels"}
"""Options that make no difference to how a model is built, or that its constructor is told of."""


def on_meta(target: Target, names: Iterable[str] | None = None) -> PreTrainedModel:
    """The target's model, without values.

    Args:
        names: of the tensors that it is loaded from; by default, the source's.

    Raises:
        PlanError: the class can't be built with this config.
    """
    return _made(target, names)[0]


def _made(target: Target, names: Iterable[str] | None = None) -> tuple[PreTrainedModel, Addresses | None]:
    """The target's model; with its addresses, if it is as its constructor made it."""
    try:
        return _built(target, names) or (_load(target, _empty(target.source.entries.values())), None)
    except UNBUILDABLE as error:
        raise PlanError(
            f"{target.cls.__name__} can't be built with this config: {one_line(error)}. Give values that fit together"
        ) from error


def _twin(target: Target, config: PreTrainedConfig) -> PreTrainedModel:
    """The target's model on meta under another config, for its shapes: what a load would rename isn't asked."""
    return on_meta(replace(target, config=config), names=())


def _built(target: Target, names: Iterable[str] | None) -> tuple[PreTrainedModel, Addresses] | None:
    """The model by its constructor, unless an option asks for more."""
    if target.model_args or not target.load.keys() <= WITHOUT_LOADING:
        return None
    shape = {key: target.load[key] for key in IMPLEMENTATIONS if key in target.load}
    names = target.source.entries if names is None else names
    return build_on_meta(target.cls, target.config, names, target.dtype, **shape, **target.model_kwargs)


def _empty(tensors: Iterable[TensorEntry | TensorPlan]) -> dict[str, torch.Tensor]:
    return {t.name: torch.empty(t.shape, dtype=getattr(torch, t.dtype), device="meta") for t in tensors}


def _load(target: Target, tensors: Mapping[str, torch.Tensor], **options: Any) -> Any:
    options |= {key: value for key, value in target.load.items() if key not in NOT_ON_META}
    return load_on_meta(
        target.cls,
        target.config,
        tensors,
        dtype=target.dtype,
        model_args=target.model_args,
        **options,
        **target.model_kwargs,
    )
