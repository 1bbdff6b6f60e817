"""hf_init on transformers: the only place that imports it."""

from __future__ import annotations

from hf_init.hf._load import from_pretrained as from_pretrained
from hf_init.hf._mixin import InitMixin as InitMixin
