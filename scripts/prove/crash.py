"""Runs of hf-init extend that are killed, run out of space, or lose their source: is anything lost or half there?

Each run is a process of its own, on a tiny Llama in several files whose vocabulary grows. It is

- killed (SIGKILL) at a random instant: every other one at any time, the rest while the result is written;
- or run on a filesystem (tmpfs, or with a limit on the size of a file where that can't be mounted) of random size;
- or its source changes under it: a file is cut, overwritten, replaced or removed.

One kill in ten is of the command itself, at any time from the interpreter's start on. The others are of the command in
a process that has the libraries loaded already: nearly all of a run's time is their loading, in which nothing happens.

After each the result must be absent, or complete by `verify`, or, where it is written in place, known as unfinished;
the source must be as it was; and the next run must sweep up what this one left. Exits 1 where that isn't so.

    python scripts/prove/crash.py [--kills 300] [--full 50] [--changed 20] [--seed 0]
"""

from __future__ import annotations

import argparse
import importlib
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from hf_init._errors import CheckpointError
from hf_init._verify.verify import verify_result

WAYS = {"copy": [], "hard": ["--link", "hard"], "in place": ["--no-rename"], "resumed": ["--resume"]}
GROWN = ["--config", "vocab_size=120", "--keep", "*embed_tokens.weight=leading", "--rules", "*embed*=normal(std=0.02)"]
ENVIRONMENT = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
LOADED = ("transformers.models.llama.modeling_llama", "hf_init.cli", "hf_init._load.recompute", "hf_init._write")
TOLD = "hf-init: "
NOTES = ("nothing to resume: ", "not resumed: ", "resumed: ")  # said of a run that may well succeed

BASE = """
import sys, torch, transformers
transformers.utils.logging.disable_progress_bar()
torch.manual_seed(0)
config = transformers.LlamaConfig(
    vocab_size=96, hidden_size=64, intermediate_size=128, num_hidden_layers=4, num_attention_heads=4,
    num_key_value_heads=2, tie_word_embeddings=True,
)
transformers.LlamaForCausalLM(config).save_pretrained(sys.argv[1], max_shard_size="100KB")
"""

Table: TypeAlias = "Counter[tuple[str, str, str]]"


class Wrong(Exception):
    """A promise that didn't hold."""


@dataclass
class Job:
    """What the runs have in common: the seconds of an undisturbed one, without and with its imports, among it."""

    base: Path
    folder: Path
    whole: float
    whole_fresh: float
    chance: random.Random
    table: Table


class Run:
    """A process that runs the command."""

    def __init__(self, base: Path, out: Path, way: str, limit: int | None = None, fresh: bool = False) -> None:
        argv = ["extend", str(base), str(out), *GROWN, *WAYS[way]]
        self._said = os.memfd_create("said")
        self._code: int | None = None
        self.pid = self._spawned(argv) if fresh else self._forked(argv, limit)

    def _spawned(self, argv: list[str]) -> int:
        command = [sys.executable, "-m", "hf_init", *argv]
        actions = [(os.POSIX_SPAWN_DUP2, self._said, 2), (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)]
        return os.posix_spawn(sys.executable, command, ENVIRONMENT, file_actions=actions)

    def _forked(self, argv: list[str], limit: int | None) -> int:
        pid = os.fork()
        if pid:
            return pid
        code = 3
        try:
            os.dup2(self._said, 2)
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            if limit is not None:
                resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
            code = importlib.import_module("hf_init.cli").main(argv)
        finally:
            sys.stderr.flush()
            os._exit(code)

    @property
    def ended(self) -> bool:
        if self._code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self._code = os.waitstatus_to_exitcode(status) if pid else None
        return self._code is not None

    def kill(self) -> None:
        if not self.ended:
            os.kill(self.pid, signal.SIGKILL)

    def wait(self) -> tuple[int, str]:
        """The exit status (of a killed one -9) and what it said."""
        if self._code is None:
            self._code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        said = os.pread(self._said, 1 << 20, 0).decode()
        os.close(self._said)
        return self._code, said


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def state(out: Path, base: Path) -> str:
    """What is at OUT, by what the next verify says of it."""
    if not out.exists():
        return "absent"
    unfinished = (out / ".hf_init" / "hf_init.lock").exists()
    try:
        complete = verify_result(out, base).ok
    except CheckpointError:
        complete = False
    if not complete and not unfinished:
        raise Wrong(f"{out} is there, isn't complete, and nothing says that it is unfinished")
    return "unfinished, known as such" if unfinished else "complete"


