"""Classes with the mixin, and functions that initialize modules."""

from __future__ import annotations

import random

import numpy as np
import torch
import transformers
from torch import nn

from hf_init import InitMixin, Recipe, Rule

QUARTER = Recipe([Rule("constant(val=0.25)", name="*fc.weight")])


class Right(InitMixin, transformers.BertPreTrainedModel):
    init_recipe = QUARTER

    def __init__(self, config):
        super().__init__(config)
        self.bert = transformers.BertModel(config)
        self.fc = nn.Linear(32, 2)
        self.post_init()


def init_weights(module):
    """What tutorials hand to ``apply``."""
    if isinstance(module, nn.Linear):
        nn.init.kaiming_normal_(module.weight, mode="fan_in", nonlinearity="relu")
        nn.init.zeros_(module.bias)


def by_numpy(module):
    if isinstance(module, nn.Linear):
        module.weight.data = torch.from_numpy(np.random.randn(*module.weight.shape)).float()
        module.bias.data.fill_(random.random())


def is_all(tensor, value):
    return bool((tensor == value).all())


SMALL = {"vocab_size": 40, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}


# Whose `_init_weights`.


def own_init(init, **attributes):
    def _init_weights(self, module):
        init(self, module)

    return type("OwnInit", (Right,), {"init_recipe": None, "_init_weights": _init_weights, **attributes})
