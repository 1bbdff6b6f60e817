"""Prove on 1, 2 and 3 processes (gloo, on the CPU) that how many there are changes nothing.

- Loads of SmolLM2 with 49,157 rows, a new head or a 31st layer, and of a small Llama with as many rows in two tables,
  divided by FSDP2, tensor parallelism and DeepSpeed's ZeRO-3, in bfloat16, by FSDP2 in float32 too: the SHA-256 of
  every whole tensor, and the most anonymous memory that a load takes of a rank.
- ``train_only_new`` on a small Llama with 1,005 rows under AdamW, SGD with momentum and Adafactor, clipped,
  accumulated, in float32 and bfloat16: which bytes move, how far the new rows are from one process's, and how many
  elements the optimizer's state has.
- transformers' own load under FSDP2 beside ours: the rows of a new head against those of one process.

``python scripts/prove/distributed.py [loads] [training] [head] [--steps 200]``; exit 1 where something differs.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import hashlib
import json
import math
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import transformers
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from transformers.distributed.configuration_utils import DistributedConfig
from transformers.integrations.deepspeed import HfDeepSpeedConfig, unset_hf_deepspeed_config

import hf_init
from hf_init.finetune import parameter_groups, train_only_new

ROOT = Path(__file__).resolve().parents[2]
RANKS = (1, 2, 3)
ROWS, SMALL, NEW = 49_152, 1_000, 5
MIB = 1 << 20
TOKENS: dict[str, Any] = {"keep": {"*embed_tokens*": "leading"}, "config": {"vocab_size": ROWS + NEW}}
BOTH: dict[str, Any] = {**TOKENS, "keep": {"*embed_tokens*": "leading", "lm_head*": "leading"}}
LOADS: dict[str, tuple[Any, str, dict[str, Any]]] = {
    "untied": (transformers.LlamaForCausalLM, "untied", BOTH),
    "layer": (transformers.LlamaForCausalLM, "base", {"config": {"num_hidden_layers": 31}}),
    "tokens": (transformers.LlamaForCausalLM, "base", TOKENS),
    "head": (transformers.LlamaForSequenceClassification, "base", {"labels": ["a", "b", "c"]}),
}
KINDS = (("zero3", "bfloat16"), ("tp", "bfloat16"), ("fsdp", "bfloat16"), ("fsdp", "float32"))
OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "adamw": lambda groups: torch.optim.AdamW(groups),
    "sgd": lambda groups: torch.optim.SGD(groups, momentum=0.9),
    "adafactor": lambda groups: torch.optim.Adafactor(groups),
}
RUNS = [("adamw", "float32"), ("sgd", "float32"), ("adafactor", "float32"), ("adamw", "bfloat16")]


def whole(tensor: torch.Tensor) -> torch.Tensor:
    if hasattr(tensor, "ds_id"):
        with import_module("deepspeed").zero.GatheredParameters([tensor]):
            return tensor.detach().clone()
    gather = getattr(tensor.detach(), "full_tensor", None)
    return gather() if gather else tensor.detach().clone()


def divided(tensor: torch.Tensor) -> bool:
    """Return whether this process has less than all of a tensor."""
    part = vars(tensor)["ds_tensor"] if hasattr(tensor, "ds_id") else getattr(tensor, "to_local", lambda: tensor)()
    return part.numel() < num_elements(tensor)


def num_elements(tensor: torch.Tensor) -> int:
    return math.prod(getattr(tensor, "ds_shape", tensor.shape))


def digests(model: nn.Module) -> dict[str, str]:
    state = model.state_dict(keep_vars=True)
    return {
        name: hashlib.sha256(whole(each).view(torch.uint8).numpy().data).hexdigest() for name, each in state.items()
    }


@contextmanager
def watched_memory() -> Iterator[list[float]]:
    """Give a list that in the end holds the most anonymous memory, in MiB, of some work, and what stays of it."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # what was freed by the work before isn't this one's
    before, found, done = anonymous_mib(), [0.0, 0.0], threading.Event()

    def watch() -> None:
        while not done.wait(0.002):
            found[0] = max(found[0], anonymous_mib() - before)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield found
    finally:
        done.set()
        watcher.join()
        gc.collect()
        found[1] = anonymous_mib() - before
        found[0] = max(found)


def anonymous_mib() -> float:
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines["RssAnon"].split()[0]) / 1024


@contextmanager
def how_divided(kind: str, dtype: str) -> Iterator[dict[str, Any]]:
    """Give the options of a load; under ZeRO-3 there is none, but a config of the process."""
    size = dist.get_world_size()
    if kind != "zero3":
        sizes: dict[str, Any] = {f"{kind}_size": size}
        yield {"distributed_config": DistributedConfig(**sizes)} if size > 1 else {}
        return
    deepspeed = import_module("deepspeed")
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False  # nothing is compiled
    deepspeed.init_distributed("gloo")
    half = {"enabled": dtype == "bfloat16"}  # under ZeRO-3 it is DeepSpeed's config that says which dtype a model has
    held = HfDeepSpeedConfig({"train_batch_size": size, "bf16": half, "zero_optimization": {"stage": 3}})
    try:
        yield {}
    finally:
        unset_hf_deepspeed_config()
        del held


