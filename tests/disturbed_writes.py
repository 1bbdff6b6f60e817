"""What disturbs the writing of a result: a call of the system that fails or kills, and what was written then."""

from __future__ import annotations

import errno
import fcntl
import io
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from small_model import contents, extend_small, small_base

NBYTES = 4 * (1600 + 28 + 3 + 9 + 12)
FULL, INTERRUPT = OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()
CALLS = {
    "open": os, "pwrite": os, "fsync": os, "mkdir": os, "rename": os, "copy_file_range": os, "io.open": io,
    "ftruncate": os, "flock": fcntl, "ioctl": fcntl, "unlink": os, "rmdir": os,
}  # fmt: skip
"""What the writing asks of the system: its functions, and where they are."""


def written(folder: Path) -> dict[str, bytes]:
    """The bytes of a result, and for its manifest's path to the base, which begins at the result: where that leads."""
    found = contents(folder)
    path = json.loads(found["hf_init.json"])["base"]["path"]
    leads = os.path.normpath(folder.resolve() / path)
    return {**found, "hf_init.json": found["hf_init.json"].replace(f'"path": "{path}"'.encode(), leads.encode(), 1)}


@contextmanager
def disturbed(call: str, number: int, do: Callable[[], object], file: str = "") -> Iterator[list[object]]:
    """Do something before a call's so-manieth time, of those with this file; gives the calls."""
    home, name = CALLS[call], call.removeprefix("io.")
    real, seen = getattr(home, name), list[object]()

    def instead(*args: Any, **options: Any) -> Any:
        if str(args[0]).endswith(file):
            seen.append(args)
            if len(seen) == number:
                do()
        return real(*args, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "cpu_count", lambda: 1)
        patch.setattr(home, name, instead)
        yield seen


def throwing(error: BaseException) -> Callable[[], None]:
    def throw() -> None:
        raise error

    return throw


@pytest.fixture
def base(tmp_path) -> Path:
    return small_base(tmp_path / "base")


@pytest.fixture
def fresh(base, tmp_path_factory) -> dict[str, bytes]:
    """What an undisturbed run makes, in another place."""
    extend_small(base, out := tmp_path_factory.mktemp("fresh") / "out")
    return written(out)
