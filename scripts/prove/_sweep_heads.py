"""Several heads on the trunk of a model type: every kind at once, against transformers' own class of each head.

Of each head that is a plain class's: the outputs must be, bit for bit, those of the plain class loaded from the
exported folder. Of all: the same outputs after saving and loading, and a finite loss and gradients in training.
"""

from __future__ import annotations

import copy
import itertools
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
import transformers
from _sweep_pairs import Outcome, Pair, classes, same_bytes
from _sweep_shrink import Unreachable, config_for, tiny_config
from transformers import AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.models.auto import modeling_auto

from hf_init._multihead.configuration_multi_head import MultiHeadConfig
from hf_init._multihead.kinds_multi_head import KINDS, LABELLED_KINDS, NUMBER_LOSSES, input_modality
from hf_init._multihead.modeling_multi_head import MultiHead

CODE = (Exception,)  # whatever a model's own code says of a tiny config or a random input
LENGTH = 12


def run_type(model_type: str, folder: Path) -> Outcome:
    """Every kind of head on a type; in a process of its own."""
    start, outcome = time.monotonic(), Outcome(model_type)
    try:
        trunk = _trunk(model_type)
        outcome.base = type(trunk).__name__
        outcome.pairs = list(_pairs(trunk, folder))
    except Unreachable as error:
        outcome.unreachable = str(error)
    outcome.seconds = round(time.monotonic() - start, 1)
    return outcome


def _trunk(model_type: str) -> PreTrainedConfig:
    if model_type not in modeling_auto.MODEL_MAPPING_NAMES:
        raise Unreachable("it has no AutoModel")
    found = [getattr(transformers, name, None) for name in classes()[model_type]]
    held = [cls for cls in found if isinstance(cls, type) and issubclass(cls, PreTrainedModel)]
    if not held or found[0] is not held[0]:
        raise Unreachable("transformers has no such class here")
    config = config_for(held[0], tiny_config(model_type, held))
    if getattr(config, "pad_token_id", None) is None:
        config.pad_token_id = 0
    return config


def _pairs(trunk: PreTrainedConfig, folder: Path) -> Iterator[Pair]:
    heads: dict[str, Any] = {}
    try:
        input_modality(trunk)
    except ValueError as error:
        yield Pair("every kind", "refused", str(error)[:300])
        return
    for kind in KINDS:
        try:
            heads |= MultiHeadConfig(trunk=copy.deepcopy(trunk), heads={_name(kind): _asked(kind)}).heads
        except ValueError as error:
            if "; there are: " not in str(error):  # of another modality
                yield Pair(kind, "refused", str(error)[:300])
    if not heads:
        return
    given = _given(trunk)
    torch.manual_seed(0)
    try:
        model: Any = MultiHead(MultiHeadConfig(trunk=trunk, heads=heads)).eval()
        _perturb(model)
        model.save_pretrained(folder / "multi")
        again: Any = _loaded(MultiHead, folder / "multi")
    except CODE as error:
        raise Unreachable(
            f"WRONG: it can't be made, saved and loaded: {type(error).__name__}: {error}"[:400]
        ) from error
    trained = copy.deepcopy(model)  # apart: training moves the statistics of norms
    for name, spec in heads.items():
        problem = _problem(model, again, name, given, folder) or _trained(trained, name, given)
        kind = f"{spec['kind']} ({spec['plain'] or 'own'})"
        yield Pair(kind, "wrong" if problem else "passed", problem[:400])


def _loaded(cls: Any, folder: Path) -> Any:
    """A model from a folder, its values where a computation would have put them, and not where they lie in the file.

    By where a matrix lies a processor may add its products in another order.

    Raises:
        RuntimeError: the folder isn't the model's.
    """
    model, info = cls.from_pretrained(folder, output_loading_info=True)
    if said := {key: value for key, value in info.items() if value}:
        raise RuntimeError(f"{folder.name} loads with {said}")
    for parameter in model.parameters():
        parameter.data = parameter.data.clone()
    return model


def _name(kind: str) -> str:
    return kind.replace("-", "_")


def _asked(kind: str) -> dict[str, Any]:
    return {"kind": kind, "labels": ["a", "b", "c"]} if kind in LABELLED_KINDS else {"kind": kind}


def _perturb(model: torch.nn.Module) -> None:
    """No two values alike, so that no two places can be taken for one another."""
    for parameter in model.parameters():
        parameter.data += 0.02 * torch.randn_like(parameter)


def _problem(model: Any, again: Any, name: str, given: Mapping[str, torch.Tensor], folder: Path) -> str:
    """What is wrong with one head; empty if nothing."""
    given = _choices(given) if model.specs[name].kind == "multiple-choice" else given
    try:
        mine = _logits(model, name, given)
        if not bool(mine.isfinite().all()):
            return "its answer isn't finite"
        if not same_bytes(mine, _logits(again, name, given)):
            return "it answers otherwise after saving and loading"
        return _exported(model, name, given, mine, folder / name) if model.specs[name].plain else ""
    except CODE as error:
        return f"{type(error).__name__}: {error}"


@torch.no_grad()
def _logits(model: Any, name: str, given: Mapping[str, torch.Tensor]) -> torch.Tensor:
    torch.manual_seed(1)
    return model.eval()(**given, heads=[name]).logits[name]


