"""The tensors of a checkpoint as torch sees them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from itertools import zip_longest
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open

from hf_init._checkpoint.header import dtype_bits
from hf_init._checkpoint.runs import byte_runs, gather, opened, outer
from hf_init._checkpoint.tensor_bytes import equal_bytes
from hf_init._errors import CheckpointError
from hf_init._tensors import Region, Rows

if TYPE_CHECKING:
    from hf_init._checkpoint.checkpoint import Checkpoint

# A multiple of every element's size; small enough to stay in a processor's cache while two of them are compared.
_CACHED = 1 << 20


class Reader:
    """The tensors of a checkpoint as torch sees them: mapped, not read, until they are used.

    A context manager; ``shards`` may be opened in any order and stay open until the end.
    """

    def __init__(self, source: Checkpoint) -> None:
        self._source = source
        self._stack = ExitStack()
        self._open: dict[str, Any] = {}
        self._lock = Lock()

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *_: object) -> None:
        self._open.clear()
        self._stack.close()

    def tensor(self, name: str) -> torch.Tensor:
        """Return the whole tensor, mapped: it must not be written to."""
        return self._shard(name).get_tensor(self._source.entries[name].key)

    def slice(self, name: str) -> Any:
        """Return what the library's own loader takes in place of a tensor, and reads when it is ready for it."""
        return self._shard(name).get_slice(self._source.entries[name].key)

    def place(self, name: str) -> tuple[Path, int, int]:
        """Return the file of a tensor, and where in it its bytes start and stop."""
        entry = self._source.entries[name]
        return self._source.local(entry.shard), entry.start, entry.stop

    def rows(self, name: str, region: Region) -> Iterator[torch.Tensor]:
        """Read a region's elements, some of its leading slices at a time: ``(some, *region.shape[1:])``.

        Raises:
            CheckpointError: the file can't be read, or has become shorter.
        """
        entry = self._source.entries[name]
        shape = (replace(region, of=entry.shape) if isinstance(region, Rows) else region).shape
        dims = max(outer(region, entry.shape), 1)
        runs = byte_runs(region, entry.shape, dtype_bits(entry.dtype), entry.start, dims)
        runs_a_row = runs.num_runs // max(shape[0], 1)
        step = max(_CACHED // max(runs_a_row * runs.size, 1), 1)
        with opened(self._source.local(entry.shard)) as file:
            for first in range(0, shape[0] if runs_a_row else 0, step):
                last = min(first + step, shape[0])
                data = gather(file, runs.starts(first * runs_a_row, last * runs_a_row), runs.size)
                values = torch.from_numpy(data.reshape(-1)).view(getattr(torch, entry.dtype))
                yield values.reshape(last - first, *shape[1:])

    def blocks(self, name: str) -> Iterator[tuple[int, torch.Tensor]]:
        """Read a tensor's elements, a block at a time, each with the index of its first; little stays in memory."""
        entry = self._source.entries[name]
        dtype = getattr(torch, entry.dtype)
        with opened(self._source.local(entry.shard)) as file:
            for start in range(entry.start, entry.stop, _CACHED):
                data = file.read(start, min(_CACHED, entry.stop - start))
                yield (start - entry.start) // dtype.itemsize, torch.from_numpy(data).view(dtype)

    def same(self, a: str, b: str) -> bool:
        """Return whether two tensors hold the same bytes."""
        pairs = zip_longest(self.blocks(a), self.blocks(b), fillvalue=(0, torch.empty(0)))
        return all(equal_bytes(left, right) for (_, left), (_, right) in pairs)

    def open(self, names: Iterable[str]) -> None:
        """Map the files of these tensors."""
        for name in names:
            self._shard(name)

    def _shard(self, name: str) -> Any:
        shard = self._source.entries[name].shard
        with self._lock:
            if shard not in self._open:
                path = str(self._source.local(shard))
                try:
                    self._open[shard] = self._stack.enter_context(safe_open(path, framework="pt", device="cpu"))
                except SafetensorError as error:  # of a name that isn't UTF-8, too
                    raise CheckpointError(f"{path} can't be read by safetensors: {error}") from None
            return self._open[shard]
