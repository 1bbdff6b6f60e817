"""Where heads come from: what a checkpoint's own class is to a trunk with heads, and where its tensors go."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
import transformers
from transformers import CONFIG_MAPPING, PreTrainedConfig

from hf_init._architecture import BAD_VALUE, NOWHERE, auto_classes, quiet_library
from hf_init._checkpoint import BaseCheckpoint
from hf_init._errors import PlanError
from hf_init._heads import names_of
from hf_init._multihead.configuration_multi_head import HeadSpec, MultiHeadConfig
from hf_init._multihead.kinds_multi_head import KINDS, LABELLED_KINDS, backbone_class, input_modality
from hf_init._text import one_line

OF_HEADS = ("id2label", "label2id", "num_labels", "problem_type", "architectures", "auto_map", "_name_or_path", "dtype",
            "torch_dtype")  # fmt: skip
DONE = "@"  # before a name that has been renamed, so that no other rule takes it up


@dataclass(frozen=True)
class HeadOrigin:
    """A checkpoint as a trunk with heads.

    Attributes:
        trunk: the config of its trunk. dtype: of the checkpoint, by its config.
        heads: by name.
        prefix: of the trunk's names on disk; empty where the checkpoint holds a trunk alone.
        modules: of its own class besides the trunk.
        multi: whether it is one already.
    """

    name: str
    trunk: PreTrainedConfig
    heads: Mapping[str, HeadSpec]
    prefix: str = ""
    modules: tuple[str, ...] = ()
    multi: bool = False
    dtype: Any = None

    @classmethod
    def of(cls, base: BaseCheckpoint, name_head: str | None, values: Mapping[str, Any] | None = None) -> HeadOrigin:
        """What the config says of a checkpoint.

        Args:
            name_head: of the one head that a plain class has; None: its kind.
            values: of the trunk's config, by the user.

        Raises:
            PlanError: its config can't be read so, or has its own code.
        """
        raw = dict(base.config)
        if raw.get("model_type") == MultiHeadConfig.model_type:
            return cls._multi(base, raw, name_head, values or {})
        kind = raw.get("model_type")
        if kind not in CONFIG_MAPPING:
            raise PlanError(f"{base.name}: heads go on a model_type that transformers knows, not {kind!r}")
        trunk = _trunk({key: value for key, value in raw.items() if key not in OF_HEADS}, values or {})
        trunk.architectures = [_class_of(trunk)]
        own = getattr(transformers, base.class_name, None)
        prefix = _prefix(base, own)
        spec = _own_head(raw, trunk, own) if prefix else None
        modules = _modules(own, raw, prefix) if prefix else ()
        if spec is None:
            if name_head is not None:
                raise PlanError(f"name_head: {base.name} ({base.class_name or 'no class named'}) has no head to name")
            return cls(base.name, trunk, {}, prefix, modules, dtype=_dtype(raw))
        heads = {name_head or spec.kind.replace("-", "_"): spec}
        return cls(base.name, trunk, heads, prefix, modules, dtype=_dtype(raw))

    @classmethod
    def _multi(
        cls, base: BaseCheckpoint, raw: dict[str, Any], name_head: str | None, values: Mapping[str, Any]
    ) -> HeadOrigin:
        if name_head is not None:
            raise PlanError(f"name_head: the heads of {base.name} have names; change one with rename_heads")
        config = config_made(raw)
        heads = {name: config.spec(name) for name in config.heads}
        return cls(base.name, _trunk(config.trunk.to_dict(), values), heads, "trunk", (), True, _dtype(raw))

    def rules(self, part: str, moves: Mapping[str, str], trunk: bool = True) -> Iterator[tuple[str, str]]:
        """Patterns of this checkpoint's names with what they become, each marked as done.

        Args:
            part: what the names have before them, where several checkpoints are one.
            moves: its heads by their names in the target; others go nowhere.
            trunk: whether its trunk is the target's.
        """
        before, nowhere = "^" + re.escape(part), f"{DONE}{NOWHERE}{part}"
        if self.multi:
            yield f"{before}trunk\\.", f"{DONE}trunk." if trunk else f"{nowhere}trunk."
            for old, new in moves.items():
                yield f"{before}heads\\.{old}\\.", f"{DONE}heads.{new}."
            yield f"{before}heads\\.", f"{nowhere}heads."
            yield f"{before}(?!{DONE})", DONE if trunk else nowhere
            return
        if self.prefix:
            yield f"{before}{re.escape(self.prefix)}\\.", f"{DONE}trunk." if trunk else f"{nowhere}trunk."
            head = next((f"{DONE}heads.{new}." for new in moves.values()), nowhere)
            yield from ((f"{before}(?={re.escape(module)}(\\.|$))", head) for module in self.modules)
            yield f"{before}(?!{DONE})", DONE if trunk else nowhere
        else:
            yield f"{before}(?!{DONE})", f"{DONE}trunk." if trunk else nowhere


def config_made(raw: Mapping[str, Any]) -> Any:
    """A config from its JSON.

    Raises:
        PlanError: its class can't take the values.
    """
    try:
        with quiet_library():
            return CONFIG_MAPPING[raw["model_type"]].from_dict(dict(raw))
    except BAD_VALUE as error:
        raise PlanError(f"the config can't be made: {one_line(error)}") from error


def _trunk(raw: Mapping[str, Any], values: Mapping[str, Any]) -> PreTrainedConfig:
    made = config_made(raw)
    if unknown := [key for key in values if key not in made.to_dict()]:
        raise PlanError(
            f"{type(made).__name__} takes no {', '.join(map(repr, unknown))}; values are those of the trunk"
        )
    return config_made({**raw, **values}) if values else made


def _class_of(trunk: PreTrainedConfig) -> str:
    try:
        return backbone_class(trunk).__name__
    except ValueError as error:
        raise PlanError(str(error)) from None


def _dtype(raw: Mapping[str, Any]) -> Any:
    return raw.get("dtype") or raw.get("torch_dtype")


def _prefix(base: BaseCheckpoint, own: Any) -> str:
    """The prefix of the trunk's names, where the files have it."""
    prefix = getattr(own, "base_model_prefix", "")
    return prefix if prefix and any(name.startswith(prefix + ".") for name in base.source.entries) else ""


