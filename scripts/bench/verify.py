#!/usr/bin/env python
"""hf_init's verify against cmp, cat, sha256sum and sft diff on the same files: time and memory.

Each run is a process of its own; verify, cmp and cat in turn, on warm caches, medians; the others once, for the
record. Verify is timed without its imports, which are printed beside it; the others' starts are theirs. On SmolLM2-135M
and on sharded Llamas of random bfloat16 values, of the sizes that are asked for, each with a result that keeps all of
it. Exits 1 where a target is missed.

    scripts/bench/verify.py [--sizes 0.3 1 3] [--rounds 7]       sizes in GB
    scripts/bench/verify.py --no-smollm2 --sizes 1               without the real checkpoint
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from hf_init._checkpoint import INDEX, SINGLE, Checkpoint, Origin  # noqa: E402  # the folder must be found first
from hf_init._plan import BaseRecord, Manifest, Plan, TensorPlan  # noqa: E402
from hf_init._tensors import Box, Copy, Status  # noqa: E402

SMOLLM2 = ROOT / ".cache" / "SmolLM2-135M-Instruct"
FASTER, SLOWER, MEMORY = 4, 1.5, 200  # times cmp's speed; times cat's time; MB
SHARD = 310_000_000
COMPARED = ("verify", "cmp", "cat")  # the others run once, for the record
CHILD = """
import json, sys, time
start = time.perf_counter()
from hf_init._verify import verify_result as verify
imported = time.perf_counter()
report = verify(sys.argv[1], base=False if sys.argv[2] == "digests" else None)
took = time.perf_counter() - imported
report.raise_if_failed()
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
print(json.dumps({"seconds": took, "imports": imported - start, "peak": int(status["VmHWM"].split()[0]) * 1024}))
assert not {"torch", "transformers"} & set(sys.modules)
"""

Run = Callable[[], dict[str, float]]


def main() -> int:
    args = _parser().parse_args()
    missed = []
    with tempfile.TemporaryDirectory(dir=args.place, prefix="hf_init-bench-") as place:
        for name, make in _bases(args.sizes, args.smollm2):
            base, out = Path(place) / "base", Path(place) / "out"
            make(base)
            result_of(base, out)
            missed += compare(name, base, out, args.rounds)
            shutil.rmtree(base)
            shutil.rmtree(out)
    for line in missed:
        print(f"MISSED: {line}")
    return 1 if missed else 0


def _bases(sizes: list[float], smollm2: bool) -> Iterator[tuple[str, Callable[[Path], object]]]:
    if smollm2:
        yield SMOLLM2.name, lambda folder: shutil.copytree(SMOLLM2, folder)
    for size in sizes:
        yield f"a Llama of {size:g} GB", lambda folder, size=size: llama(folder, int(size * 1e9))


def compare(name: str, base: Path, out: Path, rounds: int) -> list[str]:
    """Prints a table; returns what missed its target."""
    runs = _runs(base, out)
    for which in COMPARED:
        runs[which]()  # the files into the cache
    found: dict[str, list[dict[str, float]]] = {which: [] for which in runs}
    for number in range(rounds):
        for which, run in runs.items():
            if number == 0 or which in COMPARED:
                found[which].append(run())
    medians = {
        which: {key: statistics.median(each[key] for each in each_run) for key in each_run[0]}
        for which, each_run in found.items()
    }
    nbytes = sum((out / shard).stat().st_size for shard in Checkpoint.open(out).shards)
    print(f"{name}, {nbytes / 1e6:.0f} MB in {len(Checkpoint.open(out).shards)} files, {rounds} rounds, medians")
    for which, each in medians.items():
        more = f"  imports {each['imports']:.2f} s, peak {each['peak'] / 1e6:.0f} MB" if "peak" in each else ""
        print(
            f"  {which:24} {each['seconds']:7.3f} s  {2 * nbytes / each['seconds'] / 1e9:6.1f} GB/s{more}", flush=True
        )
    return list(_missed(name, medians))


def _missed(name: str, medians: dict[str, dict[str, float]]) -> Iterator[str]:
    verify, cmp, cat = (medians[which]["seconds"] for which in ("verify", "cmp", "cat"))
    print(f"  verify: {cmp / verify:.1f} times as fast as cmp (at least {FASTER}), ", end="")
    print(f"{verify / cat:.2f} times the time of cat (at most {SLOWER}); ", end="")
    print(f"its imports included, {cmp / (verify + medians['verify']['imports']):.1f} times as fast as cmp")
    if cmp / verify < FASTER:
        yield f"{name}: {cmp / verify:.1f} times as fast as cmp, at least {FASTER}"
    if verify / cat > SLOWER:
        yield f"{name}: {verify / cat:.2f} times the time of cat, at most {SLOWER}"
    if medians["verify"]["peak"] > MEMORY * 1e6:
        yield f"{name}: {medians['verify']['peak'] / 1e6:.0f} MB of memory, at most {MEMORY}"


def _runs(base: Path, out: Path) -> dict[str, Run]:
    shards = Checkpoint.open(out).shards
    pairs = [(str(base / shard), str(out / shard)) for shard in shards]
    both = [path for pair in pairs for path in pair]
    script = " && ".join(f"cmp '{a}' '{b}'" for a, b in pairs)
    runs: dict[str, Run] = {
        "verify": lambda: _verify(out, "base"),
        "cmp": lambda: _command(["sh", "-c", script]),
        "cat": lambda: _command(["cat", *both]),
        "verify, by its digests": lambda: _verify(out, "digests"),
        "sha256sum": lambda: _command(["sha256sum", *both]),
    }
    if shutil.which("sft"):
        folders = [str(base), str(out)] if len(shards) > 1 else both
        runs["sft diff --delta"] = lambda: _command(["sft", "diff", *folders, "--delta"])
    return runs


def _verify(out: Path, against: str) -> dict[str, float]:
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(out), against],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    return json.loads(done.stdout)


def _command(command: list[str]) -> dict[str, float]:
    start = time.perf_counter()
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
    return {"seconds": time.perf_counter() - start}


def llama(folder: Path, nbytes: int) -> None:
    """Weights with a Llama's names and about this many bytes in all, random, in files as large as is usual."""
    folder.mkdir()
    layers = 26
    width = 64 * max(1, round(math.sqrt(nbytes / 2 / (layers * 12.25 + 16)) / 64))
    shapes = {"model.embed_tokens.weight": (16 * width, width), "model.norm.weight": (width,)}
    for layer in range(layers):
        name = f"model.layers.{layer}"
        shapes |= {f"{name}.self_attn.{part}_proj.weight": (width, width) for part in "qkvo"}
        shapes |= {f"{name}.mlp.{part}_proj.weight": (11 * width // 4, width) for part in ("gate", "up")}
        shapes |= {f"{name}.mlp.down_proj.weight": (width, 11 * width // 4)}
        shapes |= {f"{name}.{part}_layernorm.weight": (width,) for part in ("input", "post_attention")}
    groups: list[dict[str, tuple[int, ...]]] = [{}]
    for name, shape in sorted(shapes.items()):
        if sum(2 * math.prod(other) for other in groups[-1].values()) > SHARD:
            groups.append({})
        groups[-1][name] = shape
    random = np.random.default_rng(0)
    names = [f"model-{k + 1:05d}-of-{len(groups):05d}.safetensors" for k in range(len(groups))]
    names = [SINGLE] if len(names) == 1 else names
    for name, group in zip(names, groups, strict=True):
        _write(folder / name, group, random)
    if len(names) > 1:
        places = {tensor: name for name, group in zip(names, groups, strict=True) for tensor in group}
        (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": places}))


def _write(path: Path, group: dict[str, tuple[int, ...]], random: np.random.Generator) -> None:
    document: dict[str, Any] = {}
    at = 0
    for name, shape in group.items():
        document[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [at, at := at + 2 * math.prod(shape)]}
    text = json.dumps(document).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for shape in group.values():
            file.write(random.bytes(2 * math.prod(shape)))


def result_of(base: Path, out: Path) -> None:
    """A result that keeps every tensor of a base, with its digests."""
    from hf_init._verify.digests import result_digests

    shutil.copytree(base, out)
    with Checkpoint.open(base) as source:
        tensors = tuple(
            TensorPlan(e.name, Status.KEPT, e.shape, e.dtype, (Copy(whole, e.name, whole),), source=e.name)
            for e in source.entries.values()
            for whole in [Box.whole(e.shape)]
        )
        record = BaseRecord(Origin.of(base), source.fingerprint())
    recorded = result_digests(out, tensors)
    Manifest(Plan("Bench", 0, tensors), record, {}, "bench", **recorded).save(out)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--sizes", type=float, nargs="*", default=[0.3, 1, 3], metavar="GB")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--place", type=Path, help="where the files are made; default: the system's temporary folder")
    parser.add_argument("--no-smollm2", dest="smollm2", action="store_false")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
