"""What ``test_sharded.py`` has several processes do, each of which writes what it saw to ``rank-N.json``.

BASES are what ``test_sharded.py`` made: ``tied`` and ``untied``, Llama with eight new tokens, and ``words``, with a
tokenizer.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
import transformers
from every_function import MODELS, outcomes
from torch import nn
from torch.distributed.checkpoint.state_dict import get_model_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from transformers.distributed import DistributedConfig
from transformers.integrations import HfDeepSpeedConfig
from transformers.integrations.deepspeed import unset_hf_deepspeed_config

import hf_init
from hf_init import HfInitError, InitMixin, Recipe, Rule
from hf_init.finetune import Frozen, Watch, parameter_groups, train_only_new

NEW = slice(96, 104)
CHILD = "hf_init_new"
OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "adamw": lambda groups: torch.optim.AdamW(groups, weight_decay=0.1),
    "sgd": lambda groups: torch.optim.SGD(groups, momentum=0.9),
    "adafactor": lambda groups: torch.optim.Adafactor(groups),
}
RUNS = (  # the new rows apart before or after the model is divided; torch's Adafactor takes no divided parameters
    "tied, adamw, before, float32",
    "tied, adamw, after, float32",
    "tied, sgd, after, bfloat16",
    "untied, adamw, after, float32",
    "untied, sgd, before, float32",
    "untied, adafactor, after, float32",
)
ZERO3_RUNS = ("tied, adamw, zero3, float32", "untied, sgd, zero3, float32")


TABLE, HEAD = {"*embed_tokens*": "leading"}, {"lm_head*": "leading"}


class Sentiment(InitMixin, transformers.LlamaForSequenceClassification):
    init_recipe = Recipe([Rule("normal(std=0.02)", name="score.weight")], default="auto")


def loaded(bases: Path, name: str, dtype: str = "float32") -> nn.Module:
    return transformers.LlamaForCausalLM.from_pretrained(bases / name, dtype=dtype).train()


def divided(model: nn.Module) -> nn.Module:
    """The model under FSDP2: the blocks, and the rest."""
    if dist.is_initialized():
        mesh = init_device_mesh("cpu", (dist.get_world_size(),))
        for layer in model.model.layers:
            fully_shard(layer, mesh=mesh)
        fully_shard(model, mesh=mesh)
        assert share_divided(model) == 1
    return model


def share_divided(model: nn.Module) -> float:
    """The share of the parameters that this process has less than all of; new rows apart may be whole."""
    held = [is_divided(each) for name, each in model.named_parameters() if not name.startswith(CHILD)]
    return sum(held) / len(held)


def is_divided(tensor: torch.Tensor) -> bool:
    if hasattr(tensor, "ds_id"):
        return tensor.ds_tensor.numel() < tensor.ds_numel
    return hasattr(tensor, "to_local") and tensor.to_local().numel() < tensor.numel()


@contextmanager
def under_zero3(**more: Any) -> Iterator[dict[str, Any]]:
    """DeepSpeed divides what is loaded, small tensors too; gives what its engine is to be told, and more."""
    import deepspeed

    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False  # nothing is compiled
    deepspeed.init_distributed("gloo")
    config = {
        "train_micro_batch_size_per_gpu": 6 // dist.get_world_size(), "gradient_accumulation_steps": 2,
        "gradient_clipping": 0.5, "zero_optimization": {"stage": 3, "stage3_param_persistence_threshold": 0},
        "zero_allow_untested_optimizer": True, "zero_force_ds_cpu_optimizer": False, **more,
    }  # fmt: skip
    held = HfDeepSpeedConfig(config)  # the library has a weak reference to it
    try:
        yield config
    finally:
        unset_hf_deepspeed_config()
        del held


def whole(tensor: torch.Tensor) -> torch.Tensor:
    if hasattr(tensor, "ds_id"):
        import deepspeed

        with deepspeed.zero.GatheredParameters([tensor]):
            return tensor.detach().clone()
    return tensor.detach().full_tensor() if hasattr(tensor, "full_tensor") else tensor.detach().clone()


def state_of(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: whole(tensor) for name, tensor in model.state_dict(keep_vars=True).items()}


def digest(tensor: torch.Tensor) -> str:
    return hashlib.sha256(tensor.contiguous().view(torch.uint8).numpy().tobytes()).hexdigest()


def train(model: nn.Module, optimizer: torch.optim.Optimizer, frozen: Frozen, steps: int, engine: Any = None) -> None:
    """Steps over twelve rows of text each, six at a time, that the processes divide among themselves."""
    rank, size = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    with Watch(frozen, every=2, optimizer=optimizer) as watch:
        for step in range(steps):
            for ids in torch.randint(0, 104, (2, 6, 8), generator=torch.Generator().manual_seed(step)):
                ids = ids[rank::size]
                loss = (engine or model)(input_ids=ids, labels=ids).loss
                if engine:
                    engine.backward(loss)
                    engine.step()
                else:
                    (loss / 2).backward()
            if not engine:
                torch.nn.utils.clip_grad_norm_([p for p in model.parameters() if p.requires_grad], 0.5)
                optimizer.step()
                optimizer.zero_grad()
            watch.end_step()


def trained(bases: Path, run: str) -> dict[str, object]:
    """What five steps change, with the rows apart before or after the model is divided, or under ZeRO-3."""
    name, optimizer, when, dtype = run.split(", ")
    with under_zero3() if when == "zero3" else nullcontext() as config:
        model = loaded(bases, name, dtype)
        before = state_of(model)
        frozen = train_only_new(model) if when != "after" else None
        engine = None
        if not config:
            divided(model)
        frozen = frozen or train_only_new(model)
        made = OPTIMIZERS[optimizer](parameter_groups(model, lr=1e-2, weight_decay=0.1))
        if config:
            engine, *_ = sys.modules["deepspeed"].initialize(model=model, optimizer=made, config=config)
        train(model, made, frozen, 5, engine)
        now = state_of(model)
    changed = {
        n: (now[n] != old).reshape(len(old), -1).any(1).nonzero().flatten().tolist() for n, old in before.items()
    }
    states = [each for state in made.state.values() for each in state.values() if isinstance(each, torch.Tensor)]
    return {
        "names": list(now) == list(before),
        "changed": {n: rows for n, rows in changed.items() if rows},
        "new rows": now["model.embed_tokens.weight"][NEW].tolist(),
        "digests": {n: digest(tensor) for n, tensor in now.items()},
        "elements": [each.numel() for each in states if each.ndim],
    }


LOADS: dict[str, tuple[type, str, dict[str, object]]] = {
    "head": (transformers.LlamaForSequenceClassification, "untied", {"labels": ["a", "b", "c"], "drop": ["lm_head*"]}),
    "tied": (transformers.LlamaForCausalLM, "tied-base", {"keep": TABLE, "config": {"vocab_size": 109}}),
    "untied": (transformers.LlamaForCausalLM, "untied", {"keep": {**TABLE, **HEAD}, "config": {"vocab_size": 109}}),
    "layers": (
        transformers.LlamaForCausalLM,
        "untied",
        {
            "config": {"num_hidden_layers": 3},
            "recipe": Recipe([Rule("orthogonal", name="*.2.*_proj*")], default="auto"),
        },
    ),
    "mixin": (Sentiment, "untied", {"num_labels": 3, "drop": ["lm_head*"]}),
}


def opened(bases: Path, name: str, kind: str | None) -> dict[str, object]:
    """A load by the whole, or divided: what each tensor holds, and how many bytes were compared here."""
    cls, base, options = LOADS[name]
    if kind in ("fsdp", "tp"):
        options = {**options, "distributed_config": DistributedConfig(**{f"{kind}_size": dist.get_world_size()})}
    state = torch.get_rng_state()
    with under_zero3() if kind == "zero3" else nullcontext():
        model = hf_init.from_pretrained(cls, bases / base, **options)
        return {
            "digests": {n: digest(tensor) for n, tensor in state_of(model).items()},
            "divided": share_divided(model),
            "compared": model.init_report.bytes_proved,
            "restored": model.init_report.restored,
            "undrawn": torch.equal(torch.get_rng_state(), state),
        }


def recorded(bases: Path, out: Path) -> dict[str, object]:
    """The digests of a new head of three rows, in the manifest of a model that was frozen when it was divided."""
    cls, base, options = LOADS["head"]
    frozen = train_only_new(divided(hf_init.from_pretrained(cls, bases / base, **options)))
    out.mkdir()
    frozen.save_manifest(out)
    return json.loads((out / "hf_init.json").read_text(encoding="utf-8"))["digests"]


def flipped(bases: Path) -> dict[str, object]:
    """One bit of one frozen shard, on the last rank alone: what each of them says."""
    model = loaded(bases, "untied")
    frozen = train_only_new(divided(model), copies=True)
    if dist.get_rank() == dist.get_world_size() - 1:
        local = model.model.layers[1].mlp.up_proj.weight.to_local()
        local.view(torch.int32)[0, 0] ^= 1
    return {"error": refusal(frozen.raise_if_moved)}


def proved_alone(bases: Path) -> bool | None:
    """A whole model, frozen and proved by the first process while the others do something else."""
    if dist.get_rank():
        return None
    model = hf_init.from_pretrained(transformers.LlamaForCausalLM, bases / "tied")
    return bool(train_only_new(model, bases / "tied").verify())


def saved_in_pieces(bases: Path, out: Path) -> list[str]:
    """Where a model lies whose new rows were trained, as accelerate leaves it; and one that was only loaded."""
    model = loaded(bases, "untied")
    frozen = train_only_new(model)
    divided(model)
    train(model, torch.optim.AdamW(parameter_groups(model, lr=1e-2)), frozen, 2)
    run, shards = out / "run", out / "shards"
    dcp.save({"model": get_model_state_dict(model)}, checkpoint_id=run / "checkpoint-2" / "pytorch_model_fsdp_0")
    how = DistributedConfig(fsdp_size=dist.get_world_size())
    model = transformers.LlamaForCausalLM.from_pretrained(bases / "untied", distributed_config=how)
    model.save_pretrained(shards, distributed_checkpoint=True)
    return [str(run), str(shards)]


def every_function(bases: Path, out: Path, kind: str) -> dict[str, str]:
    """What became of every public function that takes a model, on a divided one; under ZeRO-3 of every other, too."""
    out.mkdir()
    if kind == "fsdp":
        base = bases / "untied"
        return outcomes(lambda: divided(loaded(bases, base.name)), base, base, out, MODELS)
    with under_zero3():
        base = bases / "words"
        return outcomes(lambda: loaded(bases, base.name), base, base, out)


def refusal(work: Callable[[], object]) -> str | None:
    try:
        work()
    except HfInitError as error:
        return str(error)
    return None


def alone_under_zero3(bases: Path) -> dict[str, object]:
    """One process's loads under ZeRO-3 and without; what a dtype comes to: another than DeepSpeed's, none, and auto."""
    load = partial(hf_init.from_pretrained, transformers.LlamaForCausalLM, bases / "tied", num_hidden_layers=3)
    seen: dict[str, object] = {name: [opened(bases, name, kind) for kind in ("zero3", None)] for name in LOADS}
    with under_zero3():
        seen["refused"] = refusal(lambda: load(dtype="bfloat16"))
    asked: list[dict[str, Any]] = [{}, {"dtype": "auto"}, {"torch_dtype": torch.bfloat16}]
    dtypes = []
    for options in asked:
        with under_zero3(bf16={"enabled": True}):
            model = load(**options)
        new = {each.dtype for each in model.init_plan.tensors if each.new}
        dtypes.append([*{str(each.dtype) for each in (*model.parameters(), model.config)}, *new])
    return {**seen, "dtypes": dtypes}


def main(*folders: str) -> None:
    """See to the work of one process, with the folders of the bases and of what is written."""
    bases, out = map(Path, folders)
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    torch.manual_seed(dist.get_rank())  # nothing may come of it
    if dist.get_world_size() == 1:
        (out / "rank-0.json").write_text(json.dumps(alone_under_zero3(bases)), encoding="utf-8")
        return dist.destroy_process_group()
    seen: dict[str, object] = {"flipped": flipped(bases)}
    seen["recorded"] = recorded(bases, out / f"manifest-{dist.get_rank()}")
    seen["alone"] = proved_alone(bases)
    seen["extended"] = str(hf_init.extend(bases / "tied", out / "again", add_tokens=None, config={"use_cache": False}))
    seen["refused"] = refusal(lambda: hf_init.extend(bases / "tied", out / "never", num_lables=3))
    seen["pieces"] = saved_in_pieces(bases, out)
    for name in LOADS:
        for kind in ("fsdp", "tp") if name != "mixin" else ("fsdp",):
            seen[f"{name} {kind}"] = opened(bases, name, kind)
    for run in RUNS:
        seen[run] = trained(bases, run)
    kinds = ["fsdp"]
    if find_spec("deepspeed"):
        kinds += ["zero3"]
        seen |= {f"{name} zero3": opened(bases, name, "zero3") for name in LOADS}
        seen |= {run: trained(bases, run) for run in ZERO3_RUNS}
    for kind in kinds:
        seen[f"every {kind}"] = every_function(bases, out / f"every-{kind}-{dist.get_rank()}", kind)
    (out / f"rank-{dist.get_rank()}.json").write_text(json.dumps(seen), encoding="utf-8")
    dist.destroy_process_group()