def _modules(own: Any, raw: Mapping[str, Any], prefix: str) -> tuple[str, ...]:
    """What a plain class has besides its trunk."""
    try:
        with quiet_library(), torch.device("meta"):
            plain = own(config_made(raw))
    except (*BAD_VALUE, RuntimeError, ImportError) as error:
        raise PlanError(f"{own.__name__} can't be built with its own config: {one_line(error)}") from error
    return tuple(sorted({name.partition(".")[0] for name in plain.state_dict()} - {prefix}))


def _own_head(raw: Mapping[str, Any], trunk: PreTrainedConfig, own: Any) -> HeadSpec | None:
    """The head of a plain class, where that is of a kind."""
    names = names_of(raw)
    kind = _kind(raw, len(names), trunk, own)
    if kind is None:
        return None
    spec: dict[str, Any] = {"kind": kind}
    if kind in LABELLED_KINDS:
        spec["labels"] = names
    elif kind == "regression":
        spec["outputs"] = len(names)
    made = HeadSpec.of(kind, spec)
    with quiet_library():
        fits = made.plain_class(trunk)[0] == own.__name__
    return replace(made, plain=own.__name__) if fits else None


def _kind(raw: Mapping[str, Any], labels: int, trunk: PreTrainedConfig, own: Any) -> str | None:
    try:
        reads = input_modality(trunk)
    except ValueError:  # no head goes on it; one that is asked for is refused in these words
        return None
    found = [
        kind
        for kind, each in KINDS.items()
        if reads in each.inputs and any(own in auto_classes(getattr(transformers, auto), trunk) for auto in each.autos)
    ]
    problem = raw.get("problem_type")
    if problem == "multi_label_classification" and "multi-label" in found:
        return "multi-label"
    if (problem == "regression" or labels == 1) and "regression" in found:
        return "regression"
    return found[0] if found else None
