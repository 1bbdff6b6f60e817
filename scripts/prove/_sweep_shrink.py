"""A tiny config of any architecture: every number of the default one made as small as the class lets it be.

Numbers are recognised by the names of their fields. All widths are divided by one factor and keep their ratios, so
that what must divide or add up still does; each group of numbers has a ladder of choices, from the smallest up.
"""

from __future__ import annotations

import itertools
import math
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

LIMIT = 40_000_000  # parameters; a tiny model has fewer

LAYERS = re.compile(
    r"^(num|n)_.*(layers|blocks|repeats)(_list)?$|layers$|^n_layers?$|^(.*_)?(depths?|n_layer|num_layer|layers_count)$"
)
VOCABULARY = re.compile(r"vocab(ulary)?_size|num_embeddings$|num_buckets$|entity_vocab|group_vocab$")
EXPERTS = re.compile(r"^(num|n|moe_num|zero)_.*experts?(_num|_list)?$|^num_expert$|expert_num$")
ROUTED = re.compile(r"expert.*per_tok|top_?k|per_tok|shared|group|active|selected")
POSITIONS = re.compile(r"max_.*(position|length|seq)|n_positions|n_ctx|max_.*_len$|context_length")
WIDTH = re.compile(
    r"hidden|dim|width|channel|inner|intermediate|embed|ffn|rank|d_model|d_ff|d_kv|^d_|d_head|n_embd|n_inner|"
    r"state_size|filters|features|head_size|mrope_section|(?<!patch_)(?<!image_)(?<!vocab_)projection_size|sizes$|"
    r"planes|ssm|upsample_groups|ngram_vocab_size_multiplier"
)
NOT_WIDTH = re.compile(
    r"layer|heads?$|image|patch|window|kernel|stride|vocab|position|_ids?$|index|indices|^in_channels$|^num_channels|"
    r"dropout|prob|eps|act|std|range|scale$|theta|input_channels|out_feature|rate|dilation|factor|num_hidden_groups|"
    r"num_.*(steps|frames|groups|queries|tokens|labels|experts|blocks|stages|levels|points)|conv_bias|max_|version"
)
HEAD_WIDTH = re.compile(r"^(.*_)?(d_head|head_dim|dim_head|d_kv)$")
TOKEN = re.compile(r"(token|_id|pad|bos|eos|sep|cls|mask|sot|start|end|index).*(_ids?|index)$|^(bos|eos|pad).*_id$")

LADDER: dict[str, tuple[int, ...]] = {
    "width": (16, 8, 4, 2, 1),
    "layers": (2, 4, 8, 10**6),
    "vocabulary": (160, 1200, 10**9),
    "experts": (4, 8, 10**6),
    "positions": (96, 600, 10**9),
}

# Where the default config is none: values that its type needs. The key of a nested config is written with dots.
EXCEPTIONS: dict[str, dict[str, Any]] = {
    "autoformer": {"prediction_length": 4},
    "informer": {"prediction_length": 4},
    "time_series_transformer": {"prediction_length": 4},
    "esm": {"vocab_size": 33, "mask_token_id": 32, "pad_token_id": 1},
    "aya_vision": {"vision_config.num_attention_heads": 16},
    "chameleon": {"vocabulary_map": {"<image>": 5, "IMGIMGBS": 6, "IMGIMGAZ": 7}},
    "emu3": {"vocabulary_map": {"<|extra_200|>": 5, "<image>": 6, "<|visual token 000000|>": 7}},
    "gemma4_assistant": {"text_config.hidden_size_per_layer_input": 0, "text_config.vocab_size_per_layer_input": 0},
    "cohere_compass_text": {"rope_parameters": {"full_attention": None, "sliding_attention": None}},
    "cohere_compass": {"text_config.rope_parameters": {"full_attention": None, "sliding_attention": None}},
    "dbrx": {"attn_config.rope_theta": 10000.0},
    "moonshine_streaming": {"num_key_value_heads": 8},
    "t5gemma2_encoder": {"text_config.dropout_rate": 0.0, "text_config.attention_dropout": 0.0},
    "qwen3_omni_moe": {
        "talker_config.text_config.shared_expert_intermediate_size": 128,
        "talker_config.spatial_merge_size": 2,
    },
    "granite4_vision": {"deepstack_layer_map": [[0, 0]], "spatial_target_layers": [1, 1, 1, 1]},
}

