"""What a checkpoint's own class has, and what it doesn't load: the measure of what is lacking and what is left over."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable

from hf_init._architecture.layout import stored_tensors
from hf_init._architecture.library import Address, not_saved, tolerated
from hf_init._architecture.target import Target
from hf_init._architecture.tower_addresses import base_addresses
from hf_init._checkpoint import BaseCheckpoint, Checkpoint
from hf_init._errors import HfInitError


def own_tensors(target: Target) -> dict[Address, str]:
    """Return what the own class of each checkpoint has under its own config, by its address in the target.

    Without what that class says a checkpoint may lack.
    """
    found: dict[Address, str] = {}
    for prefix, own, _ in target.origins:
        optional = [re.compile(pattern) for pattern in tolerated(own.model)]
        stored, alias = stored_tensors(own.model)
        names = own.plain_addresses.of([*stored, *alias])
        addresses = target.addresses.of([prefix + name for name in names])
        found |= {
            addresses[prefix + name]: prefix + alias.get(name, name)  # as the files call it
            for name, (parameter, *_) in names.items()
            if parameter not in not_saved(own.model) and not any(pattern.search(parameter) for pattern in optional)
        }
    return found


def ignored_by_own(target: Target, names: Collection[str]) -> set[str]:
    """Return which of the base's tensors its own class doesn't load, or computes itself."""
    found: set[str] = set()
    for prefix, own, known in target.origins:
        if not known or not any(name.startswith(prefix) for name in names):
            continue
        saved = own.model.state_dict().keys()
        made = [(f".{name}", buffer.shape) for name, buffer in own.model.named_buffers() if name not in saved]
        for tensor in own.addressed:
            # A buffer that the model makes and no longer saves, with its prefix or without.
            ending = f".{tensor.address[0]}"
            computed = any(name.endswith(ending) and shape == tensor.shape for name, shape in made)
            if prefix + tensor.name in names and (tensor.ignored or computed):
                found.add(prefix + tensor.name)
    return found


def addresses_after(target: Target, rules: Iterable[tuple[str, str]]) -> dict[str, Address]:
    """Return where the loader would put the base's tensors if these renamings came before all others."""
    mapping = {**dict(rules), **(target.load_options.get("key_mapping") or {})}
    addresses = base_addresses(target.model, target.base.source, mapping) if mapping else target.addresses
    return addresses.of(list(target.base.source.entries))


def loader_addresses(checkpoint: Checkpoint, names: list[str]) -> dict[str, Address]:
    """Return where the loader of a checkpoint's own class puts tensors of some names; empty where it can't be had."""
    try:
        return Target.of(BaseCheckpoint.of_part(checkpoint), values={}, changed={}).addresses.of(names)
    except HfInitError:
        return {}
