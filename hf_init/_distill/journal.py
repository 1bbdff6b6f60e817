"""Rows that are made, kept while others are being made: a run that was stopped goes on behind them."""

from __future__ import annotations

import hashlib
import json
import os
import zlib
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from hf_init._paths import user_cache
from hf_init._version import __version__


@dataclass(frozen=True)
class RowJournal:
    """Files of finished rows, one a process, in the user's cache; gone once all rows are made.

    Attributes:
        key: of everything that the rows depend on. width: elements of a row.
    """

    key: str
    width: int

    @classmethod
    def of(cls, base: Path, width: int, *depends: object) -> RowJournal:
        """Name the files by what the rows depend on: a base's files count by their sizes and times."""
        stats = [(file.name, file.stat()) for file in sorted(base.iterdir()) if file.is_file()]
        files = [(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats]
        text = json.dumps([__version__, torch.__version__, str(base.resolve()), files, *depends])
        return cls(hashlib.sha256(text.encode()).hexdigest()[:32], width)

    @property
    def folder(self) -> Path:
        return user_cache() / "rows"

    @property
    def record(self) -> np.dtype[np.void]:
        return np.dtype([("number", "<i8"), ("row", "<f4", (self.width,)), ("check", "<u4")])

    def rows(self) -> dict[int, torch.Tensor]:
        """Return the rows that earlier runs finished, by their numbers; what was written by half doesn't count."""
        records = (record for path in self._files() for record in np.fromfile(path, self.record))
        return {
            int(record["number"]): torch.from_numpy(record["row"].copy())
            for record in records
            if record["check"] == _crc(record)
        }

    def keep(self, number: int, row: torch.Tensor) -> None:
        """Write down a row; where nothing can be written, rows are made all the same."""
        with suppress(OSError):
            self.folder.mkdir(parents=True, exist_ok=True)
            with (self.folder / f"{self.key}.{os.getpid()}").open("ab") as file:
                record = np.array((number, row.numpy(), 0), self.record)
                record["check"] = _crc(record)
                file.write(record.tobytes())

    def close(self) -> None:
        """Remove the files: all rows are made."""
        for path in self._files():
            with suppress(OSError):  # another process has it open, on Windows
                path.unlink()

    def _files(self) -> list[Path]:
        return [*self.folder.glob(f"{self.key}.*")]


def _crc(record: np.ndarray | np.void) -> int:
    return zlib.crc32(record["row"].tobytes(), int(record["number"]))
