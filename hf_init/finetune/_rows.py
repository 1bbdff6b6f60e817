"""The new part of a resized tensor as a parameter of its own that lies in the tensor's memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from hf_init._errors import PlanError
from hf_init._tensors import Box, Region, Rows
from hf_init.finetune._model import ModelTensor

CHILD = "hf_init_new"
"""The name of the module that holds the new parts, below the model's root."""


@dataclass(frozen=True)
class NewPart:
    """One new region of a tensor, and the name of the parameter that trains it.

    Attributes:
        own: whether the parameter has memory of its own, copied into the tensor at every forward pass: a region that
            isn't one run of memory, or a parameter of another dtype. Else it is a view of the tensor's memory.
    """

    place: ModelTensor
    region: Region
    key: str
    own: bool

    @property
    def full(self) -> torch.Tensor:
        return self.place.tensor


class _Route(torch.autograd.Function):
    """The tensor as it lies in memory; backward, each part gets its region of the gradient."""

    @staticmethod
    def forward(ctx: Any, full: torch.Tensor, regions: Sequence[Region], *parts: torch.Tensor) -> torch.Tensor:
        ctx.regions, ctx.dtypes = regions, [part.dtype for part in parts]
        return full.view_as(full)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> Any:
        grad = grads[0].to_dense() if grads[0].is_sparse else grads[0]
        # Cloned: a view would keep the gradient of the whole tensor in memory until the next step.
        mine = (pick_rows(grad, region).clone() for region in ctx.regions)
        return None, None, *(each.to(dtype) for each, dtype in zip(mine, ctx.dtypes, strict=True))


class NewParts(nn.Module):
    """The new regions of resized tensors, as the only parameters of them that train.

    The whole tensor stays where it is, under its name, and doesn't require gradients. Each new region is a parameter
    whose memory is that region, so nothing is copied or put together; while the model runs, its modules see the whole
    tensor through a function whose backward hands each part its rows of the gradient. No optimizer ever holds a kept
    row: no decay, momentum, clipping or rounding can reach one.

    It adds nothing to the state dict, which holds the whole tensors under their plain names at any time.
    """

    def __init__(self, model: nn.Module, places: Sequence[ModelTensor], dtype: torch.dtype | None = None) -> None:
        super().__init__()
        self._parts = tuple(part for place in places for part in _parts_of(place, dtype))
        for part in self._parts:
            view = pick_rows(part.full.detach(), part.region)
            self.register_parameter(part.key, nn.Parameter(view.to(dtype or view.dtype).clone() if part.own else view))
        self._depth = 0
        self._handles: list[RemovableHandle] = []
        self._hook(model)
        model.add_module(CHILD, self)

    @property
    def parts(self) -> tuple[tuple[NewPart, nn.Parameter], ...]:
        """Every part with its parameter."""
        return tuple((part, self._parameters[part.key]) for part in self._parts)  # type: ignore[misc]  # none is None

    def link(self, *_: Any) -> None:
        """Makes the whole tensors hold what the parts hold, wherever moving the model has torn them apart."""
        for part, parameter in self.parts:
            # Past autograd's count of writes: the values are those that the graph of an earlier pass has seen.
            view = pick_rows(part.full.data, part.region)
            if part.own:
                put_rows(part.full.data, part.region, parameter.detach())
            elif view.data_ptr() != parameter.data_ptr() or view.device != parameter.device:
                view.copy_(parameter.detach())
                parameter.data = view

    def refresh(self, *_: Any) -> None:
        """Makes the parts hold what the whole tensors hold, after these were loaded."""
        for part, parameter in self.parts:
            if part.own:
                parameter.data.copy_(pick_rows(part.full.data, part.region))

    def remove(self, model: nn.Module) -> None:
        """Leaves the plain model, with what the parts hold in its tensors."""
        self.link()
        self._hide()
        for handle in self._handles:
            handle.remove()
        delattr(model, CHILD)

    def _hook(self, model: nn.Module) -> None:
        owners = {id(part.place.owner): part.place.owner for part in self._parts}
        owners |= {id(module): module for part in self._parts for module in _second_owners(model, part.place)}
        owners.pop(id(model), None)
        self._handles += [
            model.register_forward_pre_hook(self._begin),
            model.register_forward_hook(self._leave, always_call=True),
        ]
        for owner in owners.values():
            self._handles += [
                owner.register_forward_pre_hook(self._enter),
                owner.register_forward_hook(self._leave, always_call=True),
            ]
        for owner in (model, *owners.values()):
            self._handles += [
                owner.register_state_dict_pre_hook(self.link),
                owner.register_load_state_dict_pre_hook(self.link),
                owner.register_load_state_dict_post_hook(self.refresh),
            ]
        self._shadows = tuple((part.place, _holders(model, part.place)) for part in self._parts)

    def _begin(self, *_: Any) -> None:
        """The whole model runs: whatever an interrupted pass has left is over."""
        self._depth = 0
        self._enter()

    def _enter(self, *_: Any) -> None:
        """The first module of a pass: what it reads of these tensors, it reads through the route."""
        self._depth += 1
        if self._depth == 1:
            self.link()
            if torch.is_grad_enabled():
                self._show()

    def _leave(self, *_: Any) -> None:
        self._depth = max(self._depth - 1, 0)
        if not self._depth:
            self._hide()

    def _show(self) -> None:
        for place, holders in self._shadows:
            mine = [(part.region, parameter) for part, parameter in self.parts if part.place is place]
            regions, parameters = [region for region, _ in mine], [parameter for _, parameter in mine]
            routed = _Route.apply(place.tensor, regions, *parameters)
            for module, attribute in holders:
                module.__dict__[attribute] = routed  # found before the parameter of the same name

    def _hide(self) -> None:
        for _, holders in self._shadows:
            for module, attribute in holders:
                module.__dict__.pop(attribute, None)

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        """Nothing: the whole tensors are saved where they are."""

    def _load_from_state_dict(self, *_: Any) -> None:
        """Nothing, as nothing was saved."""


