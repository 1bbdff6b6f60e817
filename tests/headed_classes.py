"""Classes of one's own around a trunk of the library."""

from __future__ import annotations

from typing import Any

import transformers
from torch import nn

# The library's families: a name of bases.BASES, the trunk's class and its attribute in the library's own classes.


FAMILIES = {
    "bert": (transformers.BertModel, "bert"),
    "llama trunk": (transformers.LlamaModel, "model"),
    "vit": (transformers.ViTModel, "vit"),
}


def headed(base: str, before: tuple[type, ...] = (), body: Any = lambda model: None, **attributes: Any) -> Any:
    """A class over a family's trunk, with a head and what the body adds."""
    trunk, name = FAMILIES[base]

    class Headed(*before, trunk.__base__):
        def __init__(self, config):
            super().__init__(config)
            setattr(self, name, trunk(config))
            self.fc = nn.Linear(config.hidden_size, 2)
            body(self)
            self.post_init()

    for key, value in attributes.items():
        setattr(Headed, key, value)
    return Headed


def sets(name: str, value: Any) -> Any:
    return headed("bert", body=lambda model: setattr(model, name, value()))