@torch.no_grad()
def _exported(model: Any, name: str, given: Mapping[str, torch.Tensor], mine: torch.Tensor, folder: Path) -> str:
    made: Any = model.export(name, folder)
    plain: Any = _loaded(type(made), folder)
    torch.manual_seed(1)
    found = plain.eval()(**given)
    qa = model.specs[name].kind == "question-answering"
    theirs = torch.stack([found.start_logits, found.end_logits], -1) if qa else found.logits
    return "" if same_bytes(mine, theirs) else f"{type(made).__name__} answers otherwise"


def _trained(model: Any, name: str, given: Mapping[str, torch.Tensor]) -> str:
    """Two rows in training."""
    given = _choices(given) if model.specs[name].kind == "multiple-choice" else given
    try:
        labels = _labels(model.specs[name], given, _logits(model, name, given))
        loss = model.train()(**given, labels={name: labels}).loss
        loss.backward()
    except CODE as error:
        return f"in training: {type(error).__name__}: {error}"
    grads = [parameter.grad for parameter in model.heads[name].parameters() if parameter.grad is not None]
    model.zero_grad()
    if not bool(loss.isfinite()) or not all(bool(grad.isfinite().all()) for grad in grads):
        return f"a loss of {loss.item()}, or gradients that aren't finite"
    return "" if grads or not list(model.heads[name].parameters()) else "no gradient"


def _labels(spec: Any, given: Mapping[str, torch.Tensor], mine: torch.Tensor) -> torch.Tensor:
    if spec.kind == "language-model":
        return given["input_ids"]
    if spec.kind == "similarity":
        return torch.zeros(len(mine), dtype=torch.long)
    if spec.kind == "question-answering":
        return torch.ones(len(mine), 2, dtype=torch.long)
    if spec.loss in NUMBER_LOSSES:
        return torch.arange(mine.numel()).view(mine.shape).remainder(2).float().squeeze(-1)
    return torch.ones(mine.shape[:-1], dtype=torch.long)


def _choices(given: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {key: torch.stack([value, value.flip(0)], 1) for key, value in given.items()}


def _given(trunk: PreTrainedConfig) -> dict[str, torch.Tensor]:
    """Inputs that the trunk alone can read."""
    model, said = AutoModel.from_config(copy.deepcopy(trunk)).eval(), ""
    for given in _inputs(trunk, input_modality(trunk), model.main_input_name):
        try:
            with torch.no_grad():
                model(**given, **({"decoder_input_ids": torch.ones(2, 3, dtype=torch.long)} if _decodes(trunk) else {}))
            return given
        except CODE as error:
            said = said or f"{type(error).__name__}: {error}"
    raise Unreachable(f"the trunk reads no simple input: {said}"[:300])


def _decodes(trunk: PreTrainedConfig) -> bool:
    return bool(trunk.is_encoder_decoder)


def _inputs(trunk: PreTrainedConfig, reads: str, main: str) -> Iterator[dict[str, torch.Tensor]]:
    torch.manual_seed(2)
    if reads == "text":
        yield _text(trunk)
    elif reads == "vision":
        yield from ({main: torch.randn(2, many, size, size)} for size in _sizes(trunk) for many in _channels(trunk))
    else:
        yield from ({main: torch.randn(shape)} for shape in _sounds(trunk, main))


def _text(trunk: PreTrainedConfig) -> dict[str, torch.Tensor]:
    """Two rows, of which one is padded; both end in the end token, by which BART's kin find their state."""
    vocabulary = getattr(trunk.get_text_config(), "vocab_size", None) or 30
    ids = torch.randint(min(20, vocabulary // 2), min(vocabulary, 100), (2, LENGTH))
    mask = torch.ones(2, LENGTH, dtype=torch.long)
    end, pad = (getattr(trunk, key, None) for key in ("eos_token_id", "pad_token_id"))
    if isinstance(pad, int) and pad >= 0:
        ids[1, -3:], mask[1, -3:] = pad, 0
    if isinstance(end, int) and end != pad and 0 <= end < vocabulary:
        ids[0, -1], ids[1, -4] = end, end
    return {"input_ids": ids, "attention_mask": mask}


def _sizes(trunk: PreTrainedConfig) -> list[int]:
    size = getattr(trunk, "image_size", None) or 64
    size = size.get("height", 64) if isinstance(size, dict) else size
    return list(dict.fromkeys([size if isinstance(size, int) else size[0], 64, 224]))


def _channels(trunk: PreTrainedConfig) -> list[int]:
    return list(dict.fromkeys([getattr(trunk, "num_channels", None) or 3, 3]))


def _sounds(trunk: PreTrainedConfig, main: str) -> Iterator[tuple[int, ...]]:
    if main == "input_values":
        yield 2, 4000
        yield 2, 1, 4000
    bins = [getattr(trunk, key, None) for key in ("num_mel_bins", "feature_projection_input_dim", "feature_size")]
    bins += [getattr(trunk, key, None) for key in ("input_dim", "input_feat_per_channel", "hidden_size")]
    long = [getattr(trunk, "max_source_positions", None), getattr(trunk, "max_length", None)]
    frames = [2 * many if many else many for many in long[:1]] + long[1:] + [96, 1024]
    for wide, many in itertools.product(filter(None, dict.fromkeys([*bins, 80, 128])), filter(None, frames)):
        yield 2, many, wide
        yield 2, wide, many
