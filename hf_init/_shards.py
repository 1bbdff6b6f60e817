"""How a process holds a tensor: whole, or a part of it beside those of other ranks; the only place that asks.

What is read through ``gathered_tensor`` is the same on every rank, so that what is compared with it is, too. It is a
collective operation for a sharded tensor: every rank of its mesh asks for the same tensors, in the same order.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from importlib import import_module
from typing import TypeVar, cast

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import FSDPModule, FullyShardedDataParallel
from torch.distributed.tensor import DTensor, Partial, Placement, Replicate, distribute_tensor
from torch.distributed.tensor.device_mesh import DeviceMesh

from hf_init._errors import HfInitError, PlanError
from hf_init._tensors import Box, Region, Shape, num_elements
from hf_init._text import join_names

T = TypeVar("T")
_OTHER_FAILED = "the first process failed, and its own message says of what; nothing was written"


def is_sharded(tensor: torch.Tensor) -> bool:
    """Return whether the ranks hold a part each: of a DTensor, made by FSDP2 or tensor parallelism, or by ZeRO-3."""
    return isinstance(tensor, DTensor) or is_under_zero3(tensor)


def is_under_zero3(tensor: torch.Tensor) -> bool:
    """Return whether DeepSpeed's ZeRO-3 holds the tensor, which is empty but for the passes it is gathered for."""
    return hasattr(tensor, "ds_id")


def whole_shape(tensor: torch.Tensor) -> Shape:
    """Return the shape of all that the ranks hold."""
    return tuple(getattr(tensor, "ds_shape", tensor.shape))


def is_here(tensor: torch.Tensor) -> bool:
    """Return whether this process has all elements now: FSDP2 and ZeRO-3 gather them for a pass."""
    return not isinstance(tensor, DTensor) and tuple(tensor.shape) == whole_shape(tensor)


def gathered_tensor(tensor: torch.Tensor) -> torch.Tensor:
    """Return all elements of a tensor, without its gradient; those of a sharded one are gathered."""
    with torch.no_grad():
        if isinstance(tensor, DTensor):
            return tensor.full_tensor()
        if is_here(tensor):
            return tensor.detach()
        with import_module("deepspeed").zero.GatheredParameters([tensor]):
            return tensor.detach().clone()


def local_parts(tensor: torch.Tensor) -> list[tuple[torch.Tensor, Box]]:
    """Return the memory that this rank has of a tensor, each part with the region that it is."""
    if isinstance(tensor, DTensor):
        local, start = tensor.to_local().data, _offset(tensor)
        return [(local, Box(start, tuple(a + n for a, n in zip(start, local.shape, strict=True))))]
    if not is_under_zero3(tensor):
        return [(tensor.data, Box.whole(tuple(tensor.shape)))]
    flat, shape = _zero3_part(tensor), whole_shape(tensor)
    start = dist.get_rank(getattr(tensor, "ds_process_group", None)) * flat.numel()  # the last ones end in padding
    parts, at = [], 0
    for box in boxes_of_interval(start, min(start + flat.numel(), num_elements(shape)), shape):
        parts.append((flat[at : at + num_elements(box.shape)].view(box.shape), box))
        at += num_elements(box.shape)
    return parts


