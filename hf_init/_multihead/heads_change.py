"""The change of named heads: a target's class and config, and where each tensor of the base and of donors goes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import transformers

from hf_init._architecture import BAD_VALUE, NOWHERE, building_on_meta, quiet_library
from hf_init._change import Change, ChangePlan, TargetContext, TargetRequest
from hf_init._checkpoint import BaseCheckpoint, Checkpoint, place_anywhere
from hf_init._errors import PlanError
from hf_init._heads import FittedHeadChange, LabelChange, VerbalizerChange
from hf_init._multihead.configuration_multi_head import HeadSpec, MultiHeadConfig
from hf_init._multihead.modeling_multi_head import MultiHead
from hf_init._multihead.origins import RENAMED, HeadOrigin
from hf_init._multihead.request import HEAD_OPTIONS, HeadRequest
from hf_init._plan import Rule
from hf_init._text import one_line
from hf_init._vocabulary import TokenChange

# What a result with named heads brings along, and a plain class has no use for.
CODE_FILES = [f"{name}_multi_head.py" for name in ("configuration", "modeling", "data", "kinds", "layers")]


@dataclass(frozen=True)
class HeadsChange(Change):
    """The change of named heads: added, removed, renamed, taken from elsewhere, or one exported.

    Attributes:
        refused: what the user has set and named heads have no use for: each head has labels of its own.
    """

    request: HeadRequest
    refused: tuple[str, ...] = ()

    REPLACES = (FittedHeadChange, VerbalizerChange, LabelChange, TokenChange)
    OPTIONS = (*HEAD_OPTIONS, *dict.fromkeys(option for change in REPLACES for option in change.OPTIONS))

    @classmethod
    def of(cls, base: BaseCheckpoint, options: Mapping[str, object]) -> HeadsChange | None:
        given = [option for option, value in options.items() if value is not None]
        if set(given).isdisjoint(HEAD_OPTIONS):
            return None
        return cls(HeadRequest.of(options), tuple(option for option in given if option not in HEAD_OPTIONS))

    def retarget(self, request: TargetRequest) -> TargetRequest:
        """Return the request for ``MultiHead`` with these heads, or for the class of the one that is exported.

        Raises:
            PlanError: a head that isn't there, two of one name, a kind that the backbone can't have, a head that no
                plain class holds.
        """
        self._check_alone(request)
        origin = HeadOrigin.of(request.base, self.request.name_head, request.values)
        return self._export(request, origin) if self.request.export else self._reshape(request, origin)

    def rules(self) -> tuple[Rule, ...]:
        return tuple(self.request.recipe_rules())

    def plan(self, context: TargetContext) -> ChangePlan:
        if self.request.export:  # a plain class may be without a module of the backbone
            tensors = context.target.own.whole_layout.tensors if context.target.own else ()
            drop = frozenset(tensor.name for tensor in tensors if tensor.name.startswith("trunk."))
            return ChangePlan(drop=drop, write=_remove_code)
        target, prefixes = context.target, tuple(f"heads.{name}." for name in self.request.add)
        new = frozenset(t.name for t in target.layout.tensors if t.parameter.startswith(prefixes))
        notes = [
            f"head {name} is that of {place_anywhere(folder, None)}, trained on the backbone there, which isn't "
            "compared"
            for name, (folder, _) in self.request.take.items()
        ]
        # Modules of the backbone that a head reads, and that some class of a head is without, as is the base.
        model: Any = target.model
        without = {name for plain in model.plain_heads.values() for name in plain.without}
        there = {tensor.address[0].split(".")[1] for tensor in target.source if tensor.address[0].startswith("trunk.")}
        modules = [name for name, module in model.trunk._modules.items() if module is not None]
        added = [name for name in modules if name in without and name not in there]
        notes += [f"trunk.{name} is new: the base is without, and a head reads it" for name in added]
        return ChangePlan(new=new, notes=tuple(notes))

    def _check_alone(self, request: TargetRequest) -> None:
        """Raise PlanError for options that have no meaning, or two, where heads are added or taken."""
        problems = [f"{option}: say it of each head, or in an extension of its own" for option in self.refused]
        if request.architecture not in (None, MultiHead, MultiHead.__name__):
            problems.append(f"the class of a model with named heads is MultiHead, not {request.architecture!r}")
        if request.config is not None:
            problems.append("config: give values, which are the backbone's, and not an object")
        if request.base.source.parts:
            problems.append("a base of several checkpoints: make one of them first")
        if problems:
            raise PlanError("; ".join(problems))

    def _reshape(self, request: TargetRequest, origin: HeadOrigin) -> TargetRequest:
        """Return the request for ``MultiHead``, whose base is one with those that heads are taken from."""
        heads = self.request
        bases = {name: request.open_other(folder) for name, (folder, _) in heads.take.items()}
        donors = {name: HeadOrigin.of(base, None) for name, base in bases.items()}
        specs, moves = heads.resolve_heads(origin, donors)
        renaming: dict[str, str] = {}
        for name, donor in donors.items():
            moved = {heads.name_there(name, donor): name}
            renaming |= donor.renaming_rules(f"take.{name}.", moved, keep_backbone=False)
        # The library tries a name that has no place once more as it is: a removed head's must not be that of another.
        own = "base." if not specs.keys().isdisjoint(heads.remove) else ""
        renaming |= {**dict(origin.renaming_rules(own, moves)), f"^{RENAMED}": ""}
        base = request.base
        if own or bases:
            parts = {own: base.source, **{f"take.{name}.": each.source for name, each in bases.items()}}
            base = replace(base, source=Checkpoint.merged(parts))
        config = _multi_head_config(origin, specs)
        config.left_out = _unread_modules(config, origin, request.base)
        return replace(request, base=base, architecture=MultiHead, config=config, values={}, key_mapping=renaming)

    def _export(self, request: TargetRequest, origin: HeadOrigin) -> TargetRequest:
        """Return the request for one head as transformers' own class."""
        head = self.request.export or ""
        if others := [key for key in ("add", "remove", "rename", "take", "name_head") if getattr(self.request, key)]:
            raise PlanError(
                f"export_head: the result is one plain class, so {', '.join(others)} has no meaning; leave it out"
            )
        if not origin.multi or head not in origin.heads:
            names = ", ".join(origin.heads) or "none"
            raise PlanError(f"export_head: {origin.name} has no head {head!r}; its heads: {names}")
        spec = origin.heads[head]
        if spec.plain is None:
            raise PlanError(f"export_head: {head!r} can't be exported: {spec.plain_class(origin.backbone)[1]}")
        cls = getattr(transformers, spec.plain)
        renaming = {
            "^trunk\\.": f"{RENAMED}{cls.base_model_prefix}.",
            f"^heads\\.{head}\\.": RENAMED,
            "^heads\\.": f"{RENAMED}{NOWHERE}heads.",
            f"^{RENAMED}": "",
        }
        config = _multi_head_config(origin, origin.heads).plain_config(head)
        config.dtype = origin.dtype
        return replace(request, architecture=cls, config=config, values={}, key_mapping=renaming)


