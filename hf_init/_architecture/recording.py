"""A model built and initialized on meta, with every operation on every tensor written down: no memory, no values."""

from __future__ import annotations

import random
import sys
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import cache, cached_property, partial
from typing import Any, TypeAlias

import numpy as np
import torch
from torch._ops import OpOverload
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import initialization as library_init

from hf_init._architecture.library import replaced_init_functions
from hf_init._tensors import key_of

MADE_FROM_DATA = frozenset([torch.tensor, torch.as_tensor, torch.asarray, torch.Tensor.new_tensor])
FRESH = ("aten::empty", "aten::new_empty")
OVERWRITING = frozenset(
    f"aten::{name}_"
    for name in ("normal", "uniform", "zero", "fill", "copy", "bernoulli", "exponential", "random", "log_normal")
)
"""Operations in place that don't look at what was there."""
FIXED = ("constant_", "ones_", "zeros_", "eye_", "dirac_")
"""Initialization functions that draw nothing."""

Memory: TypeAlias = "int | tuple[int, int]"
"""A storage, or a random generator that the class seeds itself: what comes out depends on what was drawn before."""


@dataclass(frozen=True)
class RecordedCall:
    """One operation, by the storages that it reads and writes.

    Attributes:
        name: of the operation: ``normal_``.
        fresh: it gives memory without values.
        whole: it overwrites all of the one storage that it writes to, whatever was there.
        random: it draws: from torch's generators, and if it is the user's own code from numpy's and Python's, too.
        drawn_from: a generator that the class itself has seeded; None: what it draws is the seed's.
        by: whose ``_init_weights`` it was called by; empty for the constructor.
    """

    operation: Any
    args: tuple[object, ...]
    kwargs: Mapping[str, object]
    result: object
    reads: frozenset[Memory]
    writes: frozenset[Memory]
    name: str = ""
    fresh: bool = False
    whole: bool = False
    random: bool = False
    drawn_from: Memory | None = None
    by: str = ""


