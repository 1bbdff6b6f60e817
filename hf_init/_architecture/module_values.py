"""The values that a plain module's own code gives: its layers' ``reset_parameters``, else what its constructor left."""

from __future__ import annotations

from copy import deepcopy

import torch
from torch import nn

from hf_init._architecture.library import untouched_random_state
from hf_init._architecture.recording import seed_generators
from hf_init._architecture.tree import find_tensor
from hf_init._checkpoint import equal_bytes, region_of
from hf_init._errors import RecipeError
from hf_init._tensors import Slot


class ModuleValues:
    """What a scheme may ask of a plain module; a layer that draws again does so on a copy of it, under the slot's key.

    A module has no config that it could be built from once more: what no layer of torch draws is what the constructor
    left in memory, and no seed says how that came about.
    """

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        self._held: dict[str, torch.Tensor] = {}

    def architecture(self, slot: Slot) -> torch.Tensor:
        """Return the slot's values as its layer draws them anew; where it doesn't, those that the module holds."""
        drawn = self._drawn(slot)
        return self.declared(slot) if drawn is None else region_of(drawn, slot.region)

    def declared(self, slot: Slot) -> torch.Tensor:
        """Return the slot's values in the module.

        Raises:
            RecipeError: the module is on meta.
        """
        if slot.parameter not in self._held:
            held = find_tensor(self._module, slot.parameter)
            if held.device.type == "meta":
                raise RecipeError(f"{slot.name}: the module is on meta, and gives it no value; name a scheme for it")
            self._held[slot.parameter] = held.detach().cpu().clone()
        return region_of(self._held[slot.parameter], slot.region)

    def given(self, slot: Slot) -> torch.Tensor | None:
        """Return None: nothing is made from data."""
        return None

    def is_drawn(self, slot: Slot) -> bool:
        """Return whether the slot's layer draws its values, so that a seed decides them."""
        return self._drawn(slot) is not None

    def _drawn(self, slot: Slot) -> torch.Tensor | None:
        path, _, leaf = slot.parameter.rpartition(".")
        module, draws = self._module.get_submodule(path), list[torch.Tensor]()
        reset = next((name for name in ("reset_parameters", "_reset_parameters") if hasattr(module, name)), None)
        if reset is None:
            return None
        for filler in (0, 1):  # what depends on the memory that it was given is no value
            layer = deepcopy(module).to_empty(device="cpu").float()
            with torch.no_grad(), untouched_random_state():
                for tensor in (*layer.parameters(), *layer.buffers()):
                    tensor.fill_(filler)
                seed_generators(slot.key)
                getattr(layer, reset)()
            draws.append(find_tensor(layer, leaf).detach())
        return draws[0] if equal_bytes(*draws) else None
