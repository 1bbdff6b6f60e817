"""Extending a checkpoint on disk, and proving it: against transformers' load-resize-save, cp, cmp, cat and sha256sum.

On SmolLM2 and on Llamas of several sizes with random weights, in files of about a tenth (made once, into --cache):
100 rows more in the embedding. Each run is a process of its own; the ways take turns, after one run of each that
brings the base into the system's cache; results are removed, and what others still have to write is on the disk,
before a run is timed. Medians. The time of the imports, of the module of the model's class too, isn't counted: each
process tells what it took from there to the end of its work. `cp` and load-resize-save return before their bytes are
on the disk, hf-init doesn't: `cp -r, sync` is the same with that, and how much faster than load-resize-save it is by
itself is the most that copying can reach there. With --cache on a filesystem with reflinks (XFS, Btrfs), `cp -r`
shares blocks, too. Exits 1 where a target is missed.

    python scripts/bench/checkpoint.py [--runs 5] [--gigabytes 0.3 1 3 9] [--cache DIR] [--no-smollm2]
"""

from __future__ import annotations

import argparse
import compileall
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import hf_init

CACHE = Path(__file__).resolve().parents[2] / ".cache"
ROWS = 100
LAYER = 2 * (4 * 2048 * 2048 + 3 * 2048 * 5632)  # bytes of a block of the random Llamas: bfloat16, width 2048
EMBEDDING = 2 * 32000 * 2048
TARGETS = {"transformers": 4.0, "transformers, links": 20.0, "cp": 1.25, "cmp": 4.0, "cat": 1.5}
MIB = {"extend": 128.0, "verify": 200.0}

WATCHED = """
import json, os, sys, threading, time
os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_VERBOSITY="error", HF_HUB_DISABLE_PROGRESS_BARS="1")
def anonymous():
    with open("/proc/self/status") as file:
        return int(next(line for line in file if line.startswith("RssAnon")).split()[1]) / 1024
def watch():
    while True:
        peaks[0] = max(peaks[0], anonymous())
        time.sleep(0.002)
{imports}
before, peaks = anonymous(), [0.0]
threading.Thread(target=watch, daemon=True).start()
begun = time.perf_counter()
{work}
peaks[0] = max(peaks[0], anonymous())
print(json.dumps(dict(inside=time.perf_counter() - begun, memory=peaks[0] - before, imported=before)), flush=True)
"""
TRANSFORMERS = "import torch, transformers; transformers.LlamaForCausalLM"  # whose module is imported when asked for
HF_INIT = f"{TRANSFORMERS}; import hf_init, hf_init._load, hf_init._write.other_files, hf_init._write.writing"
EXTEND = f"""
base, out, link = sys.argv[1:]
rows = json.load(open(base + "/config.json"))["vocab_size"] + {ROWS}
keep = {{"*embed_tokens.weight": "leading"}}
hf_init.extend(base, out, config={{"vocab_size": rows}}, keep=keep, recipe="auto", link=link)
"""
RESIZE = f"""
model = transformers.AutoModelForCausalLM.from_pretrained(sys.argv[1])
model.resize_token_embeddings(model.get_input_embeddings().num_embeddings + {ROWS})
model.save_pretrained(sys.argv[2], max_shard_size=sys.argv[3])
"""
VERIFY = "hf_init.verify(sys.argv[2], sys.argv[1]).raise_if_failed()"


def script(imports: str, work: str = "") -> str:
    return WATCHED.replace("{imports}", imports).replace("{work}", work)


@dataclass(frozen=True)
class Way:
    """A way to do a job: a command, and whether it says how much memory it took."""

    name: str
    command: tuple[str, ...]
    watched: bool = True


@dataclass(frozen=True)
class Run:
    """One run: seconds of the process, and of a watched one the seconds without imports and MiB beyond theirs."""

    seconds: float
    inside: float = 0.0
    memory: float = 0.0


