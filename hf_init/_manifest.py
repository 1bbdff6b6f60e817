"""The manifest: the file in a result folder that says how the result was made, so that it can be proved again later."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hf_init._checkpoint import DTYPES, bits
from hf_init._checkpoint._strict import is_count, is_shape, parse_object, read_object, refuse, short
from hf_init._errors import CheckpointError
from hf_init._spec import Status

NAME = "hf_init.json"
VERSION = 1

_ADVICE = "The manifest was edited, or the result was not finished: make the result again with `hf-init extend`."
_STATUSES = tuple(status.value for status in Status)
_DTYPES = tuple(name for name, _ in DTYPES.values())


@dataclass(frozen=True)
class Manifest:
    """What a result was made of and by.

    Attributes:
        plan: the plan's JSON document; keys that this version doesn't know are kept as they are.
        base: the source, ``{"path": ..., "fingerprint": ...}`` and perhaps more.
        digests: tensor -> SHA-256 in hex of each of its new regions, in the plan's order, over the region's bytes
            in row-major order.
        made_by: the program, ``"hf_init 0.1.0"``.
        version: of this file's format.
    """

    plan: dict[str, Any]
    base: dict[str, Any]
    digests: dict[str, list[str]]
    made_by: str
    version: int = VERSION

    @property
    def tensors(self) -> list[dict[str, Any]]:
        """The plan's entries, one a target tensor."""
        return self.plan["tensors"]

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> Manifest:
        """The manifest of a result folder.

        Raises:
            CheckpointError: there is none, it is of a newer format, or it says what can't be.
        """
        path = Path(folder) / NAME
        if not os.path.isfile(path):
            raise CheckpointError(
                f"{folder} has no {NAME}, so it is not a result of hf_init that can be proved. "
                "Compare any two checkpoints with `hf-init diff` instead."
            )
        return cls.from_json(read_object(path), str(path))

    @classmethod
    def from_json(cls, data: Any, what: str = NAME) -> Manifest:
        """The manifest that ``to_json`` wrote; ``what`` names it in errors.

        Raises:
            CheckpointError: a newer format, a wrong type, a region outside its tensor, a digest too few...
        """
        if not isinstance(data, dict):
            raise CheckpointError(f"{what} is {short(data)}, expected an object. {_ADVICE}")
        _check_version(data.get("version"), what)
        refuse(what, _document_faults(data), _ADVICE)
        plan, base, digests = data["plan"], data["base"], data["digests"]
        refuse(what, (fault for entry in plan["tensors"] for fault in _entry_faults(entry)), _ADVICE)
        refuse(what, [*_name_faults(plan["tensors"]), *_digest_faults(plan["tensors"], digests)], _ADVICE)
        return cls(plan, base, digests, data["made_by"], data["version"])

    def to_json(self) -> dict[str, Any]:
        return {
            "version": self.version,
            "made_by": self.made_by,
            "base": self.base,
            "digests": self.digests,
            "plan": self.plan,
        }

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write the manifest into a folder, down to the disk.

        Raises:
            CheckpointError: the manifest is one that ``load`` would refuse; nothing is written then.
        """
        text = json.dumps(self.to_json(), indent=1, ensure_ascii=False, allow_nan=False) + "\n"
        Manifest.from_json(parse_object(text.encode(), NAME))
        with open(Path(folder) / NAME, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())


def left_out(entry: dict[str, Any]) -> bool:
    """Whether a tensor is in the plan and not in the result's files: its scheme leaves it to the user's own code."""
    return entry["status"] == Status.NEW and any(part["scheme"].get("name") == "skip" for part in entry["new"])


def region_fault(region: Any, shape: tuple[int, ...] | list[int]) -> str | None:
    """Why a region in JSON is none of a tensor of this shape; None when it is one.

    Example:
        >>> region_fault({"start": [0], "stop": [4]}, (3,))
        "region {'start': [0], 'stop': [4]} is outside the tensor, whose shape is (3,)"
    """
    if not isinstance(region, dict) or not (_is_box(region) or _is_rows(region)):
        return f"region is {short(region)}, expected start and stop, or dim and index, all integers, none negative"
    inside = _rows_inside(region, shape) if "index" in region else _box_inside(region, shape)
    return None if inside else f"region {short(region)} is outside the tensor, whose shape is {tuple(shape)}"


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


def _check_version(version: Any, what: str) -> None:
    if not is_count(version) or version < 1:
        raise CheckpointError(f"{what}: version is {short(version)}, expected an integer of at least 1. {_ADVICE}")
    if version > VERSION:
        raise CheckpointError(
            f"{what} is of format {version}, newer than the {VERSION} that this hf_init reads. Install a newer hf_init."
        )


def _document_faults(data: dict[str, Any]) -> Iterator[str]:
    for key, kind in (("plan", dict), ("base", dict), ("digests", dict), ("made_by", str)):
        if not isinstance(data.get(key), kind):
            yield f"{key} is {short(data.get(key))}, expected {'a string' if kind is str else 'an object'}"
    if isinstance(data.get("plan"), dict):
        yield from _plan_faults(data["plan"])
    if isinstance(data.get("base"), dict):
        for key in ("path", "fingerprint"):
            if not isinstance(data["base"].get(key), str):
                yield f"base.{key} is {short(data['base'].get(key))}, expected a string"


def _plan_faults(plan: dict[str, Any]) -> Iterator[str]:
    for key, kind, word in (("tensors", dict, "objects"), ("unused", str, "strings")):
        value = plan.get(key)
        if not isinstance(value, list) or not all(isinstance(item, kind) for item in value):
            yield f"plan.{key} is {short(value)}, expected a list of {word}"


def _entry_faults(entry: dict[str, Any]) -> Iterator[str]:
    name, status, shape, dtype = (entry.get(key) for key in ("name", "status", "shape", "dtype"))
    if not isinstance(name, str):
        yield f"the tensor {short(entry)} has the name {short(name)}, expected a string"
    elif status not in _STATUSES:
        yield f"{short(name)}: status is {short(status)}, expected one of {', '.join(_STATUSES)}"
    elif not is_shape(shape):
        yield f"{short(name)}: shape is {short(shape)}, expected a list of integers, none negative"
    elif dtype not in _DTYPES:
        yield f"{short(name)}: dtype is {short(dtype)}, expected one of {', '.join(_DTYPES)}"
    elif not isinstance(entry.get("source", ""), str):
        yield f"{short(name)}: source is {short(entry['source'])}, expected a string"
    else:
        yield from (f"{short(name)}: {fault}" for fault in _BY_STATUS[status](entry))


def _kept_faults(entry: dict[str, Any]) -> Iterator[str]:
    if not isinstance(entry.get("source"), str):
        yield f"kept, its source is {short(entry.get('source'))}, expected a string"
    if entry.get("new"):
        yield "kept, but it has new regions"


def _resized_faults(entry: dict[str, Any]) -> Iterator[str]:
    kept = entry.get("kept")
    if not isinstance(kept, list):
        yield f"resized, its kept regions are {short(kept)}, expected a list"
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
        yield f"tied to {short(entry.get('tied_to'))}, expected the name of another tensor"
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
        yield f"a kept region is {short(item)}, expected an object with region, source and source_region"
        return
    yield from _region_faults(item.get("region"), entry)
    source = item.get("source_region")
    if not isinstance(source, dict) or not (_is_box(source) or _is_rows(source)):
        yield f"source_region is {short(source)}, expected start and stop, or dim and index"


def _new_regions_faults(entry: dict[str, Any]) -> Iterator[str]:
    new = entry.get("new")
    if not isinstance(new, list):
        yield f"its new regions are {short(new)}, expected a list"
        return
    for item in new:
        if isinstance(item, dict) and isinstance(item.get("scheme"), dict):
            yield from _region_faults(item.get("region"), entry)
        else:
            yield f"a new region is {short(item)}, expected an object with region and scheme"


def _region_faults(region: Any, entry: dict[str, Any]) -> Iterator[str]:
    fault = region_fault(region, entry["shape"])
    if fault:
        yield fault
    elif bits(entry["dtype"]) < 8 and region != {"start": [0] * len(entry["shape"]), "stop": entry["shape"]}:
        yield f"the dtype {entry['dtype']} packs elements into shared bytes: such a tensor is kept or new as a whole"


def _name_faults(tensors: list[dict[str, Any]]) -> Iterator[str]:
    status: dict[str, str] = {}
    for entry in tensors:
        if entry["name"] in status:
            yield f"{short(entry['name'])} occurs twice in the plan"
        status[entry["name"]] = entry["status"]
    for entry in tensors:
        if entry["status"] == "tied" and status.get(entry["tied_to"], "tied") == "tied":
            yield f"{short(entry['name'])} is tied to {short(entry['tied_to'])}, no tensor of its own in the plan"


def _digest_faults(tensors: list[dict[str, Any]], digests: dict[str, Any]) -> Iterator[str]:
    regions = {entry["name"]: len(entry.get("new") or ()) for entry in tensors if not left_out(entry)}
    for name in sorted(regions.keys() | digests.keys()):
        found = digests.get(name, [])
        if not isinstance(found, list) or not all(map(_is_digest, found)):
            yield f"digests: {short(name)} has {short(found)}, expected a list of SHA-256 in hex"
        elif len(found) != regions.get(name, 0):
            yield f"digests: {short(name)} has {len(found)}, expected {regions.get(name, 0)}, one a new region"


def _is_digest(value: Any) -> bool:
    return isinstance(value, str) and re.fullmatch(r"[0-9a-f]{64}", value) is not None
