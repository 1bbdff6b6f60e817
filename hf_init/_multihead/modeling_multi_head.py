"""Several named heads on one pretrained backbone. Needs torch and transformers only: it travels with checkpoints.

A head is either transformers' own class for its kind (``BertForTokenClassification``...), in which what the shared
backbone gave stands for the backbone, so that it computes what that class computes; or, where a pooling, a depth or a
dropout is set by the user or no such class fits, a ``CustomHead``.
"""

from __future__ import annotations

import copy
import inspect
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
import transformers
from transformers import AutoModel, GenerationConfig, GenerationMixin, PreTrainedModel
from transformers.utils.generic import ModelOutput

from .configuration_multi_head import HeadSpec, MultiHeadConfig
from .data_multi_head import LOSSES, Collator
from .kinds_multi_head import (
    CHOICE,
    KINDS,
    TEXT,
    Batch,
    accepted,
    decoder_inputs,
    flatten_choices,
    forward_arguments,
    has_choices,
    input_modality,
    is_in_backbone,
    list_choices,
)
from .layers_multi_head import CustomHead, SharedBackbone, UnpackedHeads, num_patches, pooling_mask

GenerationValue: TypeAlias = "torch.Tensor | GenerationConfig | Sequence[object] | str | float | None"
HubValue: TypeAlias = "str | os.PathLike[str] | Mapping[str, str] | bool | None"
BACKBONE, ENCODER = "trunk.", "trunk.encoder"  # keys of forward arguments; heads' names are the others


@dataclass
class MultiHeadOutput(ModelOutput):
    """What a forward gives.

    Attributes:
        loss: the weighted sum over the heads that have labels; None without labels.
        logits: by the head's name, ``(rows, outputs)`` or ``(rows, tokens, outputs)``; of question answering the last
            dimension is start and end; of similarity they are vectors of length 1.
        losses: of each head with labels, unweighted.
    """

    loss: torch.Tensor | None = None
    logits: dict[str, torch.Tensor] | None = None
    losses: dict[str, torch.Tensor] | None = None
    last_hidden_state: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None


@dataclass(frozen=True)
class PlainHead:
    """What is known of a head that is a class of transformers.

    Attributes:
        ties: which of its tensors are tied, by the names in this model. own_ties: by those of its class.
        without: modules of the backbone that its class has none of.
    """

    ties: Mapping[str, str]
    own_ties: dict[str, str]
    without: frozenset[str]


