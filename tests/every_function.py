"""Every public function once, on a model and on the folder that it is of: each gives a result or an HfInitError."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, LlamaForCausalLM

import hf_init
from hf_init import HfInitError, InitMixin, finetune

NO_FUNCTIONS = {"HfInitError", "Plan", "Recipe", "Rule", "Upcycle", "finetune", "schemes"}
NOUNS = {"Frozen", "GuardReport", "Schedule", "UnfreezeStep"}
PUBLIC = (*sorted({*hf_init.__all__} - NO_FUNCTIONS), *sorted({*finetune.__all__} - NOUNS))
MODELS = (*sorted({*finetune.__all__} - NOUNS), "check", "initialize")
"""Those that take a model."""
IDS = torch.tensor([[1, 2, 3, 95]])
BATCH = {"input_ids": IDS, "labels": IDS}
SCHEMES = {"mean": {"row_scheme": "mean"}, "resize_token_embeddings": None}


def more_rows(folder: Path) -> dict[str, Any]:
    """The options for eight rows more than a folder has."""
    size = json.loads((folder / "config.json").read_text(encoding="utf-8"))["vocab_size"]
    return {"config": {"vocab_size": size + 8}, "keep": {"*embed_tokens*": "leading", "lm_head*": "leading"}}


class Mine(InitMixin, LlamaForCausalLM):
    init_recipe = "auto"


def calls(make: Callable[[], Any], folder: Path, plan: Path, out: Path) -> dict[str, Callable[[], object]]:
    """What to do for each name; ``plan`` is a folder with the model's manifest, ``folder`` one with its weights."""

    rows = more_rows(folder)

    def read() -> hf_init.Plan:
        return hf_init.Plan.load(plan)

    return {
        "InitMixin": lambda: Mine.from_pretrained(folder, **rows),
        "MultiHead": lambda: hf_init.from_pretrained(
            hf_init.MultiHead, folder, add_heads={"v": "regression"}, drop=["lm_head*"]
        ),
        "check": lambda: hf_init.check(make(), BATCH),
        "compare_schemes": lambda: hf_init.compare_schemes(folder, ["zz"], ["a b zz"] * 3, 1, SCHEMES),
        "convert": lambda: hf_init.convert(folder, out / "converted"),
        "diff": lambda: str(hf_init.diff(folder, plan)),
        "drift": lambda: str(hf_init.drift(plan, folder, frozen="kept")),
        "extend": lambda: str(hf_init.extend(folder, out / "extended", **rows)),
        "from_pretrained": lambda: hf_init.from_pretrained(AutoModelForCausalLM, folder, **rows),
        "heads": lambda: str(hf_init.heads(folder)),
        "initialize": lambda: (hf_init.initialize(make(), plan), hf_init.initialize(make(), dict(make().state_dict()))),
        "plan": lambda: str(hf_init.plan(folder, **rows)),
        "probe_vocabulary": lambda: hf_init.probe_vocabulary(plan, folder, ["a b"]),
        "report": lambda: hf_init.report(folder, out / "report.html"),
        "same_function": lambda: hf_init.same_function(plan, folder),
        "verify": lambda: str(hf_init.verify(folder)),
        "FinetuneCallback": lambda: finetune.FinetuneCallback(read()).on_init_end(None, None, None, model=make()),
        "Watch": lambda: finetune.Watch(finetune.freeze(make(), read()), every=1).__enter__(),
        "check_optimizer": lambda: finetune.check_optimizer(*adam(make())),
        "check_rewriting": lambda: finetune.check_rewriting({"init_lora_weights": "gaussian"}),
        "freeze": lambda: finetune.freeze(make(), read()).verify(),
        "parameter_groups": lambda: finetune.parameter_groups(make(), read(), lr=1e-3),
        "peft_arguments": lambda: finetune.peft_arguments(read(), make()),
        "plan_against": lambda: finetune.plan_against(make(), plan),
        "quantization_arguments": lambda: finetune.quantization_arguments(read()),
        "train_only_new": lambda: finetune.train_only_new(make(), read()).verify(),
        "unfreeze_schedule": lambda: finetune.unfreeze_schedule(make(), read(), every=1),
    }


def adam(model: torch.nn.Module) -> tuple[torch.optim.Optimizer, torch.nn.Module]:
    return torch.optim.AdamW([each for each in model.parameters() if each.requires_grad]), model


def outcomes(
    make: Callable[[], Any], folder: Path, plan: Path, out: Path, names: Iterable[str] = PUBLIC
) -> dict[str, str]:
    """What became of each: ``a result``, a refusal in words, or what it should not have been."""
    table, seen = calls(make, folder, plan, out), {}
    assert {*table} == {*PUBLIC}, "a function that isn't called here"
    for name in names:
        started = time.monotonic()
        try:
            table[name]()
            seen[name] = "a result"
        except HfInitError as error:
            seen[name] = f"refused: {error}"
        except Exception as error:  # which is what the test is about
            seen[name] = f"FAULT {type(error).__name__}: {error}"
        if time.monotonic() - started > 60:
            seen[name] = "FAULT it took more than a minute"
    return seen
