"""What a user's options mean: a target, and the changes that lead to it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from transformers import PreTrainedConfig

from hf_init._architecture import REFUSED, Architecture, Target, check_options, copy_config, with_config
from hf_init._change import Change, TargetRequest
from hf_init._checkpoint import HUB_OPTIONS, BaseCheckpoint, Bases, Checkpoint
from hf_init._errors import CheckpointError, PlanError
from hf_init._growth import (
    AttentionChange,
    ExpertsChange,
    GivenChange,
    HiddenChange,
    ImageChange,
    LayersChange,
    PositionsChange,
    UpcycleChange,
    WidthChange,
)
from hf_init._heads import FittedHeadChange, LabelChange, VerbalizerChange
from hf_init._multihead import HeadsChange
from hf_init._options import LoadOptions, MemoryOptions, options_of
from hf_init._prepare.allow_new import AllowNew, parse_globs
from hf_init._prepare.renamed import parse_renamings
from hf_init._text import join_names
from hf_init._vocabulary import TokenChange

CHANGES: tuple[type[Change], ...] = (
    HeadsChange,
    FittedHeadChange,
    VerbalizerChange,
    LabelChange,
    TokenChange,
    LayersChange,
    PositionsChange,
    ImageChange,
    HiddenChange,
    AttentionChange,
    WidthChange,
    ExpertsChange,
    UpcycleChange,
    GivenChange,
    AllowNew,
)


def change_options() -> tuple[str, ...]:
    """Return the keyword arguments that the changes take."""
    return tuple(dict.fromkeys(word for change in CHANGES for word in change.OPTIONS))


def requested_changes(base: BaseCheckpoint, options: Mapping[str, object]) -> tuple[Change, ...]:
    """Return the changes that a user's options ask for.

    Raises:
        PlanError: the options contradict each other, or the base.
    """
    changes: list[Change] = []
    for kind in CHANGES:
        if not any(kind in change.REPLACES for change in changes):
            change = kind.of(base, {key: value for key, value in options.items() if key in kind.OPTIONS})
            changes += [] if change is None else [change]
    return tuple(changes)


DTYPE_OPTIONS = ("dtype", "torch_dtype")
LOAD_OPTIONS = ("key_mapping", *(name for name in options_of(MemoryOptions) if name not in DTYPE_OPTIONS))
# Without a meaning here: what the library's auto classes hand over, and a word on shapes that differ, which `keep` has.
NO_MEANING = ("_from_auto", "_from_pipeline", "_commit_hash", "code_revision", "ignore_mismatched_sizes")


def resolve_target(
    base: Bases,
    architecture: Architecture = None,
    *model_args: object,
    headers_only: bool = False,
    trust_remote_code: bool | None = None,
    subfolder: str = "",
    config: PreTrainedConfig | Mapping[str, object] | None = None,
    model_kwargs: Mapping[str, object] | None = None,
    dtype: object = None,
    torch_dtype: object = None,
    drop: object = None,
    **options: Any,
) -> tuple[Target, tuple[Change, ...]]:
    """Return the target that a user means, and the changes that lead to it.

    Args:
        base: a folder or a hub id; or several, by the prefix that the names of each get.
        headers_only: leave the weights of a hub id where they are: enough for a plan.
        architecture: a ``PreTrainedModel`` class, an ``AutoModelFor*`` class, the name of one, or None for the
            checkpoint's own.
        config: a config object to use as it is, or values to set on the checkpoint's own (dots reach nested ones).
        model_kwargs: what the class's constructor takes besides its config.
        drop: globs of the base's tensors that go.
        options: hub options, loading options, the options of changes (``labels``...), config values; the rest goes to
            the class's constructor.

    Raises:
        CheckpointError, PlanError: each with what was seen and what to do.
    """
    given = config if isinstance(config, Mapping) else {}
    own = _SortedOptions.of(options, given)
    opened = BaseCheckpoint.open(
        base, config, headers_only=headers_only, subfolder=subfolder, may_be_packed=True, hub=own.hub
    )
    whole = config if isinstance(config, PreTrainedConfig) else None
    if opened.source.parts and whole is None:
        opened, made = with_config(opened, architecture, trust_remote_code)
        if made is not None:
            whole, given = copy_config(made, given), {}
            opened = replace(opened, config=whole.to_dict())
    changes = requested_changes(opened, own.changes)
    request = TargetRequest(
        opened,
        architecture,
        whole,
        {**given, **own.values},
        open_other=lambda name: BaseCheckpoint.open(name, headers_only=headers_only, hub={**own.hub, "revision": None}),
        trust=trust_remote_code,
    )
    for change in changes:
        request = change.retarget(request)
    _check_readable(request.base.source)
    target = Target.of(
        request.base,
        request.architecture,
        request.config,
        values=request.values,
        changed={key: value for change in changes for key, value in change.config_values().items()},
        trust=trust_remote_code,
        model_kwargs=model_kwargs or {},
        options=options_of(LoadOptions),
        dtype=dtype if dtype is not None else torch_dtype,
    )
    given_up = () if drop is None else parse_globs("drop", drop)
    target = replace(target, model_args=model_args, load_options=own.loading(request.key_mapping), drop=given_up)
    for change in changes:
        target = change.place(target)
    return target, changes


@dataclass(frozen=True)
class _SortedOptions:
    """A user's keyword arguments, by who takes them.

    Attributes:
        hub: what finds a checkpoint on the hub.
        load: what the library's loader takes.
        changes: what the changes take.
        values: of the config; what has no field there is for the class's constructor.
    """

    hub: Mapping[str, Any]
    load: Mapping[str, Any]
    changes: Mapping[str, object]
    values: Mapping[str, object]

    def loading(self, renamings: Mapping[str, str]) -> dict[str, Any]:
        """Return what the loader takes, with more renamings than the user's own."""
        more = {"key_mapping": {**(self.load.get("key_mapping") or {}), **renamings}} if renamings else {}
        return {**self.load, **more}

    @classmethod
    def of(cls, options: Mapping[str, Any], given: Mapping[str, object]) -> _SortedOptions:
        """Sort options; ``given`` are the values of a config that stand beside them.

        Raises:
            PlanError: one can't be served, is another's, or is given twice.
        """
        rest = {key: value for key, value in options.items() if key not in NO_MEANING}
        if set(rest.get("adapter_kwargs") or ()) <= set(HUB_OPTIONS):
            rest.pop("adapter_kwargs", None)  # with PEFT at hand an auto class hands on where it looked for an adapter
        hub = {key: rest.pop(key) for key in HUB_OPTIONS if key in rest}
        load = {key: rest.pop(key) for key in LOAD_OPTIONS if key in rest}
        if load.get("key_mapping") is not None:
            load["key_mapping"] = parse_renamings(load["key_mapping"])
        if load.get("use_safetensors") is False:
            raise PlanError(
                "use_safetensors: of torch's own format nothing is read; `hf-init convert DIR OUT` makes it safetensors"
            )
        check_options({**given, **rest})
        rest = {key: value for key, value in rest.items() if key not in REFUSED}  # switched off, they mean nothing
        if wrong := [key for key in given if key in HUB_OPTIONS or key in LOAD_OPTIONS]:
            raise PlanError(f"config: {', '.join(wrong)}: no value of a config but an option; give it as one")
        if twice := [f"{key} ({given[key]!r} and {rest[key]!r})" for key in given if rest.get(key) is not None]:
            raise PlanError(f"given twice: {', '.join(twice)}; give it once")
        changes = {key: rest.pop(key) for key in change_options() if key in rest}
        if "num_labels" in given:  # a config value and a change
            changes.setdefault("num_labels", given["num_labels"])
        return cls(hub, load, changes, rest)


def _check_readable(source: Checkpoint) -> None:
    """Raise CheckpointError if the library would read other tensors than the index says."""
    if source.unmapped:
        names = [f"{name} in {shard}" for shard, name in source.unmapped]
        raise CheckpointError(
            f"{source.root}: {len(names)} tensors in the files are not in the index ({join_names(names)}), and "
            "transformers would load them all the same; add them to the index, or remove them from the files"
        )
