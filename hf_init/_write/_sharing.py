"""Files laid out so that what they keep can share the source's blocks of the disk, where the filesystem lets them.

A filesystem shares whole blocks (of 4 KiB, as a rule), so kept bytes have to lie at the same place in their block as in
the source. The header decides where they lie: some spaces at its end, which the format allows, bring the most of them
there. Elsewhere a file is what safetensors' own writer would write.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from hf_init._checkpoint import Checkpoint
from hf_init._write._copying import LONG, shares_blocks
from hf_init._write._files import File
from hf_init._write._filling import Kept, stretches
from hf_init._write._form import ALIGNED


def block_shared(files: Iterable[File], source: Checkpoint, folder: Path) -> int:
    """The bytes of a block that files in a folder can share with those of the source; 0 where they can't.

    Raises:
        CheckpointError: a file's values aren't here.
    """
    shards = {source.entries[copy.source].shard for file in files for tensor in file.tensors for copy in tensor.kept}
    one_each = {path.parent: path for path in map(source.local, sorted(shards))}.values()
    shared = bool(one_each) and all(shares_blocks(path, folder) for path in one_each)
    return os.statvfs(folder).f_bsize if shared else 0


def aligned(files: Sequence[File], source: Checkpoint, block: int) -> tuple[File, ...]:
    """The files with the spaces that let the most bytes share their blocks; as they are for a ``block`` of 0."""
    return tuple(file if file.carried or not block else _aligned(file, source, block) for file in files)


def _aligned(file: File, source: Checkpoint, block: int) -> File:
    places = list(_long(stretches(file, source)))
    shifts: Counter[int] = Counter()
    for here, there, nbytes in places:
        shifts[(here - there) % block] += nbytes
    spaces = max(shifts, key=lambda shift: (shift % ALIGNED == 0, shifts[shift], -shift), default=0)
    if spaces % ALIGNED:
        return file
    whole = (max(nbytes - -here % block, 0) for here, there, nbytes in places if (here - there) % block == spaces)
    return replace(file, spaces=spaces, shared=sum(size // block * block for size in whole))


def _long(kept: Iterable[Kept]) -> Iterator[tuple[int, int, int]]:
    """Of those in one piece that are worth sharing: where they start in the source and in the result, their bytes."""
    for each in kept:
        if each.source.many == 1 and each.source.size >= LONG:
            yield each.source.starts(0, 1).item(), each.target.starts(0, 1).item(), each.source.size