@dataclass
class Tape:
    """Everything that was written down.

    Attributes:
        constants: the values of storages that were real when an operation first saw them, or made from data.
        generators: those that the class seeds itself, each time anew, with their states then and as they were left.
        by: whose ``_init_weights`` is running.
        seed: what the default generator is seeded with while nobody else has seeded it.
    """

    seed: int
    calls: list[RecordedCall] = field(default_factory=list[RecordedCall])
    constants: dict[int, tuple[torch.Tensor, torch.UntypedStorage]] = field(default_factory=dict)
    generators: dict[Memory, tuple[torch.Generator, torch.Tensor, torch.Tensor]] = field(default_factory=dict)
    by: Callable[[], str] = str
    _known: set[int] = field(default_factory=set[int])

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Write down what happens, on meta, in float32 where nothing else is said."""
        dtype = torch.get_default_dtype()
        with ExitStack() as stack:
            stack.enter_context(torch.device("meta"))
            stack.enter_context(library_init.meta_device_safe_creation_ops())
            stack.enter_context(_Recorder(self))
            stack.enter_context(_Constants(self))
            # torch's initialization functions are recorded whole: on meta, some of them return before they do anything
            stack.enter_context(replaced_init_functions(partial(_record_function, self)))
            seed_generators(self.seed)
            torch.set_default_dtype(torch.float32)
            try:
                yield
            finally:
                torch.set_default_dtype(dtype)

    def note(self, call: RecordedCall) -> None:
        if call.drawn_from is not None:  # each draw depends on those before it
            own = frozenset((call.drawn_from,))
            call = replace(call, reads=call.reads | own, writes=call.writes | own)
        self.calls.append(call)
        self._known |= {memory for memory in call.writes if isinstance(memory, int)}

    def note_constant(self, tensor: torch.Tensor, real: torch.Tensor) -> None:
        self.constants[storage_id(tensor)] = (tensor, real.clone().untyped_storage())

    def note_real(self, tensors: Sequence[torch.Tensor]) -> None:
        """Remember what real tensors hold before an operation may change it."""
        for tensor in tensors:
            known = storage_id(tensor) in self._known or storage_id(tensor) in self.constants
            if tensor.device.type == "cpu" and not known:
                self.constants[storage_id(tensor)] = (tensor, tensor.untyped_storage().clone())

    def source_of_draws(self, generator: object) -> Memory | None:
        """Return the class's own generator that an operation draws from; None where it has seeded none.

        Nothing on meta advances a generator: one in another state than it was left in was seeded again.
        """
        own = generator if isinstance(generator, torch.Generator) else torch.default_generator
        if own is torch.default_generator and own.initial_seed() == self.seed:
            return None
        state = own.get_state()
        for memory, (known, _, left) in self.generators.items():
            if known is own and torch.equal(left, state):
                return memory
        number = len(self.generators)
        self.generators[number, id(own)] = (own, state, own.manual_seed(key_of(self.seed, str(number))).get_state())
        return number, id(own)


def seed_generators(key: int) -> None:
    """Seed the CPU's generators: torch's, numpy's and Python's. ``torch.manual_seed`` would seed every device."""
    torch.default_generator.manual_seed(key)
    np.random.seed(key % 2**32)
    random.seed(key)


class Recording:
    """The tensors of a recorded model, and what each of them came from.

    Every draw has a key of its own: the name of the tensor that it is for, and its number among the draws of that one.
    What was computed from one draw stays what it was to the others, and a tensor more changes no other.
    """

    def __init__(self, tape: Tape, tensors: Iterable[tuple[str, torch.Tensor]]) -> None:
        self.tape, self.calls = tape, tuple(tape.calls)
        self.tensors = {name: tensor.detach() for name, tensor in tensors}
        self._writers: dict[Memory, list[int]] = defaultdict(list)
        for index, call in enumerate(self.calls):
            for memory in call.writes:
                self._writers[memory].append(index)

    def leading_to(self, name: str) -> list[int]:
        """Return the calls that a tensor's values depend on, in order."""
        found: set[int] = set()
        seen: set[tuple[Memory, int]] = set()
        waiting: list[tuple[Memory, int]] = [(storage_id(self.tensors[name]), len(self.calls))]
        while waiting:
            memory, before = waiting.pop()
            if (memory, before) in seen:
                continue
            seen.add((memory, before))
            writers = self._writers.get(memory, [])
            for index in reversed(writers[: bisect_left(writers, before)]):
                if index not in found:
                    found.add(index)
                    waiting += [(read, index) for read in self.calls[index].reads]
                if self.calls[index].whole and isinstance(memory, int):
                    break
        return sorted(found)

    def knows(self, name: str) -> bool:
        """Return whether a tensor's values came about while it was recorded; what was handed over did not."""
        tensor = self.tensors.get(name)
        if tensor is None:
            return False
        return tensor.device.type != "meta" or storage_id(tensor) in {*self._writers, *self.tape.constants}

    def starts_from_nothing(self, name: str) -> bool:
        """Return whether a tensor's calls write before they read, and draw for no other tensor."""
        own, started = storage_id(self.tensors[name]), set[Memory](self.tape.constants)
        for index in self.leading_to(name):
            call = self.calls[index]
            if not call.reads <= started or (call.random and own not in call.writes):
                return False
            started |= call.writes
        return own in started

    @cached_property
    def draws(self) -> Mapping[int, tuple[str, int]]:
        """Return every draw with the tensor that it is for: its memory's own, or the first to depend on it."""
        chains = {name: [i for i in self.leading_to(name) if self.calls[i].random] for name in self.tensors}
        named: dict[int, str] = {}
        for name, chain in chains.items():
            own = storage_id(self.tensors[name])
            for index in chain:
                if own in self.calls[index].writes:
                    named.setdefault(index, name)
        for name, chain in chains.items():
            for index in chain:
                named.setdefault(index, name)
        numbers: dict[str, int] = defaultdict(int)
        draws: dict[int, tuple[str, int]] = {}
        for index in sorted(named):
            draws[index] = (named[index], numbers[named[index]])
            numbers[named[index]] += 1
        return draws


