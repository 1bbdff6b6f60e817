"""The config of the target: the checkpoint's own with the user's values, each of which must find its field."""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from numbers import Integral
from pathlib import Path
from typing import Any

import torch
import transformers
from huggingface_hub.errors import StrictDataclassError
from transformers import CONFIG_MAPPING, AutoConfig, PreTrainedConfig, PreTrainedModel

from hf_init._architecture.classes import auto_map, remote
from hf_init._architecture.library import quiet_library
from hf_init._checkpoint import Checkpoint, describe_config, says_packed
from hf_init._errors import CheckpointError, PlanError, option
from hf_init._text import closest, one_line

REFUSED = {
    "quantization_config": "extend the unquantized base, save it, and quantize the result",
    "load_in_4bit": "extend the unquantized base, save it, and quantize the result",
    "load_in_8bit": "extend the unquantized base, save it, and quantize the result",
    "gguf_file": "load the file with plain transformers, save_pretrained, and extend that folder",
    "state_dict": "save the tensors as a checkpoint folder and extend that",
    "tp_plan": "give distributed_config=DistributedConfig(tp_plan=...)",
    "tp_size": "give distributed_config=DistributedConfig(tp_size=...)",
    "device_mesh": "give distributed_config=DistributedConfig(...), which makes one",
    "offload_folder": "extend folder to folder, then load the result with plain from_pretrained",
    "from_tf": "convert the checkpoint to safetensors first",
    "from_flax": "convert the checkpoint to safetensors first",
    "variant": "give a folder whose weights are model.safetensors",
    "transformers_weights": "say it in the config.json of the folder",
    "adapter_kwargs": "merge the adapter into its base and extend the merged folder",
}

NOT_VALUES = ("cache_dir", "code_revision", "force_download", "local_files_only", "return_unused_kwargs", "revision",
              "subfolder", "token", "trust_remote_code")  # fmt: skip

BAD_VALUE = (StrictDataclassError, TypeError, ValueError, AttributeError, LookupError, OSError, ZeroDivisionError)
"""What the constructors of configs raise for values that they can't use."""


def check_options(options: Mapping[str, object]) -> None:
    """Raise PlanError for options of the library that have no meaning here, all at once, each with the way out."""
    problems = [
        f"{key}: {REFUSED[key]}" for key, value in options.items() if key in REFUSED and value not in (None, False)
    ]
    if problems:
        raise PlanError("not supported when a checkpoint is extended:\n  " + "\n  ".join(problems))


MOST_LABELS = 10_000_000


def label_values(labels: Sequence[str] | None, num_labels: object) -> dict[str, object]:
    """Return the config values that name or count the labels.

    Raises:
        PlanError: an empty or repeated name, a number below 1, or both.

    Example:
        >>> label_values(["neg", "pos"], None)
        {'id2label': {0: 'neg', 1: 'pos'}, 'label2id': {'neg': 0, 'pos': 1}}
    """
    if labels is not None and num_labels is not None:
        both = f"{option('labels')} ({list(labels)}) and {option('num_labels')} ({num_labels})"
        raise PlanError(f"{both}: give one of the two")
    if num_labels is not None and (
        not isinstance(num_labels, Integral) or isinstance(num_labels, bool) or num_labels < 1
    ):
        raise PlanError(f"{option('num_labels')}: expected a whole number of at least 1, not {num_labels!r}")
    if num_labels is not None and int(num_labels) > MOST_LABELS:
        raise PlanError(f"{option('num_labels')}: {num_labels} are more than {MOST_LABELS}; a config names each")
    if labels is None:
        return {} if num_labels is None else {"num_labels": int(num_labels)}
    names = list(labels)
    if isinstance(labels, str) or not names or not all(isinstance(name, str) and name.strip() for name in names):
        raise PlanError(f"{option('labels')}: expected a list of names, such as ['neg', 'pos'], not {labels!r}")
    twice = sorted(name for name, times in Counter(names).items() if times > 1)
    if twice:
        raise PlanError(f"{option('labels')}: named twice: {', '.join(twice)}; give each label one name of its own")
    return {"id2label": dict(enumerate(names)), "label2id": {name: k for k, name in enumerate(names)}}


