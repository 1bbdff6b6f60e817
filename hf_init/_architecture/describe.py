"""From a module to one ``TensorSpec`` for each tensor of its state dict. Reads shapes and classes, never a value."""

from __future__ import annotations

import ast
import dis
import inspect
import math
import re
import textwrap
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TypeAlias

import torch
from torch import nn

from hf_init._architecture import names as _names
from hf_init._architecture.activation import activations
from hf_init._architecture.blocks import RoleLabel, RoleLabels, labels_of
from hf_init._architecture.geometry import gates, lineage, linear, matrix_kind
from hf_init._architecture.tree import ModuleTree, TreePlace, owner_of
from hf_init._roles import matches
from hf_init._shards import whole_shape
from hf_init._tensors import Geometry, Shape, TensorSpec


def describe_model(model: nn.Module) -> dict[str, TensorSpec]:
    """Return every parameter and stored buffer of a model, by its name in the state dict and in that order.

    Shapes, roles and logical matrices come from classes, names and surroundings: no value is read, so a model on the
    meta device will do. A tensor under two names is described under both, each as what it is there.

    Example:
        >>> layer = describe_model(nn.Sequential(nn.Linear(3, 5, device="meta")))["0.weight"]
        >>> layer.role, layer.shape, layer.geometry.fan_in, layer.module[0]
        ('linear.weight', (5, 3), 3, 'Linear')
    """
    state = _tensors_of(model)
    tree = ModuleTree.of(model, state)
    labels = labels_of(tree)
    specs = {name: _describe_tensor(name, tensor, tree, labels) for name, tensor in state.items()}
    read = {id(state[name]): spec for name, spec in specs.items() if spec.role != "parameter"}
    for name, spec in list(specs.items()):  # of an unknown role: what is known of the same tensor under another name
        if spec.role == "parameter" and (other := read.get(id(state[name]))):
            specs[name] = replace(spec, role=other.role, geometry=other.geometry)
    known = activations(tree.modules, {name: spec.role for name, spec in specs.items()})
    return {name: replace(spec, activation=known[name]) if name in known else spec for name, spec in specs.items()}


def shared(model: nn.Module) -> dict[str, str]:
    """Return the names in the state dict whose parameter an earlier name has already, with that name.

    Example:
        >>> layer = nn.Linear(2, 2, device="meta")
        >>> shared(nn.ModuleDict({"a": layer, "b": layer}))
        {'b.weight': 'a.weight', 'b.bias': 'a.bias'}
    """
    state = _tensors_of(model)
    first: dict[int, str] = {}
    for name, tensor in state.items():
        if isinstance(tensor, nn.Parameter):
            first.setdefault(id(tensor), name)
    owners = {name: first.get(id(tensor), name) for name, tensor in state.items()}
    return {name: owner for name, owner in owners.items() if name != owner}


