"""Where heads come from: a checkpoint read as a backbone with heads, and where its tensors go."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
import transformers
from transformers import CONFIG_MAPPING, PreTrainedConfig, PreTrainedModel

from hf_init._architecture import BAD_VALUE, NOWHERE, auto_classes, building_on_meta, quiet_library
from hf_init._checkpoint import BaseCheckpoint, describe_config
from hf_init._errors import PlanError
from hf_init._heads import names_of
from hf_init._multihead.configuration_multi_head import HeadSpec, MultiHeadConfig
from hf_init._multihead.kinds_multi_head import KINDS, LABELLED_KINDS, MULTI, NUMBER, backbone_class, input_modality
from hf_init._text import one_line

HEAD_FIELDS = ("id2label", "label2id", "num_labels", "problem_type", "architectures", "auto_map", "_name_or_path",
               "dtype", "torch_dtype")  # fmt: skip
RENAMED = "@"  # before a name that has been renamed, so that no other rule matches it


@dataclass(frozen=True)
class HeadOrigin:
    """A checkpoint as a backbone with heads.

    Attributes:
        backbone: the config of its backbone. dtype: of the checkpoint, by its config.
        heads: by name.
        prefix: of the backbone's names on disk; empty where the checkpoint holds a backbone alone.
        modules: of its own class besides the backbone.
        multi: whether its class is ``MultiHead``.
    """

    name: str
    backbone: PreTrainedConfig
    heads: Mapping[str, HeadSpec]
    prefix: str = ""
    modules: tuple[str, ...] = ()
    multi: bool = False
    dtype: str | torch.dtype | None = None

    @classmethod
    def of(cls, base: BaseCheckpoint, name_head: str | None, values: Mapping[str, object] | None = None) -> HeadOrigin:
        """Read a checkpoint's config.

        Args:
            name_head: names the one head that a plain class has; None: its kind is the name.
            values: of the backbone's config, set by the user.

        Raises:
            PlanError: the config can't be read so, or has its own code.
        """
        raw = dict(base.config)
        kind, dtype = raw.get("model_type"), raw.get("dtype") or raw.get("torch_dtype")
        if kind == MultiHeadConfig.model_type:
            if name_head is not None:
                raise PlanError(f"name_head: the heads of {base.name} have names; change one with rename_heads")
            config = make_config(raw)
            heads = {name: config.spec(name) for name in config.heads}
            backbone = _backbone_config(config.trunk.to_dict(), values or {})
            return cls(base.name, backbone, heads, "trunk", (), True, dtype)
        if kind not in CONFIG_MAPPING:
            what = describe_config(raw)
            raise PlanError(
                f"{base.name}: heads go on a model_type that transformers knows, not {kind!r}{what and f'; {what}'}"
            )
        if not base.class_name:
            raise PlanError(
                f"{base.name}: its config.json names no architecture, so which of its weights are a head isn't known; "
                'write the class that they are of into it: "architectures": ["CLASS"]'
            )
        backbone = _backbone_config({key: value for key, value in raw.items() if key not in HEAD_FIELDS}, values or {})
        try:
            backbone.architectures = [backbone_class(backbone).__name__]
        except ValueError as error:
            raise PlanError(str(error)) from None
        own = getattr(transformers, base.class_name, None)
        prefix = getattr(own, "base_model_prefix", "")
        if own is None or not prefix or not any(name.startswith(f"{prefix}.") for name in base.source.entries):
            prefix, modules, spec = "", (), None
        else:
            modules, spec = _modules_besides(own, raw, prefix), _plain_spec(raw, backbone, own)
        if spec is None and name_head is not None:
            raise PlanError(f"name_head: {base.name} ({base.class_name or 'no class named'}) has no head to name")
        heads = {} if spec is None else {name_head or spec.kind.replace("-", "_"): spec}
        return cls(base.name, backbone, heads, prefix, modules, dtype=dtype)

    def is_of_head(self, tensor: str, head: str) -> bool:
        """Return whether a tensor, by its name on disk, is a head's."""
        return tensor.startswith(f"heads.{head}.") if self.multi else tensor.partition(".")[0] in self.modules

    def renaming_rules(
        self, part: str, moves: Mapping[str, str], keep_backbone: bool = True
    ) -> Iterator[tuple[str, str]]:
        """Yield patterns of this checkpoint's names with what they become, each marked as renamed.

        Args:
            part: what the names have before them, where several checkpoints are one.
            moves: its heads by their names in the target; others go nowhere.
            keep_backbone: whether its backbone is the target's.
        """
        before, nowhere = "^" + re.escape(part), f"{RENAMED}{NOWHERE}{part}"
        backbone = f"{RENAMED}trunk." if keep_backbone else f"{nowhere}trunk."
        rest = RENAMED if keep_backbone else nowhere
        if self.multi:
            yield f"{before}trunk\\.", backbone
            for old, new in moves.items():
                yield f"{before}heads\\.{old}\\.", f"{RENAMED}heads.{new}."
            yield f"{before}heads\\.", f"{nowhere}heads."
        elif self.prefix:
            yield f"{before}{re.escape(self.prefix)}\\.", backbone
            gone = nowhere if self.heads else rest  # modules that are no head the user drops by name, not by head
            head = next((f"{RENAMED}heads.{new}." for new in moves.values()), gone)
            yield from ((f"{before}(?={re.escape(module)}(\\.|$))", head) for module in self.modules)
        else:
            rest = f"{RENAMED}trunk." if keep_backbone else nowhere
        yield f"{before}(?!{RENAMED})", rest


