"""Words in tensor names: numbered blocks such as ``model.layers.3.``, the stacks that they lie in, wrappers."""

from __future__ import annotations

import re
from collections.abc import Mapping

WRAPPERS: Mapping[str, str] = {
    "_orig_mod": "torch.compile",
    "_fsdp_wrapped_module": "FSDP",
    "_checkpoint_wrapped_module": "activation checkpointing",
    "_forward_module": "Lightning",
    "module": "DataParallel or DDP",
    "base_layer": "an adapter that isn't merged",
}
"""Words that a wrapper puts into names, with the wrapper."""


def unwrapped_name(name: str) -> str:
    """Return a name without the words of wrappers.

    Example:
        >>> unwrapped_name("module.layers.0._checkpoint_wrapped_module.w.weight")
        'layers.0.w.weight'
    """
    return ".".join(part for part in name.split(".") if part not in WRAPPERS)


def stack_blocks(name: str) -> list[str]:
    """Return the prefixes of a name that end in a number: the blocks that it lies in.

    Example:
        >>> stack_blocks("model.layers.3.mlp.experts.7.w1.weight")
        ['model.layers.3.', 'model.layers.3.mlp.experts.7.']
    """
    return [name[: number.end()] for number in re.finditer(r"\.\d+\.|^\d+\.", name)]


def stack_of(block: str) -> str:
    """Return the stack that a block lies in: its name without the last number."""
    return re.sub(r"\d+\.$", "", block)


def name_pattern(name: str) -> str:
    """Return a name without its numbers: equal for tensors that differ in their layer alone.

    Example:
        >>> name_pattern("model.layers.11.mlp.up_proj.weight")
        'model.layers.*.mlp.up_proj.weight'
    """
    return ".".join("*" if part.isdecimal() else part for part in name.split("."))


def layer_of(name: str) -> str:
    """Return the layer that a tensor is in; outside of layers the module, two names deep.

    Example:
        >>> layer_of("model.layers.3.mlp.up.weight"), layer_of("bert.embeddings.norm.bias"), layer_of("lm_head.weight")
        ('model.layers.3', 'bert.embeddings', 'lm_head')
    """
    blocks = stack_blocks(name)
    if blocks:
        return blocks[0].rstrip(".")
    parts = name.split(".")
    return ".".join(parts[: max(min(len(parts) - 1, 2), 1)])
