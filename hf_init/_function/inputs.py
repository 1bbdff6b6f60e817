"""Seeded inputs for an architecture: text, images, audio, whatever its forward asks for."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import TypeAlias

import torch
from transformers import PreTrainedConfig, PreTrainedModel

from hf_init._architecture import text_config

BATCH, TOKENS, SAMPLES, FRAMES = 2, 12, 8000, 64
SPECTROGRAMS = ("input_features", "input_values")
Inputs: TypeAlias = Mapping[str, "torch.Tensor | bool"]
"""Keyword arguments of a forward."""


def seeded_inputs(model: PreTrainedModel, seed: int = 0) -> Iterator[dict[str, torch.Tensor]]:
    """Yield inputs for a model, on the CPU, the likeliest first: those of its main input, then all that it names.

    They depend on the seed and the config alone. Ids of special tokens don't occur in them: some mean a place for an
    image, or padding.
    """
    generator = torch.Generator().manual_seed(seed)
    names = [name for name in inspect.signature(model.forward).parameters if name in MAKERS]
    main = model.main_input_name if model.main_input_name in names else next(iter(names), "")
    needed = {main, *(["decoder_input_ids"] if getattr(model.config, "is_encoder_decoder", False) else ())}
    made = {name: MAKERS[name](model.config, generator) for name in names}
    first = {name: made[name] for name in names if name in needed}
    yield first
    if made.keys() != first.keys():
        yield made


def paired_inputs(base: PreTrainedModel, out: PreTrainedModel, seed: int = 0) -> Iterator[tuple[Inputs, Inputs]]:
    """Yield inputs for a base and for what was made of it: the same, but for images of another size or depth.

    Spectrograms of other bins are the base's, stretched.
    """
    heard = {name: each for made in seeded_inputs(out, seed) for name, each in made.items() if name in SPECTROGRAMS}
    images = next((made["pixel_values"] for made in seeded_inputs(out, seed) if "pixel_values" in made), None)
    for made in seeded_inputs(base, seed):
        shown: dict[str, torch.Tensor | bool] = dict(made)
        kept: dict[str, torch.Tensor | bool] = dict(made)
        for name in heard.keys() & made.keys():
            if made[name].dim() == heard[name].dim() == 3 and made[name].shape != heard[name].shape:
                size = heard[name].shape[-2:]
                kept[name] = torch.nn.functional.interpolate(made[name][:, None], size=size, mode="bicubic")[:, 0]
        old = made.get("pixel_values")
        if old is not None and images is not None and images.shape != old.shape and images.dim() == old.dim() == 4:
            channels = images[:, : old.shape[1]]
            missing = old.shape[1] - channels.shape[1]
            one = channels[:, :1] if channels.shape[1] == 1 else torch.zeros_like(channels[:, :1])  # grey, or none
            shown["pixel_values"] = torch.cat([channels, *[one] * missing], 1)
            kept["pixel_values"] = images
            if images.shape[2:] != old.shape[2:]:
                shown["interpolate_pos_encoding"] = True
        yield shown, kept


def main_output(output: object) -> tuple[str, torch.Tensor] | None:
    """Return the output of a forward that counts, with its name: the logits, else the first; None: it has none."""
    named = dict(output.items()) if isinstance(output, Mapping) else {"output": output}
    tensors = {str(name): value for name, value in named.items() if isinstance(value, torch.Tensor)}
    name = "logits" if "logits" in tensors else next(iter(tensors), None)
    return None if name is None else (name, tensors[name])


def _first_value(config: PreTrainedConfig, *names: str) -> object:
    """Return the value of the first field that a config, or one nested in it, has."""
    nested = [value for value in vars(config).values() if isinstance(value, PreTrainedConfig)]
    for name in names:
        for each in (config, *nested):
            if (value := getattr(each, name, None)) is not None:
                return value
    return None


def _count(config: PreTrainedConfig, default: int, *names: str) -> int:
    value = _first_value(config, *names)
    return value if isinstance(value, int) and value > 0 else default


def _special_ids(values: Mapping[str, object]) -> Iterator[int]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _special_ids({str(key): each for key, each in value.items()})
        elif "token" in name or name.endswith("_index"):
            yield from (each for each in (value if isinstance(value, list) else [value]) if isinstance(each, int))


def _token_ids(config: PreTrainedConfig, generator: torch.Generator) -> torch.Tensor:
    text = text_config(config)
    size = _count(text, 100, "vocab_size")
    special = set(_special_ids(config.to_dict()))
    plain = torch.tensor([k for k in range(min(size, 50_000)) if k not in special] or [0])
    longest = _count(text, TOKENS, "max_position_embeddings", "n_positions") - 3
    picked = torch.randint(len(plain), (BATCH, max(1, min(TOKENS, longest))), generator=generator)
    return plain[picked]


def _image(config: PreTrainedConfig, generator: torch.Generator) -> torch.Tensor:
    size = _first_value(config, "image_size", "img_size", "input_size")
    sides = size if isinstance(size, (list, tuple)) else (size, size)
    height, width = (side if isinstance(side, int) else 224 for side in (*sides, *sides)[:2])
    channels = _count(config, 3, "num_channels", "in_channels", "in_chans")
    frames = [_count(config, 0, "num_frames")] if _count(config, 0, "num_frames") else []
    return torch.randn(BATCH, *frames, channels, height, width, generator=generator)


def _waveform(config: PreTrainedConfig, generator: torch.Generator) -> torch.Tensor:
    bins, length = _count(config, 0, "num_mel_bins"), _count(config, 0, "max_length")
    shape = (BATCH, length, bins) if bins and length else (BATCH, SAMPLES)
    return torch.randn(*shape, generator=generator)


def _features(config: PreTrainedConfig, generator: torch.Generator) -> torch.Tensor:
    bins = _count(config, 80, "num_mel_bins", "input_feat_per_channel", "feature_projection_input_dim", "input_dim")
    positions = _count(config, 0, "max_source_positions")
    whisper = bool(positions) and _first_value(config, "num_mel_bins") is not None
    shape = (BATCH, bins, 2 * positions) if whisper else (BATCH, FRAMES, bins)
    return torch.randn(*shape, generator=generator)


MAKERS: Mapping[str, Callable[[PreTrainedConfig, torch.Generator], torch.Tensor]] = {
    "input_ids": _token_ids,
    "decoder_input_ids": _token_ids,
    "pixel_values": _image,
    "input_values": _waveform,
    "input_features": _features,
}
"""Inputs by the name of the forward's argument."""
