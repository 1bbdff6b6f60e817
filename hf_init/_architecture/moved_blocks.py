"""Where the base's blocks go in a target with other stacks: a block has one place, several, or none."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from hf_init._architecture.library import Address, Addresses
from hf_init._block_names import stack_blocks, stack_of

NOWHERE = "nowhere."
"""Begins a name in memory that a renaming gives a tensor which is meant to have no place in the target."""


@dataclass(frozen=True)
class BlockMap:
    """The blocks of one stack of a target.

    Attributes:
        sources: for each, the base's block that it is; None where it is new.
        count: of the base's blocks.
        templates: for each, the base's block that it is like; None where a new one is like none.
        values: paths of the config values that follow.
        differences: what is another setting in a block than in the base's block that it is.
    """

    sources: tuple[int | None, ...]
    count: int
    templates: tuple[int | None, ...] = ()
    values: frozenset[str] = frozenset()
    differences: tuple[str, ...] = ()

    @property
    def new(self) -> tuple[int, ...]:
        """Return the numbers of the new blocks."""
        return tuple(block for block, source in enumerate(self.sources) if source is None)

    @property
    def lost(self) -> tuple[int, ...]:
        """Return the base's blocks that have no place."""
        return tuple(sorted(set(range(self.count)) - set(self.sources)))

    def places(self, source: int) -> tuple[int, ...]:
        """Return the numbers of all blocks that are this block of the base."""
        return tuple(block for block, origin in enumerate(self.sources) if origin == source)


def place_names(
    names: Sequence[str], maps: Mapping[str, BlockMap], copies: Mapping[str, tuple[str, ...]], addresses: Addresses
) -> Iterator[tuple[str, Address]]:
    """Yield the names of a base's tensors, each with its address in a target; with several where it has several.

    Args:
        maps: by the stack's name in memory, such as ``"model.layers."``; or by a glob on disk, ``"*.experts."``.
        copies: the names that a tensor has in the target, where they are known.
    """
    if not maps and not copies:
        yield from addresses.of(names).items()
        return
    stacks = _stacks_in_memory(names, maps, addresses)
    moved = {name: copies.get(name) or _names_there(name, maps, stacks) for name in names}
    renamed = {place: name for name, places in moved.items() for place in places}
    yield from ((renamed[new], address) for new, address in addresses.of(list(renamed)).items())
    yield from ((name, (f"{NOWHERE}{name}",)) for name, places in moved.items() if not places)


def _stacks_in_memory(names: Sequence[str], maps: Mapping[str, BlockMap], addresses: Addresses) -> dict[str, str]:
    """Return which stack in memory each stack of the base's names is, as the loader says of their tensors."""
    stacks: dict[str, str] = {}
    for name in names:
        for block in stack_blocks(name):
            stack = stack_of(block)
            if stack in stacks:
                break
            for known, blocks in maps.items():
                if "*" in known and fnmatchcase(stack, known):
                    stacks[stack] = known
                for place in blocks.places(_number(block))[:1]:
                    candidate = f"{stack}{place}.{name.removeprefix(block)}"
                    if str(addresses.of([candidate])[candidate][0]).startswith(f"{known}{place}."):
                        stacks[stack] = known
    return stacks


def _names_there(name: str, maps: Mapping[str, BlockMap], stacks: Mapping[str, str]) -> tuple[str, ...]:
    """Return a tensor's names in the target, as the base would call them there."""
    for block in stack_blocks(name):
        stack = stack_of(block)
        if stack in stacks:
            places = maps[stacks[stack]].places(_number(block))
            return tuple(f"{stack}{place}.{name.removeprefix(block)}" for place in places)
    return (name,)


def _number(block: str) -> int:
    return int(block.rstrip(".").rpartition(".")[2])