def left(out: Path) -> str:
    """What is beside OUT."""
    beside = sorted(path.name for path in out.parent.iterdir() if path != out)
    if beside and beside != [f".{out.name}.hf_init"]:
        raise Wrong(f"beside {out} there is {beside}")
    return "its temporary folder" if beside else "nothing"


def note(job: Job, what: str, before: dict[str, bytes], out: Path) -> None:
    found = state(out, job.base)
    job.table[what, found, left(out)] += 1
    if snapshot(job.base) != before:
        raise Wrong(f"the source has changed: {job.base}")
    if found == "complete":
        shutil.rmtree(out)


def duration(base: Path, folder: Path, fresh: bool) -> float:
    """Of a run that nobody disturbs: the median of three."""
    took = []
    for k in range(3):
        begun = time.perf_counter()
        code, said = Run(base, folder / f"undisturbed-{k}-{fresh}", "copy", fresh=fresh).wait()
        if code:
            raise Wrong(f"an undisturbed run fails: {said}")
        took.append(time.perf_counter() - begun)
    return sorted(took)[1]


def works(out: Path) -> list[Path]:
    return [out.parent / f".{out.name}.hf_init", out / ".hf_init"]


def wait_for_writing(run: Run, out: Path) -> None:
    """Until the run has made its temporary folder, or ended."""
    while not run.ended and not any(map(os.path.isdir, works(out))):
        time.sleep(0.0002)


def kills(many: int, job: Job) -> None:
    before = snapshot(job.base)
    for k in range(many):
        way, fresh, anywhere = list(WAYS)[k % len(WAYS)], k % 10 == 0, k // len(WAYS) % 2 == 0
        out = job.folder / f"killed, {way}" / "out"
        out.parent.mkdir(exist_ok=True)
        run = Run(job.base, out, way, fresh=fresh)
        if anywhere or fresh:
            time.sleep(job.chance.uniform(0, 1.1 * (job.whole_fresh if fresh else job.whole)))
        else:
            wait_for_writing(run, out)
            time.sleep(job.whole * job.chance.random() ** 2)
        run.kill()
        code, said = run.wait()
        if code not in (0, -signal.SIGKILL):
            raise Wrong(f"a run ended with {code} before it was killed: {said}")
        when = "from its start" if fresh else "any time" if anywhere else "while writing"
        note(job, f"{'had ended' if code == 0 else 'killed'}, {when}, {way}", before, out)
        progress("kills", k + 1, many)
    for way in WAYS:  # what the last of each way left
        if (job.folder / f"killed, {way}").exists():
            sweeps_up(job.base, job.folder / f"killed, {way}" / "out", way)


def sweeps_up(base: Path, out: Path, way: str) -> None:
    code, said = Run(base, out, way).wait()
    if code or state(out, base) != "complete" or left(out) != "nothing":
        raise Wrong(f"the next run doesn't sweep up: {said}")


def complains(said: str) -> bool:
    """Whether an error was told, besides what became of a run to be resumed."""
    return any(not told.startswith(NOTES) for told in said.split(TOLD)[1:])


def full(many: int, job: Job) -> None:
    before = snapshot(job.base)
    needed = sum(map(len, before.values()))
    for k in range(many):
        way = ("copy", "in place", "resumed")[k % 3]
        tight = k % 2 == 0  # enough for the files that are counted before, not for the rest
        room = int(needed * (job.chance.uniform(0.98, 1.08) if tight else job.chance.uniform(0.05, 1.6)))
        with small(job.folder / f"full-{k}", room) as (place, limit):
            out = place / "out"
            code, said = Run(job.base, out, way, limit).wait()
            if code not in (0, 2) or (code == 2) != complains(said) or "Traceback" in said:
                raise Wrong(f"no space, exit {code}: {said}")
            if code == 2 and way != "resumed" and left(out) != "nothing":
                raise Wrong(f"no space, and its temporary folder is left: {said}")
            told = "had room" if code == 0 else "refused before" if "no space for" in said else "said half way"
            note(job, f"no space ({'tmpfs' if limit is None else 'file size'}), {told}, {way}", before, out)
        progress("full", k + 1, many)


