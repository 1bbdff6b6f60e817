"""Tokens added to every language model of a type: the files loaded plainly, run, and texts split by them.

A base has a tokenizer of one of five kinds, by the pair's name, and half of the bases get short tokens that break old
words. Wrong is a traceback; a result that plain transformers loads with a word, or that gives old tokens other logits,
or another greedy choice where the plan says that none changes; a config that differs in more than the vocabulary; an
old text that is split otherwise though the plan's claim stands, or more words than the plan counts.
"""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers
from _sweep_pairs import Outcome, Pair, where
from _sweep_shrink import Unreachable, tiny_config
from tokenizer_kinds import texts
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedModel
from transformers.models.auto import modeling_auto

import hf_init
from hf_init._architecture import load_plainly
from hf_init._function.inputs import seeded_inputs
from hf_init._vocabulary import TEXTS

TASKS = ("CAUSAL_LM", "MASKED_LM", "SEQ_TO_SEQ_CAUSAL_LM", "IMAGE_TEXT_TO_TEXT", "SPEECH_SEQ_2_SEQ")
SPECIAL = ["<unk>", "<s>", "</s>", "<pad>"]
LONG, SHORT, CONTROL = ["photoelectron", " hepatocyte"], ["erry", "he", "quie"], ["<|tool|>"]
ALPHABET = 60
"""Characters that a tiny vocabulary knows, at most."""
CLOSE = 1e-4
"""By what part of the largest logit those of old tokens may differ: a matrix with more rows may be multiplied by
another kernel."""


def classes() -> dict[str, list[str]]:
    """Every language model of the auto mappings, by its type."""
    found: dict[str, dict[str, None]] = {}
    for task in TASKS:
        for model_type, names in getattr(modeling_auto, f"MODEL_FOR_{task}_MAPPING_NAMES").items():
            found.setdefault(model_type, {}).update(dict.fromkeys([names] if isinstance(names, str) else names))
    return {model_type: list(names) for model_type, names in sorted(found.items())}


def run_type(model_type: str, folder: Path) -> Outcome:
    """Every language model of a type; in a process of its own."""
    start, outcome = time.monotonic(), Outcome(model_type)
    for name in classes()[model_type]:
        outcome.pairs.append(_run(model_type, name, folder / name))
    outcome.seconds = round(time.monotonic() - start, 1)
    return outcome


def _run(model_type: str, name: str, folder: Path) -> Pair:
    draw = hashlib.blake2b(f"{model_type} {name}".encode(), digest_size=8).digest()
    kind, words = [*KINDS][draw[0] % len(KINDS)], LONG if draw[1] % 2 else [*LONG, *SHORT]
    try:
        base = _saved(model_type, name, folder / "base", kind)
    except Unreachable as error:
        return Pair(name, "unreachable", str(error)[:400])
    said = f"{kind}, {'long' if words is LONG else 'short'} tokens"
    try:
        hf_init.extend(folder / "base", folder / "out", add_tokens=words, special_tokens=CONTROL, existing="skip")
        problems, seen = [*_problems(folder / "base", folder / "out", base)], _run_both(folder, type(base))
        problems += seen if isinstance(seen, list) else []
        said += f"; {seen}" if isinstance(seen, str) else ""
        return Pair(name, "wrong" if problems else "passed", "; ".join(problems)[:900], plain_why=said)
    except hf_init.HfInitError as error:
        return Pair(name, "refused", f"{said}: {type(error).__name__}: {error}"[:600])
    except Exception as error:
        return Pair(name, "wrong", f"{said}: {type(error).__name__}: {error}{where(error)}"[:900])


# Bases.


def _byte_level(size: int) -> Tokenizer:
    return _trained(
        models.BPE(), trainers.BpeTrainer, size,
        pre_tokenizer=pre_tokenizers.ByteLevel(add_prefix_space=False), decoder=decoders.ByteLevel(),
    )  # fmt: skip


def _word_piece(size: int, lowercase: bool) -> Tokenizer:
    return _trained(
        models.WordPiece(unk_token="<unk>"), trainers.WordPieceTrainer, size,
        normalizer=normalizers.BertNormalizer(lowercase=lowercase), pre_tokenizer=pre_tokenizers.BertPreTokenizer(),
        decoder=decoders.WordPiece(),
    )  # fmt: skip


