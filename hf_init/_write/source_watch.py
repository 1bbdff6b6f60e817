"""That the source stays as it is while it is read."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TypeAlias

from hf_init._checkpoint import Checkpoint, Header, opened
from hf_init._errors import CheckpointError
from hf_init._text import join_names

SourceState: TypeAlias = Mapping[Path, tuple[int, int, int, int]]
"""Device, inode, bytes and time of change (ns) of each of the source's files."""


def source_state(source: Checkpoint) -> SourceState:
    """How the files of a checkpoint are now.

    Raises:
        CheckpointError: one isn't the file any more whose header was read, or can't be read.
    """
    seen = {source.local(shard): _state(source.local(shard)) for shard in source.shards}
    _refuse(
        [header.shard for header in source.headers if not _is_that(source.local(header.shard), header)], source.root
    )
    return seen


def check_changed(seen: SourceState) -> None:
    """Raises CheckpointError if a file has been replaced or written to since."""
    changed = [path for path, state in seen.items() if _state(path) != state]
    if changed:
        _refuse([path.name for path in changed], changed[0].parent)


def _refuse(names: list[str], root: Path) -> None:
    if names:
        raise CheckpointError(
            f"{root}: {join_names(names)} changed while the result was made from it, so nothing is "
            "kept of it; run again "
            "when nobody writes there"
        )


def _state(path: Path) -> tuple[int, int, int, int]:
    try:
        found = os.stat(path)
    except OSError:
        return (0, 0, 0, 0)
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def _is_that(path: Path, header: Header) -> bool:
    try:
        with opened(path) as file:
            if os.fstat(file.number).st_size != header.size:
                return False
            length = int.from_bytes(file.read(0, 8).tobytes(), "little")
            return length + 8 <= header.size and hashlib.sha256(file.read(8, length).data).hexdigest() == header.sha256
    except OSError:
        return False
