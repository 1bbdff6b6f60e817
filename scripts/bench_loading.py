"""hf_init.from_pretrained, with its proof, against plain from_pretrained: time and peak memory.

Each load runs in a process of its own, the two in turn, on the same checkpoint with warm caches; the clock starts
after the imports. Medians over pairs. On SmolLM2-135M (bfloat16) and on a Llama of 1.5 billion parameters made for
it (bfloat16, 3 GB, 10 files). Exits 1 where a target is missed.

    python scripts/bench_loading.py [--pairs 7] [--small]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

TIME, MEMORY = 1.2, 64
CACHE = Path(__file__).resolve().parent.parent / ".cache"
CHILD = """
import json, os, resource, sys, time
os.environ["HF_HUB_OFFLINE"] = "1"
import torch, transformers, hf_init
from hf_init.hf import from_pretrained
transformers.utils.logging.set_verbosity_error(); transformers.utils.logging.disable_progress_bar()
cls = transformers.LlamaForTokenClassification
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
start = time.perf_counter()
if sys.argv[1] == "plain":
    model = cls.from_pretrained(sys.argv[2], num_labels=3)
else:
    model = from_pretrained(cls, sys.argv[2], num_labels=3)
total = float(sum(p.detach().float().sum() for p in model.parameters()))  # both must have read every byte
took = time.perf_counter() - start
anonymous = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("RssAnon"))
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(json.dumps({"seconds": took, "peak": peak / 1024, "anonymous": anonymous / 1024}))
"""


def child(which: str, folder: Path) -> dict[str, float]:
    done = subprocess.run(
        [sys.executable, "-c", CHILD, which, str(folder)], stdout=subprocess.PIPE, text=True, check=True
    )
    return json.loads(done.stdout.splitlines()[-1])


def large() -> Path:
    """A Llama of 1.5 billion parameters with random weights, in ten files; made once."""
    folder = CACHE / "Llama-1.5B-random"
    if not (folder / "config.json").exists():
        import torch
        import transformers

        config = transformers.LlamaConfig(
            vocab_size=32000, hidden_size=2048, num_hidden_layers=26, num_attention_heads=16, intermediate_size=5632,
            tie_word_embeddings=True, dtype="bfloat16",
        )  # fmt: skip
        torch.set_default_dtype(torch.bfloat16)
        transformers.LlamaForCausalLM(config).save_pretrained(folder, max_shard_size="310MB")
    return folder


def compare(folder: Path, pairs: int) -> bool:
    child("plain", folder)  # the file into the cache
    child("ours", folder)
    runs = [(child("ours", folder), child("plain", folder)) for _ in range(pairs)]
    ratio = statistics.median(ours["seconds"] / plain["seconds"] for ours, plain in runs)
    more = statistics.median(ours["peak"] - plain["peak"] for ours, plain in runs)
    ours, plain = (
        {key: statistics.median(run[side][key] for run in runs) for key in ("seconds", "peak", "anonymous")}
        for side in (0, 1)
    )
    print(f"{folder.name}, {pairs} pairs, medians")
    for name, run in (("ours", ours), ("plain", plain)):
        memory = f"peak {run['peak']:.0f} MiB, anonymous {run['anonymous']:.0f} MiB at the end"
        print(f"  {name:5} {run['seconds']:6.2f} s  {memory}")
    print(f"  time {ratio:.2f} times (at most {TIME}), peak memory {more:+.0f} MiB (at most +{MEMORY})")
    return ratio <= TIME and more <= MEMORY


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--small", action="store_true", help="SmolLM2 only")
    args = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", str(os.cpu_count()))
    folders = [CACHE / "SmolLM2-135M-Instruct", *([] if args.small else [large()])]
    return 0 if all([compare(folder, args.pairs) for folder in folders]) else 1


if __name__ == "__main__":
    raise SystemExit(main())
