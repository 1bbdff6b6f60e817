"""A small checkpoint in three files, its class, and what tests of files need: a change, bytes, failing calls."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import save_file

import hf_init

FILES = [f"model-{k:05}-of-00003.safetensors" for k in (1, 2, 3)]


class SmallConfig(transformers.PreTrainedConfig):
    model_type = "small_of_tests"
    rows: int = 5


class Small(transformers.PreTrainedModel):
    """What stays, what grows beside what stays, what has another name in the files, and a head that is new."""

    config_class, base_model_prefix = SmallConfig, "small"

    def __init__(self, config):
        super().__init__(config)
        self.a = torch.nn.Parameter(torch.zeros(40, 40))
        self.b = torch.nn.Parameter(torch.zeros(config.rows, 4))
        self.c = torch.nn.Parameter(torch.zeros(3))
        self.e = torch.nn.Parameter(torch.zeros(9))
        self.head = torch.nn.Linear(3, 3)
        self.post_init()


CHANGE: dict[str, Any] = {
    "config": {"rows": 7}, "keep": {"b": "leading"}, "key_mapping": {"^d$": "e"},
    "recipe": {"default": "normal(std=0.02)"},
}  # fmt: skip


def small_base(folder: Path) -> Path:
    """The checkpoint: a first file that stays as it is, a second that grows, a third whose tensor is renamed."""
    generator = torch.Generator().manual_seed(0)
    a, b, c, d = (torch.randn(shape, generator=generator) for shape in ((40, 40), (5, 4), (3,), (9,)))
    return save_base(folder, SmallConfig(), {"a": a}, {"b": b, "c": c}, {"d": d})


def save_base(folder: Path, config: transformers.PreTrainedConfig, *files: dict[str, torch.Tensor]) -> Path:
    """A checkpoint of so many files."""
    config.save_pretrained(folder)
    many = len(files)
    names = [f"model-{k:05}-of-{many:05}.safetensors" for k in range(1, many + 1)] if many > 1 else [
        "model.safetensors"
    ]  # fmt: skip
    for name, tensors in zip(names, files, strict=True):
        save_file(tensors, folder / name, {"format": "pt"})
    if many > 1:
        places = {tensor: name for name, tensors in zip(names, files, strict=True) for tensor in tensors}
        (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    return folder


def extend_small(base: Path, out: Path, **options: Any) -> Any:
    return hf_init.extend(base, out, Small, **{**CHANGE, **options})


def contents(folder: Path) -> dict[str, bytes]:
    """Return the bytes of every file, without the card of a result, which says what its base is called."""
    card = folder / "README.md" if (folder / "hf_init.json").exists() else None
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file() and p != card}


def names(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))


def failing(error: BaseException, after: int = 0, do: Callable[..., Any] = lambda *args, **options: None) -> Any:
    """A function that does its work a few times and fails from then on."""
    calls: list[object] = []

    def call(*args: Any, **options: Any) -> Any:
        calls.append(args)
        if len(calls) > after:
            raise error
        return do(*args, **options)

    return call


def once_at(done: int, do: Callable[[], object]) -> Callable[[int], None]:
    """A progress callback that does something once so many bytes are done."""
    steps: list[int] = []

    def progress(nbytes: int) -> None:
        before = sum(steps)
        steps.append(nbytes)
        if before < done <= sum(steps) or (done == 0 == before):
            do()

    return progress