# What an optional number becomes where the class can't be built without it; computed from the config around it.
GUESSES: dict[str, Callable[[Mapping[str, Any]], Any]] = {
    "head_dim": lambda c: c["hidden_size"] // c["num_attention_heads"],
    "num_key_value_heads": lambda c: c["num_attention_heads"],
    "mlp_layer_types": lambda c: ["sparse"] * c["num_hidden_layers"],
    "layer_types": lambda c: ["full_attention"] * c["num_hidden_layers"],
    "n_routed_experts": lambda c: 4,
    "n_shared_experts": lambda c: 1,
    "num_experts": lambda c: 4,
    "top_k_experts": lambda c: 2,
    "moe_intermediate_size": lambda c: c["intermediate_size"],
    "indexer_n_heads": lambda c: c["num_attention_heads"],
    "indexer_kv_heads": lambda c: 1,
    "indexer_head_dim": lambda c: c["head_dim"],
    "indexer_budget": lambda c: 16,
    "indexer_compress_ratio": lambda c: 4,
    "num_experts_per_tok": lambda c: 2,
    "n_group": lambda c: 1,
    "topk_group": lambda c: 1,
}


@dataclass(frozen=True)
class Choice:
    """One rung of every ladder, and whether what is None is guessed."""

    width: int = 16
    layers: int = 2
    vocabulary: int = 160
    experts: int = 4
    positions: int = 96
    guess: bool = False


class Unreachable(Exception):
    """No tiny model of a type could be made; the message is the reason."""


def tiny_config(
    model_type: str,
    classes: Sequence[type[PreTrainedModel]],
    seconds: float = 20.0,
    serves: Callable[[PreTrainedConfig], bool] = lambda config: True,
) -> PreTrainedConfig:
    """The smallest config by which the first class can be built, and as many of the others as can be.

    Args:
        seconds: how long to look for one that serves all. serves: what else it is to do, if it can.

    Raises:
        Unreachable: no choice of numbers made the first one.
    """
    values, start = default_values(model_type), time.monotonic()
    best, most, why = None, 0, ""
    for choice in choices():
        try:
            config = _config(model_type, shrunk(values, choice))
            _small(_on_meta(classes[0], config))
        except Exception as error:  # whatever a model's own code says about numbers that it can't use
            why = why or f"{type(error).__name__}: {error}"
            continue
        served = 1 + sum(_can_be_built(cls, config) for cls in classes[1:]) + serves(config)
        best, most = (config, served) if served > most else (best, most)
        if most > len(classes) or time.monotonic() - start > seconds:
            break
    if best is None:
        raise Unreachable(why[:400])
    return best


def _can_be_built(cls: type[PreTrainedModel], config: PreTrainedConfig) -> bool:
    try:
        _on_meta(cls, config)
    except Exception:  # as above
        return False
    return True


def default_values(model_type: str) -> dict[str, Any]:
    """The default config of a type, as plain values."""
    given: dict[str, Any] = {}
    for path, value in EXCEPTIONS.get(model_type, {}).items():
        *parents, leaf = path.split(".")
        place = given
        for parent in parents:
            place = place.setdefault(parent, {})
        place[leaf] = value
    try:
        return CONFIG_MAPPING[model_type](**given).to_dict()
    except Exception as error:  # a config that has no default, or whose module can't be imported here
        raise Unreachable(f"no default config: {type(error).__name__}: {error}"[:400]) from error


def choices() -> Iterator[Choice]:
    """From the smallest to the defaults: one ladder climbed at a time, then two, then all together."""
    base: dict[str, Any] = {name: rungs[0] for name, rungs in LADDER.items()}
    yield Choice(**base)
    yield Choice(**base, guess=True)
    for name, rungs in LADDER.items():
        for rung in rungs[1:]:
            yield Choice(**{**base, name: rung})
    for (one, first), (two, second) in itertools.combinations(LADDER.items(), 2):
        yield Choice(**{**base, one: first[1], two: second[1]}, guess=True)
        yield Choice(**{**base, one: first[-1], two: second[-1]})
    for rung in (1, 2, -1):
        some: dict[str, Any] = {name: rungs[min(rung, len(rungs) - 1)] for name, rungs in LADDER.items()}
        yield Choice(**some, guess=rung < 0)


def shrunk(values: Mapping[Any, Any], choice: Choice, widths: frozenset[int] = frozenset()) -> dict[Any, Any]:
    """A config's values under a choice, nested configs included; lists with one entry a layer are cut with it."""
    values = _guessed(values) if choice.guess else values
    widths |= {value for key, value in values.items() if _is_width(key) and _is_number(value) and value >= 128}
    small = {key: _shrunk_value(key, value, choice, widths) for key, value in values.items()}
    lengths = {old: small[name] for name, old in values.items() if _counts_layers(name, old)}
    for key, value in small.items():
        if isinstance(value, list) and len(value) in lengths and (len(value) > 8 or not LAYERS.search(str(key))):
            small[key] = _cut(value, lengths[len(value)])
        if isinstance(value, Mapping) and value and all(str(k).isdigit() for k in value):
            small[key] = {k: v for k, v in value.items() if not lengths or int(k) < max(lengths.values())}
    return _ids_in_range(small)


