"""The depth of a stack: the config value that counts its blocks, and what in the config follows it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from typing import Any

from transformers import PreTrainedConfig, PreTrainedModel

from hf_init._architecture import BAD_VALUE, BlockMap, Target, copy_config, quiet_library
from hf_init._block_names import stack_blocks, stack_of
from hf_init._errors import PlanError, option

DEPTH_FIELDS = (
    "num_hidden_layers", "n_layer", "n_layers", "num_layers", "encoder_layers", "decoder_layers", "num_encoder_layers",
    "num_decoder_layers", "depth",
)  # fmt: skip
"""What configs call a number of blocks. Whether it is one is seen on the class, built with one more."""
OWN_DEPTHS = frozenset(DEPTH_FIELDS) - {"num_hidden_layers"}
"""Those that don't follow another; ``num_hidden_layers`` is often a second name of one."""
INDEX_LISTS = re.compile(r"cross_attention_layers|mlp_only_layers|.*_(indices|indexes|idxs|layer_ids|source_layers)")
"""Lists of numbers of blocks; those of ``out_indices`` count from 1."""
FROM_ONE = ("out_indices", "_out_indices")
OUTPUTS = (*FROM_ONE, "out_features", "_out_features", "stage_names")
"""What a backbone gives out; by default the last block's."""
PREFIX_COUNTS = ("first_k_dense_replace", "num_dense_layers", "n_dense_layers")
"""How many blocks at the start are of another kind."""
SUFFIX_COUNTS = ("num_kv_shared_layers",)
"""How many blocks at the end are of another kind."""
PER_BLOCK = ("attention_window",)
"""Lists with an item for each block, though a config may also have one number for all."""
NEEDED = ("num_blocks",)
"""How many blocks at the end are given something more (EoMT's queries)."""
BY_POSITION = re.compile(r".*(period|interval|every|freq|step|pattern|offset|stride|first_k|dense_layers|shared).*")
"""Values by which a class finds the kind of a block from its number."""


@dataclass(frozen=True)
class Depth:
    """A number of blocks.

    Attributes:
        path: of the config's value; dots lead into nested configs.
        stacks: in memory, such as ``"model.layers."``.
    """

    path: str
    count: int
    stacks: tuple[str, ...]

    @property
    def name(self) -> str:
        return " and ".join(stack.rstrip(".") for stack in self.stacks)

    def is_called(self, name: str) -> bool:
        """Return whether a user's word means this stack: a path, a config's name, or a word of the stack's own."""
        words = [word for stack in self.stacks for word in stack.split(".")]
        return name == self.path or name in words or self.path.startswith((f"{name}.", f"{name}_config."))


def read_depths(target: Target, config: PreTrainedConfig) -> tuple[Depth, ...]:
    """Return the depths of a target's class under a config: the values that a stack is seen to grow with."""
    candidates = {path: count for path, count in depths_of(config) if not hasattr(parent_of(config, path), "depths")}
    found = _stacks(target.rebuilt(config).state_dict())
    depths: list[Depth] = []
    for path, count in candidates.items():
        stacks = [stack for stack, blocks in found.items() if len(blocks) == count]
        if len(candidates) > 1 or len(stacks) != 1:
            stacks = [stack for stack in _stacks_that_grow(target, config, path, count) if stack in stacks]
        if stacks:
            depths.append(Depth(path, count, tuple(stacks)))
    return tuple(depths)


def is_depth(path: str) -> bool:
    """Return whether a config value is called as a depth."""
    return path.rpartition(".")[2] in DEPTH_FIELDS


def depths_of(config: PreTrainedConfig, prefix: str = "") -> Iterator[tuple[str, int]]:
    """Yield the values of a config that are called as depths, by path."""
    for name, value in vars(config).items():
        if name in DEPTH_FIELDS and isinstance(value, int) and not isinstance(value, bool) and value > 0:
            yield f"{prefix}{name}", value
        elif isinstance(value, PreTrainedConfig):
            yield from depths_of(value, f"{prefix}{name}.")


def _stacks(names: Mapping[str, object]) -> dict[str, set[str]]:
    """Return the outermost stacks of a model, each with its blocks."""
    stacks: dict[str, set[str]] = {}
    for name in names:
        for block in stack_blocks(name)[:1]:
            stacks.setdefault(stack_of(block), set()).add(block)
    return stacks


