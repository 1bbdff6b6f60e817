"""What an earlier extension of the base added and nothing has trained since: such rows tell nothing of the others."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from hf_init._architecture import Target
from hf_init._checkpoint import BaseCheckpoint, Reader, region_of, tensor_digest
from hf_init._plan import MANIFEST_NAME, Manifest
from hf_init._tensors import Box, Region, Rows, region_from_json

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
    """Reads the manifest of the base, if it has one, and the rows that it names: their digests tell if they changed."""
    if not (base.folder / MANIFEST_NAME).is_file():
        return EarlierTokens()
    manifest = Manifest.load(base.folder)
    record: Mapping[str, Any] = manifest.plan.record.get(TOKEN_RECORD) or {}
    tables = {name: dim for name, dim in record.get("tables", {}).items() if name in base.source.entries}
    if not tables:
        return EarlierTokens()
    with Reader(base.source) as reader:
        groups = [group for name in tables for group in _groups(manifest, record, name, reader)]
    changed = {row for rows, same in groups for row in rows if not same}
    ids = frozenset(row for rows, _ in groups for row in rows) - changed
    return EarlierTokens(ids, {text: id_ for text, id_ in record.get("tokens", {}).items() if id_ in ids}, tables)


def _groups(
    manifest: Manifest, record: Mapping[str, Any], name: str, reader: Reader
) -> Iterator[tuple[tuple[int, ...], bool]]:
    """Rows of one table that were written together, and whether they still hold the same bytes."""
    tensor = reader.tensor(name)
    pairs = [*zip((fill.region for fill in manifest.plan[name].new), manifest.digests.get(name, ()), strict=False)]
    if kept := record.get("untrained", {}).get(name):
        pairs.append((region_from_json(kept["region"], tuple(tensor.shape)), kept["sha256"]))
    for region, expected in pairs:
        yield _rows(region, record["tables"][name]), tensor_digest(region_of(tensor, region)) == expected


def _rows(region: Region, dim: int) -> tuple[int, ...]:
    return tuple(range(region.start[dim], region.stop[dim])) if isinstance(region, Box) else region.index


def carry_record(found: EarlierTokens, fresh: frozenset[int], target: Target) -> dict[str, Any]:
    """What the result's own manifest has to say of them: those rows that it keeps, with their digest, by table."""
    rows = tuple(sorted(found.ids - fresh))
    if not rows:
        return {}
    names = {tensor.address: tensor.name for tensor in target.layout.tensors}
    address = {tensor.name: tensor.address for tensor in target.source}
    result = {}
    with Reader(target.base.source) as reader:
        for name, dim in found.dims.items():
            tensor = reader.tensor(name)
            region = Rows(dim, rows, tuple(tensor.shape))
            if address[name] in names:
                entry = {"region": region.to_json(), "sha256": tensor_digest(region_of(tensor, region))}
                result[names[address[name]]] = entry
    return result