def buffers(model: nn.Module) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the names of the buffers that the state dict holds, and of those that it leaves out.

    Example:
        >>> buffers(nn.BatchNorm1d(2, device="meta"))
        (('running_mean', 'running_var', 'num_batches_tracked'), ())
    """
    stored = _tensors_of(model).keys()
    names = [name for name, _ in model.named_buffers(remove_duplicate=False)]
    return tuple(name for name in names if name in stored), tuple(name for name in names if name not in stored)


def _tensors_of(model: nn.Module) -> dict[str, torch.Tensor]:
    """Return the state dict with the parameters themselves, less what isn't a tensor (a module's extra state)."""
    state = model.state_dict(keep_vars=True)
    return {name: tensor for name, tensor in state.items() if isinstance(tensor, torch.Tensor)}


def _describe_tensor(name: str, tensor: torch.Tensor, tree: ModuleTree, labels: RoleLabels) -> TensorSpec:
    path, leaf = owner_of(name)
    shape, dtype = whole_shape(tensor), str(tensor.dtype).removeprefix("torch.")
    place = tree.places.get(path)
    if place is None:  # a name that the model's own state dict hooks made up
        return TensorSpec(name, shape, dtype, parameter=name, address=(name,))
    module, owner = place.module, Owner(place, leaf, shape, isinstance(tensor, nn.Parameter), labels)
    role, geometry = next(reading for recognise in RECOGNISERS if (reading := recognise(owner)))
    padding = getattr(module, "padding_idx", None) if matches(role, "embedding") else None
    return TensorSpec(name, shape, dtype, name, lineage(module), role, geometry, padding=padding, address=(name,))


@dataclass(frozen=True)
class Owner:
    """A tensor and the module that it is an attribute of."""

    place: TreePlace
    leaf: str
    shape: Shape
    trained: bool
    labels: RoleLabels

    @property
    def label(self) -> RoleLabel | None:
        """Return what the surroundings say of the layer."""
        return self.labels.get(self.place.path)

    @property
    def own_label(self) -> RoleLabel | None:
        """Return what the surroundings say of this very tensor."""
        return self.labels.get(self.place.at(self.leaf))

    @property
    def role(self) -> str:
        return self.label.role if self.label else ""


ModuleReading: TypeAlias = tuple[str, Geometry | None]


def describe_recurrent(owner: Owner) -> ModuleReading | None:
    """Read LSTM, GRU and RNN, whole or as a cell."""
    count = next((_names.GATES[name] for name in lineage(owner.place.module) if name in _names.GATES), 0)
    found = re.fullmatch(_names.RECURRENT, owner.leaf) if count else None
    if not found:
        return None
    side = _names.SIDES[found["side"]]
    return f"recurrent.{side}.{found['leaf']}", gates(owner.shape, 1 if side == "projection" else count)


def describe_norm(owner: Owner) -> ModuleReading | None:
    """Read layer, group, batch, RMS normalization; those that add one to the weight are a family of their own."""
    leaf, module = _names.NORM.get(owner.leaf), owner.place.module
    if not leaf or not any(re.search(_names.NORMALIZATION, name) for name in lineage(module)):
        return None
    if leaf not in ("weight", "bias"):
        return f"norm.{leaf}", None
    family = "norm_plus_one" if adds_one(type(module)) else "norm"
    return f"{family}{'.residual' if owner.role == 'residual' else ''}.{leaf}", None


def describe_weight_norm(owner: Owner) -> ModuleReading | None:
    """Read the two halves of a weight-normalized matrix, as a parametrization or in the old way."""
    tensors, leaf, module = owner.place.tensors, owner.leaf, owner.place.module
    if not ({"original0", "original1"} <= set(tensors) or {"weight_g", "weight_v"} <= set(tensors)):
        return None
    layer = matrix_kind(module)
    if leaf in ("original1", "weight_v"):
        return "weight_norm.direction", layer[1](module, owner.shape) if layer else None
    return ("weight_norm.magnitude", None) if leaf in ("original0", "weight_g") else None


def describe_labelled(owner: Owner) -> ModuleReading | None:
    """Read a tensor that its surroundings know by its own name."""
    return (owner.own_label.role, owner.own_label.geometry) if owner.own_label else None


def describe_embedding(owner: Owner) -> ModuleReading | None:
    if owner.leaf != "weight" or {"Embedding", "EmbeddingBag"}.isdisjoint(lineage(owner.place.module)):
        return None
    if owner.role == "embedding.token":
        return owner.role, None
    return _names.EMBEDDINGS.get(owner.place.name, "embedding"), None


def describe_layer(owner: Owner) -> ModuleReading | None:
    """Read dense layers and convolutions; a block may know more about them than their class."""
    known = matrix_kind(owner.place.module)
    if known is None or owner.leaf not in ("weight", "bias"):
        return None
    role = owner.role or known[0]
    if owner.leaf == "bias":
        return f"{role}.bias", None
    geometry = owner.label.geometry if owner.label else None
    return f"{role}.weight", geometry or known[1](owner.place.module, owner.shape)


def bare_router(owner: Owner) -> ModuleReading | None:
    """Read a router that holds its matrix itself."""
    if owner.role != "router" or owner.leaf not in ("weight", "bias"):
        return None
    return f"router.{owner.leaf}", linear(owner.place.module, owner.shape) if len(owner.shape) == 2 else None


def bare_parameter(owner: Owner) -> ModuleReading | None:
    """Read a parameter that a module holds itself, by its name; a gate or scale must be a number or a vector."""
    if not owner.trained:
        return None
    module = lineage(owner.place.module)
    if any(base.endswith("LayerScale") for base in module):
        return "layer_scale", None
    name = owner.leaf if {"ParameterList", "ParameterDict"}.isdisjoint(module) else owner.place.name
    role = _names.EMBEDDINGS.get(name) or _names.PARAMETERS.get(name, "parameter")
    size = math.prod(owner.shape)
    fits = role not in _names.VECTORS or size == (1 if name in _names.ONE_NUMBER else max(owner.shape, default=1))
    return role if fits else "parameter", None


def describe_buffer(owner: Owner) -> ModuleReading:
    return _names.BUFFERS.get(owner.leaf, "buffer"), None


RECOGNISERS: tuple[Callable[[Owner], ModuleReading | None], ...] = (
    describe_recurrent,
    describe_norm,
    describe_weight_norm,
    describe_labelled,
    describe_embedding,
    describe_layer,
    bare_router,
    bare_parameter,
    describe_buffer,
)
"""From the most to the least certain: the first that answers decides."""


@lru_cache(maxsize=256)
def adds_one(norm: type[nn.Module]) -> bool:
    """Return whether the forward of a class adds 1 to its weight, by its source; without a source, no."""
    code = getattr(inspect.unwrap(norm.forward), "__code__", None)
    if code is not None and all(each.argval != 1 for each in dis.get_instructions(code)):
        return False  # there is no 1 in it: its source, which takes longer to read, can't say else
    try:
        source = textwrap.dedent(inspect.getsource(norm.forward))
        nodes = list(ast.walk(ast.parse(source)))
    except (OSError, TypeError, SyntaxError):
        return False
    for node in nodes:
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
            one, weight = sorted((node.left, node.right), key=lambda side: not isinstance(side, ast.Constant))
            is_one = isinstance(one, ast.Constant) and one.value == 1
            if is_one and ast.unparse(weight).startswith(("self.weight", "self.scale", "self.gamma")):
                return True
    return False
