#!/usr/bin/env python
"""Transformers' own tests of making, loading and saving models: of its classes as they are, and through the mixin.

    scripts/prove/library_tests.py               every model type, on from where the results file ends (hours)
    scripts/prove/library_tests.py bert gpt2     these, anew
    scripts/prove/library_tests.py --part 4           a fixed quarter of them
    scripts/prove/library_tests.py --table            the table of what is in the results file

The tests come from the source distribution of the transformers that is installed here, by pip. A test that passes plain
passes through the mixin, or fails as ``REASONS`` says. Exits 1 where one doesn't, and where a reason is no longer any.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tarfile
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import sweep
import transformers

REASONS = (
    (
        "test_cannot_load_with_meta_device_context_manager",
        r"the default device is meta .*, where a model has no values",
        "refused as plain transformers refuses it; the test asks for that one's type and words",
    ),
    (
        "test_model_weights_reload_no_missing_tied_weights",
        r"they belong to different models; give the class and the config",
        "the test empties the checkpoint, and plain transformers draws the whole model at random with a warning",
    ),
    (
        "test_can_load_ignoring_mismatched_shapes",
        r"which row is whose would be guessed",
        "42 labels without names for a head trained on 3: which row is whose is asked, not discarded",
    ),
    (
        "test_base_model_prefix_loads_base_weights",
        r"has no place for .* tensors of the checkpoint: .* or say that they go",
        "a head without the base model's pooler: what goes is to be said (drop)",
    ),
    (
        "test_init_weights_can_init_buffers",
        r"gives it no value, neither in its constructor nor in `_init_weights`",
        "the test takes `_init_weights` away; what then has no value is refused, and not left uninitialised",
    ),
)
"""A test, a pattern of what it says through the mixin, and why that is as it must be."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns 1 if a test fails without a reason, or a reason is stale."""
    args = _parser().parse_args(arguments)
    sys.path[:0] = map(str, library_tests(args.cache))
    from _library_suite import common_tests
    from _sweep_pairs import classes

    common_tests()  # imported once, for every process that is forked from this one
    wanted = args.types or [name for name in classes() if sweep.in_part(name, args.part)]
    done = {} if args.types else {entry["type"]: entry for entry in sweep.read(args.results)}
    if not args.table:
        for entry in sweep.run(
            [name for name in wanted if name not in done], args.workers, args.limit, "_library_suite"
        ):
            sweep.append(args.results, entry)
            done[entry["type"]] = entry
            print(sweep.line(entry), file=sys.stderr, flush=True)
    entries = [done[name] for name in wanted if name in done]
    text, wrong = table(entries, stale=not args.types and args.part == 1)
    print(text)
    return int(wrong)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("types", nargs="*", help="model types; none: all")
    parser.add_argument("--part", type=int, default=1, metavar="N", help="every N-th type, by a hash of its name")
    parser.add_argument(
        "--cache", type=Path, default=Path(tempfile.gettempdir()) / "hf_init-library-tests", help="folder"
    )
    parser.add_argument("--results", type=Path, default=Path(tempfile.gettempdir()) / "hf_init-library-tests.jsonl")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--limit", type=float, default=900.0, help="seconds that one type may take")
    parser.add_argument("--table", action="store_true", help="run nothing")
    return parser


def library_tests(cache: Path) -> tuple[Path, Path]:
    """The folder that holds ``tests`` as a package, and that of what it imports; fetched where they aren't here."""
    version, site = transformers.__version__, cache / "site"
    folder = cache / f"transformers-{version}"
    pip = [sys.executable, "-m", "pip", "-q"]
    if not (folder / "tests" / "test_modeling_common.py").is_file():
        said = ["--no-deps", "--no-binary=transformers", "--dest", str(cache), f"transformers=={version}"]
        subprocess.run([*pip, "download", *said], check=True)
        with tarfile.open(folder.with_name(f"{folder.name}.tar.gz")) as archive:
            archive.extractall(cache, filter="data")
    if not site.is_dir():
        subprocess.run([*pip, "install", "--no-deps", "--target", str(site), "parameterized"], check=True)
    return folder, site


def table(entries: Iterable[dict[str, Any]], stale: bool) -> tuple[str, bool]:
    """The counts, what fails through the mixin alone, and whether that is wrong.

    Args:
        stale: all types are in it, so that a reason that none of them has is one too many.
    """
    entries = list(entries)
    pairs = [(entry["type"], pair) for entry in entries for pair in entry["pairs"]]
    plain = Counter(pair["plain"] for _, pair in pairs)
    differing = [(name, pair) for name, pair in pairs if pair["result"] == "wrong"]
    known = Counter(reason for _, pair in differing if (reason := reason_of(pair)))
    unknown = [(name, pair) for name, pair in differing if not reason_of(pair)]
    reached = [entry for entry in entries if entry["pairs"]]
    lines = [
        f"{len(entries)} model types, {len(reached)} reached; {len(pairs)} (type, test) pairs: "
        f"{plain['right']} pass plain, {plain['fails']} fail plain, {plain['skips']} are skipped",
        f"of the {plain['right']} that pass plain: {plain['right'] - len(differing)} pass through the mixin, "
        f"{len(differing) - len(unknown)} fail for a reason, {len(unknown)} fail without one",
        *_by_test(pairs),
        *(f"reason, {many} times: {test}: {why}" for (test, _, why), many in known.items()),
    ]
    unused = [reason for reason in REASONS if stale and reason not in known]
    lines += [f"stale: {test}: {why}" for test, _, why in unused]
    lines += [f"WRONG {name} {pair['head']}: {' '.join(pair['why'].split())[-400:]}" for name, pair in unknown]
    lines += [
        f"not reached: {e['type']}: {' '.join(e['unreachable'].split())[:200]}" for e in entries if not e["pairs"]
    ]
    return "\n".join(lines), bool(unknown or unused)


def reason_of(pair: dict[str, Any]) -> tuple[str, str, str] | None:
    """The reason for which a test fails through the mixin."""
    return next(
        (each for each in REASONS if each[0] == pair["head"] and re.search(each[1], pair["why"], re.DOTALL)), None
    )


def _by_test(pairs: Iterable[tuple[str, dict[str, Any]]]) -> Iterator[str]:
    """A line for each test: how many types pass it plain, and of these through the mixin."""
    before = Counter(pair["head"] for _, pair in pairs if pair["plain"] == "right")
    after = Counter(pair["head"] for _, pair in pairs if pair["result"] == "passed")
    yield from (f"  {after[test]:4} of {many:4} {test}" for test, many in sorted(before.items()))


if __name__ == "__main__":
    sys.exit(main())