def _stacks_that_grow(target: Target, config: PreTrainedConfig, path: str, count: int) -> Iterator[str]:
    blocks = BlockMap((*range(count), None), count, (*range(count), count - 1))
    try:
        larger = target.rebuilt(copy_config(config, depth_values(config, path, blocks)))
    except (PlanError, *BAD_VALUE):  # a value that can't be one more counts no blocks that could be
        return
    for stack, found in _stacks(larger.state_dict()).items():
        if f"{stack}{count}." in found and len(found) == count + 1:
            yield stack


def depth_values(config: PreTrainedConfig, path: str, blocks: BlockMap) -> dict[str, object]:
    """Return the config values, by path, that make a stack one of these blocks: its depth and all that follows it.

    Raises:
        PlanError: a value can't follow; it is named.
    """
    *parents, field = path.split(".")
    config = parent_of(config, path)
    before, target = config.to_dict(), len(blocks.sources)
    fresh = {depth: _fresh_values(type(config), field, depth) for depth in (blocks.count, blocks.count + 1, target)}
    found: dict[str, object] = {field: target}
    for name, value in before.items():
        if name not in OWN_DEPTHS and name != field:
            followed = _followed(name, value, blocks, [fresh[n].get(name) for n in fresh])
            if followed != value:
                found[name] = followed
    if "attention_types" in before and isinstance(kinds := found.get("attention_layers"), list):  # GPT-Neo's way
        found["attention_types"] = [[[kind], 1] for kind in kinds]
    return {".".join((*parents, name)): value for name, value in found.items()}


def parent_of(config: PreTrainedConfig, path: str) -> PreTrainedConfig:
    """Return the config that a path's last name is a value of."""
    return reduce(getattr, path.split(".")[:-1], config)


def _fresh_values(cls: type[PreTrainedConfig], field: str, depth: int) -> Mapping[str, object]:
    """Return the values of a config made from nothing but a depth; none where that can't be."""
    try:
        with quiet_library():
            values: dict[str, Any] = {field: depth}
            return cls(**values).to_dict()
    except BAD_VALUE:
        return {}


def _followed(name: str, value: object, blocks: BlockMap, fresh: Sequence[object]) -> object:
    """Return what a value becomes.

    Args:
        fresh: the value in a config of the base's depth, of one more, and of the target's.

    Raises:
        PlanError: it can't follow.
    """
    count, left = blocks.count, len(blocks.sources)
    if name in NEEDED and isinstance(value, int) and left < value <= count:
        raise PlanError(f"{option('layers')}: {name} is {value}, and {left} blocks are left; give {name} with it")
    if name in (*PREFIX_COUNTS, *SUFFIX_COUNTS) and isinstance(value, int):
        return _followed_count(name, value, blocks)
    if isinstance(value, (list, tuple)) and not (name in OUTPUTS and fresh[0] == value):
        if name == "out_features" and all(re.fullmatch(r"stage\d+", str(each)) for each in value):
            stages = [int(str(each).removeprefix("stage")) for each in value]
            return [f"stage{stage}" for stage in _renumbered(stages, blocks, 1)]
        if value and INDEX_LISTS.fullmatch(name) and all(isinstance(each, int) for each in value):
            return _renumbered(value, blocks, 1 if name in FROM_ONE else 0)
        longer = [len(each) if isinstance(each, (list, tuple)) else None for each in fresh]
        if len(value) == count and (longer[:2] == [count, count + 1] or "layer" in name or name in PER_BLOCK):
            return _picked(value, blocks)
    if isinstance(value, str) and len(value) == count and "pattern" in name:
        return "".join(map(str, _picked(value, blocks)))
    return fresh[-1] if fresh[0] == value != fresh[1] and fresh[-1] is not None else value


def _picked(values: Sequence[object], blocks: BlockMap) -> list[object]:
    return [values[origin or 0] for origin in blocks.templates]


