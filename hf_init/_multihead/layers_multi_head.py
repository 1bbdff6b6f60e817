"""The layers of heads that are no class of transformers, and what stands for the backbone in those that are.

Needs torch and transformers only: this file travels with checkpoints as remote code.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch.nn import functional as F
from transformers import PreTrainedConfig

from .configuration_multi_head import ACTIVATIONS, HeadSpec
from .kinds_multi_head import KINDS, hidden_size, input_modality, is_causal

UNPACKED_LISTS = ("llm_int8_skip_modules", "modules_to_not_convert")
"""The lists in quantization configs of what stays unpacked: of bitsandbytes, and of most others."""


class UnpackedHeads:
    """Lets a quantizer leave the heads as they are: they are what is trained, and no packed matrix can be."""

    _hf_init_mixin = True  # hf_init's own loader, which packs nothing, goes past this method

    @classmethod
    def from_pretrained(cls, *args: object, quantization_config: Any = None, **options: object) -> Any:
        """Load as transformers does; the list of what a quantizer leaves alone is extended by the heads."""
        if quantization_config is not None:
            options["quantization_config"] = without_heads(quantization_config)
        loader: Any = super()
        return loader.from_pretrained(*args, **options)


def without_heads(quantization_config: Any) -> Any:
    """Return a copy of a quantization config, an object or a dict, that leaves the heads alone.

    Raises:
        ValueError: no list of it that is known here says what it leaves alone.
    """
    config = copy.deepcopy(quantization_config)
    values: dict[str, Any] = config if isinstance(config, dict) else vars(config)
    by_bits = {"load_in_4bit", "load_in_8bit", "_load_in_4bit", "_load_in_8bit"} & values.keys()
    listed = [*UNPACKED_LISTS[: 1 if by_bits else None]]
    key = next((name for name in listed if name in values), listed[0] if by_bits else None)
    if key is None:
        raise ValueError(
            f"what {type(config).__name__} leaves unpacked isn't known, and it would pack the heads; load the model "
            f"without it, or quantize with one that has {' or '.join(UNPACKED_LISTS)}"
        )
    values[key] = [*(values.get(key) or ()), "heads"]
    return config


class SharedBackbone(torch.nn.Module):
    """Stands for the backbone in a plain class: it gives what the shared backbone gave, and has its attributes."""

    def __init__(self, backbone: torch.nn.Module) -> None:
        super().__init__()
        self.__dict__["backbone"] = backbone  # no child: its parameters aren't the head's
        self.outputs: object = None

    def forward(self, *args: object, **kwargs: object) -> object:
        return self.outputs

    def __deepcopy__(self, memo: dict[int, Any]) -> SharedBackbone:
        """Keep the backbone where a head is copied alone; share the copy where the whole model is."""
        backbone = self.__dict__["backbone"]
        return SharedBackbone(memo.get(id(backbone), backbone))

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if "backbone" not in self.__dict__:  # while it is unpickled
                raise
            return getattr(self.__dict__["backbone"], name)


class AttentionPooling(torch.nn.Module):
    """A mean of tokens under learned weights (Yang et al. 2016, without their dense layer)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.score = torch.nn.Linear(width, 1, bias=False)

    def forward(self, hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        scores = self.score(hidden).squeeze(-1).masked_fill(~mask, torch.finfo(hidden.dtype).min)
        return (scores.softmax(-1).unsqueeze(-1) * hidden).sum(1)


class CustomHead(torch.nn.Module):
    """Pooling, a dense layer if it is two deep, and a linear layer; of similarity the vector alone, of length 1."""

    def __init__(self, spec: HeadSpec, backbone: PreTrainedConfig) -> None:
        super().__init__()
        self.width = width = hidden_size(backbone)
        self.pooling = default_pooling(backbone, spec) if KINDS[spec.kind].pooled else ""
        self.similarity = spec.kind == "similarity"
        self.activation = ACTIVATIONS[spec.activation or "tanh"]
        if self.pooling == "attention":
            self.attention = AttentionPooling(width)
        self.dropout = torch.nn.Dropout(spec.dropout or 0.0)
        self.dense = torch.nn.Linear(width, width) if spec.depth == 2 else None
        num_outputs = spec.outputs if self.similarity else spec.num_outputs
        self.out_proj = torch.nn.Linear(width, num_outputs) if num_outputs else None

    def forward(self, hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Return ``(rows, outputs)`` or ``(rows, tokens, outputs)``.

        Args:
            hidden: ``(rows, tokens, width)``. mask: which tokens count, ``(rows, tokens)``.
        """
        if hidden.shape[-1] != self.width and self.out_proj is not None:
            raise ValueError(f"the backbone's states are {hidden.shape[-1]} wide, and its config says {self.width}")
        states = self.dropout(self._pooled(hidden, mask))
        if self.dense is not None:
            states = self.dropout(self.activation(self.dense(states)))
        if self.out_proj is not None:
            states = self.out_proj(states)
        return F.normalize(states, dim=-1) if self.similarity else states

    def _pooled(self, hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        if self.pooling == "attention":
            return self.attention(hidden, mask)
        if self.pooling == "mean":
            weights = mask.unsqueeze(-1).to(hidden.dtype)
            return (hidden * weights).sum(1) / weights.sum(1).clamp(min=1)
        if not self.pooling:
            return hidden
        positions = torch.arange(1, mask.shape[1] + 1, device=mask.device) * mask
        index = positions.argmax(1) if self.pooling == "last" else mask.int().argmax(1)
        return hidden[torch.arange(len(hidden), device=hidden.device), index]


def default_pooling(backbone: PreTrainedConfig, spec: HeadSpec) -> str:
    """Return the pooling of a spec; by default the last token of a decoder, the first of another text model."""
    if spec.pooling is not None:
        return spec.pooling
    if spec.kind == "similarity" or input_modality(backbone) != "text":
        return "mean"
    return "last" if is_causal(backbone) else "first"


def pooling_mask(backbone: Any, hidden: torch.Tensor, mask: Any, reads: str) -> torch.Tensor:
    """Return which states count, ``(rows, tokens)``.

    Raises:
        ValueError: the attention mask has another shape than the states.
    """
    num_tokens = hidden.shape[1]
    if mask is None or reads == "vision":
        return torch.ones(hidden.shape[:2], dtype=torch.bool, device=hidden.device)
    if reads == "audio" and mask.shape[1] > num_tokens:
        if hasattr(backbone, "_get_feature_vector_attention_mask"):  # Wav2Vec2 and its relatives
            mask = backbone._get_feature_vector_attention_mask(num_tokens, mask)
        else:
            mask = mask[:, :: mask.shape[1] // num_tokens][:, :num_tokens]
    if mask.shape != hidden.shape[:2]:
        raise ValueError(f"attention_mask {tuple(mask.shape)} for states {tuple(hidden.shape)}: pooling needs one "
                         "value a token")  # fmt: skip
    return mask.bool()


def num_patches(backbone: PreTrainedConfig, pixels: torch.Tensor, hidden: torch.Tensor) -> int:
    """Return how many of a backbone's tokens, the last, are patches: a class token and registers stand before them."""
    size = getattr(backbone, "patch_size", None)
    if size is None:
        return hidden.shape[1]
    height, width = (size, size) if isinstance(size, int) else size
    patches = (pixels.shape[-2] // height) * (pixels.shape[-1] // width)
    return patches if patches <= hidden.shape[1] else hidden.shape[1]
