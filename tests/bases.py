"""Tiny checkpoints of many kinds, made from configs: every value is drawn, so that no two rows are alike."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import torch
import transformers
from safetensors.torch import load_file, save_file
from token_bases import ROWS, tokenizer
from token_bases import base as _of_tokens
from transformers import PreTrainedConfig, PreTrainedModel

import hf_init
from hf_init import InitMixin, Recipe, Rule

SIZE: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
TEXT: dict[str, Any] = {**SIZE, "vocab_size": 96, "max_position_embeddings": 64}
DECODER: dict[str, Any] = {**TEXT, "num_key_value_heads": 2, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
SEEN: dict[str, Any] = {**SIZE, "num_hidden_layers": 1, "image_size": 16, "patch_size": 8}
HEARD: dict[str, Any] = {
    **SIZE, "conv_dim": (16, 16), "conv_stride": (4, 4), "conv_kernel": (4, 4), "num_feat_extract_layers": 2,
    "num_conv_pos_embeddings": 4, "num_conv_pos_embedding_groups": 2, "classifier_proj_size": 8,
}  # fmt: skip
RESNET: dict[str, Any] = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1]}
SEGFORMER: dict[str, Any] = {
    "num_encoder_blocks": 2, "depths": [1, 1], "sr_ratios": [2, 1], "hidden_sizes": [8, 16], "patch_sizes": [7, 3],
    "strides": [4, 2], "num_attention_heads": [1, 2], "mlp_ratios": [2, 2], "decoder_hidden_size": 16,
}  # fmt: skip
DETR: dict[str, Any] = {
    "d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2, "num_queries": 4,
    "decoder_attention_heads": 2, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16, "use_timm_backbone": False,
    "use_pretrained_backbone": False, "backbone": None,
}  # fmt: skip
ALPHABET = list("abcdefghijk")
SENTIMENTS = ["neg", "neu", "pos"]
ANIMALS = ["cat", "dog", "car"]
TAGS = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]
HEADS: dict[str, Any] = {
    "topic": {"kind": "sequence-classification", "labels": ["news", "sport", "arts"]},
    "entities": {"kind": "token-classification", "labels": ["O", "B-PER", "I-PER"]},
    "meaning": "similarity",
}
MISNAMED = {"classifier.": "head.out."}
CHARACTERS = ["<pad>", "<s>", "</s>", "<unk>", "|", "a", "b", "c"]


class TaggerConfig(PreTrainedConfig):
    model_type = "tagger_of_tests"
    width: int = 8


class Tagger(PreTrainedModel):
    """Scores of labels, and of each label after each other: somebody's own class."""

    config_class, base_model_prefix = TaggerConfig, "tagger"

    def __init__(self, config):
        super().__init__(config)
        self.scores = torch.nn.Linear(config.width, config.num_labels)
        self.transitions = torch.nn.Parameter(torch.zeros(config.num_labels, config.num_labels))
        self.post_init()


class Anchored(Tagger):
    """Three scores for each label, which no label's name tells apart."""

    def __init__(self, config):
        super().__init__(config)
        self.anchors = torch.nn.Linear(config.width, 3 * config.num_labels)
        self.post_init()


class RowBehind(transformers.LlamaForCausalLM):
    """A table with a row more than the vocabulary, which no token has."""

    def __init__(self, config):
        super().__init__(config)
        self.more = torch.nn.Embedding(config.vocab_size + 1, config.hidden_size)
        self.post_init()


class Classifier(InitMixin, transformers.BertForSequenceClassification):
    """A class with a recipe of its own, for what the library would hand to its `_init_weights`."""

    init_recipe = Recipe([Rule("uniform(a=-0.25, b=0.25)", name="classifier.weight")], default="zeros", seed=3)


class Tolerant(transformers.BertForSequenceClassification):
    """A class that loads without a bias, and says so."""

    _keys_to_ignore_on_load_missing: ClassVar = [r"^classifier\."]


class Adapted(transformers.BertForSequenceClassification):
    """Something besides the head."""

    def __init__(self, config):
        super().__init__(config)
        self.adapter = torch.nn.Linear(config.hidden_size, 2)


class Renamed(transformers.BertForSequenceClassification):
    """The same head under another name."""

    def __init__(self, config):
        super().__init__(config)
        del self.classifier
        self.scores = torch.nn.Linear(config.hidden_size, config.num_labels)


def named(labels: list[str]) -> dict[str, Any]:
    """The config values of named labels."""
    return {"id2label": dict(enumerate(labels)), "label2id": {name: k for k, name in enumerate(labels)}}


