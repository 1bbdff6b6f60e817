"""Rows of a vocabulary that were never trained, by their size: a report, from which nothing follows by itself."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch

from hf_init._checkpoint import Checkpoint, Reader
from hf_init._tensors import Box
from hf_init._text import format_count
from hf_init._vocabulary import config_leaves, format_ids

SHARE = 1e-3
"""Of the typical row's largest element: a row whose own is below is untrained."""


@dataclass(frozen=True)
class Untrained:
    """Rows of one table that hold next to nothing.

    Attributes:
        table: its name on disk.
        rows: their numbers, which are token ids.
        largest: the largest ``|x|`` in any of them.
        typical: the largest ``|x|`` in the median row.
    """

    table: str
    rows: tuple[int, ...]
    largest: float
    typical: float

    def __str__(self) -> str:
        many = (
            f"row {self.rows[0]}"
            if len(self.rows) == 1
            else f"{format_count(len(self.rows))} rows ({format_ids(self.rows)})"
        )
        return (
            f"{self.table}: {many} never trained: max |x| {self.largest:.2g}, where {self.typical:.2g} is the median "
            "row's"
        )


def untrained_tables(folder: str | Path) -> tuple[Untrained, ...]:
    """Return ``untrained_rows`` of every vocabulary that a folder's config counts, in any of its parts.

    Raises:
        CheckpointError: the folder can't be read.
    """
    try:
        config = json.loads((Path(folder) / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return ()  # no config, no vocabulary: a report of the tensors is due all the same
    leaves = config_leaves(config) if isinstance(config, dict) else ()
    sizes = {value for path, value in leaves if path.rpartition(".")[2] == "vocab_size" and isinstance(value, int)}
    return tuple(each for rows in sorted(sizes) if rows > 0 for each in untrained_rows(folder, rows))


def untrained_rows(folder: str | Path, rows: int) -> tuple[Untrained, ...]:
    """Return rows with next to nothing in them, of every matrix with this many rows; read those matrices once.

    By the largest ``|x|`` of a row: a row of negative numbers alone is a row like others. Rows that were drawn at
    random and never trained look like trained ones, and aren't found.

    Args:
        rows: of the vocabulary.

    Raises:
        CheckpointError: the folder can't be read.
    """
    with Checkpoint.open(folder) as source, Reader(source) as reader:
        tables = []
        for name, entry in source.entries.items():
            if len(entry.shape) != 2 or entry.shape[0] != rows:
                continue
            largest = torch.cat([block.float().abs().amax(1) for block in reader.rows(name, Box.whole(entry.shape))])
            typical = float(largest.median())
            untrained = (largest <= SHARE * typical).nonzero().flatten()
            if len(untrained):
                tables.append(Untrained(name, tuple(untrained.tolist()), float(largest[untrained].max()), typical))
    return tuple(tables)
