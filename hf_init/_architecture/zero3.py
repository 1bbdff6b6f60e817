"""DeepSpeed's ZeRO-3, as the library keeps it for a whole process: whether it is on, and how to build past it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from transformers.integrations import deepspeed as hf_deepspeed

from hf_init._errors import PlanError

ZERO3_DTYPES = {"bf16": torch.bfloat16, "bfloat16": torch.bfloat16, "fp16": torch.float16}
"""By the section of DeepSpeed's config that enables them; float32 by none."""


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


def with_zero3_dtype(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return a load's options with the dtype that ZeRO-3 gives each parameter: by DeepSpeed's config, and by it alone.

    Raises:
        PlanError: another dtype is asked for, which the library passes over without a word.
    """
    if not is_zero3_enabled():
        return dict(options)
    config: Mapping[str, Any] = hf_deepspeed.deepspeed_config() or {}
    enabled = [dtype for key, dtype in ZERO3_DTYPES.items() if (config.get(key) or {}).get("enabled") is True]
    own = enabled[0] if enabled else torch.float32
    rest = {name: value for name, value in options.items() if name not in ("dtype", "torch_dtype")}
    asked = next((options[name] for name in ("dtype", "torch_dtype") if options.get(name) is not None), "auto")
    if asked not in ("auto", own, str(own).removeprefix("torch.")):
        raise PlanError(
            f"dtype={asked!r}: under ZeRO-3 every parameter is {own}, by DeepSpeed's config, and transformers passes "
            'dtype over; leave it out, or set it there: {"bf16": {"enabled": true}} or "fp16"; neither means float32'
        )
    return {**rest, "dtype": own}