def run(way: Way, out: Path) -> Run:
    shutil.rmtree(out, ignore_errors=True)
    os.sync()
    begun = time.perf_counter()
    done = subprocess.run(
        way.command, stdout=subprocess.PIPE if way.watched else subprocess.DEVNULL, text=True, check=True
    )
    seconds = time.perf_counter() - begun
    if not way.watched:
        return Run(seconds)
    said = json.loads(done.stdout.splitlines()[-1])
    return Run(seconds, said["inside"], said["memory"])


def in_turn(ways: Sequence[Way], out: Path, runs: int, keep: bool = False) -> dict[str, Run]:
    """The medians of each way; ``keep``: they only read, and ``out`` stays."""
    place = out.parent / "nothing" if keep else out
    found: dict[str, list[Run]] = {way.name: [] for way in ways}
    for turn in range(runs + 1):
        for way in ways:
            result = run(way, place)
            if turn:  # the first brings everything into the cache
                found[way.name].append(result)
    return {
        name: Run(*(statistics.median(getattr(each, key) for each in all_) for key in ("seconds", "inside", "memory")))
        for name, all_ in found.items()
    }


def python(name: str, imports: str, work: str, *args: object) -> Way:
    return Way(name, (sys.executable, "-c", script(imports, work), *map(str, args)))


def shell(name: str, text: str) -> Way:
    return Way(name, ("sh", "-c", text), watched=False)


def writers(base: Path, out: Path) -> list[Way]:
    largest = max(path.stat().st_size for path in base.glob("*.safetensors"))
    sharded = f"{largest // 1000 + 1}KB"
    return [
        python("hf-init extend", HF_INIT, EXTEND, base, out, "copy"),
        python("hf-init extend, links", HF_INIT, EXTEND, base, out, "hard"),
        python("load, resize, save", TRANSFORMERS, RESIZE, base, out, sharded),
        shell("cp -r", f"cp -rL '{base}' '{out}'"),
        shell("cp -r, sync", f"cp -rL '{base}' '{out}' && sync '{out}'/*"),
    ]


def readers(base: Path, out: Path) -> list[Way]:
    """Over the result's files and as many bytes of the base's: ``cmp`` on a plain copy of them."""
    files = f"'{base}'/*.safetensors"
    pairs = f'for file in {files}; do cmp "$file" \'{out}.copy\'/$(basename "$file"); done'
    return [
        python("hf-init verify", "import hf_init, hf_init._verify", VERIFY, base, out),
        shell("cmp", pairs),
        shell("cat, both", f"cat {files} '{out}'/*.safetensors > /dev/null"),
        shell("sha256sum", f"sha256sum {files} '{out}'/*.safetensors"),
    ]


def llama(gigabytes: float, cache: Path) -> Path:
    """A Llama of about this size with random weights, in files of a tenth; made once."""
    folder = cache / f"Llama-{gigabytes:g}GB-random"
    if not (folder / "config.json").exists():
        layers = max(round((gigabytes * 1e9 - EMBEDDING) / LAYER), 1)
        command = [sys.executable, "-c", LLAMA, str(folder), str(layers), f"{int(gigabytes * 105)}MB"]
        subprocess.run(command, check=True)
    return folder


LLAMA = """
import sys, torch, transformers
config = transformers.LlamaConfig(
    vocab_size=32000, hidden_size=2048, num_hidden_layers=int(sys.argv[2]), num_attention_heads=16,
    intermediate_size=5632, tie_word_embeddings=True, dtype="bfloat16",
)
torch.set_default_dtype(torch.bfloat16)
transformers.LlamaForCausalLM(config).save_pretrained(sys.argv[1], max_shard_size=sys.argv[3])
"""


def compare(base: Path, work: Path, runs: int) -> tuple[float, bool]:
    """Prints the tables of one checkpoint; the seconds of an extension, and whether every target is met."""
    out = work / "out"
    size = sum(path.stat().st_size for path in base.glob("*.safetensors"))
    print(f"\n{base.name}: {size / 1e9:.2f} GB in {len(list(base.glob('*.safetensors')))} files, medians of {runs}")
    wrote = in_turn(writers(base, out), out, runs)
    table(wrote)
    run(writers(base, out)[0], out)
    shutil.copytree(base, work / "out.copy", dirs_exist_ok=True)
    proved = in_turn(readers(base, out), out, runs, keep=True)
    table(proved)
    shutil.rmtree(work)
    work.mkdir()
    met = [judge_writing(wrote), judge_proving(proved)]
    return wrote["hf-init extend"].inside, all(met)