def _renumbered(values: Sequence[int], blocks: BlockMap, first: int) -> list[int]:
    """Return a list of numbers of blocks with the numbers that they have; a new block is where its template is."""
    kept = {
        value for value in values if not 0 <= value - first < blocks.count
    }  # counted from the end, or before the first
    origins = blocks.sources if first else blocks.templates
    return sorted(
        kept
        | {block + first for block, origin in enumerate(origins) if origin is not None and origin + first in values}
    )


def _followed_count(name: str, value: int, blocks: BlockMap) -> int:
    """Return a count of blocks at one end of a stack, which are of another kind.

    Raises:
        PlanError: blocks of that kind would be elsewhere, too.
    """
    edge = value if name in PREFIX_COUNTS else blocks.count - value
    inside = [origin is not None and (origin < edge) == (name in PREFIX_COUNTS) for origin in blocks.templates]
    number = sum(inside)
    ends = inside if name in PREFIX_COUNTS else inside[::-1]
    if not all(ends[:number]):
        raise PlanError(
            f"{option('layers')}: {name} is {value}: blocks of that kind stand together at one end, and would not any "
            "more; keep them there"
        )
    return number


def like_the_block_before(sources: Sequence[int | None]) -> tuple[int, ...]:
    """Return the base's block that each is like: its own source, or for a new one that of the block before it."""
    first = next(source for source in sources if source is not None)
    found: list[int] = []
    for source in sources:
        found.append(source if source is not None else found[-1] if found else first)
    return tuple(found)


def settle_kinds(
    stack: str, blocks: BlockMap, before: PreTrainedModel, after: PreTrainedModel, config: PreTrainedConfig
) -> BlockMap:
    """Return a map with what is seen on the models: which block a new one is like, and settings that differ.

    Raises:
        PlanError: a block of the base would go where the class wants one of another kind.
    """
    old = [_kind(before, f"{stack}{block}") for block in range(blocks.count)]
    new = [_kind(after, f"{stack}{block}") for block in range(len(blocks.sources))]
    wrong = [
        (block, source)
        for block, source in enumerate(blocks.sources)
        if source is not None and new[block] != old[source]
    ]
    if wrong:
        block, source = wrong[0]
        values = [
            f"{name}={value}"
            for name, value in config.to_dict().items()
            if BY_POSITION.fullmatch(name) and value is not None
        ]
        raise PlanError(
            f"{option('layers')}: block {block} of {stack.rstrip('.')} is of another kind than the base's block "
            f"{source}, which would go there; kinds follow the number of a block "
            f"({', '.join(values) or 'by the class'}): add and leave out whole periods, and leave the first block first"
        )
    templates: list[int | None] = []
    for block, template in enumerate(blocks.templates):
        # From the template outwards: first the base's blocks that stay, and earlier ones before later ones.
        near = sorted(range(blocks.count), key=lambda each: (each in blocks.lost, abs(each - (template or 0)), each))
        templates.append(next((each for each in near if old[each] == new[block]), None))
    differences = tuple(
        difference
        for block, source in enumerate(blocks.sources)
        if source is not None
        for difference in _other_settings(before, f"{stack}{source}", after, f"{stack}{block}")
    )
    return replace(blocks, templates=tuple(templates), differences=differences)


def _kind(model: PreTrainedModel, path: str) -> tuple[tuple[str, str], ...]:
    """Return the modules and parameters of a block, by name and class."""
    block = model.get_submodule(path)
    modules = ((name, type(module).__name__) for name, module in block.named_modules())
    return (*modules, *((name, "") for name in block.state_dict()))


NUMBERS_OF_BLOCKS = re.compile(
    r"_.*|training|.*(layer_idx|layer_id|layer_index|layer_number|block_idx|drop|num_layers|n_layer).*"
)


def _other_settings(before: PreTrainedModel, source: str, after: PreTrainedModel, block: str) -> Iterator[str]:
    """Yield the settings of a block's modules that are others than in the base's block."""
    old = dict(before.get_submodule(source).named_modules())
    for name, module in after.get_submodule(block).named_modules():
        for setting, value in vars(module).items():
            if isinstance(value, (bool, int, float, str)) and not NUMBERS_OF_BLOCKS.fullmatch(setting):
                was = vars(old[name]).get(setting)
                if was != value:
                    yield f"{block}{'.' * bool(name)}{name}.{setting} is {value!r}, and {was!r} in the base's {source}"
