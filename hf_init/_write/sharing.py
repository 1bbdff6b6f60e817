"""Files laid out so that what they keep can share the source's blocks of the disk, where the filesystem lets them.

A filesystem shares whole blocks (of 4 KiB, as a rule), so kept bytes have to lie at the same place in their block as in
the source. The header decides where they lie: some spaces at its end, which the format allows, bring the most of them
there. Elsewhere a file is what safetensors' own writer would write.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from hf_init._checkpoint import Checkpoint
from hf_init._write.copying import shares_blocks, whole_blocks
from hf_init._write.files import OutputFile
from hf_init._write.filling import kept_runs
from hf_init._write.safetensors_file import ALIGNED


def block_shared(files: Iterable[OutputFile], source: Checkpoint, folder: Path) -> int:
    """The bytes of a block that files in a folder can share with those of the source; 0 where they can't.

    Raises:
        CheckpointError: a file's values aren't here.
    """
    shards = {source.entries[copy.source].shard for file in files for tensor in file.tensors for copy in tensor.kept}
    one_each = {path.parent: path for path in map(source.local, sorted(shards))}.values()
    shared = bool(one_each) and all(shares_blocks(path, folder) for path in one_each)
    return os.statvfs(folder).f_bsize if shared else 0


def aligned(files: Sequence[OutputFile], source: Checkpoint, block: int) -> tuple[OutputFile, ...]:
    """The files with the spaces that let the most bytes share their blocks; as they are for a ``block`` of 0."""
    return tuple(file if file.carried or not block else _aligned(file, source, block) for file in files)


def _aligned(file: OutputFile, source: Checkpoint, block: int) -> OutputFile:
    shared: Counter[int] = Counter()
    for kept in kept_runs(file, source):
        if kept.source.many == 1:
            here, there = kept.source.starts(0, 1).item(), kept.target.starts(0, 1).item()
            shared[(here - there) % block] += whole_blocks(here, kept.source.size, block)[1]
    possible = [spaces for spaces in shared if spaces % ALIGNED == 0]
    best = max(possible, key=lambda spaces: (shared[spaces] - spaces, -spaces), default=0)
    return replace(file, spaces=best, shared=shared[best]) if shared[best] > best else file
