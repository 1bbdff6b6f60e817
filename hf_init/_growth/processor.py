"""The processor's files, which follow the sizes of a model's inputs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from transformers import PreTrainedConfig

from hf_init._growth.grids import image_value, pair

FILES = ("preprocessor_config.json", "processor_config.json")
BINS = ("num_mel_bins", "input_feat_per_channel")
"""What configs call the bins of a spectrogram."""


def write_processor(before: PreTrainedConfig, after: PreTrainedConfig, folder: Path) -> None:
    """Write the processor's sizes, its mean and spread of each channel, and its bins, where they are the base's."""
    for path in filter(Path.is_file, (folder / name for name in FILES)):
        settings: dict[str, object] = json.loads(path.read_text(encoding="utf-8"))
        followed = _followed_sizes(settings, before, after)
        for name, part in settings.items():  # a processor of several holds each as a whole
            if isinstance(part, Mapping) and name.endswith(("processor", "extractor")):
                followed[name] = _followed_sizes(part, before, after)
        if followed != settings:
            path.write_text(json.dumps(followed, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _followed_sizes(
    settings: Mapping[str, object], before: PreTrainedConfig, after: PreTrainedConfig
) -> dict[str, object]:
    """Return the settings of one processor as they are for the other config."""
    followed = dict(settings)
    (height, width), (new_height, new_width) = (pair(image_value(each, "image_size")) for each in (before, after))
    names = {"height": (height, new_height), "width": (width, new_width), "shortest_edge": (height, new_height)}
    for key in ("size", "crop_size"):
        value = settings.get(key)
        if isinstance(value, int) and value == height:
            followed[key] = new_height
        elif isinstance(value, Mapping):
            followed[key] = {n: names[n][1] if n in names and names[n][0] == v else v for n, v in value.items()}
    old, new = image_value(before, "num_channels"), image_value(after, "num_channels")
    for key in ("image_mean", "image_std"):
        value = settings.get(key)
        if isinstance(value, list) and isinstance(old, int) and isinstance(new, int) and len(value) == old != new:
            mean = sum(value) / len(value)
            followed[key] = [*value, *[mean] * new][:new] if new > old else [mean] * new
    bins = [next(filter(None, (image_value(each, name) for name in BINS)), None) for each in (before, after)]
    for key in ("feature_size", "num_mel_bins"):
        if bins[0] != bins[1] and settings.get(key) == bins[0]:
            followed[key] = bins[1]
            followed.pop("mel_filters", None)  # made anew from the number of bins
    return followed
