"""Several named heads on one trunk: the model, and how checkpoints become and leave one."""

from __future__ import annotations

from transformers import AutoConfig, AutoModel

from hf_init.hf._multihead.modeling_multi_head import HeadSpec as HeadSpec
from hf_init.hf._multihead.modeling_multi_head import MultiHead as MultiHead
from hf_init.hf._multihead.modeling_multi_head import MultiHeadConfig as MultiHeadConfig

AutoConfig.register(MultiHeadConfig.model_type, MultiHeadConfig, exist_ok=True)
AutoModel.register(MultiHeadConfig, MultiHead, exist_ok=True)
