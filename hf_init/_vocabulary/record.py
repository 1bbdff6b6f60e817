"""What an earlier extension of the base added and nothing has trained since: such rows say nothing about the others."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

from hf_init._architecture import Target
from hf_init._checkpoint import BaseCheckpoint, Reader, region_of, tensor_digest
from hf_init._plan import MANIFEST_NAME, Manifest
from hf_init._tensors import Box, Rows, region_from_json

TOKEN_RECORD = "tokens"


@dataclass(frozen=True)
class EarlierTokens:
    """Rows of a base that its manifest names and that still hold what was written there.

    Attributes:
        ids: of those rows. tokens: the texts that have one.
        dims: of every table of the vocabulary, the dimension along which its rows follow each other.
    """

    ids: frozenset[int] = frozenset()
    tokens: Mapping[str, int] = field(default_factory=dict)
    dims: Mapping[str, int] = field(default_factory=dict)


def earlier_tokens(base: BaseCheckpoint) -> EarlierTokens:
    """Read the manifest of the base, if it has one, and the rows that it names: their digests tell if they changed."""
    if not (base.folder / MANIFEST_NAME).is_file():
        return EarlierTokens()
    manifest = Manifest.load(base.folder)
    record = cast("Mapping[str, Any]", manifest.plan.record.get(TOKEN_RECORD) or {})
    tables = {name: dim for name, dim in record.get("tables", {}).items() if name in base.source.entries}
    if not tables:
        return EarlierTokens()
    ids: set[int] = set()
    changed: set[int] = set()
    with Reader(base.source) as reader:
        for name, dim in tables.items():
            tensor, digests = reader.tensor(name), manifest.digests.get(name, ())
            written = [*zip((fill.region for fill in manifest.plan[name].new), digests, strict=False)]
            if kept := record.get("untrained", {}).get(name):
                written.append((region_from_json(kept["region"], tuple(tensor.shape)), kept["sha256"]))
            for region, digest in written:
                rows = range(region.start[dim], region.stop[dim]) if isinstance(region, Box) else region.index
                ids.update(rows)
                if tensor_digest(region_of(tensor, region)) != digest:
                    changed.update(rows)
    untrained = frozenset(ids - changed)
    texts = {text: id_ for text, id_ in record.get("tokens", {}).items() if id_ in untrained}
    return EarlierTokens(untrained, texts, tables)


def untrained_record(earlier: EarlierTokens, new_ids: frozenset[int], target: Target) -> dict[str, object]:
    """Return, for the result's manifest, the rows of earlier tokens that it keeps, with their digest, by table."""
    rows = tuple(sorted(earlier.ids - new_ids))
    if not rows:
        return {}
    names = {tensor.address: tensor.name for tensor in target.layout.tensors}
    kept = {tensor.name: names[tensor.address] for tensor in target.source if tensor.address in names}
    result: dict[str, object] = {}
    with Reader(target.base.source) as reader:
        for name, dim in earlier.dims.items():
            if name in kept:
                tensor = reader.tensor(name)
                region = Rows(dim, rows, tuple(tensor.shape))
                result[kept[name]] = {"region": region.to_json(), "sha256": tensor_digest(region_of(tensor, region))}
    return result
