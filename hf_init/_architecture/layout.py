"""A model on meta becomes a layout: what its files hold, in the names on disk, and what is tied."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import nn
from transformers import PreTrainedModel

from hf_init._architecture.config import text_config
from hf_init._architecture.constructor_faults import check_not_lazy
from hf_init._architecture.describe import describe_model, shared
from hf_init._architecture.library import (
    Address,
    Addresses,
    on_disk,
    tied_names,
)
from hf_init._tensors import Geometry, Layout, TensorSpec, Tie


def layout_of(model: PreTrainedModel, addresses: Addresses | None = None) -> Layout:
    """Return what the files of a model hold, and where its loader puts them.

    Args:
        addresses: of the model, without renamings; made where they aren't at hand.
    """
    specs = describe_model(model)
    stored, alias = stored_tensors(model)
    found = (addresses or Addresses(model)).of(list(stored))
    tensors = tuple(_spec_on_disk(name, tensor, found[name], specs) for name, tensor in stored.items())
    by_parameter = {tensor.parameter: tensor.name for tensor in tensors}
    ties = tuple(Tie(name, by_parameter[of], ((name,),)) for name, of in alias.items() if of in by_parameter)
    config = text_config(model.config)
    stds = (getattr(config, name, None) for name in ("initializer_range", "init_std"))
    std = next((float(each) for each in stds if each), 0.02)
    depths = (getattr(config, name, None) for name in ("num_hidden_layers", "n_layer", "num_layers"))
    depth = next((each for each in depths if isinstance(each, int) and each > 0), None)
    return Layout(type(model).__name__, tensors, ties, std, depth)


def stored_tensors(model: PreTrainedModel) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Return what the files of a model hold by its name there, and second names with what they are."""
    declared = tied_names(model)  # by the config's word; besides, one object may have two names
    same = {name: of for name, of in shared(model).items() if name not in declared and of not in declared}
    alias = {**declared, **{name: of for name, of in same.items() if name not in declared.values()}}
    with torch.no_grad():
        state = model.state_dict(keep_vars=True)  # nothing is detached
        return on_disk(model, {name: tensor for name, tensor in state.items() if name not in alias}), alias


def module_layout(module: nn.Module) -> Layout:
    """Return what the state dict of a plain module holds: its names are those on disk.

    Raises:
        PlanError: a layer has no shape yet.
    """
    check_not_lazy(module)
    specs, alias = describe_model(module), shared(module)
    tensors = tuple(spec for name, spec in specs.items() if name not in alias)
    return Layout(type(module).__name__, tensors, tuple(Tie(name, of, ((name,),)) for name, of in alias.items()))


def _spec_on_disk(name: str, tensor: torch.Tensor, address: Address, specs: Mapping[str, TensorSpec]) -> TensorSpec:
    """Return the spec of a tensor on disk: its parameter's, with its own shape where it is only a piece of it."""
    parameter = specs.get(address[0])
    shape, dtype = tuple(tensor.shape), str(tensor.dtype).removeprefix("torch.")
    if parameter is None:
        return TensorSpec(name, shape, dtype, parameter=name, address=address)
    if (name, shape, dtype, address) == (parameter.name, parameter.shape, parameter.dtype, parameter.address):
        return parameter
    geometry = parameter.geometry
    if len(address) > 1:  # a piece of the parameter
        geometry = Geometry(fan_in=shape[1], fan_out=shape[0]) if len(shape) == 2 else None
    return replace(parameter, name=name, shape=shape, dtype=dtype, geometry=geometry, address=address)