def loads(folder: Path, seen: dict[str, object], steps: int) -> None:
    torch.manual_seed(dist.get_rank())  # nothing may come of it
    state = torch.get_rng_state()
    for kind, dtype in KINDS if find_spec("deepspeed") else KINDS[1:]:
        for name, (cls, base, options) in LOADS.items():
            with how_divided(kind, dtype) as given, watched_memory() as memory:
                made = getattr(torch, dtype)
                model = hf_init.from_pretrained(cls, folder / base, dtype=made, **options, **given)
            parts = [divided(each) for each in model.parameters()]
            sizes = {n: num_elements(p) * p.element_size() / MIB for n, p in model.named_parameters()}
            seen[f"{name}, {kind}, {dtype}"] = {
                "digests": digests(model),
                "divided": sum(parts) / len(parts),
                "mib": memory,
                "model": sum(sizes.values()),
                "new": max(sizes[t.parameter] for t in model.init_plan.tensors if t.new),
                "undrawn": torch.equal(state, torch.get_rng_state()),
            }
            del model


def training(folder: Path, seen: dict[str, object], steps: int) -> None:
    for optimizer, dtype in RUNS:
        seen[f"{optimizer}, {dtype}"] = trained(folder / "tokens", optimizer, getattr(torch, dtype), steps)


def trained(folder: Path, optimizer: str, dtype: torch.dtype, steps: int) -> dict[str, object]:
    rank, size = dist.get_rank(), dist.get_world_size()
    model = transformers.LlamaForCausalLM.from_pretrained(folder, dtype=dtype).train()
    before = {name: whole(each) for name, each in model.state_dict().items()}
    # Adafactor, torch's and transformers', takes no divided parameters; made after the model is, new rows are whole.
    frozen = None if optimizer == "adafactor" else train_only_new(model)
    mesh = init_device_mesh("cpu", (size,))
    for layer in model.model.layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    frozen = frozen or train_only_new(model)
    assert size == 1 or divided(model.model.embed_tokens.weight), "each process would train alone"
    made = OPTIMIZERS[optimizer](parameter_groups(model, lr=1e-2, weight_decay=0.1))
    early: list[list[float]] = []
    for step in range(steps):
        for part in range(2):  # accumulated
            draw = torch.Generator().manual_seed(2 * step + part)
            ids = torch.cat([torch.randint(0, SMALL, (12, 6), generator=draw), new_ids(draw)], 1)[rank::size]
            (model(input_ids=ids, labels=ids).loss / 2).backward()
        torch.nn.utils.clip_grad_norm_([p for p in model.parameters() if p.requires_grad], 0.5)
        made.step()
        made.zero_grad()
        if step == 4:
            early = whole(model.model.embed_tokens.weight)[SMALL:].float().tolist()
    frozen.raise_if_moved()
    now = {name: whole(each) for name, each in model.state_dict().items()}
    moved = {n: (now[n] != old).reshape(len(old), -1).any(1).nonzero().flatten().tolist() for n, old in before.items()}
    return {
        "moved": {name: rows for name, rows in moved.items() if rows},
        "early": early,
        "elements": sum(
            e.numel() for p in made.state.values() for e in p.values() if isinstance(e, torch.Tensor) and e.ndim
        ),
    }


def new_ids(draw: torch.Generator) -> torch.Tensor:
    return torch.randint(SMALL, SMALL + NEW, (12, 2), generator=draw)


def head(folder: Path, seen: dict[str, object], steps: int) -> None:
    """A new head by transformers alone, seeded alike on each rank, and by hf_init."""
    divided: dict[str, Any] = {"distributed_config": DistributedConfig(fsdp_size=dist.get_world_size())}
    options: dict[str, Any] = divided if dist.get_world_size() > 1 else {}
    cls = transformers.LlamaForSequenceClassification
    torch.manual_seed(0)
    theirs = cls.from_pretrained(folder / "base", num_labels=3, **options)
    ours = hf_init.from_pretrained(cls, folder / "base", num_labels=3, **options)
    seen["theirs"], seen["ours"] = (whole(model.score.weight).float().tolist() for model in (theirs, ours))


TASKS = {"loads": loads, "training": training, "head": head}


