"""Hooks: what every module puts out, what comes back to it, and the units of activation functions."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils.hooks import RemovableHandle

from hf_init._check.facts import LayerFacts, Units
from hf_init._statistics import Stats

TAIL = {"relu": 0.0, "gelu": -3.5, "silu": -8.0}
"""The input from which on downwards a function is flat: its slope is below .003 in size."""

SATURATED = 0.99

_FUNCTIONS: dict[Callable[..., torch.Tensor], str] = {
    **dict.fromkeys((torch.relu, torch.relu_, torch.Tensor.relu, torch.Tensor.relu_, F.relu, F.relu6), "relu"),
    F.gelu: "gelu",
    F.silu: "silu",
    **dict.fromkeys((torch.tanh, torch.Tensor.tanh, F.tanh), "tanh"),
    **dict.fromkeys((torch.sigmoid, torch.Tensor.sigmoid, F.sigmoid), "sigmoid"),
}
_CONVOLUTIONS = (
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
    nn.BatchNorm1d,
    nn.BatchNorm2d,
)


@dataclass
class _OutputSums:
    """Of one module's outputs."""

    kind: str
    calls: int = 0
    stats: Stats = field(default_factory=Stats)
    width: int = 0
    gradient: float = 0.0
    gradients: int = 0

    def add(self, output: torch.Tensor) -> None:
        """Count an output in, summed on its own device."""
        self.calls += 1
        self.width = output.shape[-1] if output.ndim else 1
        values = output.detach()
        known = torch.isfinite(values)
        count, nans = int(known.sum()), int(torch.isnan(values).sum())
        stats = Stats(values.numel(), nans, values.numel() - count - nans)
        if count:
            finite = values.float() if count == values.numel() else values[known].float()
            mean = float(finite.mean(dtype=torch.float64))
            energy = float(torch.linalg.vector_norm(finite, dtype=torch.float64)) ** 2
            low, high = map(float, torch.aminmax(finite))
            zeros = int((finite == 0).sum())
            squares = max(energy - count * mean * mean, 0.0)
            stats = replace(stats, zeros=zeros, mean=mean, squares=squares, energy=energy, low=low, high=high)
        self.stats += stats

    def add_gradient(self, gradient: torch.Tensor) -> None:
        self.gradient += float(torch.linalg.vector_norm(gradient.detach().float(), dtype=torch.float64)) ** 2
        self.gradients += gradient.numel()

    def layer(self, name: str, new: bool) -> LayerFacts:
        stats, count = self.stats, max(self.stats.finite, 1)
        return LayerFacts(
            name=name,
            kind=self.kind,
            new=new,
            calls=self.calls,
            mean=stats.mean,
            std=stats.std,
            rms=(stats.energy / count) ** 0.5,
            zeros=stats.zeros / count,
            not_finite=stats.count - stats.finite,
            gradient=(self.gradient / self.gradients) ** 0.5 if self.gradients else None,
        )


@dataclass
class _UnitRecord:
    """Of one activation function in one module: for each unit whether it was flat all the time."""

    flat: torch.Tensor
    share: float
    count: int

    def facts(self, name: str, function: str, new: bool) -> Units:
        flat = int(self.flat.sum())
        dead, saturated = (flat, 0) if function in TAIL else (0, flat)
        return Units(name, function, new, self.flat.numel(), dead, saturated, self.share / max(self.count, 1))


@dataclass
class LayerRecord:
    """What was seen, in the order of the forward pass."""

    modules: dict[str, _OutputSums] = field(default_factory=dict)
    units: dict[tuple[str, str], _UnitRecord] = field(default_factory=dict)

    def layers(self, is_new: Callable[[str], bool]) -> tuple[LayerFacts, ...]:
        return tuple(sums.layer(name, is_new(name)) for name, sums in self.modules.items())

    def all_units(self, is_new: Callable[[str], bool]) -> tuple[Units, ...]:
        return tuple(unit.facts(name, function, is_new(name)) for (name, function), unit in self.units.items())


