"""What makes a manifest impossible, beyond its entries one by one."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from hf_init._checkpoint import short_name
from hf_init._plan.manifest_entries import entry_copies, is_left_out, stored_entries


def document_faults(data: dict[str, Any]) -> Iterator[str]:
    """What is missing, or of a wrong kind, at the top."""
    for key, kind in (("plan", dict), ("base", dict), ("digests", dict), ("made_by", str)):
        if not isinstance(data.get(key), kind):
            yield f"{key} is {short_name(data.get(key))}, expected {'a string' if kind is str else 'an object'}"
    if isinstance(data.get("plan"), dict):
        yield from _plan_faults(data["plan"])
    if isinstance(data.get("base"), dict):
        for key in ("path", "fingerprint"):
            if not isinstance(data["base"].get(key), str):
                yield f"base.{key} is {short_name(data['base'].get(key))}, expected a string"
        parts = data["base"].get("parts", {})
        if not isinstance(parts, dict) or not all(isinstance(folder, str) for folder in parts.values()):
            yield f"base.parts is {short_name(parts)}, expected prefix -> folder"
        if not _is_digests(data["base"].get("sha256", {})):
            yield f"base.sha256 is {short_name(data['base']['sha256'])}, expected file -> SHA-256 in hex"


def _plan_faults(plan: dict[str, Any]) -> Iterator[str]:
    for key, kind, word in (("tensors", dict, "objects"), ("unused", str, "strings")):
        value = plan.get(key)
        if not isinstance(value, list) or not all(isinstance(item, kind) for item in value):
            yield f"plan.{key} is {short_name(value)}, expected a list of {word}"
    notes = plan.get("notes", [])
    if not isinstance(notes, list) or not all(isinstance(note, str) for note in notes):
        yield f"plan.notes is {short_name(notes)}, expected a list of strings"
    why = plan.get("unused_why", {})
    if not isinstance(why, dict) or not all(isinstance(reason, str) for reason in why.values()):
        yield f"plan.unused_why is {short_name(why)}, expected tensor -> a string"


def name_faults(tensors: list[dict[str, Any]]) -> Iterator[str]:
    """Names that occur twice, and ties to no tensor of the files."""
    status: dict[str, str] = {}
    for entry in tensors:
        if entry["name"] in status:
            yield f"{short_name(entry['name'])} occurs twice in the plan"
        status[entry["name"]] = entry["status"]
    for entry in tensors:
        if entry["status"] == "tied" and status.get(entry["tied_to"], "tied") == "tied":
            yield (
                f"{short_name(entry['name'])} is tied to {short_name(entry['tied_to'])}, no tensor "
                "of its own in the plan"
            )


def digest_faults(tensors: list[dict[str, Any]], digests: dict[str, Any]) -> Iterator[str]:
    """Of the new regions."""
    regions = {entry["name"]: len(entry.get("new") or ()) for entry in tensors if not is_left_out(entry)}
    yield from _list_faults("digests", "new", regions, digests)


def record_faults(tensors: list[dict[str, Any]], kept: Any, whole: Any) -> Iterator[str]:
    """Of the digests that are recorded when they are asked for: of kept regions, and of whole tensors."""
    held = [entry for entry in tensors if stored_entries(entry)]
    if isinstance(kept, dict):
        yield from _list_faults(
            "kept_digests", "kept", {entry["name"]: len(entry_copies(entry)) for entry in held}, kept
        )
    elif kept is not None:
        yield f"kept_digests is {short_name(kept)}, expected an object"
    if whole is None:
        return
    if not _is_digests(whole):
        yield f"tensor_digests is {short_name(whole)}, expected tensor -> SHA-256 in hex"
    elif wrong := sorted({entry["name"] for entry in held} ^ whole.keys()):
        yield (
            f"tensor_digests are not those of the tensors of the files: {short_name(wrong)} are only in one of the two"
        )


def _list_faults(what: str, kind: str, regions: dict[str, int], digests: dict[str, Any]) -> Iterator[str]:
    for name in sorted(regions.keys() | digests.keys()):
        found = digests.get(name, [])
        if not isinstance(found, list) or not all(map(_is_digest, found)):
            yield f"{what}: {short_name(name)} has {short_name(found)}, expected a list of SHA-256 in hex"
        elif len(found) != regions.get(name, 0):
            yield f"{what}: {short_name(name)} has {len(found)}, expected {regions.get(name, 0)}, one a {kind} region"


def _is_digests(value: Any) -> bool:
    return isinstance(value, dict) and all(map(_is_digest, value.values()))


def _is_digest(value: Any) -> bool:
    return isinstance(value, str) and re.fullmatch(r"[0-9a-f]{64}", value) is not None
