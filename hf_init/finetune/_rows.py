"""What is new of a tensor as a parameter of its own: in its memory, or beside what is divided or has 16 bits."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.distributed.fsdp import FSDPModule
from torch.optim.optimizer import Optimizer, register_optimizer_step_post_hook
from torch.utils.hooks import RemovableHandle

from hf_init._errors import PlanError
from hf_init._shards import (
    average_over_ranks,
    gathered_tensor,
    is_fully_sharded,
    is_here,
    is_sharded,
    is_under_zero3,
    mesh_of,
    placed_as,
    replicated,
    whole_shape,
    write_region,
)
from hf_init._tensors import Box, Region, Rows, Status
from hf_init._text import join_names
from hf_init.finetune._model import ModelTensor
from hf_init.finetune._zero3 import call_after_steps, gather_for

CHILD = "hf_init_new"
"""The name of the module that holds the new parts, below the model's root."""


@dataclass(frozen=True)
class NewPart:
    """One new region of a tensor, and the name of the parameter that trains it.

    Attributes:
        dtype: of the parameter.
        own: whether the parameter has memory of its own, copied into the tensor at every forward pass: a region that
            isn't one run of memory, a parameter of another dtype, or of a sharded tensor. Else it is a view of the
            tensor's memory.
    """

    origin: ModelTensor
    region: Region
    key: str
    dtype: torch.dtype
    own: bool

    @property
    def tensor(self) -> torch.Tensor:
        """Return the whole tensor."""
        return self.origin.tensor

    def __str__(self) -> str:
        region = self.region
        if region == self.origin.box:
            return self.origin.name
        if isinstance(region, Rows):
            return f"{self.origin.name}[{len(region.index)} rows of dim {region.dim}]"
        return f"{self.origin.name}[{', '.join(f'{a}:{b}' for a, b in zip(region.start, region.stop, strict=True))}]"


class _RouteGradients(torch.autograd.Function):
    """The tensor as it lies in memory; backward, each part gets its region of the gradient."""

    @staticmethod
    def forward(ctx: Any, tensor: torch.Tensor, regions: Sequence[Region], *parts: torch.Tensor) -> torch.Tensor:
        ctx.regions, ctx.dtypes, ctx.meshes = regions, [part.dtype for part in parts], [*map(mesh_of, parts)]
        return tensor.view_as(tensor)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        grad = grads[0].to_dense() if grads[0].is_sparse else grads[0]
        each = zip(ctx.regions, ctx.dtypes, ctx.meshes, strict=True)
        # Cloned: a view would keep the gradient of the whole tensor in memory until the next step.
        parts = ((pick_rows(grad, region).clone().to(dtype), mesh) for region, dtype, mesh in each)
        return None, None, *(average_over_ranks(part, mesh) for part, mesh in parts)