class MultiHead(UnpackedHeads, PreTrainedModel):
    """Named heads on one backbone: a forward runs the backbone once, regardless of which heads are requested.

    Tensors are named ``trunk.*`` as those of the backbone's own class, and ``heads.NAME.*`` as in transformers' class
    for the head. Of an encoder-decoder, custom heads read the encoder, and the decoder runs only if another head is
    requested.

    Example::

        config = MultiHeadConfig(trunk=AutoConfig.from_pretrained("base"), heads={"topic": {...}})
        model = MultiHead(config)
        model(**batch, labels={"topic": topics}).loss
    """

    config_class = MultiHeadConfig
    base_model_prefix = "trunk"
    supports_gradient_checkpointing = True
    accepts_loss_kwargs = False  # tasks differ in what a batch counts: the Trainer divides by its number of batches
    _supports_sdpa = _supports_flash_attn = _supports_flex_attn = _supports_attention_backend = True

    def __init__(self, config: MultiHeadConfig) -> None:
        super().__init__(config)
        self.specs = {name: config.spec(name) for name in config.heads}
        # Not the dtype that the backbone's config may say: the heads have the one that this model is made in.
        self.trunk: Any = AutoModel.from_config(config.trunk, dtype=torch.get_default_dtype())
        if unknown := [name for name in config.left_out if name not in self.trunk._modules]:
            raise ValueError(f"left_out: {type(self.trunk).__name__} has no module {', '.join(map(repr, unknown))}")
        for name in config.left_out:
            setattr(self.trunk, name, None)
        self.heads = torch.nn.ModuleDict()
        self.plain_heads: dict[str, PlainHead] = {}
        for name, spec in self.specs.items():
            self.heads[name] = self._make_plain_head(name) if spec.plain else CustomHead(spec, config.trunk)
        self._tied_weights_keys = {key: of for plain in self.plain_heads.values() for key, of in plain.ties.items()}
        self._modality = input_modality(config.trunk)
        encoder = self.trunk.get_encoder() if config.trunk.is_encoder_decoder else self.trunk
        self.main_input_name = self.trunk.main_input_name
        # An encoder that reads feature maps of another module can't run alone.
        reads_input = self.main_input_name in inspect.signature(encoder.forward).parameters
        self._encoder_runs_alone = encoder is not self.trunk and reads_input
        self._arguments = {name: forward_arguments(head.forward) for name, head in self.heads.items()}
        self._arguments |= {
            BACKBONE: forward_arguments(self.trunk.forward),
            ENCODER: forward_arguments(encoder.forward),
        }
        self.post_init()

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        pixel_values: torch.Tensor | None = None,
        input_values: torch.Tensor | None = None,
        input_features: torch.Tensor | None = None,
        labels: Mapping[str, torch.Tensor] | None = None,
        heads: Sequence[str] | None = None,
        return_loss: bool | None = None,
        **kwargs: torch.Tensor | bool | None,
    ) -> MultiHeadOutput:
        """Run the backbone once, and then heads.

        Args:
            labels: by the head's name: class numbers (-100: none), for numbers and several labels floats (NaN: none),
                of question answering ``(rows, 2)`` start and end, of a language model the ``input_ids``, of similarity
                a group's number (rows of one group are alike), of a reward one number a row, of which rows 2k and 2k+1
                are a pair and the higher is preferred.
            heads: which to run; None: in training those that have labels, else all that can read the input.
            return_loss: False allows a training batch without labels.
            kwargs: what else the backbone or a head accepts, such as ``output_hidden_states``.

        Raises:
            ValueError: no such head, or a training batch without any label.
        """
        named = {
            "input_ids": input_ids, "attention_mask": attention_mask, "token_type_ids": token_type_ids,
            "position_ids": position_ids, "inputs_embeds": inputs_embeds, "pixel_values": pixel_values,
            "input_values": input_values, "input_features": input_features,
        }  # fmt: skip
        given = {**{key: value for key, value in named.items() if value is not None}, **kwargs}
        chosen = self._chosen_heads(labels, heads, return_loss, given)
        flat = flatten_choices(given) if has_choices(given) else given
        states = self._run_backbone(flat, chosen)
        logits = {
            name: self._logits_of(name, states, given if self.specs[name].kind == CHOICE else flat) for name in chosen
        }
        losses = {
            name: LOSSES[self.specs[name].loss or ""](logits[name], label) for name, label in (labels or {}).items()
        }
        total: Any = sum(self.specs[name].weight * loss for name, loss in losses.items())
        return MultiHeadOutput(
            loss=total if losses else None,
            logits=logits,
            losses=losses or None,
            last_hidden_state=states.last_hidden_state,
            hidden_states=states.get("hidden_states"),
            attentions=states.get("attentions"),
        )

    def freeze(self, *names: str) -> MultiHead:
        """Take ``"trunk"`` (the backbone) or heads out of training; what a head shares with the backbone stays in.

        The running statistics of a frozen backbone's norms stay as they are.
        """
        shared = {id(parameter) for parameter in self.trunk.parameters()}
        for name in names:
            if name != "trunk":
                self.config.spec(name)  # raises for an unknown head before anything is frozen
        for name in names:
            for parameter in (self.trunk if name == "trunk" else self.heads[name]).parameters():
                if name == "trunk" or id(parameter) not in shared:
                    parameter.requires_grad_(False)
        return self.train(self.training)

    def train(self, mode: bool = True) -> MultiHead:
        super().train(mode)
        if mode and not any(parameter.requires_grad for parameter in self.trunk.parameters()):
            for module in self.trunk.modules():
                module.training &= getattr(module, "running_mean", None) is None
        return self

    def export(self, head: str, out: str | os.PathLike[str] | None = None) -> PreTrainedModel:
        """Return a head as a model of transformers' own class, which shares this one's memory; save it to ``out``.

        Raises:
            ValueError: no such head, or no class of transformers holds it.
        """
        spec = self.config.spec(head)
        if spec.plain is None:
            raise ValueError(f"head {head!r} can't be exported: {spec.plain_class(self.config.trunk)[1]}")
        outer, backbone = copy.copy(self.heads[head]), copy.copy(self.trunk)
        without = self.plain_heads[head].without
        backbone._modules = {name: None if name in without else child for name, child in backbone._modules.items()}
        outer._modules = {**outer._modules, str(outer.base_model_prefix): backbone}
        # Modules of its own, so that no hook is on two models, and the same tensors.
        tensors = {id(tensor): tensor for tensor in (*outer.parameters(), *outer.buffers())}
        plain: Any = copy.deepcopy(outer, tensors)
        plain.__dict__.pop("_tied_weights_keys", None)
        plain.all_tied_weights_keys = self.plain_heads[head].own_ties
        plain.config = self.config.plain_config(head)
        if plain.can_generate() and self.can_generate():
            plain.generation_config = copy.deepcopy(self.generation_config)
        if out is not None:
            plain.save_pretrained(out)
        return plain

    @torch.no_grad()
    def generate(self, *args: object, head: str | None = None, **kwargs: GenerationValue) -> Any:
        """Generate text by a language-model head, as its plain class does; the only one if none is named."""
        names = self._generating_heads()
        if len(names) != 1 if head is None else head not in names:
            raise ValueError(f"generate: name one head that generates, head=...; {list_choices(names)}")
        plain: Any = self.export(head or names[0])
        return plain.generate(*args, **kwargs)

    def can_generate(self) -> bool:  # the library asks a model, never its class
        return bool(self._generating_heads())

    def adjust_generation_fn(self, *args: object, **kwargs: HubValue) -> None:
        """Set the generation config, at the end of a load: that of the folder, or the backbone's."""
        mixin: Any = GenerationMixin
        mixin.adjust_generation_fn(self, *args, **kwargs)
        if self.generation_config._from_model_config:  # of this config, which leaves tokens to the backbone's
            values = {key: value for key, value in self.generation_config.to_dict().items() if value is not None}
            self.generation_config = GenerationConfig.from_model_config(self.config.trunk)
            self.generation_config.update(**values)

    def collator(self, tokenizer: Any) -> Collator:
        """Return what makes batches, for a Trainer, of rows whose ``labels`` maps heads to the row's labels."""
        return Collator(tokenizer, self.specs)

    def get_expanded_tied_weights_keys(self, all_submodels: bool = False) -> dict[str, str]:
        """Return the ties of heads as they are: the library would read the names as patterns."""
        if all_submodels:
            return super().get_expanded_tied_weights_keys(all_submodels)
        return dict(self._tied_weights_keys)

    def get_output_embeddings(self) -> torch.nn.Module | None:
        heads: Any = self.heads
        embeddings = (heads[name].get_output_embeddings() for name in self._text_heads())
        return next((each for each in embeddings if each is not None), None)

    def set_output_embeddings(self, new_embeddings: torch.nn.Module) -> None:
        names = self._text_heads()
        if len(names) > 1:
            raise ValueError(f"the vocabulary of {len(names)} language models {names} can't be resized at once")
        heads: Any = self.heads
        heads[names[0]].set_output_embeddings(new_embeddings)

    def _text_heads(self) -> list[str]:
        return [name for name, spec in self.config.heads.items() if spec["kind"] == TEXT]

    def _generating_heads(self) -> list[str]:
        plain = {name: getattr(transformers, self.config.heads[name]["plain"]) for name in self._text_heads()}
        return [name for name, cls in plain.items() if cls.can_generate()]

    def _make_plain_head(self, name: str) -> torch.nn.Module:
        """Return a model of transformers' own class in which the shared backbone stands for its own."""
        plain: Any = getattr(transformers, self.specs[name].plain or "")(self.config.plain_config(name))
        prefix, ties = plain.base_model_prefix, plain.all_tied_weights_keys
        inner = getattr(plain, prefix)._modules
        if read := [child for child in self.config.left_out if inner.get(child) is not None]:
            raise ValueError(f"head {name!r}: {type(plain).__name__} reads trunk.{read[0]}, which left_out names")

        def name_here(key: str) -> str:
            return f"trunk{key.removeprefix(prefix)}" if is_in_backbone(plain, key) else f"heads.{name}.{key}"

        ties_here = {name_here(key): name_here(of) for key, of in ties.items() if not is_in_backbone(plain, key)}
        without = frozenset(child for child in self.trunk._modules if inner.get(child) is None)
        self.plain_heads[name] = PlainHead(ties_here, ties, without)
        setattr(plain, prefix, SharedBackbone(self.trunk))
        plain._tied_weights_keys, plain.all_tied_weights_keys = None, {}
        return plain

    def _chosen_heads(
        self, labels: object, heads: Iterable[str] | None, return_loss: bool | None, given: Batch
    ) -> list[str]:
        """Return the heads to run, or raise ValueError if labels, heads and inputs don't go together."""
        if labels is not None and not isinstance(labels, Mapping):
            raise ValueError(f"labels of type {type(labels).__name__}; give {{HEAD: ...}}; {list_choices(self.specs)}")
        requested = list(dict.fromkeys([*(heads or ()), *(labels or ())]))
        if unknown := [name for name in requested if name not in self.specs]:
            raise ValueError(f"no head {', '.join(map(repr, unknown))}; {list_choices(self.specs)}")
        if self.training and not labels and return_loss is not False:
            raise ValueError(
                f"a training batch without any label; give labels={{HEAD: ...}}; {list_choices(self.specs)}"
            )
        choice = [name for name, spec in self.specs.items() if spec.kind == CHOICE]
        if not has_choices(given) and (wrong := [name for name in requested if name in choice]):
            shapes = ", ".join(f"{key} {tuple(value.shape)}" for key, value in given.items() if hasattr(value, "shape"))
            raise ValueError(f"head {wrong[0]!r} reads (rows, choices, tokens), and these are {shapes}")
        if heads is not None or (self.training and labels):
            return requested
        return [name for name in self.specs if (name in choice) == has_choices(given) or name in requested]

    def _run_backbone(self, given: Batch, chosen: Iterable[str]) -> Any:
        """Return the backbone's outputs; of an encoder-decoder no more runs than is read."""
        plain = [self.heads[name] for name in chosen if self.specs[name].plain]
        if self._encoder_runs_alone and not plain:
            return self.trunk.get_encoder()(**accepted(self._arguments[ENCODER], given))
        inputs: dict[str, object] = {**accepted(self._arguments[BACKBONE], given), **decoder_inputs(self.trunk, given)}
        if any(getattr(head.config, "use_weighted_layer_sum", False) for head in plain):
            inputs["output_hidden_states"] = True
        return self.trunk(**inputs)

    def _logits_of(self, name: str, states: Any, given: Batch) -> torch.Tensor:
        head: Any = self.heads[name]
        if self.specs[name].plain is None:
            return head(*self._tokens_for(self.specs[name], states, given))
        backbone = getattr(head, head.base_model_prefix)
        backbone.outputs = states
        outputs = head(**accepted(self._arguments[name], given))
        backbone.outputs = None
        if self.specs[name].kind == "question-answering":
            return torch.stack([outputs.start_logits, outputs.end_logits], -1)
        return outputs.logits

    def _tokens_for(self, spec: HeadSpec, states: Any, given: Batch) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return the last states ``(rows, tokens, width)`` that a custom head reads, and which of them count."""
        encoder = states.get("encoder_last_hidden_state") if self._encoder_runs_alone else None
        hidden = states.last_hidden_state if encoder is None else encoder
        if hidden.dim() == 4:
            hidden = hidden.flatten(2).transpose(1, 2)
        if spec.kind == "per-patch":
            hidden = hidden[:, hidden.shape[1] - num_patches(self.config.trunk, given["pixel_values"], hidden) :]
        if not KINDS[spec.kind].pooled:
            return hidden, None
        return hidden, pooling_mask(self.trunk, hidden, given.get("attention_mask"), self._modality)


MultiHead.register_for_auto_class("AutoModel")