def make_config(raw: Mapping[str, object]) -> Any:
    """Return the config of its JSON, of the class that ``model_type`` names.

    Raises:
        PlanError: its class can't take the values.
    """
    try:
        with quiet_library():
            return CONFIG_MAPPING[str(raw["model_type"])].from_dict(dict(raw))
    except BAD_VALUE as error:
        raise PlanError(f"the config can't be made: {one_line(error)}") from error


def _backbone_config(raw: Mapping[str, object], values: Mapping[str, object]) -> PreTrainedConfig:
    config = make_config(raw)
    if unknown := [key for key in values if key not in config.to_dict()]:
        names = ", ".join(map(repr, unknown))
        raise PlanError(f"{type(config).__name__} takes no {names}; values are those of the backbone")
    return make_config({**raw, **values}) if values else config


def _modules_besides(own: type[PreTrainedModel], raw: Mapping[str, object], prefix: str) -> tuple[str, ...]:
    """Return the modules that a plain class has besides its backbone."""
    try:
        with building_on_meta():
            plain = own(make_config(raw))
    except (*BAD_VALUE, RuntimeError, ImportError) as error:
        raise PlanError(f"{own.__name__} can't be built with its own config: {one_line(error)}") from error
    return tuple(sorted({name.partition(".")[0] for name in plain.state_dict()} - {prefix}))


def _plain_spec(raw: Mapping[str, object], backbone: PreTrainedConfig, own: type[PreTrainedModel]) -> HeadSpec | None:
    """Return the spec of a plain class's head; None where the class is of no kind."""
    try:
        reads = input_modality(backbone)
    except ValueError:  # no head goes on it; one that is added is refused with this message
        return None
    kinds = [
        name
        for name, kind in KINDS.items()
        if reads in kind.inputs
        and any(own in auto_classes(getattr(transformers, auto), backbone) for auto in kind.autos)
    ]
    if not kinds:
        return None
    names, problem, kind = names_of(raw), raw.get("problem_type"), kinds[0]
    if problem == MULTI and "multi-label" in kinds:
        kind = "multi-label"
    elif (problem == NUMBER or len(names) == 1) and "regression" in kinds:
        kind = "regression"
    labels, outputs = names if kind in LABELLED_KINDS else None, len(names) if kind == "regression" else None
    spec = HeadSpec.of(kind, {"kind": kind, "labels": labels, "outputs": outputs})
    with quiet_library():
        fits = spec.plain_class(backbone)[0] == own.__name__
    return replace(spec, plain=own.__name__) if fits else None
