"""What an interrupted run had finished: one line a file, beside the files, for a later run of the same job."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from hf_init._checkpoint import Checkpoint
from hf_init._plan import Plan
from hf_init._text import format_count
from hf_init._version import __version__
from hf_init._write.files import OutputFile
from hf_init._write.filling import Digests
from hf_init._write.source_watch import SourceState
from hf_init._write.stage import WORK


def job_of(plan: Plan, files: Sequence[OutputFile], source: Checkpoint, seen: SourceState, identity: str) -> str:
    """SHA-256 over all that decides a byte of the files: a run of the same job would write the same."""
    parts = [
        plan.to_json(),
        [(file.name, file.carried) for file in files],
        source.fingerprint(),
        {str(path): state for path, state in seen.items()},
        identity,
        (__version__, torch.__version__),
    ]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


@dataclass
class Journal:
    """The journal of one job; ``finished`` is what an earlier run of it says it had done: to be checked."""

    path: Path
    finished: dict[str, Digests] = field(default_factory=dict)

    def add(self, file: OutputFile, digests: Digests) -> None:
        """Notes that a file is whole."""
        self._append({"file": file.name, "digests": dict(digests)})

    def begin(self, job: str) -> None:
        self.path.write_text("")
        self._append({"job": job})

    def _append(self, line: dict[str, Any]) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write("\n" + json.dumps(line))  # first the break: the last line may have been cut off half way


def open_journal(path: Path, folder: Path, job: str, resume: bool, log: Callable[[str], object]) -> Journal:
    """The journal of a job; what lies in the folder and isn't of this job goes.

    Args:
        path: of the journal.
        folder: of the files that it tells of.
        resume: whether to go on with what is there; ``log`` is called with what comes of it.
    """
    lines = list(_lines(path)) if resume else []
    known = bool(lines) and lines[0].get("job") == job
    finished = {line["file"]: line["digests"] for line in lines[1:] if _is_note(line)} if known else {}
    _clear(folder, keep=finished)
    journal = Journal(path, finished)
    if not known:
        journal.begin(job)
    if resume:
        log(_outcome(lines, known, finished))
    return journal


def _outcome(lines: list[Any], known: bool, finished: dict[str, Digests]) -> str:
    if known:
        return f"resumed: {format_count(len(finished))} files are there from the interrupted run; each is checked"
    if lines:
        return "not resumed: the interrupted run was of another plan, base or version; everything is written afresh"
    return "nothing to resume: no interrupted run is there; everything is written afresh"


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    """The lines that can be read: the last one may be half."""
    if not path.is_file():
        return
    for text in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            line = json.loads(text)
        except ValueError:
            continue
        if isinstance(line, dict):
            yield line


def _is_note(line: dict[str, Any]) -> bool:
    return isinstance(line.get("file"), str) and isinstance(line.get("digests"), dict)


def _clear(folder: Path, keep: dict[str, Digests]) -> None:
    for path in folder.iterdir():
        if path.name in keep or path.name == WORK:
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            os.unlink(path)
