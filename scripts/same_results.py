"""Make a fixed set of results with two checkouts of this repository, and compare all values and all bytes.

OLD and NEW are folders that hold ``hf_init/``. A process for each makes every job of ``_same_jobs.py``: heads, labels,
tokens, several heads, towers, experts, shards, every scheme, fitted heads, correspondences, loading into memory; on
tiny bases made of configs, and on MiniLM and SmolLM2 if they were fetched. Compared are, job by job, the values of the
manifest (``hf_init.json``) and of the plan, the plan as it is printed, and every byte of every other file. The name of
the folder of the results counts for nothing. What a change brings on purpose is named:

    --ignore JOB                  a job, such as 'heads taken' or 'memory, *'
    --ignore FILE                 a file of any job, such as plan.txt or '*.py', or of one job: 'towers/out/config.json'
    --ignore KEY                  a value of the manifest, such as made_by, version or 'plan.tensors.*.new.*.why'
    --ignore FILE:KEY             a value of another JSON file: plan.json:notes, config.json:auto_map

The patterns are globs. An option that was renamed belongs into ``RENAMED`` of ``_same_jobs.py``. Exits 0 where all is
the same, 1 where something else differs or a job fails, 2 for bad usage.

    git worktree add /tmp/old main && python scripts/same_results.py /tmp/old . [--ignore KEY]... [--keep FOLDER]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

SCRIPTS = Path(__file__).resolve().parent
CACHE = next(folder for folder in SCRIPTS.parents if (folder / "pyproject.toml").is_file()) / ".cache"
MANIFEST, FAILED = "hf_init.json", "failed.txt"
BY_VALUE = (MANIFEST, "plan.json")  # the layout of their text is nobody's business
BLOCK = 1 << 20
ABSENT = "absent"


@dataclass(frozen=True)
class Difference:
    """Something in a job that isn't the same: a file, or with ``key`` a value in a JSON file."""

    job: str
    file: str
    what: str
    key: str = ""

    def __str__(self) -> str:
        return f"{self.file}: {self.key + ': ' if self.key else ''}{self.what}"

    def matches(self, pattern: str) -> bool:
        name = Path(self.file).name
        names = [self.job, name, f"{self.job}/{self.file}"]
        if self.key:
            names += [f"{file}:{self.key}" for file in names[1:]] + ([self.key] if name == MANIFEST else [])
        return any(fnmatchcase(each, pattern) for each in names)


def differences(old: Path, new: Path) -> Iterator[Difference]:
    """Yield what differs between two folders of one job: for each file its first other byte, or all other values."""
    for file in sorted({*files_of(old), *files_of(new)}):
        one, other = old / file, new / file
        if not (one.exists() and other.exists()):
            side = "NEW" if other.exists() else "OLD"
            said = f": {(other if other.exists() else one).read_text('utf-8')}" if file == FAILED else ""
            yield Difference(old.name, file, f"only in {side}{said}")
        elif file == FAILED:
            yield Difference(old.name, file, f"in both: {one.read_text('utf-8')}")
        else:
            yield from (Difference(old.name, file, what, key) for key, what in _unequal(one, other))


def files_of(folder: Path) -> list[str]:
    return [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]


def _unequal(one: Path, other: Path) -> Iterator[tuple[str, str]]:
    offset = first_difference(one, other)
    if offset is None and one.name not in BY_VALUE:
        return
    unequal = list(unequal_values(_parsed(one), _parsed(other))) if one.suffix == ".json" else []
    yield from unequal
    if not unequal and one.name not in BY_VALUE:
        yield "", f"first at byte {offset}"


def _parsed(path: Path) -> Any:
    return json.loads(_plain(path))


def _plain(path: Path) -> bytes:
    """Read a file of text without the name of the folder of all results, which is another for each checkout."""
    root = next(parent for parent in path.parents if parent.name in ("old", "new"))
    return path.read_bytes().replace(os.fsencode(root), b"RESULTS")