def named_tensors(model: torch.nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield every parameter and buffer, under each of its names."""
    yield from model.named_parameters(remove_duplicate=False)
    yield from model.named_buffers(remove_duplicate=False)


def storage_id(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage()._cdata


def tensors_in(values: object) -> list[torch.Tensor]:
    if isinstance(values, torch.Tensor):
        return [values]
    if isinstance(values, dict):
        return tensors_in(tuple(values.values()))
    return [t for value in values for t in tensors_in(value)] if isinstance(values, (tuple, list, Iterator)) else []


def covers_storage(tensor: torch.Tensor) -> bool:
    return tensor.numel() * tensor.element_size() == tensor.untyped_storage().nbytes()


class _Recorder(TorchDispatchMode):
    """Writes down every operation, and lets it happen."""

    def __init__(self, tape: Tape) -> None:
        super().__init__()
        self._tape = tape

    def __torch_dispatch__(
        self,
        func: OpOverload,
        types: object,
        args: tuple[object, ...] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        kwargs = kwargs or {}
        given = tensors_in((args, kwargs))
        self._tape.note_real(given)
        result = func(*args, **kwargs)
        reads = frozenset(map(storage_id, given))
        made = frozenset(map(storage_id, tensors_in(result))) - reads
        over = written_tensors(func, args, kwargs)
        written = frozenset(map(storage_id, over))
        if made or written:  # a view is a storage and its geometry: nothing to do again
            name, draws = func._schema.name, torch.Tag.nondeterministic_seeded in func.tags
            source = self._tape.source_of_draws(kwargs.get("generator")) if draws else None
            whole = name in OVERWRITING and covers_storage(over[0])
            self._tape.note(
                RecordedCall(
                    func, args, kwargs, result, reads - written if whole else reads, made | written,
                    name.removeprefix("aten::"), name.startswith(FRESH), whole, draws, source, self._tape.by(),
                )
            )  # fmt: skip
        return result


class _Constants(TorchFunctionMode):
    """Keeps the values of tensors that are made from data, which meta has no room for."""

    def __init__(self, tape: Tape) -> None:
        super().__init__()
        self._tape = tape

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: object,
        args: tuple[object, ...] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if func not in MADE_FROM_DATA:
            return result
        if func is torch.Tensor.new_tensor:
            func, args, kwargs = torch.tensor, args[1:], {"dtype": result.dtype}
        is_of_meta = bool(args) and isinstance(args[0], torch.Tensor) and args[0].device.type == "meta"
        if result.device.type == "meta" and not is_of_meta:
            self._tape.note_constant(result, func(*args, **{**kwargs, "device": "cpu"}).detach())
        return result


def _record_function(tape: Tape, name: str, function: Callable[..., object]) -> Callable[..., object]:
    def note(tensor: torch.Tensor, *args: object, **kwargs: object) -> object:
        if tensor.device.type != "meta":
            return function(tensor, *args, **kwargs)
        writes, whole, draws = frozenset((storage_id(tensor),)), covers_storage(tensor), name not in FIXED
        source = tape.source_of_draws(kwargs.get("generator")) if draws else None
        reads = frozenset[Memory]() if whole else writes
        tape.note(
            RecordedCall(
                function, (tensor, *args), kwargs, (), reads, writes, name, False, whole, draws, source, tape.by()
            )
        )
        return tensor

    return note


def written_tensors(func: OpOverload, args: Sequence[object], kwargs: Mapping[str, object]) -> list[torch.Tensor]:
    """Return the tensors that an operation writes to, by its schema."""
    places = _places_written_to(func)
    return tensors_in([args[place] if place < len(args) else kwargs.get(name) for place, name in places])


@cache
def _places_written_to(func: OpOverload) -> tuple[tuple[int, str], ...]:
    return tuple(
        (place, argument.name)
        for place, argument in enumerate(func._schema.arguments)
        if argument.alias_info is not None and argument.alias_info.is_write
    )


def code_of(function: Callable[..., object]) -> Iterator[object]:
    """Yield the code of a function, and of those that it wraps."""
    each: Any = function
    while each is not None:
        yield getattr(each, "__code__", None)
        each = getattr(each, "__wrapped__", None)


def running_classes(codes: Mapping[object, type]) -> list[type]:
    """Return the classes whose code is running, the innermost first."""
    frame, found = sys._getframe(1), []
    while frame is not None:
        cls = codes.get(frame.f_code)
        if cls is not None and cls not in found:
            found.append(cls)
        frame = frame.f_back
    return found
