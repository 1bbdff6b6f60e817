"""What a user says of layers: an index map in one of its spellings, and what it comes to for a stack of n blocks."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from hf_init._errors import PlanError, option

NEW = "new"
FORMS = (
    "'0-5,new,6-11,new', 'every=6' (a new one after every 6), a list such as [0, 2, 4, 'new'], or one of them for each "
    "stack, {'decoder': [0, 31]}"
)


@dataclass(frozen=True)
class LayerSpec:
    """An index map, before it is known how many blocks there are.

    Attributes:
        blocks: for each block of the result the base's block, or None for a new one.
        every: instead: after how many blocks of the base a new one comes.
    """

    blocks: tuple[int | None, ...] = ()
    every: int = 0

    def resolve(self, count: int, stack: str) -> tuple[int | None, ...]:
        """Return the map for a stack of so many blocks.

        Raises:
            PlanError: it names a block that isn't there, or keeps none.
        """
        blocks = tuple(self._spread(count)) if self.every else self.blocks
        outside = sorted({block for block in blocks if block is not None and block >= count})
        if outside:
            raise PlanError(
                f"{option('layers')}: {stack} has {count} blocks, 0 to {count - 1}, and no "
                + ", ".join(map(str, outside))
            )
        if not any(block is not None for block in blocks):
            raise PlanError(
                f"{option('layers')}: no block of {stack} would stay; name those that do, such as '0-{count - 1}'"
            )
        if self.every > count:
            raise PlanError(
                f"{option('layers')}: every {self.every} blocks, and {stack} has {count}: nothing would be new"
            )
        return blocks

    def _spread(self, count: int) -> Iterator[int | None]:
        for block in range(count):
            yield block
            if (block + 1) % self.every == 0:
                yield None


def parse_layers(given: object) -> dict[str, LayerSpec]:
    """Return the map of each stack that a user names; under an empty name that of the only one.

    Raises:
        PlanError: it is no such map.

    Example:
        >>> parse_layers("0-2,new,4")[""].blocks
        (0, 1, 2, None, 4)
    """
    if isinstance(given, Mapping):
        if not given or not all(isinstance(stack, str) and stack for stack in given):
            raise _no_map(given)
        return {stack: _parse_one(spec) for stack, spec in given.items()}
    return {"": _parse_one(given)}


def _parse_one(given: object) -> LayerSpec:
    if isinstance(given, str) and (found := re.fullmatch(r"\s*every\s*=\s*(\d+)\s*", given)):
        if int(found[1]) < 1:
            raise _no_map(given)
        return LayerSpec(every=int(found[1]))
    items = given.split(",") if isinstance(given, str) else given
    if not isinstance(items, Sequence) or not items:
        raise _no_map(given)
    blocks: list[int | None] = []
    for item in items:
        text = item.strip() if isinstance(item, str) else ""
        run = re.fullmatch(r"(\d{1,5})(?:\s*-\s*(\d{1,5}))?", text)  # no stack is longer
        if isinstance(item, int) and not isinstance(item, bool) and item >= 0:
            blocks.append(item)
        elif text == NEW:
            blocks.append(None)
        elif run is None or (run[2] is not None and int(run[2]) < int(run[1])):
            raise _no_map(given)
        else:
            blocks += range(int(run[1]), int(run[2] or run[1]) + 1)
    return LayerSpec(tuple(blocks))


def _no_map(given: object) -> PlanError:
    return PlanError(f"{option('layers')}: expected {FORMS}; not {given!r}")
