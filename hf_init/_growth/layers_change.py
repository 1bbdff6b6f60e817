"""Layers: blocks of a stack inserted, appended, repeated or left out by an index map, and what new ones start with."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from transformers import PreTrainedConfig, PreTrainedModel

from hf_init._architecture import NOWHERE, BlockMap, Target, copy_config, text_config
from hf_init._change import Change, ChangePlan, TargetContext, TargetRequest
from hf_init._checkpoint import BaseCheckpoint
from hf_init._errors import PlanError, option
from hf_init._function import compare_expressions
from hf_init._growth.axis import changed_tensors, planned_fills, value_at
from hf_init._growth.depths import (
    Depth,
    depth_values,
    depths_of,
    is_depth,
    like_the_block_before,
    parent_of,
    read_depths,
    settle_kinds,
)
from hf_init._growth.layer_spec import LayerSpec, parse_layers
from hf_init._growth.new_blocks import NewBlocks
from hf_init._plan import EXACT, Plan, RowMap, RowMapping, format_shape, no_claim, weakest_claim
from hf_init._text import join_names

NEW_LAYERS = ("auto", "copy")
BLOCK_BY_BLOCK = re.compile(r"\b(embed_tokens_per_layer|per_layer_model_projection|contact_head\.regression)\b")
"""Parameters outside of the blocks that have a part for each, one after the other."""
BY_NUMBER = ("scale_attn_by_inverse_layer_idx",)
"""Config values under which a block computes by its own number."""


@dataclass(frozen=True)
class LayersChange(Change):
    """The blocks that the user wants; a depth given as a config value appends blocks, or leaves out the last ones.

    Attributes:
        specs: the map of each stack that is named.
        copied: whether new blocks are copies of the block before, closed; else the architecture's own values, closed.
    """

    specs: Mapping[str, LayerSpec] = field(default_factory=dict)
    copied: bool = False

    OPTIONS = ("layers", "new_layers")

    @classmethod
    def of(cls, base: BaseCheckpoint, options: Mapping[str, object]) -> LayersChange:
        layers, new = options.get("layers"), options.get("new_layers")
        if new not in (None, *NEW_LAYERS):
            raise PlanError(f"{option('new_layers')}: expected one of {', '.join(NEW_LAYERS)}, not {new!r}")
        if layers is not None and base.source.parts:
            raise PlanError(
                f"{option('layers')}: of a base of several checkpoints, change the layers of each by itself first"
            )
        return cls({} if layers is None else parse_layers(layers), new == "copy")

    def retarget(self, request: TargetRequest) -> TargetRequest:
        if request.config is not None or request.base.source.parts:
            if self.specs:
                raise PlanError(
                    f"{option('layers')} and a config object, which has its own number of layers: give one of the two"
                )
            return request
        if not self.specs and not any(map(is_depth, request.values)):
            if self.copied:
                raise PlanError(f"{option('new_layers')} says how new blocks start; give {option('layers')}")
            return request
        own = Target.of(request.base, request.architecture, values={}, changed={}, trust=request.trust)
        given = {own.config.attribute_map.get(path, path): value for path, value in request.values.items()}
        values: dict[str, object] = {}
        for depth, blocks in self._maps(read_depths(own, own.config), own.config, given):
            if len(blocks.sources) != given.get(depth.path, len(blocks.sources)):
                raise PlanError(
                    f"{option('layers')} makes {len(blocks.sources)} blocks of {depth.name}, and {depth.path} is given "
                    f"as {given[depth.path]}: give one of the two"
                )
            values |= depth_values(own.config, depth.path, blocks)
        return replace(request, values={**values, **request.values})

    def place(self, target: Target) -> Target:
        base = target.base_config
        if base is None or type(base) is not type(target.config) or target.base.source.parts:
            return target
        wanted = dict(depths_of(target.config))
        if not self.specs and wanted == dict(depths_of(base)):
            return target
        changed: dict[str, BlockMap] = {}
        for depth, blocks in self._maps(read_depths(target, base), base, wanted):
            if self.specs or blocks.sources != tuple(range(len(blocks.sources))):  # else every block keeps its name
                followed = frozenset(depth_values(base, depth.path, blocks))
                changed |= dict.fromkeys(depth.stacks, replace(blocks, values=followed))
        if not changed:
            return target
        own = {path: value_at(base, path) for blocks in changed.values() for path in blocks.values}
        before = target.rebuilt(copy_config(target.config, own))  # the target, but for its blocks
        placed = {s: settle_kinds(s, blocks, before, target.model, target.config) for s, blocks in changed.items()}
        return replace(target, blocks={**target.blocks, **placed})

    def _maps(
        self, depths: Sequence[Depth], config: PreTrainedConfig, wanted: Mapping[str, object]
    ) -> Iterator[tuple[Depth, BlockMap]]:
        """Yield the map of every depth that changes: the user's, or one that appends blocks or cuts the last ones off.

        Args:
            config: the base's.
            wanted: depths by path.
        """
        named = {
            depth.path: spec for name, spec in self.specs.items() for depth in _depths_called(name, depths, config)
        }
        for depth in depths:
            count = wanted.get(depth.path)
            if depth.path in named:
                sources = named[depth.path].resolve(depth.count, depth.name)
            elif isinstance(count, int) and count != depth.count:
                sources = (*range(min(count, depth.count)), *[None] * (count - depth.count))
            else:
                continue
            if sources:
                yield depth, BlockMap(sources, depth.count, like_the_block_before(sources))

    def plan(self, context: TargetContext) -> ChangePlan:
        target, base = context.target, context.target.base_config
        if base is None or not target.blocks or any("*" in stack for stack in target.blocks):  # none, or experts
            return ChangePlan()
        new = NewBlocks(target, target.build())
        own = {path: value_at(base, path) for blocks in target.blocks.values() for path in blocks.values}
        before = target.rebuilt(copy_config(target.config, own))  # the target, but for its blocks
        reasons = tuple(_other_ways(target, before, new))
        keep = dict(_rows_of_blocks(target, before, context.keep))
        schemes = {**(dict(new.copies()) if self.copied else {}), **new.schemes()}
        notes: list[str] = []
        for stack, blocks in target.blocks.items():
            added, lost = [str(block) for block in blocks.new], [str(block) for block in blocks.lost]
            made = f"; new: {join_names(added, 8)}" if added else ""
            gone = f"; of the base go: {join_names(lost, 8)}" if lost else ""
            notes.append(f"{stack.rstrip('.')} goes from {blocks.count} to {len(blocks.sources)} blocks{made}{gone}")

        def claim(plan: Plan) -> str:
            return weakest_claim([*map(no_claim, (*reasons, *new.claims(plan))), EXACT])

        return ChangePlan(
            keep=keep,
            fills=partial(planned_fills, schemes),
            notes=tuple(notes),
            new=frozenset(tensor.name for tensors in new.tensors.values() for tensor in tensors),
            drop=frozenset(tensor.name for tensor in target.dropped if tensor.address == (f"{NOWHERE}{tensor.name}",)),
            claim=claim,
            config=frozenset(path for blocks in target.blocks.values() for path in blocks.values),
            record={"layers": {stack: list(blocks.sources) for stack, blocks in target.blocks.items()}},
        )


def _depths_called(name: str, depths: Sequence[Depth], config: PreTrainedConfig) -> list[Depth]:
    """Return the depths that a name is for; without one, the only one, or all of one number.

    Raises:
        PlanError: there is none, or it isn't clear which.
    """
    if not depths:
        raise PlanError(
            f"{option('layers')}: the config of a {config.model_type} has no number of blocks that one could be added "
            "to (a list of depths is one of stages: give it as a config value)"
        )
    choices = ", ".join(f"{depth.path} ({depth.name}: {depth.count} blocks)" for depth in depths)
    if name:
        found = [depth for depth in depths if depth.is_called(name)]
        if len(found) != 1:
            raise PlanError(f"{option('layers')}: {name!r} names {len(found)} stacks; there are: {choices}")
        return found
    text = text_config(config)
    found = [depth for depth in depths if parent_of(config, depth.path) is text] or list(depths)
    if len({depth.count for depth in found}) > 1:
        raise PlanError(
            f"{option('layers')}: say of which stack, {option('layers', {'STACK': 'MAP'})}; there are: {choices}"
        )
    return found


def _other_ways(target: Target, before: PreTrainedModel, new: NewBlocks) -> tuple[str, ...]:
    """Return why the base's blocks, and what surrounds them, don't do what they do in the base.

    Raises:
        PlanError: with these blocks the model doesn't run.
    """
    found = compare_expressions(before, new.model, partial(_name_before, target.blocks), tuple(new.tensors))
    if found.failure:
        paths = sorted({path for blocks in target.blocks.values() for path in blocks.values})
        values = ", ".join(f"{path}={value_at(target.config, path)!r}" for path in paths)
        raise PlanError(
            f"{option('layers')}: a {target.cls.__name__} of these blocks doesn't run: {found.failure} ({values})"
        )
    if reasons := tuple(_other_sequence(target)):
        return reasons
    return ("what surrounds the blocks does something else with more of them",) if found.same is False else ()


def _name_before(maps: Mapping[str, BlockMap], name: str) -> str:
    """Return what a parameter is called in the base, whose blocks are elsewhere; a new one keeps its name."""
    for stack, blocks in maps.items():
        number, _, rest = name.removeprefix(stack).partition(".")
        if name.startswith(stack) and (source := blocks.sources[int(number)]) is not None:
            return f"{stack}{source}.{rest}"
        if name.startswith(stack):
            return f"{name} (new)"
    return name


def _rows_of_blocks(target: Target, before: PreTrainedModel, keep: Sequence[str]) -> Iterator[tuple[str, RowMapping]]:
    """Yield what goes with each block in tensors that have a part for each, by name on disk.

    Raises:
        PlanError: where the blocks' parts lie isn't known, and the user doesn't say it.
    """
    blocks = next(iter(target.blocks.values()))
    depths = [path for path in sorted(blocks.values) if is_depth(path)]
    own, after = ({name: t.shape for name, t in model.state_dict().items()} for model in (before, target.model))
    for tensor, source in changed_tensors(target):
        if tensor.parameter.startswith(tuple(target.blocks)) or own.get(tensor.parameter) == after[tensor.parameter]:
            continue  # a block's own, or of a shape that another change asks for
        dims = [dim for dim, (old, new) in enumerate(zip(source.shape, tensor.shape, strict=True)) if old != new]
        each = source.shape[dims[0]] // blocks.count
        fits = source.shape[dims[0]] == each * blocks.count and tensor.shape[dims[0]] == each * len(blocks.sources)
        if len(dims) == 1 and fits and len(target.blocks) == 1 and BLOCK_BY_BLOCK.search(tensor.parameter):
            rows = (None if block is None else block * each + k for block in blocks.sources for k in range(each))
            yield tensor.name, RowMap(tuple(rows), dims[0], drop=bool(blocks.lost))
        elif not keep:
            raise PlanError(
                f"{option('layers')}: with {', '.join(depths)} {tensor.name} goes from {format_shape(source.shape)} to "
                f"{format_shape(tensor.shape)}, and which of it is which block's isn't known; say it: "
                f"{option('keep', {tensor.name: 'HOW'})}"
            )


def _other_sequence(target: Target) -> Iterator[str]:
    """Yield where the base's blocks aren't run as in the base: each once, in order, and with its settings."""
    for stack, blocks in target.blocks.items():
        kept = [source for source in blocks.sources if source is not None]
        name = stack.rstrip(".")
        if lost := [str(block) for block in blocks.lost]:
            yield f"blocks {join_names(lost)} of {name} go"
        if twice := sorted({str(block) for block in kept if kept.count(block) > 1}, key=int):
            yield f"blocks {join_names(twice)} of {name} run more than once"
        if kept != sorted(kept):
            yield f"the blocks of {name} are in another order"
        moved = any(source not in (None, block) for block, source in enumerate(blocks.sources))
        yield from (f"{value} is set" for value in BY_NUMBER if moved and getattr(target.config, value, False))
        if blocks.differences:
            yield join_names(blocks.differences, 1)