def config_of(
    cls: type, folder: Path, raw: Mapping[str, object], values: Mapping[str, object], trust: bool | None
) -> tuple[PreTrainedConfig, dict[str, object]]:
    """Return the checkpoint's config with the user's values, and the values that it has no field for.

    A value whose key has dots (``text_config.vocab_size``) goes into a nested config.

    Raises:
        PlanError: an unknown model_type, a value that the config can't take, a nested field that isn't there.
    """
    taken = [
        key
        for key in values
        if key.startswith("_") or key in NOT_VALUES or callable(getattr(PreTrainedConfig, key, None))
    ]
    if taken:  # the library's own loading of a config takes these names for something else than a value
        raise PlanError(
            f"{', '.join(map(repr, taken))}: no config value; see `hf-init plan --help` for what is an option"
        )
    try:
        with quiet_library():
            config, rest = _load_config(
                cls, folder, raw, {key: v for key, v in values.items() if "." not in key}, trust
            )
            for path, value in values.items():
                if "." in path:
                    _set_nested(config, path, value)
    except BAD_VALUE as error:
        asked = f" with {dict(values)}" if values else ""
        raise PlanError(f"{folder / 'config.json'}: the config can't be made{asked}: {one_line(error)}") from error
    return config, rest


def drop_quantization(config: PreTrainedConfig) -> None:
    """Take out of a config what it says of packed weights, and of those nested in it: the weights are plain."""
    for key, value in list(vars(config).items()):
        if says_packed(key, value):
            delattr(config, key)
        elif isinstance(value, PreTrainedConfig):
            drop_quantization(value)


def copy_config(config: PreTrainedConfig, values: Mapping[str, object]) -> PreTrainedConfig:
    """Return a copy of a config with these values, so that the caller's stays as it is.

    Raises:
        PlanError: the class refuses them, or its own values together.
    """
    try:
        made = type(config).from_dict(config.to_dict())
        for path, value in values.items():
            if "." in path:
                _set_nested(made, path, value)
            else:
                setattr(made, path, value)
    except BAD_VALUE as error:
        asked = f" with {dict(values)}" if values else ""
        raise PlanError(f"the config of a {config.model_type} can't be made{asked}: {one_line(error)}") from error
    return made


def check_quantized(config: PreTrainedConfig) -> None:
    """Raise PlanError for a config that asks for packed weights."""
    if getattr(config, "quantization_config", None):
        raise PlanError("the config asks for quantization; " + REFUSED["quantization_config"])


def check_same_weights(config: PreTrainedConfig, raw: Mapping[str, object]) -> None:
    """Raise PlanError for a config object that names another weights file than the folder's: the library reads that."""
    named, own = (each.get("transformers_weights") for each in (vars(config), raw))
    if named != own:
        raise PlanError(
            f"transformers_weights: the config object says {named!r} and the base's config.json {own!r}; "
            + REFUSED["transformers_weights"]
        )


def check_extra_files(config: PreTrainedConfig, folder: Path) -> None:
    """Raise PlanError if weights lie in files of their own, which the config's class has the library read as well."""
    extra = [name for name in getattr(type(config), "extra_files", ()) if (folder / name).is_file()]
    if extra:
        raise PlanError(
            f"{folder}: transformers reads {', '.join(extra)} with the other weights of a {config.model_type} model: "
            "load it with plain from_pretrained, save_pretrained(OUT), which writes all of them together, and give OUT"
        )


def check_unknown(
    cls: type[PreTrainedModel], config: PreTrainedConfig, rest: Mapping[str, object], options: Iterable[str] = ()
) -> None:
    """Raise PlanError for values that neither a field of the config nor the class's constructor takes."""
    accepted = inspect.signature(cls.__init__).parameters
    if any(p.kind is p.VAR_KEYWORD for p in accepted.values()) and cls.__init__ is not PreTrainedModel.__init__:
        accepted = {**accepted, **inspect.signature(PreTrainedModel.__init__).parameters}
    known = [*config.to_dict(), *options]
    unknown = [f"{key!r}{closest(key, known)}" for key in rest if key not in accepted]
    if unknown:
        raise PlanError(f"{type(config).__name__} and {cls.__name__} take no {', '.join(unknown)}")