class _ActivationMode(TorchFunctionMode):
    """Sees activation functions wherever they are called, in modules of their own or in a forward method."""

    def __init__(self, record: LayerRecord) -> None:
        super().__init__()
        self.record = record
        self.stack: list[tuple[str, nn.Module]] = []  # the modules that run
        self.channels: list[torch.Tensor] = []  # what a convolution put out last

    def watch(self, name: str, module: nn.Module) -> list[RemovableHandle]:
        """Follow a module as it runs; return the hooks."""
        owns = bool(name) and any(p is not None for p in module._parameters.values())
        modules, stack = self.record.modules, self.stack

        def enter(module: nn.Module, args: object) -> None:
            stack.append((name, module))

        def leave(module: nn.Module, args: object, output: object) -> None:
            if stack and stack[-1][1] is module:
                stack.pop()
            tensor = first_tensor(output)
            if tensor is None or not tensor.is_floating_point():
                return
            if isinstance(module, _CONVOLUTIONS):
                self.channels[:] = [tensor]
            if not owns:
                return
            sums = modules.pop(name, None) or _OutputSums(type(module).__name__)
            modules[name] = sums  # at the end: the last one called is last
            sums.add(tensor)
            if tensor.requires_grad:
                tensor.register_hook(sums.add_gradient)

        return [module.register_forward_pre_hook(enter), module.register_forward_hook(leave)]

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        function = _FUNCTIONS.get(func)
        given = args[0] if args else (kwargs or {}).get("input")
        # Before the call, which may write into its input.
        flat = _is_flat(function, given) if function in TAIL and isinstance(given, torch.Tensor) else None
        result = func(*args, **(kwargs or {}))
        if function is not None and self.stack and not _is_part_of_function(function, self.stack[-1][1]):
            flat = _is_flat(function, result) if flat is None else flat
            self._note(function, flat, any(given is each for each in self.channels))
        return result

    def _note(self, function: str, flat: torch.Tensor, by_channel: bool) -> None:
        flat = flat.detach()
        dim = 1 if flat.ndim == 4 or (by_channel and flat.ndim > 2) else flat.ndim - 1
        others = [each for each in range(flat.ndim) if each != dim]
        always = flat.all(dim=others) if others else flat
        key, share = (self.stack[-1][0], function), float(flat.sum())
        known = self.record.units.get(key)
        if known is None or known.flat.shape != always.shape:
            self.record.units[key] = _UnitRecord(always, share, flat.numel())
        else:
            self.record.units[key] = _UnitRecord(known.flat & always, known.share + share, known.count + flat.numel())


def _is_flat(function: str | None, values: torch.Tensor) -> torch.Tensor:
    """Return where a function is flat: by its input for those with a tail, by its output for those that saturate."""
    values = values.detach()
    if function in TAIL:
        return values <= TAIL[function]
    if function == "tanh":
        return values.abs() > SATURATED
    return (values - 0.5).abs() > SATURATED - 0.5


def _is_part_of_function(function: str, module: nn.Module) -> bool:
    """Tell whether a tanh or sigmoid is a piece of another function, as in an approximated GELU."""
    alone = isinstance(module, nn.Tanh | nn.Sigmoid)
    bare = next(module.parameters(), None) is None and next(module.children(), None) is None
    return function in ("tanh", "sigmoid") and bare and not alone


@contextmanager
def watch_layers(model: nn.Module) -> Iterator[LayerRecord]:
    """Record what runs through a model; no hook is left behind."""
    mode, handles = _ActivationMode(LayerRecord()), []
    try:
        for name, module in model.named_modules():
            handles += mode.watch(name, module)
        with mode:
            yield mode.record
    finally:
        for handle in handles:
            handle.remove()


def first_tensor(output: object) -> torch.Tensor | None:
    """Return the first tensor of what a module returns."""
    if isinstance(output, torch.Tensor):
        return output
    values = output.values() if isinstance(output, dict) else output if isinstance(output, list | tuple) else ()
    return next((value for value in values if isinstance(value, torch.Tensor)), None)
