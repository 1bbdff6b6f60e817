"""A model's states for passages, of which a causal one reads the beginning once."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch.nn import ModuleList
from transformers import DynamicCache, PreTrainedModel

from hf_init._architecture import UNBUILDABLE

CLOSE = 5e-2
"""Of states that are the same but for rounding, bfloat16's included, relative to the largest."""


@dataclass(frozen=True)
class StateReader:
    """A model that is asked for its states, and computes no others.

    Attributes:
        model: frozen, in evaluation mode.
        depth: share of the model's blocks that are run; what follows the last one follows them.
    """

    model: PreTrainedModel
    depth: float = 1.0

    @cached_property
    def backbone(self) -> torch.nn.Module:
        count = getattr(self.model.config.get_text_config(), "num_hidden_layers", None)
        shortened = first_blocks(self.model.base_model, count, self.depth)
        try:
            with torch.no_grad():
                shortened(inputs_embeds=self.embedding(torch.arange(1)[None]))
        except UNBUILDABLE:  # a class may count its blocks by its config
            return self.model.base_model
        return shortened

    @property
    def embedding(self) -> torch.nn.Module:
        layer = self.model.get_input_embeddings()
        assert isinstance(layer, torch.nn.Module)
        return layer

    def read(self, prefix: torch.Tensor) -> Prefix:
        """Read the beginnings of passages, ids ``(n, length)``."""
        cache = DynamicCache(config=self.model.config) if self._keeps else None
        with torch.no_grad():
            return Prefix(self, prefix, cache, self.states(self.embedding(prefix), cache))

    def states(self, embedded: torch.Tensor, cache: DynamicCache | None = None) -> torch.Tensor:
        """Return the states for embeddings ``(n, length, d)``, behind those that a cache has."""
        kept: Mapping[str, Any] = {} if cache is None else {str(self._cache_name): cache, "use_cache": True}
        return self.backbone(inputs_embeds=embedded, return_dict=True, **kept).last_hidden_state

    @cached_property
    def _cache_name(self) -> str | None:
        """Return what the class calls the keys and values that it is handed: it has had two names."""
        known = inspect.signature(self.model.base_model.forward).parameters
        return next((name for name in ("cache", "past_key_values") if name in known), None)

    @cached_property
    def _keeps(self) -> bool:
        """Return whether states behind kept keys and values are those of the whole: seen, not told by any name."""
        if self._cache_name is None:
            return False
        embedded = self.embedding(torch.arange(6)[None])
        try:
            with torch.no_grad():
                cache = DynamicCache(config=self.model.config)
                whole = self.states(embedded)[:, 3:]
                self.states(embedded[:, :3], cache)
                behind = self.states(embedded[:, 3:], cache)
        except UNBUILDABLE:  # what a class raises for a cache of another kind than its own
            return False
        return whole.shape == behind.shape and bool((whole - behind).abs().max() <= CLOSE * whole.abs().max())


@dataclass(frozen=True)
class Prefix:
    """Beginnings of passages that were read.

    Attributes:
        ids: ``(n, length)``. cache: their keys and values; None: they are read again each time, with what follows.
        states: ``(n, length, d)``.
    """

    reader: StateReader
    ids: torch.Tensor
    cache: DynamicCache | None
    states: torch.Tensor

    def read_on(self, embedded: torch.Tensor, length: int) -> torch.Tensor:
        """Return the states, ``(n, places, d)``, where two ways to write what follows can be compared.

        That is behind the first ``length`` tokens of what follows, and behind every one after them; and, where those
        before it aren't kept, since they see what follows, at each of them.
        """
        if self.cache is not None:
            return self.reader.states(embedded, copy.deepcopy(self.cache))[:, length - 1 :]
        states = self.reader.states(torch.cat([self.reader.embedding(self.ids), embedded], 1))
        before = self.ids.shape[1]
        return torch.cat([states[:, :before], states[:, before + length - 1 :]], 1)


def first_blocks(model: torch.nn.Module, count: object, share: float) -> torch.nn.Module:
    """Return a model with the same parameters that has the first blocks alone; the whole where they aren't so many."""
    stacks = [name for name, module in model.named_modules() if isinstance(module, ModuleList) and len(module) == count]
    if not stacks or share >= 1:
        return model
    *path, last = stacks[0].split(".")
    parent = shortened = _own_children(model)
    for name in path:
        parent._modules[name] = _own_children(parent.get_submodule(name))
        parent = parent.get_submodule(name)
    blocks = parent.get_submodule(last)
    assert isinstance(blocks, ModuleList)
    parent._modules[last] = blocks[: max(1, round(share * len(blocks)))]
    return shortened


def _own_children(module: torch.nn.Module) -> torch.nn.Module:
    """Return a module with the same children, in a list of its own."""
    same = copy.copy(module)
    same._modules = dict(module._modules)
    return same


def layer_like(module: torch.nn.Module, parameters: Mapping[str, torch.Tensor]) -> torch.nn.Module:
    """Return a layer that computes as another one, with other parameters."""
    layer = copy.copy(module)
    vars(layer)["_parameters"] = {**dict.fromkeys(module._parameters), **parameters}
    if hasattr(layer, "padding_idx"):
        vars(layer)["padding_idx"] = None
    return layer
