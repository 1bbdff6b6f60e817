"""hf_init.from_pretrained, with its proof, against plain from_pretrained: time and peak memory.

Each load runs in a process of its own, the two in turn, on the same checkpoint with warm caches; the clock starts
after the imports and stops when every part of every tensor was read once (plain transformers maps the file and reads
nothing by itself). Medians over pairs. On SmolLM2-135M (bfloat16) and on a Llama of 1.5 billion parameters made for
it (bfloat16, 3 GB, 10 files). Exits 1 where a target is missed.

    python scripts/bench/loading.py [--pairs 7] [--small]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

TIME, MEMORY = 1.2, 64
CACHE = Path(__file__).resolve().parents[2] / ".cache"
CHILD = """
import json, os, sys, time
os.environ["HF_HUB_OFFLINE"] = "1"
import torch, transformers, hf_init
from hf_init import from_pretrained
transformers.utils.logging.set_verbosity_error(); transformers.utils.logging.disable_progress_bar()
cls = transformers.LlamaForTokenClassification
start = time.perf_counter()
if sys.argv[1] == "plain":
    model = cls.from_pretrained(sys.argv[2], num_labels=3)
else:
    model = from_pretrained(cls, sys.argv[2], num_labels=3)
total = sum(int(p.detach().reshape(-1).view(torch.int16)[::64].sum()) for p in model.parameters())
took = time.perf_counter() - start
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
anonymous, peak = (int(status[key].split()[0]) for key in ("RssAnon", "VmHWM"))
print(json.dumps({"seconds": took, "peak": peak / 1024, "anonymous": anonymous / 1024}))
"""


def child(which: str, folder: Path) -> dict[str, float]:
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", CHILD, which, str(folder)], stdout=subprocess.PIPE, text=True, check=True
    )
    return {**json.loads(done.stdout.splitlines()[-1]), "process": time.perf_counter() - start}


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
    ratio, whole = (statistics.median(ours[key] / plain[key] for ours, plain in runs) for key in ("seconds", "process"))
    more = statistics.median(ours["peak"] - plain["peak"] for ours, plain in runs)
    print(f"{folder.name}, {pairs} pairs, medians")
    for side, name in enumerate(("ours", "plain")):
        run = {key: statistics.median(pair[side][key] for pair in runs) for key in runs[0][side]}
        memory = f"peak {run['peak']:.0f} MiB, anonymous {run['anonymous']:.0f} MiB at the end"
        print(f"  {name:5} {run['seconds']:6.2f} s, with imports {run['process']:6.2f} s  {memory}")
    print(f"  load {ratio:.2f} times (at most {TIME}); with imports {whole:.2f} times")
    print(f"  peak memory {more:+.0f} MiB (at most +{MEMORY})")
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
