"""The two labelled sets of ``bench/heads.py``, ready for a model, and the tiny vision transformer of one of them."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from finetune import CACHE, PARTS, docstrings
from sklearn.datasets import load_digits
from transformers import AutoTokenizer, BertForSequenceClassification, ViTConfig, ViTForImageClassification

TRAIN, TEST = 600, 300
LENGTH = 16  # tokens of a docstring: its first line, about
FEW = 16  # labelled examples of each class for the heads that are solved from them
TINY: dict[str, Any] = {"image_size": 8, "patch_size": 2, "num_channels": 1, "hidden_size": 48, "num_hidden_layers": 3,
        "num_attention_heads": 4, "intermediate_size": 96}  # fmt: skip
WORDS = {
    "asyncio": ["asynchronous", "loop", "coroutine"],
    "email": ["email", "mail", "message"],
    "numbers": ["number", "decimal", "random"],
    "processes": ["process", "thread", "lock"],
    "testing": ["test", "failure", "assertion"],
    "web": ["web", "http", "server"],
}

Data = Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class LabelledSet:
    """A pretrained checkpoint, and examples of classes that it has no head for.

    Attributes:
        train, test: the model's inputs and ``labels``; the first dimension counts examples.
        lr: of trunk and head. batch: examples a step.
        words: for a verbalizer; empty where there are none. options: of ``from_pretrained``.
    """

    name: str
    cls: Any
    base: Path
    labels: list[str]
    train: Data
    test: Data
    lr: float
    batch: int
    words: Mapping[str, list[str]] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)

    def few(self, seed: int) -> Data:
        """``FEW`` training examples of each class."""
        generator, targets = random.Random(seed), self.train["labels"].tolist()
        places = [[n for n, each in enumerate(targets) if each == k] for k in range(len(self.labels))]
        return rows(self.train, [n for mine in places for n in generator.sample(mine, FEW)])


def rows(data: Data, places: list[int]) -> dict[str, torch.Tensor]:
    return {key: value[places] for key, value in data.items()}


@lru_cache
def text() -> LabelledSet:
    """Which part of Python's standard library a docstring is from, for MiniLM."""
    base = CACHE / "all-MiniLM-L6-v2"
    examples = docstrings()[: TRAIN + TEST]
    encoded = AutoTokenizer.from_pretrained(base)(
        [each.text for each in examples],
        padding="max_length", truncation=True, max_length=LENGTH, return_tensors="pt",
    )  # fmt: skip
    data = {**encoded, "labels": torch.tensor([each.part for each in examples])}
    labels = list(PARTS)
    return LabelledSet(
        "text", BertForSequenceClassification, base, labels, *_split(data), lr=5e-5, batch=8, words=WORDS
    )


def digits(cache: Path) -> LabelledSet:
    """The handwritten digits 5 to 9, for a vision transformer that has seen 0 to 4."""
    images, targets = _images()
    chosen = (targets >= 5).nonzero()[:, 0].tolist()
    random.Random(0).shuffle(chosen)
    data = {"pixel_values": images[chosen], "labels": targets[chosen] - 5}
    labels = [str(k) for k in range(5, 10)]
    options, base = {"labels_keep": "none"}, cache / "digits-vit"
    return LabelledSet(
        "digits", ViTForImageClassification, base, labels, *_split(data), lr=3e-4, batch=16, options=options
    )


def pretrained(cache: Path, steps: int = 1500) -> None:
    """Trains the tiny vision transformer on the digits 0 to 4 and saves it, unless it is there."""
    folder = cache / "digits-vit"
    if folder.is_dir():
        return
    images, targets = _images()
    known = (targets < 5).nonzero()[:, 0].tolist()
    names = {k: str(k) for k in range(5)}
    config = ViTConfig(**TINY, id2label=names, label2id={name: k for k, name in names.items()})
    torch.manual_seed(0)
    torch.set_num_threads(1)
    model, generator = ViTForImageClassification(config).train(), random.Random(0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for _ in range(steps):
        places = generator.sample(known, 32)
        model(pixel_values=images[places], labels=targets[places]).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(folder)


def _split(data: Data) -> tuple[Data, Data]:
    count = len(data["labels"])
    return rows(data, list(range(TRAIN))), rows(data, list(range(TRAIN, min(count, TRAIN + TEST))))


def _images() -> tuple[torch.Tensor, torch.Tensor]:
    found: Any = load_digits()
    return torch.tensor(found.images, dtype=torch.float32)[:, None] / 8 - 1, torch.tensor(found.target)