def table(found: dict[str, Run]) -> None:
    for name, one in found.items():
        inside = f"{one.inside:8.2f} s without imports  {one.memory:+7.0f} MiB anonymous" if one.inside else ""
        print(f"  {name:24}{one.seconds:8.2f} s  {inside}")


def judge_writing(found: dict[str, Run]) -> bool:
    theirs, ours, linked = (
        found[name].inside for name in ("load, resize, save", "hf-init extend", "hf-init extend, links")
    )
    return all(
        [
            target("faster than load, resize, save", theirs / ours, TARGETS["transformers"], at_least=True),
            target("faster than that, with links", theirs / linked, TARGETS["transformers, links"], at_least=True),
            target("of cp -r", ours / found["cp -r"].seconds, TARGETS["cp"]),
            note("of cp -r, sync", ours / found["cp -r, sync"].seconds),
            note("faster than load, resize, save is cp -r, sync by itself", theirs / found["cp -r, sync"].seconds),
            target("MiB anonymous", found["hf-init extend"].memory, MIB["extend"], unit=""),
        ]
    )


def judge_proving(found: dict[str, Run]) -> bool:
    ours = found["hf-init verify"].inside
    return all(
        [
            target("faster than cmp", found["cmp"].seconds / ours, TARGETS["cmp"], at_least=True),
            note("faster than cmp, imports included", found["cmp"].seconds / found["hf-init verify"].seconds),
            target("of cat, both files once", ours / found["cat, both"].seconds, TARGETS["cat"]),
            target("MiB anonymous", found["hf-init verify"].memory, MIB["verify"], unit=""),
        ]
    )


def target(what: str, seen: float, limit: float, at_least: bool = False, unit: str = " times") -> bool:
    met = seen >= limit if at_least else seen <= limit
    print(f"  {seen:.2f}{unit} {what} (at {'least' if at_least else 'most'} {limit:g}){'' if met else '  MISSED'}")
    return met


def note(what: str, seen: float) -> bool:
    print(f"  {seen:.2f} times {what} (for the record)")
    return True


def line(costs: Sequence[tuple[float, float]]) -> None:
    """Cost against size, and the straight line through it."""
    print("\ncost against size")
    for gigabytes, seconds in costs:
        print(f"  {gigabytes:6.2f} GB  {seconds:8.2f} s  {seconds / gigabytes:6.2f} s/GB")
    if len(costs) > 1:
        slope, start = statistics.linear_regression(*zip(*costs, strict=True))
        off = max(abs(seconds - start - slope * size) / seconds for size, seconds in costs)
        print(f"  {start:.2f} s + {slope:.2f} s/GB; no point is farther from it than {off:.0%}")


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--gigabytes", type=float, nargs="*", default=[0.3, 1, 3, 9])
    parser.add_argument("--cache", type=Path, default=CACHE)
    parser.add_argument("--no-smollm2", action="store_true")
    args = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", str(os.cpu_count()))
    compileall.compile_dir(Path(hf_init.__file__).parent, quiet=1)  # as pip does with what it installs
    work = args.cache / "bench_checkpoint"
    work.mkdir(parents=True, exist_ok=True)
    met = []
    if not args.no_smollm2:
        base = args.cache / "SmolLM2-135M-Instruct"
        if not base.exists():
            shutil.copytree(CACHE / base.name, base)
        met.append(compare(base, work, args.runs)[1])
    costs = []
    for gigabytes in args.gigabytes:
        base = llama(gigabytes, args.cache)
        seconds, good = compare(base, work, args.runs)
        met.append(good)
        costs.append((sum(path.stat().st_size for path in base.glob("*.safetensors")) / 1e9, seconds))
    line(costs)
    return 0 if all(met) else 1


if __name__ == "__main__":
    raise SystemExit(main())
