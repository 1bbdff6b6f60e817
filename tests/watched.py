"""What is the caller's and has to stay so: random states, settings, words, files; and what the library says."""

from __future__ import annotations

import json
import logging
import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from refusals import snapshot
from transformers import PreTrainedConfig


def world(folders: Mapping[str, Path], options: Mapping[str, Any], files: Any = None) -> dict[str, Any]:
    """What is the caller's: random states, torch's settings, the words that were given, the bases' bytes and times.

    Args:
        files: the bases' bytes and times, where they are known.
    """
    return {
        "python's random state": random.getstate(),
        "numpy's random state": repr(np.random.get_state()),
        "torch's random state": torch.get_rng_state().numpy().tobytes(),
        "torch's dtype": torch.get_default_dtype(),
        "torch's threads": torch.get_num_threads(),
        "torch's gradients": torch.is_grad_enabled(),
        "torch's functions": [getattr(torch.nn.init, name) for name in ("normal_", "zeros_", "kaiming_uniform_")],
        "the library's verbosity": transformers.logging.get_verbosity(),
        "options": json.dumps(options, default=_spelled),
        "files": files or {prefix: snapshot(folder) for prefix, folder in folders.items()},
    }


def _spelled(value: Any) -> str:
    return value.to_json_string() if isinstance(value, PreTrainedConfig) else repr(value)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Other random states for a while."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])


@contextmanager
def heard() -> Iterator[list[str]]:
    """What the library says while something is done, of a warning's weight or more."""
    said: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: said.append(record.getMessage())
    logger, before = logging.getLogger("transformers"), transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_warning()
    logger.addHandler(handler)
    try:
        yield said
    finally:
        logger.removeHandler(handler)
        transformers.logging.set_verbosity(before)
