"""Several named heads on one backbone: the model, and how checkpoints become one and leave one."""

from __future__ import annotations

from transformers import AutoConfig, AutoModel

from hf_init._multihead.configuration_multi_head import MultiHeadConfig as MultiHeadConfig
from hf_init._multihead.example_labels import labels_for as labels_for
from hf_init._multihead.heads_change import HeadsChange as HeadsChange
from hf_init._multihead.listing import HeadListing as HeadListing
from hf_init._multihead.listing import list_heads as list_heads
from hf_init._multihead.modeling_multi_head import MultiHead as MultiHead

AutoConfig.register(MultiHeadConfig.model_type, MultiHeadConfig, exist_ok=True)
AutoModel.register(MultiHeadConfig, MultiHead, exist_ok=True)