def work(task: str, folder: Path, steps: int) -> None:
    """Do a task as one of several processes."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    seen: dict[str, object] = {}
    TASKS[task](folder, seen, steps)
    out = folder / f"{task}-{dist.get_world_size()}-{dist.get_rank()}.json"
    out.write_text(json.dumps(seen), encoding="utf-8")
    dist.destroy_process_group()


def launched(task: str, ranks: int, folder: Path, steps: int) -> list[dict[str, Any]]:
    """Return what each process of a task has seen."""
    run = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(ranks)]
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(ROOT),
        "HF_HUB_OFFLINE": "1",
        "DS_ACCELERATOR": "cpu",
    }
    command = [*run, __file__, task, "--steps", str(steps), "--work", str(folder)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{task} on {ranks} processes failed:\n{done.stderr}")
    return [json.loads((folder / f"{task}-{ranks}-{n}.json").read_text(encoding="utf-8")) for n in range(ranks)]


def judge_loads(by_ranks: dict[int, list[dict[str, Any]]], steps: int) -> bool:
    (alone,), good = by_ranks[1], True
    for name, one in alone.items():
        plain = alone[name.replace("zero3", "fsdp")]  # alone, which is whole and without any of them
        for ranks in RANKS if "zero3" in name else RANKS[1:]:
            each = [rank[name] for rank in by_ranks[ranks]]
            differ = {n for rank in each for n, digest in rank["digests"].items() if digest != plain["digests"][n]}
            drawn = not all(rank["undrawn"] for rank in each)
            parts = min(rank["divided"] for rank in each)
            bound = each[0]["model"] / ranks + each[0]["new"] + 50
            most, stays = (max(rank["mib"][n] for rank in each) for n in (0, 1))
            counts = "float32" in name and ranks == 2
            good = good and not differ and not drawn and (ranks == 1 or parts > 0.5)
            good = good and (not counts or most <= bound)
            print(
                f"{name}, {ranks} ranks: {len(plain['digests'])} tensors, {len(differ)} differ; {parts:.0%} divided; "
                f"at most {most:.0f} MiB a rank, bound {bound:.0f}; {stays:.0f} stay; one process {one['mib'][0]:.0f}"
            )
    return good


def judge_training(by_ranks: dict[int, list[dict[str, Any]]], steps: int) -> bool:
    (alone,), good = by_ranks[1], True
    rows = list(range(SMALL, SMALL + NEW))
    for name, one in alone.items():
        for ranks in RANKS:
            each = [rank[name] for rank in by_ranks[ranks]]
            kept = all(set(map(tuple, rank["moved"].values())) == {tuple(rows)} for rank in each)
            far = max(float((torch.tensor(rank["early"]) - torch.tensor(one["early"])).abs().max()) for rank in each)
            near = "float32" not in name or far <= 1e-6
            alike = all(rank["elements"] == one["elements"] for rank in each)
            good = good and kept and near and alike
            print(
                f"{name}, {ranks} ranks, {steps} steps: only rows {rows[0]}-{rows[-1]} moved: {kept}; "
                f"after 5 steps within {far:.1e} of one process; {each[0]['elements']} elements of state"
            )
    return good


def judge_head(by_ranks: dict[int, list[dict[str, Any]]], steps: int) -> bool:
    (alone,), good = by_ranks[1], True
    for ranks in RANKS[1:]:
        for who in ("theirs", "ours"):
            now, one = torch.tensor(by_ranks[ranks][0][who]), torch.tensor(alone[who])
            same = torch.equal(now, one)
            pairs = [(a, b) for a in range(3) for b in range(a) if torch.equal(now[a], now[b])]
            good = good and (who == "theirs" or (same and not pairs))
            print(f"{who}, {ranks} ranks: the new head is that of one process: {same}; rows that are equal: {pairs}")
    return good


JUDGES = {"loads": judge_loads, "training": judge_training, "head": judge_head}


def prepare(folder: Path, checkpoint: Path) -> None:
    """Put the checkpoint into a folder, and a small Llama with five new tokens."""
    (folder / "base").symlink_to(checkpoint.resolve())
    torch.manual_seed(0)
    for name, rows, tied in (("small", SMALL, True), ("untied", ROWS, False)):
        config = transformers.LlamaConfig(
            vocab_size=rows, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2, tie_word_embeddings=tied,
        )  # fmt: skip
        transformers.LlamaForCausalLM(config).save_pretrained(folder / name)
    hf_init.extend(folder / "small", folder / "tokens", keep=TOKENS["keep"], config={"vocab_size": SMALL + NEW})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tasks", nargs="*", default=[], metavar="TASK", help=", ".join(TASKS))
    parser.add_argument("--checkpoint", type=Path, default=ROOT / ".cache" / "SmolLM2-135M-Instruct")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)  # as one of the processes
    given = parser.parse_args()
    if given.work:
        return work(given.tasks[0], given.work, given.steps)
    good = True
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        prepare(folder, given.checkpoint)
        for task in given.tasks or TASKS:
            print(f"\n{task}")
            good = JUDGES[task]({n: launched(task, n, folder, given.steps) for n in RANKS}, given.steps) and good
    sys.exit(not good)


if __name__ == "__main__":
    main()
