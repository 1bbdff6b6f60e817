"""Runs that are killed (SIGKILL) at chosen instants; a program, since the killed must not be the tests themselves.

    python write_killed.py FOLDER

writes each to FOLDER/INSTANT/out, from FOLDER/base. It loads everything once and forks: a run costs no imports.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from write_checks import Checkpoint, extend, grown, kept, new, plan_of

from hf_init._plan import manifest as _manifest
from hf_init._write import lock as _lock
from hf_init._write import stage as _stage
from hf_init._write import writing as _writing

Patch = tuple[Any, str]

BEFORE: dict[str, Patch] = {
    "before its lock": (_lock, "_open_lock"),
    "before a file": (_writing, "fill_kept"),
    "before what is new": (_writing, "fill_new"),
    "before the manifest": (_manifest.Manifest, "save"),
    "before the name": (_stage, "_take_name"),
    "before the end": (_stage, "discard"),
}
AFTER: dict[str, Patch] = {
    "after its lock": (_lock, "_flock"),
    "after two files": (_writing.Journal, "add"),
    "after the manifest": (_manifest.Manifest, "save"),
    "after the name": (_stage, "_take_name"),
}
COMPLETE = ("before the end", "after the name")
"""Where the result is there already. In place, the end is when it becomes one."""


def plan_for(source: Checkpoint) -> Any:
    return plan_of(
        kept(source, "a"), grown(source, "b", 2), kept(source, "c"), kept(source, "e", "d"), new("head", 3, 3)
    )


def killing(do: Callable[..., Any], after: bool, calls: int) -> Callable[..., Any]:
    """The function, with a kill before or after its so-manieth call."""
    seen = []

    def call(*args: Any, **options: Any) -> Any:
        seen.append(args)
        if not after and len(seen) == calls:
            os.kill(os.getpid(), signal.SIGKILL)
        result = do(*args, **options)
        if after and len(seen) == calls:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    return call


def run(folder: Path, instant: str, rename: bool) -> None:
    module, name = {**BEFORE, **AFTER}[instant]
    place = folder / (instant if rename else f"{instant}, in place")
    place.mkdir()
    setattr(module, name, killing(getattr(module, name), instant in AFTER, 2 if "two" in instant else 1))
    source = Checkpoint.open(folder / "base")
    extend(source, place / "out", plan_for(source), rename=rename)


def main() -> None:
    folder = Path(sys.argv[1])
    for instant in (*BEFORE, *AFTER):
        for rename in (True, False):
            child = os.fork()
            if not child:
                run(folder, instant, rename)
                os._exit(0)
            print(instant, rename, os.waitpid(child, 0)[1], sep="\t")


if __name__ == "__main__":
    main()
