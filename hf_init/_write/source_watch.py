"""That the source stays as it is while it is read."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

from hf_init._checkpoint import Checkpoint, Header, opened
from hf_init._errors import CheckpointError
from hf_init._text import join_names

SourceState: TypeAlias = Mapping[Path, tuple[int, int, int, int]]
"""Device, inode, bytes and time of the last write (ns) of each of the source's files. A link to it changes none."""


def source_state(source: Checkpoint) -> SourceState:
    """Return how the files of a checkpoint are now.

    Raises:
        CheckpointError: one isn't the file any more whose header was read, or can't be read.
    """
    state = files_state(source.local(shard) for shard in source.shards)
    replaced = [header.shard for header in source.headers if not _has_header(source.local(header.shard), header)]
    _check_unchanged(replaced, source.root)
    return state


def files_state(paths: Iterable[Path]) -> SourceState:
    """Return how files are now."""
    return {path: _path_state(path) for path in paths}


def check_changed(state: SourceState) -> None:
    """Raise CheckpointError if a file has been replaced or written to since."""
    changed = [path for path, before in state.items() if _path_state(path) != before]
    _check_unchanged([path.name for path in changed], changed[0].parent if changed else Path())


def _check_unchanged(changed: Sequence[str], root: Path) -> None:
    if changed:
        raise CheckpointError(
            f"{root}: {join_names(changed)} changed while the result was made from it, so nothing is "
            "kept of it; run again when nobody writes there"
        )


def _path_state(path: Path) -> tuple[int, int, int, int]:
    try:
        status = os.stat(path)
    except OSError:
        return (0, 0, 0, 0)
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def _has_header(path: Path, header: Header) -> bool:
    try:
        with opened(path) as file:
            if os.fstat(file.number).st_size != header.size:
                return False
            length = int.from_bytes(file.read(0, 8).tobytes(), "little")
            return length + 8 <= header.size and hashlib.sha256(file.read(8, length).data).hexdigest() == header.sha256
    except OSError:
        return False