def first_difference(one: Path, other: Path) -> int | None:
    """Return the offset of the first byte that differs, or at which one file ends."""
    if one.suffix != ".safetensors":
        return _first(_plain(one), _plain(other))
    with one.open("rb") as a, other.open("rb") as b:
        start = 0
        while (block := a.read(BLOCK)) == (more := b.read(BLOCK)) and block:
            start += len(block)
        found = _first(block, more)
        return None if found is None else start + found


def _first(a: bytes, b: bytes) -> int | None:
    if a == b:
        return None
    return next((at for at, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def unequal_values(one: Any, other: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Yield the dotted key of each value that differs, and both values."""
    if isinstance(one, dict) and isinstance(other, dict):
        for name in dict.fromkeys([*one, *other]):
            yield from unequal_values(one.get(name, ABSENT), other.get(name, ABSENT), f"{key}.{name}".lstrip("."))
    elif isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        for at, pair in enumerate(zip(one, other, strict=True)):
            yield from unequal_values(pair[0], pair[1], f"{key}.{at}".lstrip("."))
    elif type(one) is not type(other) or one != other:
        yield key, f"{_short(one)} became {_short(other)}"


def _short(value: Any) -> str:
    text = ABSENT if value is ABSENT else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 100 else f"{text[:100]}..."


def compare(old: Path, new: Path, ignore: Sequence[str] = ()) -> int:
    """Print a line for each job, what was changed on purpose, and the sum; return the exit status."""
    jobs = sorted({path.name for root in (old, new) for path in root.iterdir()})
    purposes, wrong = Counter({pattern: 0 for pattern in ignore}), 0
    for job in jobs:
        found = list(differences(old / job, new / job))
        left = [each for each in found if not any(each.matches(pattern) for pattern in ignore)]
        purposes.update(pattern for pattern in ignore for each in found if each.matches(pattern))
        wrong += bool(left)
        more = f" (and {len(left) - 1} more)" if len(left) > 1 else ""
        print(f"{job}: {f'differs: {left[0]}{more}' if left else 'same'}")
    for pattern, times in purposes.items():
        print(f"changed on purpose: {pattern}: {times} differences")
    if wrong or not jobs:
        print(f"not the same: {wrong} of {len(jobs)} jobs")
        return 1
    files = [path for path in new.rglob("*") if path.is_file()]
    print(f"the same: {len(jobs)} jobs, {len(files)} files, {sum(path.stat().st_size for path in files):,} bytes")
    return 0


def make(checkouts: dict[str, Path], root: Path) -> None:
    """Make the bases, then the results of each checkout below ``root``, side by side."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    bases = root / "bases"
    bases.mkdir()
    for name in checkouts:
        (root / name).mkdir()
    command = [sys.executable, str(SCRIPTS / "_same_bases.py"), str(bases)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"the bases can't be made:\n{done.stderr}")
    with ExitStack() as stack:
        running = {}
        for name, checkout in checkouts.items():
            command = [sys.executable, str(SCRIPTS / "_same_jobs.py"), *map(str, (checkout, root / name, bases, CACHE))]
            path = {**environment, "PYTHONPATH": str(checkout)}
            running[name] = stack.enter_context(subprocess.Popen(command, env=path))
    for name, process in running.items():
        if process.returncode:
            sys.exit(f"the process of {checkouts[name]} ended with {process.returncode}: see its message above")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("old", type=Path, metavar="OLD")
    parser.add_argument("new", type=Path, metavar="NEW")
    parser.add_argument("--ignore", action="append", default=[], metavar="KEY", help="changed on purpose; see above")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="a new folder for the results, which then stay")
    options = parser.parse_args(argv)
    checkouts = {"old": options.old.resolve(), "new": options.new.resolve()}
    for checkout in checkouts.values():
        if not (checkout / "hf_init" / "__init__.py").is_file():
            parser.error(f"{checkout} holds no hf_init/: give the folder of a checkout")
    with ExitStack() as stack:
        if options.keep is None:
            root = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="same_results-")))
        else:
            root = options.keep.resolve()
            if root.exists():
                parser.error(f"{root} is there already: give another place")
            root.mkdir(parents=True)
        make(checkouts, root)
        return compare(root / "old", root / "new", options.ignore)


if __name__ == "__main__":
    sys.exit(main())