def _guessed(values: Mapping[Any, Any]) -> dict[Any, Any]:
    found = dict(values)
    for name, guess in GUESSES.items():
        if name in found and found[name] is None:
            try:
                found[name] = guess(found)
            except (KeyError, TypeError, ZeroDivisionError):
                continue  # the config around it doesn't have what the guess is made from
    return found


def _is_number(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_width(key: Any) -> bool:
    return bool(HEAD_WIDTH.search(str(key)) or (WIDTH.search(str(key)) and not NOT_WIDTH.search(str(key))))


def _counts_layers(name: Any, value: Any) -> bool:
    return _is_number(value) and bool(LAYERS.search(str(name))) and value > 1


def _cut(values: list[Any], length: int) -> list[Any]:
    """The first entries, with every kind of entry that there is room for."""
    if any(not isinstance(value, str) for value in values):
        return values[:length]
    kinds = list(dict.fromkeys(values))
    return (kinds + values)[:length] if len(kinds) <= length else values[:length]


def _shrunk_value(key: Any, value: Any, choice: Choice, widths: frozenset[int]) -> Any:
    if isinstance(value, Mapping):
        return shrunk(value, choice, widths) if key not in ("id2label", "label2id", "vocabulary_map") else value
    if isinstance(value, (list, tuple)):
        return [_shrunk_value(key, v, choice, widths) for v in value]
    if not _is_number(value):
        return value
    return _shrunk_number(str(key), value, choice, value in widths)


def _shrunk_number(key: str, value: int, choice: Choice, like_width: bool) -> int:
    for rule, small in RULES:
        if rule(key):
            return small(value, choice)
    as_width = like_width and not re.search(r"head|image|position|window|_ids?$|index|max_|length|frames|rate", key)
    return _divided(value, choice.width) if as_width else value


def _divided(value: int, factor: int) -> int:
    """A width over the factor, as far as it can be divided and two are left."""
    if value <= 4 * factor and value % factor:
        return value
    shared = math.gcd(value, factor)
    return value // shared if value >= 2 * shared else max(value // shared, min(value, 2))


RULES: tuple[tuple[Callable[[str], Any], Callable[[int, Choice], int]], ...] = (
    (VOCABULARY.search, lambda value, choice: min(value, choice.vocabulary)),
    (lambda key: EXPERTS.search(key) and not ROUTED.search(key), lambda value, choice: min(value, choice.experts)),
    (lambda key: ROUTED.search(key) and "expert" in key, lambda value, choice: min(value, max(choice.experts // 2, 1))),
    (LAYERS.search, lambda value, choice: min(value, choice.layers)),
    (POSITIONS.search, lambda value, choice: min(value, choice.positions)),
    (_is_width, lambda value, choice: _divided(value, choice.width)),
)


def _ids_in_range(values: dict[Any, Any]) -> dict[Any, Any]:
    """Special tokens that lie beyond the smallest vocabulary, dropped below its end, each to a place of its own."""
    sizes = list(_sizes(values))
    if not sizes:
        return values
    below = itertools.count(min(sizes) - 1, -1)
    places: dict[int, int] = {}

    def moved(key: Any, value: Any) -> Any:
        key = str(key)
        if isinstance(value, Mapping):
            return {k: moved(k, v) for k, v in value.items()} if key not in ("id2label", "label2id") else value
        if isinstance(value, list) and TOKEN.search(key):
            return [moved(key, v) for v in value]
        if isinstance(value, bool) or not isinstance(value, int) or not TOKEN.search(key) or value < min(sizes):
            return value
        if value not in places:
            places[value] = next(below)
        return max(places[value], 0)

    return {key: moved(key, value) for key, value in values.items()}


def _sizes(values: Mapping[Any, Any]) -> Iterator[int]:
    for key, value in values.items():
        if isinstance(value, Mapping) and key not in ("id2label", "label2id"):
            yield from _sizes(value)
        elif re.search(r"vocab_size$", str(key)) and isinstance(value, int) and value > 8 and "type" not in str(key):
            yield value


def _config(model_type: str, values: Mapping[str, Any]) -> PreTrainedConfig:
    return CONFIG_MAPPING[model_type].from_dict(dict(values))


def config_for(cls: type[PreTrainedModel], config: PreTrainedConfig) -> PreTrainedConfig:
    """The config that a class takes: this one, or the one of its type inside it."""
    wanted: Any = cls.config_class
    if isinstance(config, wanted):
        return config
    return next((getattr(config, key) for key, kind in config.sub_configs.items() if kind is wanted), config)


def _on_meta(cls: type[PreTrainedModel], config: PreTrainedConfig) -> PreTrainedModel:
    with torch.device("meta"):
        return cls(deepcopy(config_for(cls, config)))  # T5's encoder and others write into the config that they get


def _small(model: PreTrainedModel) -> PreTrainedModel:
    many = sum(tensor.numel() for tensor in model.parameters())
    if many > LIMIT:
        raise Unreachable(f"{many:,} parameters in the smallest one that its code accepts")
    return model
