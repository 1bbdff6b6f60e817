"""A model as its constructor makes it, and in the dtypes that its class holds: what the library's loader leaves out."""

from __future__ import annotations

import re
from copy import deepcopy

import torch
from transformers import PreTrainedConfig, PreTrainedModel
from transformers import initialization as library_init

from hf_init._architecture.library import building_on_meta


def construct(cls: type[PreTrainedModel], config: PreTrainedConfig, *args: object, **kwargs: object) -> PreTrainedModel:
    """Return what a class's constructor makes on meta, before anything is loaded or tied."""
    with building_on_meta(), library_init.meta_device_safe_creation_ops():
        return cls(deepcopy(config), *args, **kwargs)


def in_kept_dtypes(model: PreTrainedModel, dtype: torch.dtype) -> PreTrainedModel:
    """Return a model of ``load_on_meta`` with what its class holds in float32: the loader casts only what it loads.

    A head that is new would be planned in the model's dtype, and saved in another one.
    """
    kept = [pattern.replace("*", ".*") for pattern in model._get_dtype_plan(dtype)]
    for name, parameter in model.named_parameters():
        if any(re.search(pattern, name) for pattern in kept):
            parameter.data = parameter.data.float()
    return model
