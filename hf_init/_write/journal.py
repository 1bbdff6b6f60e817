"""What an interrupted run had finished: one line a file, beside the files, for a later run of the same job."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from hf_init._checkpoint import Checkpoint
from hf_init._plan import Plan
from hf_init._text import format_count
from hf_init._version import __version__
from hf_init._write.files import OutputFile
from hf_init._write.filling import Digests
from hf_init._write.source_watch import SourceState
from hf_init._write.stage import WORK


def job_of(plan: Plan, files: Sequence[OutputFile], source: Checkpoint, state: SourceState, identity: str) -> str:
    """Return the SHA-256 over all that decides a byte of the files: a run of the same job would write the same."""
    parts = [
        plan.to_json(),
        [(file.name, file.carried) for file in files],
        source.fingerprint(),
        {str(path): state for path, state in state.items()},
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
        """Note that a file is whole."""
        self._append({"file": file.name, "digests": dict(digests)})

    def begin(self, job: str) -> None:
        self.path.write_text("")
        self._append({"job": job})

    def _append(self, line: dict[str, object]) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write("\n" + json.dumps(line))  # first the break: the last line may have been cut off half way


def open_journal(path: Path, folder: Path, job: str, resume: bool, log: Callable[[str], object]) -> Journal:
    """Open the journal of a job, and remove what lies in the folder and isn't of this job.

    Args:
        path: of the journal.
        folder: with the files that it is about.
        resume: whether to go on with what is there; ``log`` is called with what comes of it.
    """
    lines = list(_journal_lines(path)) if resume else []
    known = bool(lines) and lines[0].get("job") == job
    journal = Journal(path)
    for line in lines[1:] if known else ():
        file, digests = line.get("file"), line.get("digests")
        if isinstance(file, str) and isinstance(digests, dict):
            journal.finished[file] = digests
    for left in folder.iterdir():
        if left.name in journal.finished or left.name == WORK:
            continue
        if left.is_dir() and not left.is_symlink():
            shutil.rmtree(left)
        else:
            left.unlink()
    if not known:
        journal.begin(job)
    if resume and known:
        number = format_count(len(journal.finished))
        log(f"resumed: {number} files are there from the interrupted run; each is checked")
    elif resume and lines:
        log("not resumed: the interrupted run was of another plan, base or version; everything is written afresh")
    elif resume:
        log("nothing to resume: no interrupted run is there; everything is written afresh")
    return journal


def _journal_lines(path: Path) -> Iterator[dict[str, object]]:
    """Yield the lines that can be read: the last one may be half."""
    if not path.is_file():
        return
    for text in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            line = json.loads(text)
        except ValueError:
            continue
        if isinstance(line, dict):
            yield line