class NewParts(nn.Module):
    """The new regions of resized tensors, and new tensors of 16 bits, as the only parameters of them that train.

    The whole tensor stays where it is, under its name, and doesn't require gradients. Each new region is a parameter
    whose memory is that region, so nothing is copied or put together; where the tensor has 16 bits, it is a copy in
    float32, rounded into the tensor at every pass. While the model runs, its modules see the whole tensor through a
    function whose backward hands each part its rows of the gradient. No optimizer ever holds a kept row: no decay,
    momentum, clipping or rounding can reach one.

    Under FSDP2 a part has memory of its own. Made before ``fully_shard``, it is divided with the rest; made after it,
    every rank holds all of it, and backward averages its gradient over the ranks. Under ZeRO-3 it is divided by
    ``deepspeed.initialize``. After each step of an optimizer every rank writes what it holds of the new rows into its
    own shard.

    It adds nothing to the state dict, which holds the whole tensors under their plain names at any time.
    """

    def __init__(self, model: nn.Module, tensors: Sequence[ModelTensor], dtype: torch.dtype | None = None) -> None:
        super().__init__()
        self._parts = tuple(part for each in tensors for part in _parts_of(each, dtype))
        for part in self._parts:
            values = pick_rows(gathered_tensor(part.tensor), part.region)
            if part.own:
                values = replicated(values.to(part.dtype).clone(), part.tensor)
            self.register_parameter(part.key, nn.Parameter(values))
        self._root = (model,)  # in a tuple: no module below itself
        self._forget_steps: Callable[[], None] | None = None
        self._holders = {each.name: each.holders(model) for each in tensors}
        self._depth = 0
        self._handles: list[RemovableHandle] = []
        self._hook(model)
        for part, parameter in self.parts:
            for owner, _ in self._holders[part.origin.name] if is_under_zero3(part.tensor) else ():
                gather_for(owner, parameter)
        model.add_module(CHILD, self)

    @property
    def parts(self) -> tuple[tuple[NewPart, nn.Parameter], ...]:
        """Return every part with its parameter."""
        return tuple((part, self.get_parameter(part.key)) for part in self._parts)

    def link(self, *_: object) -> None:
        """Make the whole tensors hold what the parts hold, wherever moving the model has torn them apart."""
        for part, parameter in self.parts:
            self._link(part, parameter)

    def refresh(self, module: nn.Module, *_: object) -> None:
        """Make the parts hold what the whole tensors of a module hold, after these were loaded."""
        for part, parameter in self._parts_in(module):
            values = pick_rows(gathered_tensor(part.tensor), part.region)
            if parameter.is_meta:  # as accelerate divides a model that only one process has loaded
                self.register_parameter(part.key, nn.Parameter(placed_as(values, parameter)))
            elif part.own or self._gathers(part):
                write_region(parameter, Box.whole(part.region.shape), values)
            else:
                parameter.data = values

    def _link(self, part: NewPart, parameter: nn.Parameter) -> None:
        if self._gathers(part):
            if is_sharded(part.tensor):  # else it is gathered for a pass, of shards that were linked
                write_region(part.tensor, part.region, gathered_tensor(parameter))
        elif part.own:
            write_region(part.tensor, part.region, parameter.detach())
        else:
            view = pick_rows(part.tensor.data, part.region)
            if view.data_ptr() != parameter.data_ptr() or view.device != parameter.device:
                view.copy_(parameter.detach())
                parameter.data = view

    def _link_what_stays(self, module: nn.Module, state: Mapping[str, object], prefix: str, *_: object) -> None:
        """Link the parts whose tensors aren't loaded: DCP has read the others into their memory already."""
        for part, parameter in self._parts_in(module):
            origin = part.origin
            own = [attribute for owner, attribute in self._holders[origin.name] if owner is module]
            names = (origin.name, *origin.aliases) if module is self._root[0] else own
            if not any(f"{prefix}{name}" in state for name in names):
                self._link(part, parameter)

    def _link_before_saving(self, *_: object) -> None:
        """Link; but ZeRO-3 is linked after every step, and one rank alone may ask for its (empty) state dict."""
        for part, parameter in self.parts:
            if not is_under_zero3(part.tensor):
                self._link(part, parameter)

    def named_parameters(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, nn.Parameter]]:
        """Yield the parts; under ZeRO-3 none of its own, which DeepSpeed asks each module for to save them."""
        named = super().named_parameters(prefix, recurse, remove_duplicate)
        return ((name, each) for name, each in named if recurse or not is_under_zero3(each))

    def _parts_in(self, module: nn.Module) -> Iterator[tuple[NewPart, nn.Parameter]]:
        """Yield the parts of a module's tensors; of the whole model all."""
        for part, parameter in self.parts:
            if module is self._root[0] or any(owner is module for owner, _ in self._holders[part.origin.name]):
                yield part, parameter

    def remove(self, model: nn.Module) -> None:
        """Leave the plain model, with what the parts hold in its tensors."""
        self.link()
        self._hide()
        for handle in self._handles:
            handle.remove()
        if self._forget_steps:
            self._forget_steps()
        delattr(model, CHILD)

    def _hook(self, model: nn.Module) -> None:
        owners = {id(owner): owner for holders in self._holders.values() for owner, _ in holders}
        owners.pop(id(model), None)
        self._handles += [
            model.register_forward_pre_hook(self._begin),
            model.register_forward_hook(self._leave, always_call=True),
        ]
        for owner in owners.values():
            self._handles.append(owner.register_forward_pre_hook(self._enter))
            self._handles.append(owner.register_forward_hook(self._leave, always_call=True))
        for owner in (model, *owners.values()):
            self._handles += [
                owner.register_state_dict_pre_hook(self._link_before_saving),
                owner.register_load_state_dict_pre_hook(self._link_what_stays),
                owner.register_load_state_dict_post_hook(self.refresh),
            ]

    def _gathers(self, part: NewPart) -> bool:
        """Return whether FSDP2 or ZeRO-3 divides the tensor, which it may have begun to after the part was made."""
        return is_under_zero3(part.tensor) or is_fully_sharded(self._root[0], part.origin.name)

    def _begin(self, *_: object) -> None:
        """Start a pass of the whole model: whatever an interrupted one has left is over."""
        self._depth = 0
        self._enter()

    def _enter(self, *_: object) -> None:
        """Let the first module of a pass, and those in it, read the tensors through the route.

        What FSDP2 divides is there when its own module begins, after the hook of FSDP2, which stands before this one.
        """
        self._depth += 1
        gathers = any(map(self._gathers, self._parts))
        if self._forget_steps is None and (gathers or any(part.own for part in self._parts)):
            self._link_after_steps()
        if self._depth == 1:
            self.link()
        if torch.is_grad_enabled() and (gathers or self._depth == 1):
            self._show()

    def _link_after_steps(self) -> None:
        """Write the new rows into the tables after every step: FSDP2 gathers shards before any hook of a module."""
        # Else the gradient of a new part is averaged: by FSDP2, or by the route.
        alone = not isinstance(self._root[0], FSDPModule)
        loose = [str(part) for part, each in self.parts if self._gathers(part) and alone and not is_sharded(each)]
        if loose:
            raise PlanError(
                f"{join_names(loose)}: the model's own fully_shard is missing, so that nobody would average the "
                "gradients of the new rows; call fully_shard(model) after its parts"
            )
        alive = weakref.ref(self)

        def after_step(optimizer: Optimizer, *_: object) -> None:
            parts = alive()
            held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
            # Of another model's optimizer, ranks needn't agree on whether this model is still there.
            if parts is not None and any(id(parameter) in held for _, parameter in parts.parts):
                parts.link()

        if not any(is_under_zero3(part.tensor) for part in self._parts):
            self._forget_steps = register_optimizer_step_post_hook(after_step).remove
            return
        self._forget_steps = call_after_steps((parameter for _, parameter in self.parts), self.link)
        for owner in {id(owner): owner for holders in self._holders.values() for owner, _ in holders}.values():
            self._handles.append(owner.register_forward_pre_hook(self._show_gathered))

    def _show_gathered(self, *_: object) -> None:
        """Let a module read through the route what DeepSpeed has gathered for it: its hook stands before this one."""
        if torch.is_grad_enabled():
            self._show()

    def _leave(self, *_: object) -> None:
        self._depth = max(self._depth - 1, 0)
        if not self._depth:
            self._hide()

    def _show(self) -> None:
        for name, holders in self._holders.items():
            mine = [(part, parameter) for part, parameter in self.parts if part.origin.name == name]
            waits = any(is_under_zero3(each) and not is_here(each) for _, each in mine)
            if mine and is_here(mine[0][0].tensor) and not waits:
                regions, parameters = [part.region for part, _ in mine], [parameter for _, parameter in mine]
                routed = _RouteGradients.apply(mine[0][0].tensor, regions, *parameters)
                for module, attribute in holders:
                    module.__dict__[attribute] = routed  # found before the parameter of the same name

    def _hide(self) -> None:
        for module, attribute in (holder for holders in self._holders.values() for holder in holders):
            module.__dict__.pop(attribute, None)

    def _save_to_state_dict(self, destination: object, prefix: str, keep_vars: bool) -> None:
        """Save nothing: the whole tensors are saved where they are."""

    def _load_from_state_dict(self, *_: object) -> None:
        """Load nothing, as nothing was saved."""


