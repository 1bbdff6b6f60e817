"""Tied tensors: which names the config ties, and which of them the files hold apart."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import torch
from transformers import PreTrainedModel

from hf_init._architecture.library import Addresses
from hf_init._checkpoint import Checkpoint, Reader
from hf_init._tensors import Layout


def held_apart(
    model: PreTrainedModel, addresses: Addresses, source: Checkpoint, names: Sequence[str]
) -> dict[str, str]:
    """Return the tied names in memory for which the files hold a tensor of its own, with other values.

    The loader leaves them untied. Of a repository whose values aren't here the config is believed.

    Args:
        addresses: where the loader puts tensors of the names on disk. names: those that are taken.
    """
    ties = model.all_tied_weights_keys
    if not ties or source.remote:
        return {}
    held = {address[0]: name for name, address in addresses.of(names).items() if len(address) == 1}
    first: dict[str, str] = {}  # what stands for each tied tensor: the one that it is tied to, if that is held
    with Reader(source) as reader:
        return {
            name: of
            for name, of in ties.items()
            if name in held and not reader.same(first.setdefault(of, held.get(of, held[name])), held[name])
        }


def untie(model: PreTrainedModel, names: Iterable[str]) -> None:
    """Give tied parameters a tensor each, as the loader does where the files hold both with different values."""
    for name in names:
        model.all_tied_weights_keys.pop(name)
        path, _, leaf = name.rpartition(".")
        parent, tied = model.get_submodule(path), model.get_parameter(name)
        setattr(parent, leaf, torch.nn.Parameter(torch.empty_like(tied), tied.requires_grad))


def stored_under(layout: Layout, addresses: Addresses, names: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield the names that a model has by a tie and files with these names don't, each with the name they have."""
    stored_at = {address: name for name, address in addresses.of(names).items()}
    address_of = {tensor.name: tensor.address for tensor in layout.tensors}
    for tie in layout.ties:
        stored = next((stored_at[a] for a in (address_of[tie.of], *tie.addresses) if a in stored_at), None)
        if stored is not None:
            yield from ((name, stored) for name in (tie.of, tie.name) if name != stored)