def pick_rows(tensor: torch.Tensor, region: Region) -> torch.Tensor:
    """The elements of a region: a view of a box, a copy of indexed rows."""
    if isinstance(region, Rows):
        return tensor.index_select(region.dim, torch.tensor(region.index, device=tensor.device))
    return tensor[region.slices]


def straight(region: Region, shape: Sequence[int]) -> Region:
    """The region as a box where its rows follow each other.

    Example:
        >>> straight(Rows(0, (4, 5, 6), (8, 2)), (8, 2))
        Box(start=(4, 0), stop=(7, 2))
    """
    if isinstance(region, Box) or list(region.index) != list(range(region.index[0], region.index[-1] + 1)):
        return region
    box = Box.whole(tuple(shape))
    start, stop = list(box.start), list(box.stop)
    start[region.dim], stop[region.dim] = region.index[0], region.index[-1] + 1
    return Box(tuple(start), tuple(stop))


def put_rows(tensor: torch.Tensor, region: Region, values: torch.Tensor) -> None:
    """Writes the elements of a region."""
    if isinstance(region, Rows):
        tensor.index_copy_(region.dim, torch.tensor(region.index, device=tensor.device), values.to(tensor.dtype))
    else:
        tensor[region.slices].copy_(values)


def _parts_of(place: ModelTensor, dtype: torch.dtype | None) -> list[NewPart]:
    _refuse(place)
    full, key = place.tensor, place.name.replace(".", "/")
    regions = [straight(region, full.shape) for region in place.new if 0 not in region.shape]
    return [
        NewPart(place, region, f"{key}#{number}", _needs_own(full, region, dtype))
        for number, region in enumerate(regions)
    ]


def _needs_own(full: torch.Tensor, region: Region, dtype: torch.dtype | None) -> bool:
    """A fused optimizer writes a parameter as one run of memory: a view with gaps would have it write kept elements."""
    if isinstance(region, Rows) or (dtype is not None and dtype != full.dtype):
        return True
    return not full[region.slices].is_contiguous()


def _refuse(place: ModelTensor) -> None:
    advice = "freeze it or train it as a whole (resized='none' or 'whole')"
    if not place.whole:
        raise PlanError(
            f"{place.name} is put together from {len(place.entries)} tensors on disk when it is loaded, so its new "
            f"part has no region of its own in memory; {advice}"
        )
    if isinstance(place.owner, nn.RNNBase):
        raise PlanError(f"{place.name}: {type(place.owner).__name__} reads its weights past the module; {advice}")
    if hasattr(place.tensor, "device_mesh"):
        raise PlanError(f"{place.name} is sharded (DTensor): new rows can't be told apart in it. Use PEFT instead")


def _second_owners(model: nn.Module, place: ModelTensor) -> list[nn.Module]:
    return [model.get_submodule(alias.rpartition(".")[0]) for alias in place.aliases]


def _holders(model: nn.Module, place: ModelTensor) -> tuple[tuple[nn.Module, str], ...]:
    """Every module and attribute that the tensor is under."""
    others = zip(_second_owners(model, place), (alias.rpartition(".")[2] for alias in place.aliases), strict=True)
    return ((place.owner, place.attribute), *others)