def pick_rows(tensor: torch.Tensor, region: Region) -> torch.Tensor:
    """Return the elements of a region: a view of a box, a copy of indexed rows."""
    if isinstance(region, Rows):
        return tensor.index_select(region.dim, torch.tensor(region.index, device=tensor.device))
    return tensor[region.slices]


def straight(region: Region, shape: Sequence[int]) -> Region:
    """Return the region as a box where its rows follow each other.

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


def needs_copy(origin: ModelTensor, dtype: torch.dtype | None) -> bool:
    """Return whether a tensor that is new as a whole trains as a copy in another dtype.

    One that is divided already doesn't: every rank would hold all of the copy, and DeepSpeed's optimizer has its own.
    """
    tensor, plain = origin.tensor, origin.status is Status.NEW and not isinstance(origin.owner, nn.RNNBase)
    return plain and tensor.is_floating_point() and not is_sharded(tensor) and tensor.dtype != _dtype_of(tensor, dtype)


def _dtype_of(tensor: torch.Tensor, dtype: torch.dtype | None) -> torch.dtype:
    """Return the dtype that what is new of a tensor trains in: of 16 bits float32, else small steps are lost."""
    return dtype or (torch.float32 if tensor.itemsize < torch.float32.itemsize else tensor.dtype)


def _parts_of(origin: ModelTensor, dtype: torch.dtype | None) -> list[NewPart]:
    """Return the new regions of a tensor as parts.

    Raises:
        PlanError: they can't be told apart from what is kept.
    """
    tensor, advice = origin.tensor, "freeze it or train it as a whole (resized='none' or 'whole')"
    if origin.status is Status.RESIZED and not origin.whole:
        raise PlanError(
            f"{origin.name} is put together from {len(origin.entries)} tensors on disk when it is loaded, so its new "
            f"part has no region of its own in memory; {advice}"
        )
    if isinstance(origin.owner, nn.RNNBase):
        raise PlanError(f"{origin.name}: {type(origin.owner).__name__} reads its weights past the module; {advice}")
    dtype, parts = _dtype_of(tensor, dtype), []
    for number, region in enumerate(straight(each, whole_shape(tensor)) for each in origin.new if 0 not in each.shape):
        # A fused optimizer writes a parameter as one run of memory: a view with gaps would have it write kept elements.
        gaps = is_sharded(tensor) or isinstance(region, Rows) or not tensor[region.slices].is_contiguous()
        key = f"{origin.name.replace('.', '/')}#{number}"
        parts.append(NewPart(origin, region, key, dtype, own=gaps or dtype != tensor.dtype))
    return parts
