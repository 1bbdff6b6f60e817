"""The manifest as a JSON document: read from a folder, and refused where it says what can't be."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TypedDict, TypeGuard, cast

from hf_init._checkpoint import (
    OriginJson,
    check_faults,
    is_count,
    is_json_list,
    is_json_object,
    read_object,
    short_name,
)
from hf_init._errors import CheckpointError
from hf_init._paths import user_path
from hf_init._plan.claim import CLAIMS, is_claim
from hf_init._plan.manifest_entries import JsonObject, entry_faults
from hf_init._plan.tensor_plan import TensorJson, TensorPlan
from hf_init._tensors import Status

MANIFEST_NAME = "hf_init.json"
MANIFEST_VERSION = 1
ORIGIN_KEYS = ("name", "path", "commit", "subfolder")

ADVICE = "The manifest was edited, or the result was not finished: make the result again with `hf-init extend`."


class _PlanJsonRequired(TypedDict):
    architecture: str
    seed: int
    tensors: list[TensorJson]
    unused: list[str]


class PlanJson(_PlanJsonRequired, total=False):
    """A plan in a manifest; ``record`` holds what a later extension of the result has to know, by topic."""

    unused_why: dict[str, str]
    counts: dict[str, int]
    notes: list[str]
    claim: str
    record: JsonObject
    files: dict[str, list[str]]


class _BaseJsonRequired(TypedDict):
    fingerprint: str


class BaseJson(_BaseJsonRequired, OriginJson, total=False):
    """The base in a manifest."""

    parts: dict[str, OriginJson]
    sha256: dict[str, str]
    link: str


class _ManifestJsonRequired(TypedDict):
    version: int
    made_by: str
    base: BaseJson
    digests: dict[str, list[str]]


class ManifestHeadJson(_ManifestJsonRequired, total=False):
    """A manifest before its plan; a digest is a SHA-256 in hex."""

    kept_digests: dict[str, list[str]] | None
    tensor_digests: dict[str, str] | None
    function: JsonObject | None
    earlier: list[JsonObject]


class ManifestJson(ManifestHeadJson):
    """A manifest."""

    plan: PlanJson


def read_manifest(folder: str | os.PathLike[str]) -> ManifestJson:
    """Return the manifest of a result folder; its digests are still to be compared with its plan.

    Raises:
        CheckpointError: there is none, it is of a newer format, or it says what can't be.
    """
    path = user_path(folder) / MANIFEST_NAME
    if not os.path.isfile(path):
        raise CheckpointError(
            f"{folder} has no {MANIFEST_NAME}, so it is not a result of hf_init that can be proved. "
            "Compare any two checkpoints with `hf-init diff` instead."
        )
    return checked_manifest(read_object(path), str(path))


def checked_manifest(data: object, what: str) -> ManifestJson:
    """Return a document that is a manifest; ``what`` names it in errors.

    Raises:
        CheckpointError: a newer format, a wrong type, a region outside its tensor...
    """
    if not is_json_object(data):
        raise CheckpointError(f"{what} is {short_name(data)}, expected an object. {ADVICE}")
    version = data.get("version")
    if not is_count(version) or version < 1:
        raise CheckpointError(f"{what}: version is {short_name(version)}, expected an integer of at least 1. {ADVICE}")
    if version > MANIFEST_VERSION:
        raise CheckpointError(
            f"{what} is of format {version}, newer than the {MANIFEST_VERSION} that this hf_init "
            "reads. Install a newer hf_init."
        )
    check_faults(what, _document_faults(data), ADVICE)
    document = cast(ManifestJson, data)
    tensors = document["plan"]["tensors"]
    check_faults(what, (fault for entry in tensors for fault in entry_faults(cast(JsonObject, entry))), ADVICE)
    check_faults(what, _name_faults(tensors), ADVICE)
    for number, earlier in enumerate(document.get("earlier", ())):
        checked_manifest(earlier, f"{what}, earlier {number}")
    return document


def _document_faults(data: JsonObject) -> Iterator[str]:
    """Yield what is missing, or of a wrong kind, besides what a tensor's entry says."""
    plan, base = data.get("plan"), data.get("base")
    for key in ("plan", "base", "digests"):
        if not is_json_object(data.get(key)):
            yield f"{key} is {short_name(data.get(key))}, expected an object"
    if not isinstance(data.get("made_by"), str):
        yield f"made_by is {short_name(data.get('made_by'))}, expected a string"
    if not is_json_object(data.get("function") or {}):
        yield f"function is {short_name(data.get('function'))}, expected an object"
    if not is_json_list(earlier := data.get("earlier", [])):
        yield f"earlier is {short_name(earlier)}, expected a list of manifests"
    if is_json_object(plan):
        yield from _plan_faults(plan)
    if not is_json_object(base):
        return
    if not isinstance(base.get("fingerprint"), str):
        yield f"base.fingerprint is {short_name(base.get('fingerprint'))}, expected a string"
    for key in (*ORIGIN_KEYS, "link"):
        if not isinstance(base.get(key, ""), str):
            yield f"base.{key} is {short_name(base[key])}, expected a string"
    if not is_json_object(parts := base.get("parts", {})) or not all(map(_is_names, parts.values())):
        yield f"base.parts is {short_name(parts)}, expected prefix -> {', '.join(ORIGIN_KEYS)}, strings"
    if not _is_digests(base.get("sha256", {})):
        yield f"base.sha256 is {short_name(base['sha256'])}, expected file -> SHA-256 in hex"


