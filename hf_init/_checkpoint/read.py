"""Reading the values of a checkpoint at given places into memory of the caller's, without a map."""

from __future__ import annotations

import os
from io import FileIO
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hf_init._checkpoint.strict import AGAIN
from hf_init._errors import CheckpointError

if TYPE_CHECKING:
    from hf_init._checkpoint.checkpoint import Checkpoint


class OpenFiles:
    """Reads bytes of checkpoints' files, one file open at a time; for one thread.

    No map: where a mapped file shrinks, or can't be read, the system ends the process; here it is an error.

    Example:
        >>> import tempfile
        >>> from hf_init._checkpoint import Checkpoint
        >>> folder = tempfile.TemporaryDirectory()
        >>> header = b'{"w": {"dtype": "U8", "shape": [3], "data_offsets": [0, 3]}}'
        >>> data = len(header).to_bytes(8, "little") + header + b"abc"
        >>> _ = (Path(folder.name) / "model.safetensors").write_bytes(data)
        >>> checkpoint, buffer = Checkpoint.open(folder.name), np.zeros(2, np.uint8)
        >>> with OpenFiles() as files:
        ...     files.choose(checkpoint, "model.safetensors")
        ...     files.fill(checkpoint.entries["w"].start + 1, buffer)
        >>> buffer.tobytes()
        b'bc'
        >>> folder.cleanup()
    """

    def __init__(self) -> None:
        self._chosen: tuple[Path, str] | None = None
        self._file: FileIO | np.ndarray | None = None

    def __enter__(self) -> OpenFiles:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        if isinstance(self._file, FileIO):
            self._file.close()
        self._chosen = self._file = None

    def choose(self, checkpoint: Checkpoint, shard: str) -> None:
        """Open a file of a checkpoint, unless it is the one that is open.

        Raises:
            CheckpointError: it can't be opened, it has another size than when its header was read, or only its header
                was ever here.
        """
        if self._chosen == (checkpoint.root, shard):
            return
        self.close()
        read = checkpoint.in_pieces.get(shard)
        if read is not None:
            self._file = read()
        else:
            path = checkpoint.local(shard)
            try:
                file = FileIO(path)
            except OSError as error:
                raise CheckpointError(f"{path} can't be read: {error.strerror}. Check its permissions.") from None
            size, expected = os.fstat(file.fileno()).st_size, checkpoint.by_shard[shard].size
            if size != expected:
                file.close()
                raise CheckpointError(f"{path} has changed since it was opened: {size} bytes, expected {expected}.")
            self._file = file
        self._chosen = (checkpoint.root, shard)

    def fill(self, start: int, buffer: np.ndarray) -> None:
        """Fill a contiguous array of bytes with those of the chosen file from byte ``start`` on.

        Raises:
            CheckpointError: the file can't be read there, or ends before.
        """
        if self._file is None or self._chosen is None:
            raise ValueError("no file is chosen")
        if isinstance(self._file, np.ndarray):
            buffer[:] = self._file[start : start + len(buffer)]
            return
        path, view, done = self._chosen[0] / self._chosen[1], memoryview(buffer.data), 0
        try:
            self._file.seek(start)
            while done < len(view):
                nbytes = self._file.readinto(view[done:])
                if not nbytes:
                    break
                done += nbytes
        except OSError as error:
            raise CheckpointError(
                f"{path} can't be read at byte {start + done}: {error.strerror}. Check the disk; {AGAIN.lower()}"
            ) from None
        if done < len(view):
            raise CheckpointError(
                f"{path} has changed while it was read: it ends at byte {start + done}, "
                f"expected at least {start + len(view)}. {AGAIN}"
            )
