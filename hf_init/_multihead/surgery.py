"""A checkpoint with the heads that are asked for: a target's class and config, and where each tensor goes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import PreTrainedConfig, PreTrainedModel

from hf_init._architecture import BAD_VALUE, NOWHERE, quiet_library
from hf_init._change import Change, ChangePlan, TargetContext
from hf_init._checkpoint import BaseCheckpoint, Checkpoint
from hf_init._errors import PlanError
from hf_init._multihead.configuration_multi_head import HeadSpec, MultiHeadConfig
from hf_init._multihead.modeling_multi_head import MultiHead
from hf_init._multihead.origins import DONE, HeadOrigin
from hf_init._multihead.request import HEAD_OPTIONS, HeadRequest
from hf_init._plan import Rule
from hf_init._text import one_line

Renaming = Mapping[str, str]
# What a result with named heads brings along, and a plain class has no use for.
CODE_FILES = [f"{name}_multi_head.py" for name in ("configuration", "modeling", "data", "kinds", "layers")]


@dataclass(frozen=True)
class HeadsChange(Change):
    """The change of heads: which are new, and by what they start.

    Attributes:
        new: names of heads. taken: names of heads with the checkpoint that each comes from.
        needed: modules of the trunk that a head reads and the base is without.
    """

    asked: HeadRequest
    new: tuple[str, ...] = ()
    taken: Mapping[str, str] | None = None
    needed: tuple[str, ...] = ()

    OPTIONS = HEAD_OPTIONS

    def rules(self) -> tuple[Rule, ...]:
        return self.asked.rules()

    def plan(self, context: TargetContext) -> ChangePlan:
        prefixes = tuple([f"heads.{name}." for name in self.new] + [f"trunk.{child}." for child in self.needed])
        new = frozenset(t.name for t in context.target.layout.tensors if prefixes and t.parameter.startswith(prefixes))
        write = _without_code if self.asked.export else _no_files
        return ChangePlan(new=new, notes=tuple(self._notes()), write=write)

    def _notes(self) -> Iterable[str]:
        for name, folder in (self.taken or {}).items():
            yield f"head {name} is that of {folder}, and was trained on the trunk there, which isn't compared"
        for child in self.needed:
            yield f"trunk.{child} is new: the base is without, and a head reads it"


@dataclass(frozen=True)
class HeadSurgery:
    """What the words make of a base.

    Attributes:
        renaming: patterns of the base's names and what they become, in order.
    """

    base: BaseCheckpoint
    cls: type[PreTrainedModel]
    config: PreTrainedConfig
    renaming: Renaming
    change: Change


def reshape_heads(
    base: BaseCheckpoint, words: Mapping[str, Any], values: Mapping[str, Any], opened: Callable[[str], BaseCheckpoint]
) -> HeadSurgery:
    """A base with the heads that the words ask for.

    Args:
        values: of the trunk's config.
        opened: gives the checkpoint of a name.

    Raises:
        PlanError: a head that isn't there, two of one name, a kind that the trunk can't have, a head that no plain
            class holds.
    """
    asked = HeadRequest.of(words)
    origin = HeadOrigin.of(base, asked.name_head, values)
    if asked.export is not None:
        return _exported(base, origin, asked)
    bases = {name: opened(folder) for name, (folder, _) in asked.take.items()}
    donors = {name: HeadOrigin.of(each, None) for name, each in bases.items()}
    specs, moves = asked.heads(origin, donors)
    parts = {name: f"take.{name}." for name in donors}
    rules = [
        rule
        for name, donor in donors.items()
        for rule in donor.rules(parts[name], {asked.there(name, donor): name}, trunk=False)
    ]
    # The library tries a name that has no place once more as it is: a removed head's must not be that of another.
    own = "base." if not specs.keys().isdisjoint(asked.remove) else ""
    rules += [*origin.rules(own, moves), (f"^{DONE}", "")]
    config = _config(origin, specs)
    optional, read = _optional(config)
    held = _held(origin, base)
    config.left_out = [child for child in optional if child not in read and child not in held]
    needed = tuple(child for child in optional if child in read and child not in held)
    change = HeadsChange(asked, tuple(asked.add), {name: asked.take[name][0] for name in donors}, needed)
    merged = {own: base.source, **{parts[name]: each.source for name, each in bases.items()}}
    source = Checkpoint.merged(merged) if own or bases else base.source
    return HeadSurgery(replace(base, source=source), MultiHead, config, dict(rules), change)


def _exported(base: BaseCheckpoint, origin: HeadOrigin, asked: HeadRequest) -> HeadSurgery:
    """One head as transformers' own class."""
    head = asked.export or ""
    if others := [word for word in ("add", "remove", "rename", "take", "name_head") if getattr(asked, word)]:
        raise PlanError(
            f"export_head: the result is one plain class, so {', '.join(others)} has no meaning; leave it out"
        )
    if not origin.multi or head not in origin.heads:
        raise PlanError(
            f"export_head: {base.name} has no head {head!r}; its heads: {', '.join(origin.heads) or 'none'}"
        )
    spec = origin.heads[head]
    if spec.plain is None:
        raise PlanError(f"export_head: {head!r} can't be exported: {spec.plain_class(origin.trunk)[1]}")
    cls = getattr(transformers, spec.plain)
    before = f"{DONE}{cls.base_model_prefix}."
    rules = {"^trunk\\.": before, f"^heads\\.{head}\\.": DONE, "^heads\\.": f"{DONE}{NOWHERE}heads.", f"^{DONE}": ""}
    config = _config(origin, origin.heads).plain_config(head)
    config.dtype = origin.dtype
    return HeadSurgery(base, cls, config, rules, HeadsChange(asked))


def _without_code(out: Path) -> None:
    """A plain class needs no code beside it."""
    for name in CODE_FILES:
        (out / name).unlink(missing_ok=True)


def _no_files(out: Path) -> None:
    """The config brings the code."""


def _config(origin: HeadOrigin, specs: Mapping[str, HeadSpec]) -> MultiHeadConfig:
    heads = {name: spec.to_dict() for name, spec in specs.items()}
    try:
        with quiet_library():
            return MultiHeadConfig(trunk=origin.trunk, heads=heads, dtype=origin.dtype)
    except (*BAD_VALUE, RuntimeError) as error:
        raise PlanError(one_line(error)) from error


def _optional(config: MultiHeadConfig) -> tuple[list[str], set[str]]:
    """Modules of the trunk that its class can be built without, and those of them that a head reads."""
    try:
        with quiet_library(), torch.device("meta"):
            model = MultiHead(config)
    except (*BAD_VALUE, RuntimeError, ImportError) as error:
        raise PlanError(f"MultiHead can't be built on a {type(config.trunk).__name__}: {one_line(error)}") from error
    without = [plain.without for plain in model.plain_heads.values()]
    there = [child for child, module in model.trunk._modules.items() if module is not None]
    optional = [
        child for child in there if any(child in each for each in without) or (not without and child == "pooler")
    ]
    return optional, {child for child in optional if any(child not in each for each in without)}


def _held(origin: HeadOrigin, base: BaseCheckpoint) -> set[str]:
    """Modules of the trunk that the base has tensors of."""
    before = f"{origin.prefix}." if origin.prefix else ""
    names = (name.removeprefix(before) for name in base.source.entries if name.startswith(before))
    return {name.partition(".")[0] for name in names}