def _multi_head_config(origin: HeadOrigin, specs: Mapping[str, HeadSpec]) -> MultiHeadConfig:
    heads = {name: spec.to_dict() for name, spec in specs.items()}
    try:
        with quiet_library():
            return MultiHeadConfig(trunk=origin.backbone, heads=heads, dtype=origin.dtype)
    except (*BAD_VALUE, RuntimeError) as error:
        raise PlanError(one_line(error)) from error


def _unread_modules(config: MultiHeadConfig, origin: HeadOrigin, base: BaseCheckpoint) -> list[str]:
    """Return the backbone's modules that no head reads, that its class can be built without, and that the base hasn't.

    Without a class of transformers among the heads that is the pooler; else what all of these are without.
    """
    try:
        with building_on_meta():
            model = MultiHead(config)
    except (*BAD_VALUE, RuntimeError, ImportError) as error:
        raise PlanError(f"MultiHead can't be built on a {type(config.trunk).__name__}: {one_line(error)}") from error
    without = [plain.without for plain in model.plain_heads.values()] or [{"pooler"}]
    before = f"{origin.prefix}." if origin.prefix else ""
    names = (name.removeprefix(before) for name in base.source.entries if name.startswith(before))
    present = {name.partition(".")[0] for name in names}
    children = [name for name, module in model.trunk._modules.items() if module is not None]
    return [name for name in children if name not in present and all(name in each for each in without)]


def _remove_code(out: Path) -> None:
    """Remove what the base brought along: a plain class needs no code beside it."""
    for name in CODE_FILES:
        (out / name).unlink(missing_ok=True)
