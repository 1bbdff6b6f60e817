"""What makes the entry of a tensor in a manifest impossible: JSON is checked here, once, before it becomes a plan."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, TypeGuard

from typing_extensions import assert_never

from hf_init._checkpoint import DTYPES, dtype_bits, is_count, is_json_list, is_json_object, is_shape, short_name
from hf_init._tensors import Box, Region, RegionJson, Shape, Status, region_from_json

JsonObject = dict[str, object]

_STATUSES = tuple(status.value for status in Status)
_DTYPES = tuple(name for name, _ in DTYPES.values())
_GEOMETRY = {"fan_in", "fan_out", "order", "stack", "parts", "groups"}


def region_fault(region: Region, shape: Shape) -> str | None:
    """Return why a region is none of a tensor of this shape; None when it is one.

    Example:
        >>> region_fault(Box((0,), (4,)), (3,))
        "region {'start': [0], 'stop': [4]} is outside the tensor, whose shape is (3,)"
    """
    if isinstance(region, Box):
        corners = zip(region.start, region.stop, shape, strict=False)
        inside = len(region.start) == len(region.stop) == len(shape) and all(a <= b <= n for a, b, n in corners)
    else:
        inside = region.dim < len(shape) and max(region.index, default=-1) < shape[region.dim]
    return None if inside else f"region {short_name(region.to_json())} is outside the tensor, whose shape is {shape}"


def entry_faults(entry: JsonObject) -> Iterator[str]:
    """Yield why an entry can't be one."""
    name, status, shape, dtype = (entry.get(key) for key in ("name", "status", "shape", "dtype"))
    if not isinstance(name, str):
        yield f"the tensor {short_name(entry)} has the name {short_name(name)}, expected a string"
    elif not isinstance(status, str) or status not in _STATUSES:
        yield f"{short_name(name)}: status is {short_name(status)}, expected one of {', '.join(_STATUSES)}"
    elif not is_shape(shape):
        yield f"{short_name(name)}: shape is {short_name(shape)}, expected a list of integers, none negative"
    elif dtype not in _DTYPES:
        yield f"{short_name(name)}: dtype is {short_name(dtype)}, expected one of {', '.join(_DTYPES)}"
    elif wrong := [key for key in ("source", "parameter", "role") if not isinstance(entry.get(key, ""), str)]:
        yield from (f"{short_name(name)}: {key} is {short_name(entry[key])}, expected a string" for key in wrong)
    else:
        tensor = _TensorForm(tuple(shape), str(dtype))
        yield from (f"{short_name(name)}: {fault}" for fault in _status_faults(Status(status), entry, tensor))
        if (geometry := entry.get("geometry")) is not None and not _is_geometry(geometry):
            yield f"{short_name(name)}: geometry is {short_name(geometry)}, expected {', '.join(sorted(_GEOMETRY))}"


class _TensorForm(NamedTuple):
    shape: Shape
    dtype: str


def _status_faults(status: Status, entry: JsonObject, tensor: _TensorForm) -> Iterator[str]:
    kept, new = entry.get("kept"), entry.get("new")
    match status:
        case Status.KEPT | Status.CARRIED:
            if not isinstance(source := entry.get("source"), str):
                yield f"{status.value}, its source is {short_name(source)}, expected a string"
            if new:
                yield f"{status.value}, but it has new regions"
        case Status.RESIZED:
            if is_json_list(kept):
                yield from (fault for copy in kept for fault in _copy_faults(copy, tensor))
            else:
                yield f"resized, its kept regions are {short_name(kept)}, expected a list"
            if "new" in entry:
                yield from _fill_faults(new, tensor)
        case Status.NEW:
            if kept:
                yield "new, but it has kept regions"
            yield from _fill_faults(new, tensor)
        case Status.TIED:
            if not isinstance(owner := entry.get("tied_to"), str):
                yield f"tied to {short_name(owner)}, expected the name of another tensor"
            if new or kept:
                yield "tied, but it has regions of its own"
        case _:
            assert_never(status)


def _copy_faults(copy: object, tensor: _TensorForm) -> Iterator[str]:
    if not is_json_object(copy) or not isinstance(copy.get("source"), str):
        yield f"a kept region is {short_name(copy)}, expected an object with region, source and source_region"
        return
    yield from _region_faults(copy.get("region"), tensor)
    if not _is_region(source := copy.get("source_region")):
        yield f"source_region is {short_name(source)}, expected start and stop, or dim and index"


def _fill_faults(fills: object, tensor: _TensorForm) -> Iterator[str]:
    if not is_json_list(fills):
        yield f"its new regions are {short_name(fills)}, expected a list"
        return
    for fill in fills:
        if is_json_object(fill) and is_json_object(fill.get("scheme")):
            yield from _region_faults(fill.get("region"), tensor)
            if not isinstance(fill.get("why", ""), str):
                yield f"the reason of a new region is {short_name(fill['why'])}, expected a string"
        else:
            yield f"a new region is {short_name(fill)}, expected an object with region and scheme"


def _region_faults(data: object, tensor: _TensorForm) -> Iterator[str]:
    if not _is_region(data):
        yield f"region is {short_name(data)}, expected start and stop, or dim and index, all integers, none negative"
        return
    region = region_from_json(data, tensor.shape)
    if fault := region_fault(region, tensor.shape):
        yield fault
    elif dtype_bits(tensor.dtype) < 8 and region != Box.whole(tensor.shape):
        yield f"the dtype {tensor.dtype} packs elements into shared bytes: such a tensor is kept or new as a whole"


def _is_region(data: object) -> TypeGuard[RegionJson]:
    if not is_json_object(data):
        return False
    if set(data) == {"start", "stop"}:
        return is_shape(data["start"]) and is_shape(data["stop"])
    return set(data) == {"dim", "index"} and is_count(data["dim"]) and is_shape(data["index"])


def _is_geometry(data: object) -> bool:
    if not is_json_object(data) or set(data) != _GEOMETRY:
        return False
    counts = [data[key] for key in ("fan_in", "stack", "groups")]
    fan_out = data["fan_out"]
    known = fan_out is None or is_count(fan_out)
    return all(map(is_count, counts)) and known and isinstance(data["order"], str) and is_shape(data["parts"])