def llava_config() -> transformers.LlavaConfig:
    """The config of the whole, of which "clip" and "llama untied" are the towers."""
    vision, text = transformers.CLIPVisionConfig(**SEEN), transformers.LlamaConfig(**DECODER)
    return transformers.LlavaConfig(vision_config=vision, text_config=text, image_token_index=95)


def character_tokenizer(folder: Path, characters: list[str]) -> Path:
    """The folder of a tokenizer for CTC over these characters."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({character: k for k, character in enumerate(characters)}))
    transformers.Wav2Vec2CTCTokenizer(str(folder / "vocab.json")).save_pretrained(folder)
    return folder


def _model(
    cls: Any, folder: Path, *, dtype: torch.dtype = torch.float32, max_shard_size: str = "1GB", **config: Any
) -> None:
    """Save a model of this class with every floating value drawn."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = cls(cls.config_class(**config)).to(dtype)
        with torch.no_grad():
            for tensor in (*model.parameters(), *model.buffers()):
                if tensor.is_floating_point():
                    tensor.normal_(std=0.3)
        model.save_pretrained(folder, max_shard_size=max_shard_size)


def _edited(
    base: str,
    folder: Path,
    *,
    names: Mapping[str, str] | None = None,
    without: Sequence[str] = (),
    config: Mapping[str, Any] | None = None,
) -> None:
    """Save another base with parts of its tensors' names replaced, without some, and with other config values."""
    BASES[base](folder)
    tensors = load_file(folder / "model.safetensors")
    tensors = {name: t for name, t in tensors.items() if not any(fnmatchcase(name, glob) for glob in without)}
    for old, new in (names or {}).items():
        tensors = {name.replace(old, new): tensor for name, tensor in tensors.items()}
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    values = {**json.loads((folder / "config.json").read_text()), **(config or {})}
    (folder / "config.json").write_text(json.dumps({key: each for key, each in values.items() if each is not None}))


def _row_behind(folder: Path) -> None:
    tokenizer().save_pretrained(folder)
    _model(RowBehind, folder, **{**DECODER, "vocab_size": ROWS})


def _ctc(folder: Path) -> None:
    character_tokenizer(folder, CHARACTERS)
    _model(transformers.Wav2Vec2ForCTC, folder, **HEARD, vocab_size=len(CHARACTERS), pad_token_id=0)


def _detr(folder: Path) -> None:
    backbone = transformers.ResNetConfig(**RESNET, out_features=["stage2"])
    _model(transformers.DetrForObjectDetection, folder, **DETR, **named(ANIMALS), backbone_config=backbone)


def _llava(folder: Path) -> None:
    config = llava_config()
    towers = {"vision_config": config.vision_config, "text_config": config.text_config}
    _model(transformers.LlavaForConditionalGeneration, folder, **towers, image_token_index=95)


def _two_encoders(folder: Path) -> None:
    towers = {"vision_config": transformers.ViTConfig(**SEEN), "text_config": transformers.BertConfig(**TEXT)}
    towers = {name: {**config.to_dict(), "model_type": config.model_type} for name, config in towers.items()}
    _model(transformers.VisionTextDualEncoderModel, folder, projection_dim=8, **towers)


def _several_heads(folder: Path) -> None:
    _model(hf_init.MultiHead, folder, trunk=transformers.BertConfig(**TEXT), heads=HEADS)


