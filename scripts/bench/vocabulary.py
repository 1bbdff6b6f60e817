"""A hundred new rows for a vocabulary of 128256 x 4096 in bfloat16: `gaussian` against the library's mean resizing.

Each side runs in a process of its own; the clock starts after the imports. Ours reads the table from a mapped file, as
an extension does, and gives the rows in bfloat16; the library's `resize_token_embeddings(mean_resizing=True)` runs on a
bare Llama (no blocks, tied) of that embedding's size. Peak memory is the kernel's (VmHWM), mapped pages of the table
included. Then both on a small table, where mean and covariance of many rows are compared with the table's own. Exits 1
where a target is missed. The library's side needs 8 GB.

    python scripts/bench/vocabulary.py [--rows 100] [--vocabulary 128256] [--width 4096]
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from hf_init import schemes
from hf_init._tensors import Rows, Slot
from hf_init.schemes import finish

SPEED, MEMORY, SIGMAS = 8.0, 5.0, 5.0
MEASURED = """
import json, sys, time
import torch
file, new = sys.argv[1], int(sys.argv[2])
{imports}
def peak():
    return dict(line.split(":", 1) for line in open("/proc/self/status"))["VmHWM"].split()[0]
{before}
start, busy, idle = time.perf_counter(), time.process_time(), int(peak())
{work}
took = {{"seconds": time.perf_counter() - start, "processor": time.process_time() - busy}}
print(json.dumps({{**took, "peak": int(peak()) / 1024, "before": idle / 1024}}))
"""
OURS = MEASURED.format(
    imports="from safetensors import safe_open\nsys.path.insert(0, sys.argv[3])\nimport vocabulary",
    before="",
    work="""
with safe_open(file, framework="pt", device="cpu") as source:
    rows = vocabulary.ours(source.get_tensor, tuple(source.get_slice("table").get_shape()), new)
""",
)
LIBRARY = MEASURED.format(
    imports="import transformers\nfrom safetensors import safe_open\ntransformers.utils.logging.set_verbosity_error()",
    before="""
with safe_open(file, framework="pt", device="cpu") as source:
    table = source.get_tensor("table")
config = transformers.LlamaConfig(vocab_size=len(table), hidden_size=table.shape[1], num_hidden_layers=0,
    intermediate_size=8, num_attention_heads=1, num_key_value_heads=1, tie_word_embeddings=True)
with torch.device("meta"):
    model = transformers.LlamaForCausalLM(config)
model.model.embed_tokens.weight = torch.nn.Parameter(table)
model.tie_weights()
""",
    work="model.resize_token_embeddings(len(table) + new, mean_resizing=True)",
)


def ours(source: Any, shape: tuple[int, int], new: int, dtype: str = "bfloat16") -> torch.Tensor:
    """Return new rows for a table, as an extension fills them."""
    ids = tuple(range(shape[0], shape[0] + new))
    whole = (shape[0] + new, shape[1])
    slot = Slot("table", Rows(0, ids, whole), whole, dtype, source=source)
    return finish(schemes.Gaussian(table="table", keys=tuple(f"token {id_}" for id_ in ids)), slot)


def measured(code: str, *arguments: object) -> dict[str, float]:
    done = subprocess.run([sys.executable, "-c", code, *map(str, arguments)], stdout=subprocess.PIPE, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def write_table(file: Path, shape: tuple[int, int]) -> None:
    """Write rows with columns of unlike means and spreads, drawn block by block."""
    generator = torch.Generator().manual_seed(0)
    table = torch.empty(shape, dtype=torch.bfloat16)
    columns = 0.02 + 0.01 * torch.rand(shape[1], generator=generator)
    for block in table.split(4096):
        block.copy_(torch.randn(block.shape, generator=generator) * columns + columns)
    save_file({"table": table}, file)


def distribution(num_rows: int = 40_000) -> list[str]:
    """Return what of a small table's mean and covariance our rows miss, beyond their sampling error."""
    generator = torch.Generator().manual_seed(1)
    table = torch.randn(900, 12, generator=generator) @ torch.randn(12, 12, generator=generator) + 3
    rows = ours({"table": table}.__getitem__, (900, 12), num_rows, "float32").double()
    covariance = torch.cov(table.double().t(), correction=0)
    variance = covariance.diagonal()
    mean_off = (rows.mean(0) - table.double().mean(0)).abs() / (variance / num_rows).sqrt()
    error = ((covariance**2 + torch.outer(variance, variance)) / num_rows).sqrt()
    covariance_off = (torch.cov(rows.t(), correction=0) - covariance).abs() / error
    print(
        f"distribution, {num_rows} rows of 12 columns: mean at most {float(mean_off.max()):.1f} and covariance at most "
        f"{float(covariance_off.max()):.1f} standard errors off"
    )
    return [
        f"{what} differs" for what, off in (("mean", mean_off), ("covariance", covariance_off)) if off.max() > SIGMAS
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, default=100)
    parser.add_argument("--vocabulary", type=int, default=128256)
    parser.add_argument("--width", type=int, default=4096)
    args = parser.parse_args()
    missed = distribution()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "table.safetensors"
        start = time.perf_counter()
        write_table(file, (args.vocabulary, args.width))
        print(f"table of {args.vocabulary} x {args.width} bfloat16 written in {time.perf_counter() - start:.0f} s")
        mine = measured(OURS, file, args.rows, Path(__file__).parent)
        peer = measured(LIBRARY, file, args.rows)
    for name, side in (("gaussian", mine), ("mean_resizing=True", peer)):
        took = f"{side['seconds']:7.2f} s ({side['processor']:.1f} s of processors)"
        print(f"{name:20} {took}   peak {side['peak']:6.0f} MiB   ({side['before']:.0f} before)")
    speed, memory = peer["seconds"] / mine["seconds"], peer["peak"] / mine["peak"]
    print(f"{speed:.1f} times as fast (target {SPEED:g}), a {memory:.1f}th of the peak memory (target a {MEMORY:g}th)")
    missed += ["speed"] * (speed < SPEED) + ["memory"] * (memory < MEMORY)
    print(
        "missed: " + ", ".join(missed)
        if missed
        else f"all targets met ({math.prod((args.vocabulary, args.width)):,} elements)"
    )
    return 1 if missed else 0


if __name__ == "__main__":
    raise SystemExit(main())
