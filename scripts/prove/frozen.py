"""What is frozen stands still, to the byte: long runs of three optimizers on real checkpoints, in memory and as saved.

SmolLM2-135M (tied embeddings) with 50 new tokens, of which only the new rows train, and MiniLM with a new head: each
with AdamW (weight decay 0.01), SGD with momentum and Adafactor; bfloat16 autocast, clipping, gradients of two batches
to a step. Afterwards every tensor is compared with a copy from before and, as saved, with the files of the base.
Exits 1 where a frozen byte moved or a new row stood still.

    python scripts/prove/frozen.py [--steps 1000] [--case minilm|smollm2] [--optimizer AdamW] [--layers N]
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from transformers import Adafactor, BertForSequenceClassification, LlamaForCausalLM
from transformers.utils import logging

import hf_init
from hf_init import Plan
from hf_init._tensors import Rows
from hf_init.finetune import Frozen, Watch, parameter_groups, train_only_new

CACHE = Path(__file__).resolve().parents[2] / ".cache"
TOKENS = 50

Optimizer = Callable[[list[dict[str, Any]]], torch.optim.Optimizer]
OPTIMIZERS: dict[str, Optimizer] = {
    "AdamW": lambda groups: torch.optim.AdamW(groups),
    "AdamW, fused": lambda groups: torch.optim.AdamW(groups, fused=True),
    "SGD": lambda groups: torch.optim.SGD(groups, momentum=0.9, nesterov=True),
    "Adafactor": lambda groups: Adafactor(groups, relative_step=False, scale_parameter=True),
}


@dataclass(frozen=True)
class Case:
    """An extension of a real checkpoint, and how a batch of it is made."""

    base: Path
    cls: Any
    options: dict[str, Any]
    batch: Callable[[torch.Generator], dict[str, torch.Tensor]]

    def model(self, layers: int | None) -> Any:
        """The extended model, in float32; of all its layers, or of the first ones."""
        options = self.options if layers is None else {**self.options, "num_hidden_layers": layers}
        return hf_init.from_pretrained(self.cls, self.base, dtype=torch.float32, **options)


def _tokens(generator: torch.Generator) -> dict[str, torch.Tensor]:
    """Sixteen tokens, half of them new."""
    ids = torch.randint(0, 49152, (1, 16), generator=generator)
    ids[:, ::2] = torch.randint(49152, 49152 + TOKENS, (1, 8), generator=generator)
    return {"input_ids": ids, "labels": ids}


def _sentence(generator: torch.Generator) -> dict[str, torch.Tensor]:
    ids = torch.randint(1000, 30000, (1, 16), generator=generator)
    return {"input_ids": ids, "labels": ids[:, 0] % 3}


CASES = {
    "smollm2": Case(
        CACHE / "SmolLM2-135M-Instruct",
        LlamaForCausalLM,
        {"vocab_size": 49152 + TOKENS, "keep": {"*embed_tokens*": "leading"}, "seed": 1},
        _tokens,
    ),
    "minilm": Case(CACHE / "all-MiniLM-L6-v2", BertForSequenceClassification, {"num_labels": 3, "seed": 1}, _sentence),
}


def train(model: Any, frozen: Frozen, case: Case, make: Optimizer, steps: int) -> float:
    """Seconds a step; the frozen is proved on the way and at the end."""
    optimizer = make(parameter_groups(model, frozen.plan, lr=1e-5, new_lr=1e-3, weight_decay=0.01))
    generator = torch.Generator().manual_seed(0)
    model.train()
    start = time.perf_counter()
    with Watch(frozen, every=max(steps // 4, 1), optimizer=optimizer) as watch:
        for _ in range(steps):
            watch.begin_step()
            for _ in range(2):
                with torch.autocast("cpu", torch.bfloat16):
                    loss = model(**case.batch(generator)).loss / 2
                loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            model.zero_grad()
            watch.end_step()
    return (time.perf_counter() - start) / steps


def differences(plan: Plan, before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> Iterator[str]:
    """What moved and shouldn't have, and the other way about; by bits, both under the model's names."""
    for name, old in before.items():
        entry = next((t for t in plan.tensors if name == t.parameter), None)
        if entry is not None and entry.tied_to is not None:
            entry = plan[entry.tied_to]
        moved = _bits(old) != _bits(after[name])
        free = torch.zeros_like(moved)
        for fill in entry.new if entry is not None else ():
            free[list(fill.region.index) if isinstance(fill.region, Rows) else fill.region.slices] = True
        if bool((moved & ~free).any()):
            yield f"{name}: {int((moved & ~free).sum())} frozen elements moved"
        still = free.reshape(len(free), -1).any(1) & ~moved.reshape(len(moved), -1).any(1) if free.ndim else free
        if bool(still.any()):
            yield f"{name}: {int(still.sum())} new rows stood still"


def from_files(plan: Plan, base: Path, saved: Path) -> Iterator[str]:
    """What the saved files hold at kept places, against the base's own, exactly cast."""
    old, new = load_file(base / "model.safetensors"), load_file(saved / "model.safetensors")
    for entry in plan.tensors:
        for copy in entry.kept if entry.name in new else ():
            want = old[copy.source][copy.source_region.slices].to(new[entry.name].dtype)  # type: ignore[union-attr]
            if bool((_bits(want) != _bits(new[entry.name][copy.region.slices])).any()):  # type: ignore[union-attr]
                yield f"{entry.name}: the saved bytes aren't the base's"


def _bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous().view(torch.int32 if tensor.dtype.itemsize == 4 else torch.int64)


def prove(name: str, case: Case, optimizer: str, steps: int, layers: int | None) -> bool:
    model = case.model(layers)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    frozen = train_only_new(model)
    seconds = train(model, frozen, case, OPTIMIZERS[optimizer], steps)
    plan: Plan = frozen.plan
    faults = [*differences(plan, before, model.state_dict())]
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        faults += from_files(plan, case.base, Path(folder))
        again = case.cls.from_pretrained(folder, dtype=torch.float32).state_dict()
        faults += [
            f"{key}: saved, then loaded, differs" for key in again if not again[key].equal(model.state_dict()[key])
        ]
    print(f"{name}, {optimizer}: {steps} steps, {seconds * 1000:.0f} ms each; {frozen.verify()}", flush=True)
    print("  new rows moved, in memory and as saved" if not faults else "\n".join(f"  {each}" for each in faults))
    return not faults


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--case", choices=CASES, action="append")
    parser.add_argument("--optimizer", choices=OPTIMIZERS, action="append")
    parser.add_argument("--layers", type=int, help="the first ones only, which is faster; default: all")
    args = parser.parse_args()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    runs = [(name, each) for name in args.case or CASES for each in args.optimizer or OPTIMIZERS]
    return 0 if all([prove(name, CASES[name], each, args.steps, args.layers) for name, each in runs]) else 1


if __name__ == "__main__":
    sys.exit(main())
