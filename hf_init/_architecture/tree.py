"""A model as paths: its modules, their children and the tensors of its state dict."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import nn

from hf_init._architecture.geometry import matrix_kind
from hf_init._tensors import Geometry, Shape

ModuleTensors: TypeAlias = Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class ModuleTree:
    """What the rules walk over.

    Attributes:
        modules: every module by its path; a module that is used twice is under both.
        places: every module with what belongs to it, by its path.
    """

    modules: Mapping[str, nn.Module]
    places: Mapping[str, TreePlace]

    @classmethod
    def of(cls, model: nn.Module, state: ModuleTensors) -> ModuleTree:
        modules = dict(model.named_modules(remove_duplicate=False))
        children: defaultdict[str, list[str]] = defaultdict(list)
        tensors: defaultdict[str, dict[str, torch.Tensor]] = defaultdict(dict)
        for path in modules:
            if path:
                parent, _, name = path.rpartition(".")
                children[parent].append(name)
        for name, tensor in state.items():
            path, leaf = owner_of(name)
            tensors[path][leaf] = tensor
        places: dict[str, TreePlace] = {}
        tree = cls(modules, places)
        for path, module in modules.items():
            places[path] = TreePlace(tree, path, module, tuple(children[path]), tensors[path])
        return tree


@dataclass(frozen=True)
class TreePlace:
    """A module in its tree, with the names of its children and the tensors that it owns itself."""

    tree: ModuleTree
    path: str
    module: nn.Module
    children: tuple[str, ...]
    tensors: ModuleTensors

    @property
    def name(self) -> str:
        """Return what the module is called where it is used; in a list, what the list is called."""
        return next((word for word in reversed(self.path.split(".")) if not word.isdigit()), "")

    @property
    def parent(self) -> TreePlace | None:
        return self.tree.places[self.path.rpartition(".")[0]] if self.path else None

    def go(self, name: str) -> TreePlace:
        """Return the entry of a child, which there must be."""
        return self.tree.places[self.at(name)]

    def below(self) -> Iterator[TreePlace]:
        """Yield this module and every module in it."""
        yield self
        for name in self.children:
            yield from self.go(name).below()

    def at(self, relative: str) -> str:
        """Return the full path of what is below this module."""
        return f"{self.path}.{relative}" if self.path and relative else self.path or relative

    def shape(self, leaf: str) -> Shape:
        """Return the shape of a tensor of this module's own; ``()`` where there is none."""
        return tuple(self.tensors[leaf].shape) if leaf in self.tensors else ()

    def matrix(self, relative: str) -> Geometry | None:
        """Return the logical matrix of a child, a dense layer; None if it is something else."""
        place = self.tree.places.get(self.at(relative))
        owned = place.tensors if place else {}
        weight = next((owned[leaf] for leaf in ("weight", "original1", "weight_v") if leaf in owned), None)
        if place is None or weight is None or weight.ndim < 2:
            return None
        role, read = matrix_kind(place.module) or ("", None)
        return read(place.module, tuple(weight.shape)) if read and role == "linear" else None


def find_tensor(model: nn.Module, name: str) -> torch.Tensor:
    """Return a parameter or buffer by its name."""
    path, _, leaf = name.rpartition(".")
    module = model.get_submodule(path)
    found = module._parameters.get(leaf)
    found = module._buffers[leaf] if found is None else found
    assert found is not None
    return found


def tensor_place(model: nn.Module, name: str) -> tuple[dict[str, Any], str]:
    """Return the dict in which a module holds a parameter or buffer of this name, and its key there."""
    path, _, leaf = name.rpartition(".")
    owner = model.get_submodule(path)
    store: dict[str, Any] = owner._parameters if leaf in owner._parameters else owner._buffers
    return store, leaf


def owner_of(name: str) -> tuple[str, str]:
    """Return the path of the owning module and the attribute; a parametrization's tensors belong to the layer itself.

    Example:
        >>> owner_of("encoder.conv.parametrizations.weight.original0"), owner_of("scale")
        (('encoder.conv', 'original0'), ('', 'scale'))
    """
    path, _, leaf = name.rpartition(".")
    layer, marker, tensor = path.rpartition("parametrizations.")
    if marker and "." not in tensor:
        return layer.rstrip("."), tensor if leaf == "original" else leaf
    return path, leaf
