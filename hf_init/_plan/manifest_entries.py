"""The entries of a plan's JSON document, one a target tensor, and what makes one impossible."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from hf_init._checkpoint import DTYPES, dtype_bits, is_count, is_shape, short_name
from hf_init._tensors import Box, Status

_STATUSES = tuple(status.value for status in Status)
_DTYPES = tuple(name for name, _ in DTYPES.values())


def is_left_out(entry: dict[str, Any]) -> bool:
    """Whether a tensor is in the plan and not in the result's files: its scheme leaves it to the user's own code."""
    return entry["status"] == Status.NEW and any(part["scheme"].get("name") == "skip" for part in entry["new"])


def stored_entries(entry: dict[str, Any]) -> bool:
    """Whether a tensor of the plan is one of the result's files: neither tied nor left to the user's code."""
    return entry["status"] != Status.TIED and not is_left_out(entry)


def entry_copies(entry: dict[str, Any]) -> list[dict[str, Any]]:
    """The kept regions of a tensor, each with its source and its place there; of a kept tensor, the whole."""
    if entry["status"] != Status.KEPT:
        return entry.get("kept") or []
    whole = Box.whole(tuple(entry["shape"])).to_json()
    return [{"region": whole, "source": entry["source"], "source_region": whole}]


def region_fault(region: Any, shape: tuple[int, ...] | list[int]) -> str | None:
    """Why a region in JSON is none of a tensor of this shape; None when it is one.

    Example:
        >>> region_fault({"start": [0], "stop": [4]}, (3,))
        "region {'start': [0], 'stop': [4]} is outside the tensor, whose shape is (3,)"
    """
    if not isinstance(region, dict) or not (_is_box(region) or _is_rows(region)):
        return f"region is {short_name(region)}, expected start and stop, or dim and index, all integers, none negative"
    inside = _rows_inside(region, shape) if "index" in region else _box_inside(region, shape)
    return None if inside else f"region {short_name(region)} is outside the tensor, whose shape is {tuple(shape)}"


def _is_box(region: dict[str, Any]) -> bool:
    return set(region) == {"start", "stop"} and is_shape(region["start"]) and is_shape(region["stop"])


def _is_rows(region: dict[str, Any]) -> bool:
    return set(region) == {"dim", "index"} and is_count(region["dim"]) and is_shape(region["index"])


def _box_inside(region: dict[str, Any], shape: tuple[int, ...] | list[int]) -> bool:
    start, stop = region["start"], region["stop"]
    return len(start) == len(stop) == len(shape) and all(
        a <= b <= n for a, b, n in zip(start, stop, shape, strict=True)
    )


def _rows_inside(region: dict[str, Any], shape: tuple[int, ...] | list[int]) -> bool:
    return region["dim"] < len(shape) and max(region["index"], default=-1) < shape[region["dim"]]


def entry_faults(entry: dict[str, Any]) -> Iterator[str]:
    """Why an entry can't be one."""
    name, status, shape, dtype = (entry.get(key) for key in ("name", "status", "shape", "dtype"))
    if not isinstance(name, str):
        yield f"the tensor {short_name(entry)} has the name {short_name(name)}, expected a string"
    elif status not in _STATUSES:
        yield f"{short_name(name)}: status is {short_name(status)}, expected one of {', '.join(_STATUSES)}"
    elif not is_shape(shape):
        yield f"{short_name(name)}: shape is {short_name(shape)}, expected a list of integers, none negative"
    elif dtype not in _DTYPES:
        yield f"{short_name(name)}: dtype is {short_name(dtype)}, expected one of {', '.join(_DTYPES)}"
    elif wrong := [key for key in ("source", "parameter", "role") if not isinstance(entry.get(key, ""), str)]:
        yield from (f"{short_name(name)}: {key} is {short_name(entry[key])}, expected a string" for key in wrong)
    else:
        yield from (f"{short_name(name)}: {fault}" for fault in _BY_STATUS[status](entry))


def _kept_faults(entry: dict[str, Any]) -> Iterator[str]:
    if not isinstance(entry.get("source"), str):
        yield f"kept, its source is {short_name(entry.get('source'))}, expected a string"
    if entry.get("new"):
        yield "kept, but it has new regions"


def _resized_faults(entry: dict[str, Any]) -> Iterator[str]:
    kept = entry.get("kept")
    if not isinstance(kept, list):
        yield f"resized, its kept regions are {short_name(kept)}, expected a list"
    else:
        yield from (fault for item in kept for fault in _copy_faults(item, entry))
    if "new" in entry:
        yield from _new_regions_faults(entry)


def _new_faults(entry: dict[str, Any]) -> Iterator[str]:
    if entry.get("kept"):
        yield "new, but it has kept regions"
    yield from _new_regions_faults(entry)


def _tied_faults(entry: dict[str, Any]) -> Iterator[str]:
    if not isinstance(entry.get("tied_to"), str):
        yield f"tied to {short_name(entry.get('tied_to'))}, expected the name of another tensor"
    if entry.get("new") or entry.get("kept"):
        yield "tied, but it has regions of its own"


_BY_STATUS: dict[str, Callable[[dict[str, Any]], Iterator[str]]] = {
    "kept": _kept_faults,
    "resized": _resized_faults,
    "new": _new_faults,
    "tied": _tied_faults,
}


def _copy_faults(item: Any, entry: dict[str, Any]) -> Iterator[str]:
    if not isinstance(item, dict) or not isinstance(item.get("source"), str):
        yield f"a kept region is {short_name(item)}, expected an object with region, source and source_region"
        return
    yield from _region_faults(item.get("region"), entry)
    source = item.get("source_region")
    if not isinstance(source, dict) or not (_is_box(source) or _is_rows(source)):
        yield f"source_region is {short_name(source)}, expected start and stop, or dim and index"


def _new_regions_faults(entry: dict[str, Any]) -> Iterator[str]:
    new = entry.get("new")
    if not isinstance(new, list):
        yield f"its new regions are {short_name(new)}, expected a list"
        return
    for item in new:
        if isinstance(item, dict) and isinstance(item.get("scheme"), dict):
            yield from _region_faults(item.get("region"), entry)
            if not isinstance(item.get("why", ""), str):
                yield f"the reason of a new region is {short_name(item['why'])}, expected a string"
        else:
            yield f"a new region is {short_name(item)}, expected an object with region and scheme"


def _region_faults(region: Any, entry: dict[str, Any]) -> Iterator[str]:
    fault = region_fault(region, entry["shape"])
    if fault:
        yield fault
    elif dtype_bits(entry["dtype"]) < 8 and region != {"start": [0] * len(entry["shape"]), "stop": entry["shape"]}:
        yield f"the dtype {entry['dtype']} packs elements into shared bytes: such a tensor is kept or new as a whole"
