"""Files that change or fail while they are read, and that few are open."""

from __future__ import annotations

import errno
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from made_results import INDEX, SINGLE, F, base_tensors, floats, manifest_of, places, write
from made_results import made as made

import hf_init
from hf_init import HfInitError

# Files that change or fail while they are read.


def reading(monkeypatch: pytest.MonkeyPatch, after: int, do: Callable[[], object]) -> None:
    """Do something once a file's values are read for the so-manieth time."""
    left = iter(range(after))

    class Watched(io.FileIO):
        def readinto(self, buffer: Any) -> int:
            if next(left, None) is None:
                do()
            return super().readinto(buffer)

    monkeypatch.setattr("hf_init._checkpoint.read.FileIO", Watched)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0})  # another thread would open the file again


def test_a_file_that_shrinks_while_it_is_read_and_a_read_error_half_way(made, monkeypatch):
    base, out = made
    reading(
        monkeypatch,
        0,
        lambda: os.truncate(
            base / SINGLE, places(base)["embed"].start + 20 if (base / SINGLE).stat().st_size > 400 else 400
        ),
    )
    with pytest.raises(HfInitError, match=rf"{base / SINGLE} has changed (while it was read: it ends at byte|since)"):
        hf_init.verify(out)
    write(base, base_tensors())

    def fail() -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    reading(monkeypatch, 1, fail)
    with pytest.raises(HfInitError, match=rf"{SINGLE} can't be read at byte \d+: Input/output error"):
        hf_init.verify(out)


def test_bytes_that_differ_once_and_then_no_more_are_no_proof(made, monkeypatch):
    seen: list[int] = []

    def once(left: np.ndarray, right: np.ndarray) -> bool:
        seen.append(len(left))
        return len(seen) > 1

    monkeypatch.setattr("hf_init._verify.ranges.same_bytes", once)
    with pytest.raises(HfInitError, match="no longer when they were read again") as caught:
        hf_init.verify(made[1])
    assert str(made[1]) in str(caught.value)


def test_a_failure_in_one_thread_ends_the_others(made):
    def failing(nbytes: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        hf_init.verify(made[1], progress=failing)


FEW_FILES = """
import resource, sys
import hf_init
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
assert hf_init.verify(sys.argv[1]).ok and hf_init.diff(sys.argv[1], sys.argv[1]).identical
assert not {"torch", "transformers", "safetensors"} & set(sys.modules)
"""


@pytest.mark.slow
def test_open_files_stay_few_and_the_proof_needs_neither_torch_nor_transformers(tmp_path):
    """More shards than a process may have files open."""
    base, index, entries = tmp_path / "base", {}, []
    for number in range(700):
        write(base, {f"w{number}": floats(100)}, f"model-{number:05d}.safetensors")
        index[f"w{number}"] = f"model-{number:05d}.safetensors"
        entries.append({"name": f"w{number}", "status": "kept", "shape": [100], "source": f"w{number}", **F})
    (base / INDEX).write_text(json.dumps({"weight_map": index}))
    manifest_of(base, base, entries, {})
    subprocess.run([sys.executable, "-c", FEW_FILES, str(base)], check=True)