@contextmanager
def small(place: Path, room: int) -> Iterator[tuple[Path, int | None]]:
    """A folder with so much room; where nothing can be mounted, the size that a file may have instead."""
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={max(room // 4096, 1) * 4096}", "tmpfs", str(place)]
    mounted = subprocess.run(command, stderr=subprocess.DEVNULL).returncode == 0
    try:
        yield place, None if mounted else room // 8
    finally:
        if mounted:
            subprocess.run(["umount", str(place)], check=True)


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def overwrite(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        last = file.read(1)[0]
        file.seek(-1, os.SEEK_END)
        file.write(bytes([last ^ 1]))


def replace(path: Path) -> None:
    data = path.read_bytes()
    path.unlink()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))


CHANGES: tuple[Callable[[Path], None], ...] = (cut, overwrite, replace, Path.unlink)


def changed(many: int, job: Job) -> None:
    for k in range(many):
        place = job.folder / f"changed-{k}"
        shutil.copytree(job.base, place / "base")
        (place / "to").mkdir()
        out = place / "to" / "out"
        change = CHANGES[k % len(CHANGES)]
        run = Run(place / "base", out, "copy")
        if k // len(CHANGES) % 2:
            time.sleep(job.chance.uniform(0, job.whole))
        else:
            wait_for_writing(run, out)
            time.sleep(0.2 * job.whole * job.chance.random() ** 2)
        change(job.chance.choice(sorted((place / "base").glob("*.safetensors"))))
        code, said = run.wait()
        if code not in (0, 2) or (code == 2) != complains(said) or "Traceback" in said:
            raise Wrong(f"a source that changed, exit {code}: {said}")
        if out.exists() != (code == 0):
            raise Wrong(f"a source that changed, exit {code}, and OUT {'is' if out.exists() else 'is not'} there")
        told = "made before or after" if code == 0 else "refused"
        job.table[f"source {change.__name__}, {told}", either(out, job.base, place / "base"), left(out)] += 1
        shutil.rmtree(place)
        progress("changed", k + 1, many)


def either(out: Path, *bases: Path) -> str:
    """Complete by the source as it was, or as it is: what was read before or after the change."""
    wrongs = []
    for base in bases:
        try:
            return state(out, base)
        except Wrong as wrong:
            wrongs.append(wrong)
    raise wrongs[0]


def progress(what: str, done: int, many: int) -> None:
    print(f"\r{what} {done}/{many} ", end="\n" if done == many else "", file=sys.stderr, flush=True)


def perform(job: Job, args: argparse.Namespace) -> str | None:
    """Everything; what went wrong, if anything did."""
    try:
        kills(args.kills, job)
        full(args.full, job)
        changed(args.changed, job)
    except Wrong as wrong:
        return str(wrong)
    return None


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    for name, default in (("kills", 300), ("full", 50), ("changed", 20), ("seed", 0)):
        parser.add_argument(f"--{name}", type=int, default=default)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="hf_init-crash-") as name:
        folder = Path(name)
        base = folder / "base"
        subprocess.run([sys.executable, "-c", BASE, str(base)], env=ENVIRONMENT, check=True)
        os.environ.update(ENVIRONMENT)
        for module in LOADED:  # once, before any thread is there: the runs are forks of this process
            importlib.import_module(module)
        whole, fresh = duration(base, folder, False), duration(base, folder, True)
        print(f"an undisturbed run takes {whole:.2f} s, with its imports {fresh:.2f} s", flush=True)
        job = Job(base, folder, whole, fresh, random.Random(args.seed), Counter())
        wrong = perform(job, args)
    width = max(len(what) for what, *_ in job.table)
    print(f"{'runs':>5}  {'how they ended':{width}}  {'OUT':26}  beside it")
    for (what, found, beside), many in sorted(job.table.items()):
        print(f"{many:5}  {what:{width}}  {found:26}  {beside}")
    print(f"{sum(job.table.values())} runs, seed {args.seed}: {wrong or 'nothing lost, nothing half there'}")
    return 0 if wrong is None else 1


if __name__ == "__main__":
    raise SystemExit(main())
