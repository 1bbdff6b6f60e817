"""A model that is found again as it was: buffers, gradients, modes, random states."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import nn

from hf_init._checkpoint import equal_bytes


@contextmanager
def model_untouched(model: nn.Module) -> Iterator[None]:
    """Put back, at the end, what a forward pass may write to: buffers and training modes; and all random states.

    The random states are those of torch on every device of the model, of numpy and of Python.
    """
    modes = [(module, module.training) for module in model.modules()]
    # Every module's own buffers: the tensors themselves, and copies of their values.
    buffers = [
        (module, dict(module._buffers), {n: b.detach().clone() for n, b in module._buffers.items() if b is not None})
        for module in model.modules()
        if module._buffers
    ]
    devices = sorted({p.device.index or 0 for p in model.parameters() if p.device.type == "cuda"})
    of_python, of_numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=devices):
        try:
            yield
        finally:
            random.setstate(of_python)
            np.random.set_state(of_numpy)
            _restore_buffers(model, buffers)
            for module, mode in modes:
                module.training = mode


def _restore_buffers(
    model: nn.Module, kept: list[tuple[nn.Module, dict[str, torch.Tensor | None], dict[str, torch.Tensor]]]
) -> None:
    known = {id(module) for module, _, _ in kept}
    with torch.no_grad():
        for module, tensors, values in kept:
            module._buffers.clear()
            module._buffers.update(tensors)
            for name, value in values.items():
                tensor = tensors[name]
                if tensor is not None and not equal_bytes(tensor, value):
                    tensor.copy_(value)
    for module in model.modules():
        if module._buffers and id(module) not in known:
            module._buffers.clear()
