"""Two processes that do what a guide's scripts do, one after the other, as ``accelerate launch`` would start them.

They are run in a folder with the guide's files, ``base`` and ``with-tokens``.
"""

from __future__ import annotations

import os
import runpy
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import transformers
import yaml
from accelerate.state import AcceleratorState, DistributedType, PartialState
from sharded_ranks import share_divided
from torch.nn.parallel import DistributedDataParallel

SHARDED = {
    "fsdp_state_dict_type": "SHARDED_STATE_DICT",
    "fsdp_cpu_ram_efficient_loading": False,
    "accelerate_mixed_precision": "bf16",
}
RUNS: dict[str, tuple[dict[str, object] | None, list[str]]] = {  # what is changed in fsdp2.yaml, and arguments
    "run-trainer": ({}, []),
    "run-trainer-resumed": ({}, ["--resume"]),
    "run-sharded": (SHARDED, []),
    "run-sharded-resumed": (SHARDED, ["--resume"]),
    "run-zero3": (None, ["--zero3"]),
    "run-zero3-resumed": (None, ["--zero3", "--resume"]),
}


@contextmanager
def launched(changes: dict[str, object] | None) -> Iterator[None]:
    """What ``accelerate launch`` tells its processes of fsdp2.yaml, and nothing left of the launch before."""
    AcceleratorState._reset_state(reset_partial_state=True)
    before = dict(os.environ)
    if changes is not None:
        config = yaml.safe_load(Path("fsdp2.yaml").read_text(encoding="utf-8"))["fsdp_config"] | changes
        os.environ.update({name.upper(): str(value) for name, value in config.items()}, ACCELERATE_USE_FSDP="true")
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
        transformers.integrations.deepspeed.unset_hf_deepspeed_config()


def take_cpu() -> None:
    """Have accelerate divide a model on CPUs, where it would leave it whole, and DeepSpeed compile nothing for them."""
    initialize = AcceleratorState.__init__

    def on_cpu(self: AcceleratorState, *args: object, fsdp_plugin: object = None, **options: object) -> None:
        initialize(self, *args, fsdp_plugin=fsdp_plugin, **options)
        if fsdp_plugin is not None and self.distributed_type == DistributedType.MULTI_CPU:
            self.distributed_type, self.fsdp_plugin = DistributedType.FSDP, fsdp_plugin
            PartialState._shared_state["distributed_type"] = DistributedType.FSDP  # which a later state() begins with

    AcceleratorState.__init__ = on_cpu
    arguments = partial(transformers.TrainingArguments, use_cpu=True)
    sys.modules["transformers"].TrainingArguments = arguments  # the import above has put another module in its place
    if find_spec("deepspeed"):
        import deepspeed

        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False


def check_divided(run: str, made: Mapping[str, Any]) -> None:
    model = made["trainer"].model if "trainer" in made else made["model"]
    assert share_divided(model) == 1, f"{run}: each process has trained alone"


def main() -> None:
    torch.set_num_threads(1)
    take_cpu()
    check_divided("fsdp2.py", runpy.run_path("fsdp2.py", run_name="__main__"))
    # A store of their own: in the one before, addresses of the groups that are gone have the names of the new ones,
    # and a rank that reads one before it is replaced waits for ever.
    store, rank = f"file://{Path('store').resolve()}", int(os.environ["RANK"])
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=int(os.environ["WORLD_SIZE"]))
    for run, (changes, arguments) in RUNS.items():
        if "--resume" in arguments and not dist.get_rank():
            shutil.copytree(Path(run.removesuffix("-resumed"), "checkpoint-2"), Path(run, "checkpoint-2"))
        dist.barrier()
        if "--zero3" not in arguments or find_spec("deepspeed"):
            sys.argv = ["train.py", run, *arguments]
            with launched(changes):
                check_divided(run, runpy.run_path("train.py", run_name="__main__"))
    if find_spec("bitsandbytes"):
        with launched(None):
            copies = runpy.run_path("qlora.py", run_name="__main__")["trainer"].model_wrapped
            assert isinstance(copies, DistributedDataParallel), "each process has trained alone"
    dist.destroy_process_group()