def boxes_of_interval(start: int, stop: int, shape: Shape) -> Iterator[Box]:
    """Yield the boxes that an interval of a tensor's elements is made of, in the order of its memory.

    Example:
        >>> [(box.start, box.stop) for box in boxes_of_interval(2, 9, (4, 3))]
        [((0, 2), (1, 3)), ((1, 0), (3, 3))]
    """
    if not shape and start < stop:
        yield Box((), ())
    row = num_elements(shape[1:])
    while shape and start < stop:
        first, within = divmod(start, row)
        if len(shape) > 1 and (within or stop - start < row):
            end = min(stop, (first + 1) * row)
            for box in boxes_of_interval(within, end - first * row, shape[1:]):
                yield Box((first, *box.start), (first + 1, *box.stop))
        else:
            end = stop - stop % row
            yield Box((first, *(0 for _ in shape[1:])), (end // row, *shape[1:]))
        start = end


def check_names(model: nn.Module) -> None:
    """Raise PlanError, the same on every rank, where the tensors aren't there under their names, with their shapes.

    No state dict is asked for: under FSDP1 that would gather the model.
    """
    name = type(model).__name__
    flat = [path for path, each in model.named_modules() if isinstance(each, FullyShardedDataParallel)]
    if flat:
        raise PlanError(
            f"{name} is under FSDP1 ({join_names([path or 'the model itself' for path in flat])}), which makes one "
            "flat tensor of many, so that they can't be told apart. Use FSDP2: torch's fully_shard, or accelerate's "
            "fsdp_version: 2"
        )
    tensors = dict(model.named_parameters())
    held = {name: _zero3_part(each).numel() for name, each in tensors.items() if is_under_zero3(each)}
    elsewhere = [name for name, count in held.items() if not count and num_elements(whole_shape(tensors[name]))]
    if elsewhere:
        raise PlanError(
            f"{name}: DeepSpeed has put {join_names(elsewhere)} on disk, where they can't be read or proved. Offload "
            "parameters to the CPU instead"
        )


def check_undivided(model: nn.Module, advice: str) -> None:
    """Raise PlanError unless every rank holds all of each tensor."""
    check_names(model)
    divided = [name for name, tensor in model.named_parameters() if is_sharded(tensor)]
    if divided:
        raise PlanError(f"{type(model).__name__} is divided among ranks ({join_names(divided)}); {advice}")


def check_here(model: nn.Module) -> None:
    """Raise PlanError if a tensor of the model has no values: it is on meta, or offloaded."""
    absent = [name for name, each in (*model.named_parameters(), *model.named_buffers()) if each.device.type == "meta"]
    if absent:
        raise PlanError(
            f"{join_names(absent)}: on meta or offloaded, so nothing can be frozen or proved; load it whole"
        )


def check_whole(model: nn.Module) -> None:
    """Raise PlanError, the same on every rank, unless the elements of all tensors can be read and written here.

    Whole tensors can be, and those that FSDP2 (``fully_shard``) or DeepSpeed's ZeRO-3 has divided.
    """
    check_names(model)
    name = type(model).__name__
    tensors = {**dict(model.named_parameters(remove_duplicate=False)), **dict(model.named_buffers())}
    packed = packed_names(model)
    if getattr(model, "hf_quantizer", None) is not None or getattr(model, "is_quantized", False) or packed:
        raise PlanError(
            f"{name} is quantized{f' ({join_names(packed)})' if packed else ''}: its tensors aren't those of the plan. "
            "Load the result unquantized; or train adapters on it, with peft_arguments(plan)"
        )
    check_here(model)
    split = [name for name, each in tensors.items() if isinstance(each, DTensor) and not is_fully_sharded(model, name)]
    if split:
        raise PlanError(
            f"{join_names(split)}: divided by tensor parallelism, whose modules compute with a part each. Train with "
            "FSDP2, ZeRO-3 or DDP; or train adapters, with peft_arguments(plan)"
        )


def packed_names(model: nn.Module) -> list[str]:
    """Return the names of the parameters that a quantizer has packed: few bits, or tensors of a kind of their own."""
    return [
        name
        for name, each in model.named_parameters(remove_duplicate=False)
        if not (each.is_floating_point() or each.is_complex() or each.dtype == torch.int64)
        or each.dtype.itemsize < 2
        or (hasattr(each, "__tensor_flatten__") and not is_sharded(each))  # of torchao and quanto
    ]


def is_fully_sharded(model: nn.Module, name: str) -> bool:
    """Return whether a tensor of the model is in the care of FSDP2: it gathers it before its module runs."""
    paths = name.split(".")[:-1]
    return any(isinstance(model.get_submodule(".".join(paths[:n])), FSDPModule) for n in range(len(paths) + 1))


def replicated(values: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """Return values, equal on all ranks, as a tensor on the mesh of another one, whole on each rank."""
    if not isinstance(like, DTensor):
        return values
    return DTensor.from_local(values, like.device_mesh, _on_all(Replicate(), like.device_mesh), run_check=False)


def placed_as(values: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """Return values, equal on all ranks, divided among them as another tensor is."""
    return distribute_tensor(values, like.device_mesh, like.placements) if isinstance(like, DTensor) else values


def average_over_ranks(values: torch.Tensor, mesh: DeviceMesh | None) -> torch.Tensor:
    """Return the mean of what the ranks of a mesh hold, whole on each of them; without a mesh, the values."""
    if mesh is None:
        return values
    parts = DTensor.from_local(values / mesh.size(), mesh, _on_all(Partial(), mesh), run_check=False)
    return parts.redistribute(placements=_on_all(Replicate(), mesh))


def mesh_of(tensor: torch.Tensor) -> DeviceMesh | None:
    """Return the ranks that a tensor is divided among, or None."""
    return tensor.device_mesh if isinstance(tensor, DTensor) else None


def write_region(tensor: torch.Tensor, region: Region, values: torch.Tensor) -> None:
    """Write the elements of a region: of a sharded tensor, those that this rank holds.

    Autograd's count of writes isn't raised: the values are those that an earlier pass has seen, or that it doesn't see.
    """
    for local, here in local_parts(tensor):
        if local.numel():
            _write_local(local, here, region, values)
    if is_under_zero3(tensor) and is_here(tensor):  # kept gathered between passes
        _write_local(tensor.data, Box.whole(whole_shape(tensor)), region, values)


def _write_local(local: torch.Tensor, here: Box, region: Region, values: torch.Tensor) -> None:
    if isinstance(region, Box):
        low = tuple(map(max, region.start, here.start))
        high = tuple(map(min, region.stop, here.stop))
        if all(a < b for a, b in zip(low, high, strict=True)):
            local[_slices_from(low, high, here.start)].copy_(values[_slices_from(low, high, region.start)])
        return
    dim = region.dim
    pairs = [(there, row) for there, row in enumerate(region.index) if here.start[dim] <= row < here.stop[dim]]
    if pairs:
        others = Box(
            (*here.start[:dim], 0, *here.start[dim + 1 :]), (*here.stop[:dim], len(pairs), *here.stop[dim + 1 :])
        )
        rows = values.index_select(dim, torch.tensor([there for there, _ in pairs], device=values.device))
        places = torch.tensor([row - here.start[dim] for _, row in pairs], device=local.device)
        local.index_copy_(dim, places, rows[others.slices].to(local.dtype))


def said_by_all(own: Iterable[T], tensors: Iterable[torch.Tensor]) -> tuple[T, ...]:
    """Return what the ranks say of some tensors, each thing once, in their order: all of them go on with the same.

    Where none of the tensors is sharded nobody else is asked: others may be at something else, and wouldn't answer.
    """
    own = tuple(own)
    if not any(map(is_sharded, tensors)) or dist.get_world_size() == 1:
        return own
    everybody: list[list[T]] = [[] for _ in range(dist.get_world_size())]
    dist.all_gather_object(everybody, list(own))
    said: list[T] = []
    for one in (each for rank in everybody for each in rank):
        if one not in said:
            said.append(one)
    return tuple(said)


def num_threads() -> int:
    """Return how many threads this process may keep busy: the machine's cores, divided among its ranks here."""
    return max((os.cpu_count() or 1) // int(os.environ.get("LOCAL_WORLD_SIZE", 1)), 1)


def on_first_rank(work: Callable[[], T]) -> T:
    """Do something on the first process alone, while the others wait; all return what it made, or raise what it raised.

    Without a process group of several, simply do it.
    """
    if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
        return work()
    outcome: list[tuple[T | None, HfInitError | None]] = [(None, HfInitError(_OTHER_FAILED))]
    try:
        if dist.get_rank() == 0:
            outcome = [(work(), None)]
    except HfInitError as error:
        outcome = [(None, error)]
    finally:  # whatever happened: the others would wait for ever
        dist.broadcast_object_list(outcome)
    (made, failed), *_ = outcome
    if failed is not None:
        raise failed
    return cast("T", made)


def _zero3_part(tensor: torch.Tensor) -> torch.Tensor:
    """Return what this rank holds of a tensor under ZeRO-3: an interval of its elements, as one dimension."""
    # Not public; deepspeed/utils/tensor_fragment.py reads it alike.
    part: torch.Tensor = vars(tensor)["ds_tensor"]
    return part.data.view(-1)


def _offset(tensor: DTensor) -> tuple[int, ...]:
    # Not public, and the only place that knows how uneven shards lie: pytorch/torch/distributed/tensor/_utils.py.
    from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

    _, offset = compute_local_shape_and_global_offset(tensor.shape, tensor.device_mesh, tensor.placements)
    return tuple(offset)


def _slices_from(low: tuple[int, ...], high: tuple[int, ...], by: tuple[int, ...]) -> tuple[slice, ...]:
    return tuple(slice(a - at, b - at) for a, b, at in zip(low, high, by, strict=True))


def _on_all(placement: Placement, mesh: DeviceMesh) -> list[Placement]:
    return [placement] * mesh.ndim