_BERT, _LLAMA = partial(_model, transformers.BertModel, **TEXT), partial(_model, transformers.LlamaForCausalLM)
_MIXTRAL = partial(_model, transformers.MixtralForCausalLM, **DECODER, num_local_experts=4, tie_word_embeddings=False)
_BART: dict[str, Any] = {
    "vocab_size": 96, "d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 32,
    "decoder_ffn_dim": 32, "encoder_attention_heads": 2, "decoder_attention_heads": 2, "max_position_embeddings": 32,
}  # fmt: skip
BASES: dict[str, Callable[[Path], object]] = {
    "bert": _BERT,
    "bert in float16": partial(_BERT, dtype=torch.float16),
    "bert of old names": partial(
        _edited, "bert", names={"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
    ),
    "masked": partial(_model, transformers.BertForMaskedLM, **TEXT),
    "pretraining": partial(_model, transformers.BertForPreTraining, **TEXT),
    "choice": partial(_model, transformers.BertForMultipleChoice, **TEXT),
    "roberta": partial(_model, transformers.RobertaModel, **TEXT),
    "sentiment": partial(_model, transformers.BertForSequenceClassification, **TEXT, **named(SENTIMENTS)),
    "numbered": partial(_model, transformers.BertForSequenceClassification, **TEXT, num_labels=3),
    "eleven labels": partial(_model, transformers.BertForSequenceClassification, **TEXT, **named(ALPHABET)),
    "tags of one type": partial(
        _edited, "tags", config={"id2label": dict(enumerate(["O", *(f"{k}-PER" for k in "BIES")])), "label2id": None}
    ),
    "misnamed head": partial(_edited, "sentiment", names=MISNAMED),
    "misnamed head of a trunk": partial(_edited, "sentiment", names=MISNAMED, config={"architectures": ["BertModel"]}),
    "misnamed head of nobody": partial(_edited, "sentiment", names=MISNAMED, config={"architectures": None}),
    "misnamed head of somebody": partial(
        _edited, "sentiment", names=MISNAMED, config={"architectures": ["SomebodysClassifier"]}
    ),
    "no head": partial(_edited, "sentiment", without=["classifier.*"]),
    "no pooler's bias": partial(_edited, "sentiment", without=["bert.pooler.dense.bias"]),
    "no classifier's bias": partial(
        _edited, "sentiment", without=["classifier.bias"], config={"architectures": ["Tolerant"]}
    ),
    "no classifier's bias and no pooler": partial(
        _edited, "sentiment", without=["classifier.bias", "bert.pooler.*"], config={"architectures": ["Tolerant"]}
    ),
    "tags": partial(_model, transformers.BertForTokenClassification, **TEXT, **named(TAGS)),
    "several heads": _several_heads,
    "tagger": partial(_model, Tagger, **named(ANIMALS)),
    "anchored": partial(_model, Anchored, **named(ANIMALS)),
    "labels of one name": partial(
        _edited, "tagger", config={"id2label": {"0": "N/A", "1": "dog", "2": "N/A"}, "label2id": None}
    ),
    "vit": partial(_model, transformers.ViTModel, **SEEN),
    "resnet": partial(_model, transformers.ResNetForImageClassification, **RESNET, **named(ANIMALS)),
    "resnet without its counters": partial(_edited, "resnet", without=["*num_batches_tracked"]),
    "segformer": partial(_model, transformers.SegformerForSemanticSegmentation, **SEGFORMER, **named(ANIMALS)),
    "yolos": partial(
        _model, transformers.YolosForObjectDetection, **{**SEEN, "image_size": [16, 16]}, **named(ANIMALS),
        num_detection_tokens=4,
    ),
    "eomt": partial(
        _model, transformers.EomtForUniversalSegmentation, **{**SEEN, "image_size": 32, "patch_size": 16},
        **named(ANIMALS), num_queries=4, num_blocks=1, num_upscale_blocks=1,
    ),
    "detr": _detr,
    "clip": partial(_model, transformers.CLIPVisionModel, **SEEN),
    "two towers of one model": partial(
        _model, transformers.CLIPModel, text_config={**SIZE, "vocab_size": 99}, vision_config=SEEN
    ),
    "llava": _llava,
    "llava without a projector": partial(_edited, "llava", without=["*multi_modal_projector*"]),
    "two encoders": _two_encoders,
    "two encoders without projections": partial(_edited, "two encoders", without=["*_projection.weight"]),
    "wav2vec2": partial(_model, transformers.Wav2Vec2Model, **HEARD),
    "ctc": _ctc,
    "llama": partial(_LLAMA, **DECODER, tie_word_embeddings=True),
    "llama trunk": partial(_model, transformers.LlamaModel, **DECODER, tie_word_embeddings=True),
    "llama untied": partial(_LLAMA, **DECODER, tie_word_embeddings=False),
    "llama in bfloat16": partial(_LLAMA, **DECODER, tie_word_embeddings=True, dtype=torch.bfloat16),
    "gpt2": partial(
        _model, transformers.GPT2LMHeadModel, vocab_size=96, n_embd=32, n_layer=2, n_head=4, n_positions=64,
        bos_token_id=1, eos_token_id=2, pad_token_id=0,
    ),
    "a row behind the tokens": _row_behind,
    "mixtral": _MIXTRAL,
    "mixtral in shards": partial(_MIXTRAL, max_shard_size="60KB"),
    "qwen3 of experts": partial(
        _model, transformers.Qwen3MoeModel, **DECODER, num_experts=4, moe_intermediate_size=16, head_dim=8
    ),
    "gte": partial(_model, transformers.GteModel, **TEXT, pad_token_id=0),
    "bart": partial(_model, transformers.BartModel, **_BART),
    **{
        f"{name} with tokens": partial(_of_tokens, name)
        for name in ("bart", "t5", "gemma3", "gemma3n", "phi", "qwen", "llama")
    },
}  # fmt: skip


def make_base(name: str, folder: Path) -> Path:
    """Make a checkpoint, with a file beside the weights that no library knows; nobody may write to its files."""
    BASES[name](folder)
    (folder / "NOTES.md").write_text(f"{name}\n")
    for file in folder.iterdir():
        file.chmod(0o444)
    return folder