def _unigram(size: int) -> Tokenizer:
    return _trained(
        models.Unigram(), partial(trainers.UnigramTrainer, unk_token="<unk>"), max(size, ALPHABET + 60),
        normalizer=normalizers.NFKC(), pre_tokenizer=pre_tokenizers.Metaspace(), decoder=decoders.Metaspace(),
    )  # fmt: skip


def _prepending(size: int) -> Tokenizer:
    spaces = [normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")]
    return _trained(
        models.BPE(unk_token="<unk>"), trainers.BpeTrainer, size, normalizer=normalizers.Sequence(spaces),
        decoder=decoders.Sequence([decoders.Replace("\u2581", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)]),
    )  # fmt: skip


KINDS: Mapping[str, Callable[[int], Tokenizer]] = {
    "byte-level": _byte_level,
    "WordPiece": partial(_word_piece, lowercase=True),
    "WordPiece, cased": partial(_word_piece, lowercase=False),
    "Unigram": _unigram,
    "space by the normalizer": _prepending,
}


def _trained(model: Any, trainer: Any, size: int, **parts: Any) -> Tokenizer:
    made = Tokenizer(model)
    for name, part in parts.items():
        setattr(made, name, part)
    alphabet = {} if isinstance(model, models.Unigram) else {"limit_alphabet": min(ALPHABET, size // 3)}
    made.train_from_iterator(TEXTS, trainer(vocab_size=size, special_tokens=SPECIAL, show_progress=False, **alphabet))
    return made


def _saved(model_type: str, name: str, folder: Path, kind: str) -> PreTrainedModel:
    cls = getattr(transformers, name, None)
    if cls is None:
        raise Unreachable(f"transformers has no {name} at its top level")
    try:
        torch.manual_seed(0)
        model: PreTrainedModel = cls(tiny_config(model_type, [cls], 10, partial(_runs, cls))).eval()
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.3 if parameter.ndim > 1 else 0.05)
        model.save_pretrained(folder)
        load_plainly(cls, folder).save_pretrained(folder)  # with what loading writes into a config
    except Unreachable:
        raise
    except Exception as error:  # whatever a model's own code says of a tiny config
        raise Unreachable(f"plain transformers can't make and save it: {type(error).__name__}: {error}") from error
    text = model.config.get_text_config(decoder=True)
    rows = next((getattr(each, "vocab_size", None) for each in (text, model.config)), None)
    if not isinstance(rows, int):
        raise Unreachable("its config has no vocab_size")
    made = KINDS[kind](min(rows, 400))
    if made.get_vocab_size() > rows:
        made = _byte_level(rows)
    roles = dict(zip(("unk_token", "bos_token", "eos_token", "pad_token"), SPECIAL, strict=True))
    transformers.PreTrainedTokenizerFast(tokenizer_object=made, **roles).save_pretrained(folder)
    return model


def _runs(cls: type[PreTrainedModel], config: Any) -> bool:
    model = cls(deepcopy(config)).eval()
    for inputs in seeded_inputs(model):
        try:
            _logits(model, inputs)
        except Exception:  # as above
            continue
        return True
    return False


# What must hold.


def _problems(base: Path, out: Path, model: PreTrainedModel) -> Iterator[str]:
    plan = hf_init.Plan.load(out)
    _, info = load_plainly(type(model), out, output_loading_info=True)
    if said := {key: value for key, value in info.items() if value}:
        yield f"plain from_pretrained says {said}"
    if not hf_init.verify(out, base, recompute=True).ok:
        yield "verify --recompute fails"
    for name in ("config.json", "generation_config.json"):
        yield from _fields(base / name, out / name, plan)
    before, after = (AutoTokenizer.from_pretrained(folder) for folder in (base, out))
    if max(after.get_vocab().values()) >= max(plan[name].shape[0] for name in _tables(plan)):
        yield "an id without a row"
    yield from _texts(before, after, plan)


def _tables(plan: Any) -> list[str]:
    return [tensor.name for tensor in plan.tensors if tensor.status.value == "resized"]


def _fields(base: Path, out: Path, plan: Any) -> Iterator[str]:
    if base.is_file() != out.is_file():
        yield f"{out.name} is there on one side"
        return
    if not base.is_file():
        return
    old, new = (dict(_leaves(json.loads(path.read_text()))) for path in (base, out))
    for path in sorted({*old, *new}):
        a, b = old.get(path), new.get(path)
        grown = "vocab" in path and isinstance(a, int) and isinstance(b, int) and b > a
        if a != b and not grown and not any(path in note for note in plan.notes):
            yield f"{out.name}: {path} {a} is {b}"


def _leaves(data: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in data.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _texts(before: Any, after: Any, plan: Any) -> Iterator[str]:
    new = {*after.get_vocab()} - {*before.get_vocab()}
    named = plan.record["tokens"]["in_text"]
    if set(named.get("unread", ())) or not new:
        yield "a token that no text comes to"
    as_words = re.compile(rf"\b({'|'.join(re.escape(token.strip()) for token in new)})\b", re.IGNORECASE)
    plain = [text for text in (*TEXTS, *texts(60)) if not as_words.search(text)]
    otherwise = [text for text in plain if before(text).input_ids != after(text).input_ids]
    if otherwise and not plan.claim.startswith("none"):
        yield f"{len(otherwise)} of {len(plain)} old texts are split otherwise, and the claim is {plan.claim!r}"
    words = {f" {word}" for text in TEXTS for word in text.split()}
    broken = {word for word in words if before(word).input_ids != after(word).input_ids}
    broken -= {word for word in broken if word.strip(" .,;:!?()[]\"'`").lower() in {t.strip() for t in new}}
    if len(broken) != named.get("split_words", {}).get("count", 0):
        yield f"{len(broken)} words of the built-in texts are split otherwise, and the plan says {named}"


def _run_both(folder: Path, cls: type[PreTrainedModel]) -> list[str] | str:
    """Return what is wrong with the logits of old tokens; a sentence where the base itself doesn't run."""
    one, other = (load_plainly(cls, folder / name).eval() for name in ("base", "out"))
    notes = hf_init.Plan.load(folder / "out").notes
    greedy = any("greedy kept" in note for note in notes)
    why = "no inputs are known for it"
    for inputs in [*seeded_inputs(one), *({k: v for k, v in i.items() if "ids" in k} for i in seeded_inputs(one))]:
        try:
            old = _logits(one, inputs)
        except Exception as error:  # whatever a forward raises for inputs that it doesn't take
            why = f"{type(error).__name__}: {error}"[:160]
            continue
        if not torch.equal(old, _logits(one, inputs, seed=1)):
            why = "it draws at random"
            continue
        return [*_compared(old, _logits(other, inputs), greedy)]
    return f"not run: {why}"


def _logits(model: Any, inputs: Mapping[str, torch.Tensor], seed: int = 0) -> torch.Tensor:
    with torch.no_grad():
        torch.manual_seed(seed)
        return model(**inputs).logits.float()


def _compared(old: torch.Tensor, new: torch.Tensor, greedy: bool) -> Iterator[str]:
    width = min(old.shape[-1], new.shape[-1])
    if old.shape[:-1] != new.shape[:-1] or new.shape[-1] < old.shape[-1]:
        yield f"logits {tuple(old.shape)} became {tuple(new.shape)}"
        return
    finite = old.isfinite() & new[..., :width].isfinite()
    scale = float(old[finite].abs().max()) if finite.any() else 0.0
    if not scale:
        yield "no finite logit differs from 0"
        return
    rows = torch.where(finite, (old - new[..., :width]).abs(), 0.0)
    columns: Sequence[int] = (rows.flatten(0, -2).amax(0) > CLOSE * scale).nonzero().flatten().tolist()
    if len(columns) > MADE_ANEW or (old.isfinite() != new[..., :width].isfinite()).any():
        yield f"old logits differ by up to {float(rows.max()):.3g} of {scale:.3g} in {len(columns)} columns"
    chosen = new.argmax(-1, keepdim=True)
    loses = old.amax(-1, keepdim=True) - new.gather(-1, chosen)
    is_new = chosen >= old.shape[-1] if not columns else torch.isin(chosen, torch.tensor(columns)) | (chosen >= width)
    if greedy and (is_new | (loses > CLOSE * scale)).any():
        yield f"{int(is_new.sum())} greedy choices are new tokens, though the plan says that none changes"


MADE_ANEW = len(LONG) + len(SHORT) + len(CONTROL)
"""Rows of the base's padding that may become tokens'."""
