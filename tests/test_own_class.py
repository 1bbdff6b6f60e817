"""A class of one's own: its constructor's values, its `_init_weights`, and its recipe, in memory and on disk alike."""

from __future__ import annotations

import copy
import random

import numpy as np
import pytest
import torch
import transformers
from bases import TINY_BERT
from safetensors.torch import load_file
from torch import nn
from torch.nn.utils import parametrizations

import hf_init
from hf_init import HfInitError, InitMixin


def own_class(body, *mixins, **attributes):
    """BertModel under ``bert``, and what ``body(self)`` adds."""

    class Own(*mixins, transformers.BertPreTrainedModel):
        def __init__(self, config):
            super().__init__(config)
            self.bert = transformers.BertModel(config)
            body(self)
            self.post_init()

    for name, value in attributes.items():
        setattr(Own, name, value)
    return Own


def untouched(self, module):
    """An `_init_weights` that leaves the constructor's values."""


def everywhere(body, base, out, **attributes):
    """The model by its config alone, from a base, and from the files that were written: its own tensors by name."""
    plain, mixed = own_class(body, **attributes), own_class(body, InitMixin, **attributes)
    config = transformers.BertConfig.from_pretrained(base)
    loaded = hf_init.from_pretrained(plain, base)
    hf_init.extend(base, out, plain)
    hf_init.verify(out).raise_if_failed()
    models = {"config": mixed(config), "memory": loaded, "disk": plain.from_pretrained(out)}
    assert all(torch.equal(t, load_file(out / "model.safetensors")[n]) for n, t in loaded.state_dict().items())
    return models
