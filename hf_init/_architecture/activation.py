"""The activation that a layer's output goes into, read from the modules around it. No forward is run."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

# Class or function to the name that gains are known by.
KNOWN: Mapping[str, str] = {
    "ReLU": "relu",
    "relu": "relu",
    "ReLU6": "relu6",
    "relu6": "relu6",
    "LeakyReLU": "leaky_relu",
    "leaky_relu": "leaky_relu",
    "Tanh": "tanh",
    "tanh": "tanh",
    "Sigmoid": "sigmoid",
    "sigmoid": "sigmoid",
    "SELU": "selu",
    "selu": "selu",
    "GELU": "gelu",
    "gelu": "gelu",
    "SiLU": "silu",
    "silu": "silu",
    "GELUActivation": "gelu",
    "NewGELUActivation": "gelu_new",
    "FastGELUActivation": "gelu_fast",
    "QuickGELUActivation": "quick_gelu",
    "ClippedGELUActivation": "gelu_10",
    "GELUTanh": "gelu_pytorch_tanh",
    "PytorchGELUTanh": "gelu_pytorch_tanh",
    "SiLUActivation": "silu",
}
ATTRIBUTES = (
    "act",
    "act_fn",
    "activation",
    "activation_fn",
    "activation_function",
    "intermediate_act_fn",
    "transform_act_fn",
    "hidden_act",
    "nonlinearity",
)
FIRST = ("mlp.up.", "mlp.gate.", "mlp.gate_up.", "expert.up.", "expert.gate.", "expert.gate_up.")
PASSED = (nn.Dropout, nn.Identity, nn.LayerNorm, nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.GroupNorm)
LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


def activations(modules: Mapping[str, nn.Module], roles: Mapping[str, str]) -> dict[str, str]:
    """Return the activation after each weight, where it is known, from modules by path and roles by tensor name.

    A layer in a ``Sequential`` goes into the next activation there; the first layers of a feed-forward block into the
    block's own (in a gated one, the gate alone); the only layer of a module into the module's own.
    """
    layers = {name.rpartition(".")[0] for name in roles}
    gated = {
        _parent_path(path)
        for path in layers
        if roles.get(f"{path}.weight", "").startswith(("mlp.gate.", "expert.gate."))
    }
    found = (
        (name, _activation_after(name, role, modules, gated))
        for name, role in roles.items()
        if role.endswith(".weight")
    )
    return {name: activation for name, activation in found if activation}


def _activation_after(name: str, role: str, modules: Mapping[str, nn.Module], gated: set[str]) -> str | None:
    path = name.rpartition(".")[0]
    parent = modules.get(_parent_path(path))
    first = role.startswith(FIRST)
    if isinstance(parent, nn.Sequential):
        names = list(parent._modules)
        behind = (parent._modules[each] for each in names[names.index(path.rpartition(".")[2]) + 1 :])
        return next((KNOWN.get(type(module).__name__) for module in behind if not isinstance(module, PASSED)), None)
    if first and role.startswith(("mlp.up.", "expert.up.")) and _parent_path(path) in gated:
        return None
    if first:
        return _activation_in(modules.get(path)) or _activation_in(parent)
    if parent is None or [child for child in parent.children() if isinstance(child, LAYERS)] != [modules.get(path)]:
        return None
    return _activation_in(parent)


def _activation_in(module: nn.Module | None) -> str | None:
    """Return the activation that a module holds as an attribute, a module or a function."""
    values = (getattr(module, attribute, None) for attribute in ATTRIBUTES)
    names = (KNOWN.get(getattr(value, "__name__", type(value).__name__)) for value in values if value is not None)
    return next((name for name in names if name), None)


def _parent_path(path: str) -> str:
    return path.rpartition(".")[0]
