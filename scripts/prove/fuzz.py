#!/usr/bin/env python
"""Damaged files of every kind that hf_init reads: each must be read, or refused by hf_init's own error, and no more.

    scripts/prove/fuzz.py                              100,000 headers, and less of the slower kinds
    scripts/prove/fuzz.py header index --cases 20000   these
    scripts/prove/fuzz.py header --engine hypothesis   documents made up by Hypothesis instead of good ones damaged
    scripts/prove/fuzz.py header --engine atheris      guided by coverage (pip install atheris)

A case is a failure when it ends in another error, opens a file outside its folder, takes more memory than its files
are large, takes more than 20 seconds of the processor, or ends the process. Ends with 1 after a failure, and says where
the file is.
"""

from __future__ import annotations

import argparse
import os
import resource
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from itertools import count
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_VERBOSITY="error", HF_HUB_DISABLE_PROGRESS_BARS="1")
sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parents[2])]

if TYPE_CHECKING:
    from _fuzz_targets import Target, Watch

CASES = {"header": 100_000, "index": 20_000, "manifest": 20_000, "plan": 20_000, "recipe": 20_000, "config": 2_000}
MEASURED = 20  # every so many cases' memory is measured
SLOW = 20  # seconds
MEMORY = 2 << 30  # of address space beyond what is taken at the start: what asks for more fails

Try = Callable[[bytes], str]


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns 1 if anything is wrong."""
    args = _parser().parse_args(arguments)
    if unknown := set(args.targets) - set(CASES):
        raise SystemExit(f"{', '.join(sorted(unknown))}: expected some of {', '.join(CASES)}")
    engine = {"own": own, "hypothesis": by_hypothesis, "atheris": by_atheris}[args.engine]
    if args.engine == "atheris":
        instrumented()
    from _fuzz_targets import TARGETS, Watch

    watch = Watch()
    failures = [run(TARGETS[name](), args.cases or CASES[name], args.seed, engine, watch) for name in args.targets]
    return 1 if any(failures) else 0


def run(target: Target, cases: int, seed: int, engine: Callable[[Target, int, int, Try], None], watch: Watch) -> bool:
    """Cases of one kind, in a folder of their own; whether one was wrong. Prints a line."""
    from _fuzz_targets import Wrong, trial

    counts: Counter[str] = Counter()

    def attempt(data: bytes) -> str:
        last.write_bytes(data)
        with within(SLOW):
            outcome = trial(target, folder, data, watch, sum(counts.values()) % MEASURED == MEASURED - 1)
        counts[outcome] += 1
        return outcome

    start = time.perf_counter()
    with tempfile.TemporaryDirectory(dir=_memory_folder()) as place:
        folder, last = Path(place) / "folder", Path(_memory_folder()) / f"hf_init-fuzz-{target.name}"
        target.prepare(folder)
        if attempt(target.good) != "read":
            raise SystemExit(f"{target.name}: the good file is refused")
        try:
            with limited():
                engine(target, cases, seed, attempt)
        except Wrong as wrong:
            print(f"{target.name}: after {sum(counts.values())} cases: {wrong}\n  the last file is {last}", flush=True)
            return True
    last.unlink()
    said = ", ".join(f"{many} {outcome}" for outcome, many in sorted(counts.items()))
    print(f"{target.name}: {sum(counts.values())} cases, {said}, {time.perf_counter() - start:.0f} s", flush=True)
    return False


def own(target: Target, cases: int, seed: int, attempt: Try) -> None:
    """Good files, damaged: in structure, text and bytes. Goes on after what is wrong, and tells each kind once."""
    from _fuzz_mutate import damaged
    from _fuzz_targets import Wrong

    random, found = Random(f"{seed} {target.name}"), dict[str, Wrong]()
    for number in range(cases):
        data = damaged(random, target.good, target.framed)
        try:
            attempt(data)
        except Wrong as wrong:
            if found.setdefault(str(wrong)[:60], wrong) is wrong:
                place = Path(_memory_folder()) / f"hf_init-fuzz-{target.name}-{number}"
                place.write_bytes(data)
                print(f"{target.name}: case {number}: {wrong}\n  the file is {place}", flush=True)
    for wrong in found.values():
        raise wrong


def by_hypothesis(target: Target, cases: int, seed: int, attempt: Try) -> None:
    """Documents that Hypothesis makes up from the words and numbers of a good one, and shrinks when one is wrong."""
    from _fuzz_strategies import files
    from hypothesis import HealthCheck, Phase, given, settings
    from hypothesis import seed as seeded

    @seeded(seed)
    @settings(
        max_examples=cases,
        deadline=None,
        database=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large],
        phases=[Phase.generate, Phase.shrink],
    )
    @given(files(target.good, target.framed))
    def check(data: bytes) -> None:
        attempt(data)

    check()


def instrumented() -> None:
    """Imports what is fuzzed so that atheris sees which branches are taken."""
    with import_module("atheris").instrument_imports(include=["hf_init"]):
        import _fuzz_targets  # noqa: F401  # for what it imports


def by_atheris(target: Target, cases: int, seed: int, attempt: Try) -> None:
    """Damage chosen by which branches it reaches; libFuzzer ends the process after the last case, or a wrong one."""
    from _fuzz_mutate import damaged

    atheris = import_module("atheris")

    def mutated(data: bytes, size: int, number: int) -> bytes:
        return damaged(Random(number), data or target.good, target.framed)[:size]

    numbers = count(1)

    def once(data: bytes) -> None:
        attempt(data)
        if next(numbers) == cases:
            print(f"{target.name}: {cases} cases by atheris, none wrong", flush=True)

    with tempfile.TemporaryDirectory() as corpus:
        (Path(corpus) / "good").write_bytes(target.good)
        flags = [
            f"-runs={cases}",
            f"-seed={seed + 1}",
            "-max_len=20000",
            "-verbosity=0",
            "-rss_limit_mb=0",
            f"-artifact_prefix={_memory_folder()}/hf_init-fuzz-",
        ]
        atheris.Setup([sys.argv[0], *flags, corpus], once, custom_mutator=mutated)
        atheris.Fuzz()


@contextmanager
def within(seconds: int) -> Iterator[None]:
    """Raises Wrong in what takes more of the processor."""
    from _fuzz_targets import Wrong

    def late(*_: object) -> None:
        raise Wrong(f"it takes more than {seconds} seconds")

    signal.signal(signal.SIGPROF, late)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


class limited:
    """While it lasts, no more address space than a little more than is taken: what asks for more gets MemoryError."""

    def __enter__(self) -> None:
        self._before = resource.getrlimit(resource.RLIMIT_AS)
        pages = int(Path("/proc/self/statm").read_text().split()[0]) if Path("/proc/self/statm").exists() else 0
        if pages:
            resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + MEMORY, self._before[1]))

    def __exit__(self, *_: object) -> None:
        resource.setrlimit(resource.RLIMIT_AS, self._before)


def _memory_folder() -> str:
    """A folder in memory, where the system has one: a case is a file."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else tempfile.gettempdir()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("targets", nargs="*", default=list(CASES), metavar="KIND", help=", ".join(CASES))
    parser.add_argument("--engine", choices=("own", "hypothesis", "atheris"), default="own")
    parser.add_argument("--cases", type=int, help="of each kind")
    parser.add_argument("--seed", type=int, default=0)
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