def _plan_faults(plan: JsonObject) -> Iterator[str]:
    tensors, unused, notes, record = (plan.get(key) for key in ("tensors", "unused", "notes", "record"))
    if not isinstance(plan.get("architecture"), str):
        yield f"plan.architecture is {short_name(plan.get('architecture'))}, expected a string"
    if isinstance(seed := plan.get("seed"), bool) or not isinstance(seed, int) or seed < 0:
        yield f"plan.seed is {short_name(seed)}, expected a whole number"
    if not is_json_list(tensors) or not all(map(is_json_object, tensors)):
        yield f"plan.tensors is {short_name(tensors)}, expected a list of objects"
    if not _is_strings(unused):
        yield f"plan.unused is {short_name(unused)}, expected a list of strings"
    if "notes" in plan and not _is_strings(notes):
        yield f"plan.notes is {short_name(notes)}, expected a list of strings"
    if not _is_names(why := plan.get("unused_why", {})):
        yield f"plan.unused_why is {short_name(why)}, expected tensor -> a string"
    if (claim := plan.get("claim", "")) != "" and not is_claim(claim):
        yield f"plan.claim is {short_name(claim)}, expected one of {', '.join(map(repr, CLAIMS))}"
    if not is_json_object(files := plan.get("files", {})) or not all(map(_is_strings, files.values())):
        yield f"plan.files is {short_name(files)}, expected lists of names: carried, left"
    if "record" in plan and not is_json_object(record):
        yield f"plan.record is {short_name(record)}, expected an object"


def _name_faults(tensors: Sequence[TensorJson]) -> Iterator[str]:
    """Yield names that occur twice, and ties to no tensor of the files."""
    status: dict[str, str] = {}
    for entry in tensors:
        if entry["name"] in status:
            yield f"{short_name(entry['name'])} occurs twice in the plan"
        status[entry["name"]] = entry["status"]
    for entry in tensors:
        owner = entry.get("tied_to", "")
        if entry["status"] == Status.TIED and status.get(owner, Status.TIED) == Status.TIED:
            yield f"{short_name(entry['name'])} is tied to {short_name(owner)}, no tensor of its own in the plan"


def digest_faults(tensors: Sequence[TensorPlan], document: ManifestJson) -> Iterator[str]:
    """Yield where a manifest doesn't have one digest for each new region, or for each kept one if it has such."""
    fills = {tensor.name: len(tensor.new) for tensor in tensors if not tensor.left_out}
    yield from _list_faults("digests", "new", fills, document["digests"])
    kept, whole = document.get("kept_digests"), document.get("tensor_digests")
    copies = {tensor.name: len(tensor.kept) for tensor in tensors if tensor.stored}
    if is_json_object(kept):
        yield from _list_faults("kept_digests", "kept", copies, kept)
    elif kept is not None:
        yield f"kept_digests is {short_name(kept)}, expected an object"
    if whole is None:
        return
    if not _is_digests(whole):
        yield f"tensor_digests is {short_name(whole)}, expected tensor -> SHA-256 in hex"
    elif wrong := sorted(copies.keys() ^ whole.keys()):
        yield (
            f"tensor_digests are not those of the tensors of the files: {short_name(wrong)} are only in one of the two"
        )


def _list_faults(what: str, kind: str, regions: Mapping[str, int], digests: Mapping[str, object]) -> Iterator[str]:
    for name in sorted(regions.keys() | digests.keys()):
        values = digests.get(name, [])
        if not is_json_list(values) or not all(map(_is_digest, values)):
            yield f"{what}: {short_name(name)} has {short_name(values)}, expected a list of SHA-256 in hex"
        elif len(values) != regions.get(name, 0):
            yield f"{what}: {short_name(name)} has {len(values)}, expected {regions.get(name, 0)}, one a {kind} region"


def _is_strings(value: object) -> bool:
    return is_json_list(value) and all(isinstance(item, str) for item in value)


def _is_names(value: object) -> bool:
    return is_json_object(value) and all(isinstance(item, str) for item in value.values())


def _is_digests(value: object) -> TypeGuard[dict[str, str]]:
    return is_json_object(value) and all(map(_is_digest, value.values()))


def _is_digest(value: object) -> bool:
    return isinstance(value, str) and re.fullmatch(r"[0-9a-f]{64}", value) is not None