def check_retyped(requested: object, config: PreTrainedConfig) -> None:
    """Raise PlanError for another model type than the config's: the library would leave it as it is, without a word."""
    own = type(config).model_type
    if requested not in (None, own):
        raise PlanError(
            f"model_type: {requested!r} can't be made of a config of type {own!r}; give the class of the "
            f"other type ({option('architecture', 'CLASS')}) and a config object of it"
        )


def dtype_of(requested: object, config: PreTrainedConfig, source: Checkpoint) -> torch.dtype:
    """Return the dtype as the library finds it: requested, the config's, the index's, or that of a tensor.

    The tensor is the first floating one of the first file, by name, of those that a model can be in: more than 8 bits.
    """
    own = getattr(config, "dtype", None) if requested in (None, "auto") else requested
    own = own or source.dtype or None
    if own is not None:
        dtype = getattr(torch, own, None) if isinstance(own, str) else own
        if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
            raise PlanError(f"dtype: expected a floating torch dtype or its name, such as 'bfloat16', not {own!r}")
        return dtype
    for header in source.headers:
        for entry in sorted(header.entries, key=lambda entry: entry.name):
            dtype = getattr(torch, entry.dtype, None)
            if isinstance(dtype, torch.dtype) and dtype.is_floating_point and dtype.itemsize > 1:
                return dtype
    raise CheckpointError(
        f"{source.root} holds no floating-point tensor, so the dtype of what is new is unknown; give dtype"
    )


def nested_configs(config: PreTrainedConfig) -> Iterator[PreTrainedConfig]:
    """Yield a config and those nested in it, from the outside in."""
    yield config
    for value in vars(config).values():
        if isinstance(value, PreTrainedConfig):
            yield from nested_configs(value)


def _load_config(
    cls: type, folder: Path, raw: Mapping[str, object], values: Mapping[str, object], trust: bool | None
) -> tuple[PreTrainedConfig, dict[str, object]]:
    own, model_type = getattr(cls, "config_class", None), raw.get("model_type")
    brought = auto_map(raw).get("AutoConfig")
    options: dict[str, object] = {"return_unused_kwargs": True, **values}
    if own is not None and (model_type is None or own.model_type == model_type):
        return own.from_pretrained(str(folder), **options)
    if model_type in CONFIG_MAPPING:
        made: Any = AutoConfig.from_pretrained(str(folder), trust_remote_code=bool(trust), **options)
        return made
    if brought:
        return remote(brought, folder, trust).from_pretrained(str(folder), **options)
    if model_type is None:
        advice = describe_config(raw) or f"add it, or give the class: {option('architecture', 'CLASS')}"
        raise PlanError(f"{folder / 'config.json'} names no model_type; {advice}")
    raise PlanError(
        f"{folder / 'config.json'}: transformers {transformers.__version__} knows no model_type {model_type!r}"
        f"{closest(str(model_type), CONFIG_MAPPING)}; install a version that does, or give a checkpoint of a known type"
    )


def _set_nested(config: object, path: str, value: object) -> None:
    """Set ``text_config.vocab_size`` and the like; the field must be there."""
    *parents, leaf = path.split(".")
    place = config
    for name in parents:
        place = _nested_field(place, name, path)
    _nested_field(place, leaf, path)
    if isinstance(place, dict):
        place[leaf] = value
    else:
        setattr(place, leaf, value)


def _nested_field(place: object, name: str, path: str) -> object:
    found = place.get(name, _nested_field) if isinstance(place, dict) else getattr(place, name, _nested_field)
    if found is _nested_field or callable(found):
        fields = place.to_dict() if isinstance(place, PreTrainedConfig) else place if isinstance(place, dict) else ()
        raise PlanError(f"config value {path!r}: {type(place).__name__} has no field {name!r}{closest(name, fields)}")
    return found


def text_config(config: PreTrainedConfig) -> PreTrainedConfig:
    """Return the part of a config that is for text, the whole where there is none.

    Of several the part for the text that the model writes; where that is still several, the whole.
    """
    for which in ({}, {"decoder": True}):
        try:
            return config.get_text_config(**which)
        except ValueError:  # which is all that the library says of a Musicgen
            continue
    return config
