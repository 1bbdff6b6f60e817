"""What a recorded model's tensor holds: the operations that lead to it, done again for it alone."""

from __future__ import annotations

import torch
from torch.utils._pytree import tree_map

from hf_init._architecture.recording import (
    Memory,
    RecordedCall,
    Recording,
    seed_generators,
    storage_id,
    tensors_in,
)
from hf_init._checkpoint import equal_bytes
from hf_init._tensors import Box, Slot, key_of


def replay(recording: Recording, name: str, seed: int) -> torch.Tensor | None:
    """Return a tensor's values, drawn under a seed, in its own dtype; None where nobody gave it any.

    Memory holds that tensor and what it was computed from, whatever the size of the model. The CPU's random state is
    used: see ``untouched_random_state``.
    """
    chain = recording.leading_to(name)
    values = _Replay(recording, seed, filler=0).run(chain, name)
    if not any(recording.calls[index].fresh for index in chain):
        return values
    # What depends on the memory that it was given is no value.
    return values if equal_bytes(values, _Replay(recording, seed, filler=1).run(chain, name)) else None


class _Replay:
    """Does recorded operations again, on the CPU; fresh memory is filled with one number."""

    def __init__(self, recording: Recording, seed: int, filler: int) -> None:
        self._recording, self._seed, self._filler = recording, seed, filler
        self._real: dict[int, torch.UntypedStorage] = {}
        self._generators: dict[Memory, torch.Generator] = {}

    def run(self, chain: list[int], name: str) -> torch.Tensor:
        """Return a tensor's values after these calls."""
        with torch.no_grad():
            for index in chain:
                self._call(self._recording.calls[index], index)
            return self._tensor(self._recording.tensors[name]).clone()

    def _call(self, call: RecordedCall, index: int) -> None:
        args, kwargs = tree_map(self._argument, (call.args, dict(call.kwargs)))
        if call.drawn_from is not None:
            own = self._generator(call.drawn_from)
            if "generator" in kwargs:
                kwargs["generator"] = own
            torch.default_generator.set_state(own.get_state())
        elif call.random:
            seed_generators(self._key(*self._recording.draws[index]))
        done = call.operation(*args, **kwargs)
        if call.drawn_from is not None and "generator" not in kwargs:
            self._generator(call.drawn_from).set_state(torch.default_generator.get_state())
        if call.fresh:
            done.fill_(self._filler)
        for meta, real in zip(tensors_in(call.result), tensors_in(done), strict=False):
            if storage_id(meta) in call.writes and storage_id(meta) not in self._real:
                self._real[storage_id(meta)] = _storage_laid_out_as(meta, real)

    def _key(self, name: str, number: int) -> int:
        """Return the seed of a draw: of the first, that of the whole tensor's own generator."""
        shape = tuple(self._recording.tensors[name].shape)
        key = Slot(name, Box.whole(shape), shape, seed=self._seed).key
        return key_of(key, str(number)) if number else key

    def _generator(self, memory: Memory) -> torch.Generator:
        """Return the stand-in for a generator that the class seeded, as far as this replay has drawn from it."""
        if memory not in self._generators:
            self._generators[memory] = torch.Generator().set_state(self._recording.tape.generators[memory][1])
        return self._generators[memory]

    def _tensor(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return the tensor that stands for a recorded one: the same view of the storage that replaces its own."""
        key = storage_id(tensor)
        if key not in self._real and key in self._recording.tape.constants:
            self._real[key] = self._recording.tape.constants[key][1].clone()
        if key not in self._real:
            if tensor.device.type != "meta":
                return tensor  # no operation ever touched it
            self._real[key] = torch.UntypedStorage(tensor.untyped_storage().nbytes())  # overwritten before it is read
        view = torch.empty(0, dtype=tensor.dtype)
        return view.set_(self._real[key], tensor.storage_offset(), tensor.shape, tensor.stride())  # pyright: ignore

    def _argument(self, value: object) -> object:
        if isinstance(value, torch.Tensor):
            return self._tensor(value)
        return torch.device("cpu") if isinstance(value, torch.device) and value.type == "meta" else value


def _storage_laid_out_as(meta: torch.Tensor, real: torch.Tensor) -> torch.UntypedStorage:
    """Return the storage of a result, laid out as it was recorded."""
    if real.stride() == meta.stride() and real.storage_offset() == meta.storage_offset():
        return real.untyped_storage()
    flat = torch.empty(meta.untyped_storage().nbytes() // meta.element_size(), dtype=meta.dtype)
    flat.as_strided(meta.shape, meta.stride(), meta.storage_offset()).copy_(real)
    return flat.untyped_storage()
