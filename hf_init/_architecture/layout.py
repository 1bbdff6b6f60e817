"""A model on meta becomes a layout: what its files hold, in the names on disk, and what is tied."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

import torch
from transformers import PreTrainedModel

from hf_init._architecture.describe import describe_model, shared
from hf_init._architecture.library import (
    Address,
    Addresses,
    on_disk,
    tied_names,
)
from hf_init._tensors import Geometry, Layout, TensorSpec, Tie


def layout_of(model: PreTrainedModel, addresses: Addresses | None = None) -> Layout:
    """What the files of a model hold, and where its loader puts them.

    Args:
        addresses: of the model, without renamings; made where they aren't at hand.
    """
    specs = describe_model(model)
    alias = _aliases(model)
    with torch.no_grad():
        state = model.state_dict(keep_vars=True)  # nothing is detached
        stored = on_disk(model, {name: tensor for name, tensor in state.items() if name not in alias})
    found = (addresses or Addresses(model)).of(list(stored))
    tensors = tuple(_spec(name, tensor, found[name], specs) for name, tensor in stored.items())
    return Layout(type(model).__name__, tensors, tuple(_ties(alias, tensors)), _std(model), _depth(model))


def _aliases(model: PreTrainedModel) -> dict[str, str]:
    """Second names of tensors: tied by the config's word, or one object under two names."""
    declared = tied_names(model)
    same = {name: of for name, of in shared(model).items() if name not in declared and of not in declared}
    return {**declared, **{name: of for name, of in same.items() if name not in declared.values()}}


def _std(model: PreTrainedModel) -> float:
    """The standard deviation that the architecture starts its weights with."""
    config = model.config.get_text_config()
    found = (getattr(config, name, None) for name in ("initializer_range", "init_std"))
    return next((float(std) for std in found if std), 0.02)


def _depth(model: PreTrainedModel) -> int | None:
    """How many blocks the residual stream passes."""
    config = model.config.get_text_config()
    found = (getattr(config, name, None) for name in ("num_hidden_layers", "n_layer", "num_layers"))
    return next((depth for depth in found if isinstance(depth, int) and depth > 0), None)


def _ties(alias: Mapping[str, str], tensors: Iterable[TensorSpec]) -> Iterable[Tie]:
    by_parameter = {tensor.parameter: tensor.name for tensor in tensors}
    for name, of in alias.items():
        if of in by_parameter:
            yield Tie(name, by_parameter[of], ((name,),))


def _spec(name: str, tensor: torch.Tensor, address: Address, specs: Mapping[str, TensorSpec]) -> TensorSpec:
    """The description of a tensor on disk: that of its parameter, with its own shape where it is only a piece of it."""
    parameter = specs.get(address[0])
    shape, dtype = tuple(tensor.shape), str(tensor.dtype).removeprefix("torch.")
    if parameter is None:
        return TensorSpec(name, shape, dtype, parameter=name, address=address)
    if (name, shape, dtype, address) == (parameter.name, parameter.shape, parameter.dtype, parameter.address):
        return parameter
    geometry = parameter.geometry if len(address) == 1 else _matrix(shape)
    return replace(parameter, name=name, shape=shape, dtype=dtype, geometry=geometry, address=address)


def _matrix(shape: tuple[int, ...]) -> Geometry | None:
    return Geometry(fan_in=shape[1], fan_out=shape[0]) if len(shape) == 2 else None
