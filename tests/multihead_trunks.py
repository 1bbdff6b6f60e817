"""Tiny trunks with heads, and the plain classes that they must equal."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
import transformers
from transformers import PreTrainedConfig

from hf_init import MultiHead

LABELS = ["a", "b", "c"]
SIZE = {"vocab_size": 96, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
SEQ2SEQ = {"vocab_size": 96, "d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4}
SEQ2SEQ |= {"decoder_attention_heads": 4, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64}
PICTURE = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
PICTURE |= {"image_size": 16, "patch_size": 4}
SOUND = {**SIZE, "vocab_size": 32, "conv_dim": [16, 16], "conv_kernel": [10, 3], "conv_stride": [5, 2]}
SOUND |= {"num_feat_extract_layers": 2, "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4}
SOUND |= {"classifier_proj_size": 16}

Made = Callable[[], PreTrainedConfig]
TEXTS: dict[str, Made] = {
    "bert": lambda: transformers.BertConfig(**SIZE, max_position_embeddings=64),
    "roberta": lambda: transformers.RobertaConfig(**SIZE, max_position_embeddings=64, pad_token_id=1),
    "electra": lambda: transformers.ElectraConfig(**SIZE, embedding_size=16, max_position_embeddings=64),
    "albert": lambda: transformers.AlbertConfig(**SIZE, embedding_size=16, max_position_embeddings=64),
    "distilbert": lambda: transformers.DistilBertConfig(vocab_size=96, dim=32, n_layers=2, n_heads=4, hidden_dim=64),
    "llama": lambda: transformers.LlamaConfig(**SIZE, num_key_value_heads=2, pad_token_id=0, tie_word_embeddings=True),
    "gpt2": lambda: transformers.GPT2Config(vocab_size=96, n_embd=32, n_layer=2, n_head=4, pad_token_id=0),
    "t5": lambda: transformers.T5Config(
        vocab_size=96, d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4, decoder_start_token_id=0, eos_token_id=2
    ),
    "bart": lambda: transformers.BartConfig(**SEQ2SEQ, max_position_embeddings=64),
}
PICTURES: dict[str, Made] = {
    "vit": lambda: transformers.ViTConfig(**PICTURE),
    "dinov2": lambda: transformers.Dinov2Config(**PICTURE),
    "convnext": lambda: transformers.ConvNextConfig(hidden_sizes=[8, 16, 16, 32], depths=[1, 1, 1, 1], image_size=32),
    "resnet": lambda: transformers.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], num_channels=3),
}
SOUNDS: dict[str, Made] = {
    "wav2vec2": lambda: transformers.Wav2Vec2Config(**SOUND),
    "layer sums": lambda: transformers.Wav2Vec2Config(**SOUND, use_weighted_layer_sum=True),
    "hubert": lambda: transformers.HubertConfig(**SOUND),
}
TRUNKS = {**TEXTS, **PICTURES, **SOUNDS}


def text(rows: int = 3, tokens: int = 9, left: bool = False) -> dict[str, torch.Tensor]:
    """Rows of random tokens, the last of which has two of padding; each ends in the end token of BART."""
    ids = torch.randint(5, 96, (rows, tokens), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(ids)
    ids[:, -1] = 2
    ids[-1, -3] = 2
    ids[-1, -2:], mask[-1, -2:] = 0, 0
    if left:
        ids[-1], mask[-1] = ids[-1].roll(2), mask[-1].roll(2)
    return {"input_ids": ids, "attention_mask": mask}


def inputs(name: str) -> dict[str, torch.Tensor]:
    if name in TEXTS:
        given = text()
        given["input_ids"][given["attention_mask"] == 0] = TEXTS[name]().pad_token_id or 0
        return given
    random = torch.Generator().manual_seed(1)
    if name in PICTURES:
        size = 16 if "image_size" in TRUNKS[name]().to_dict() and name in ("vit", "dinov2") else 32
        return {"pixel_values": torch.randn(3, 3, size, size, generator=random)}
    return {"input_values": torch.randn(3, 400, generator=random)}


def multi(trunk: PreTrainedConfig, heads: Mapping[str, Any], **options: Any) -> Any:
    """In evaluation mode, and no two values alike, so that no place can be taken for another."""
    torch.manual_seed(0)
    model = MultiHead(MultiHead.config_class(trunk=trunk, heads=heads, **options)).eval()
    for parameter in model.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    return model


def twin(model: Any, name: str) -> Any:
    """Transformers' own class of a head, made anew and given the same values by the names of its own."""
    plain: Any = getattr(transformers, model.specs[name].plain)(model.config.plain_config(name))
    before, own = f"{plain.base_model_prefix}.", plain.state_dict()
    state = {before + key[6:]: value for key, value in model.state_dict().items() if key.startswith("trunk.")}
    head = f"heads.{name}."
    state |= {key.removeprefix(head): value for key, value in model.state_dict().items() if key.startswith(head)}
    plain.load_state_dict({key: value for key, value in state.items() if key in own})
    assert own.keys() <= state.keys()
    return plain.eval()


def answer(found: Any) -> torch.Tensor:
    """What a plain class answers, in the shape of ``MultiHeadOutput.logits``."""
    if "start_logits" in found:
        return torch.stack([found.start_logits, found.end_logits], -1)
    return found.logits


def same(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Shape, dtype and every bit."""
    a, b = a.detach(), b.detach()
    return a.shape == b.shape and a.dtype == b.dtype and a.numpy().tobytes() == b.numpy().tobytes()


def unmapped(model: Any) -> Any:
    """With its values copied out of the file: by where a matrix lies, a processor may add in another order."""
    for parameter in model.parameters():
        parameter.data = parameter.data.clone()
    return model.eval()
