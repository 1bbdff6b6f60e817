"""Where the tensors of several checkpoints go in the model that they are parts of."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from transformers import PreTrainedModel

from hf_init._architecture.library import Address, Addresses
from hf_init._checkpoint import Checkpoint


class TowerAddresses(Addresses):
    """Addresses of names that begin with a part's prefix, as the loader of the model at that prefix would find them.

    A checkpoint has its own names for what is there: ``bert.embeddings...`` of a whole model, or ``embeddings...`` of
    its backbone. A name that the whole model doesn't know is given to the part's own loader; one that it doesn't know
    either (a language-model head) may be one of the whole model, as it is in the checkpoint.
    """

    def __init__(self, model: PreTrainedModel, prefixes: Iterable[str], key_mapping: dict[str, str] | None = None):
        super().__init__(model, key_mapping)
        modules = dict(model.named_modules())
        inner = {prefix: modules.get(prefix.rstrip(".")) for prefix in prefixes if prefix}
        self._towers = {prefix: Addresses(m) for prefix, m in inner.items() if isinstance(m, PreTrainedModel)}
        self._renames = bool(key_mapping)

    def of(self, names: Sequence[str]) -> dict[str, Address]:
        """Return the address of every name; a name that the model has no tensor for gets one of its own."""
        found = super().of(names)
        taken = {address for address in found.values() if address[0] in self._parameters}
        for prefix, tower in self._towers.items():
            lost = [n for n in names if n.startswith(prefix) and found[n][0] not in self._parameters]
            lost = [n for n in lost if not self._renames or found[n] == (n,)]  # an option that renames it is obeyed
            bare = [name.removeprefix(prefix) for name in lost]
            inside, whole = tower.of(bare), super().of(bare)
            for name, own in zip(lost, bare, strict=True):
                parameter, *rest = inside[own]
                places = ((prefix + parameter, *rest), whole[own])
                free = (place for place in places if place[0] in self._parameters and place not in taken)
                found[name] = next(free, found[name])
        return found


def base_addresses(model: PreTrainedModel, source: Checkpoint, key_mapping: dict[str, str] | None) -> Addresses:
    """Return where the loader puts a base's tensors in a model, those of a part as the part's own loader would."""
    prefixes = [prefix for prefix, _ in source.parts]
    return TowerAddresses(model, prefixes, key_mapping) if prefixes else Addresses(model, key_mapping)
