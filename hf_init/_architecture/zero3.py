"""DeepSpeed's ZeRO-3, as the library keeps it for a whole process: whether it is on, and how to build past it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from transformers.integrations import deepspeed as hf_deepspeed


@contextmanager
def without_zero3() -> Iterator[None]:
    """Build models whole, with DeepSpeed's config for the process out of sight: ZeRO-3 divides them."""
    config = hf_deepspeed._hf_deepspeed_config_weak_ref
    hf_deepspeed.unset_hf_deepspeed_config()
    try:
        yield
    finally:
        hf_deepspeed._hf_deepspeed_config_weak_ref = config


def is_zero3_enabled() -> bool:
    """Return whether DeepSpeed's ZeRO-3 is to divide the models that this process loads."""
    return hf_deepspeed.is_deepspeed_zero3_enabled()


def as_zero3_loads(values: Mapping[str, object]) -> dict[str, torch.Tensor]:
    """Return a state dict as the library loads it under ZeRO-3: of tensors, which the first rank hands on."""
    lazy: Any = values
    return {name: each if isinstance(each, torch.Tensor) else each[...] for name, each in lazy.items()}
