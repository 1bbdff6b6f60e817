"""The table that the laws are held over: a base, what is asked of it, and where every tensor must then be, by hand."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
import transformers
from bases import ANIMALS, CHARACTERS, HEADS, SENTIMENTS, TAGS, RowBehind, Tagger, character_tokenizer, llava_config
from token_bases import ROWS, tokenizer

from hf_init import InitMixin, Recipe, Rule

Bases = Callable[[str], Path]
Origins = np.ndarray  # for each element of a tensor the flat place that it has in its source, or -1: it is new


@dataclass(frozen=True)
class Along:
    """For each row of the result along a dimension, the row of the source or None."""

    rows: Sequence[int | None]
    dims: tuple[int, ...] = (0,)

    def __call__(self, source: Origins) -> Origins:
        for dim in self.dims:
            taken = np.take(source, [0 if row is None else row for row in self.rows], dim)
            new = np.array([row is None for row in self.rows])
            source = np.where(new.reshape(-1, *[1] * (taken.ndim - dim - 1)), -1, taken)
        return source


@dataclass(frozen=True)
class Boxes:
    """A shape, and pairs of boxes: those of the result with those of the source that they are."""

    shape: tuple[int, ...]
    pairs: Sequence[tuple[tuple[slice, ...], tuple[slice, ...]]]

    def __call__(self, source: Origins) -> Origins:
        result = np.full(self.shape, -1)
        for place, origin in self.pairs:
            result[place] = source[origin]
        return result


def grown(rows: int, more: int, dim: int = 0) -> Along:
    """Rows that stay, and new ones after them."""
    return Along([*range(rows), *[None] * more], (dim,))


@dataclass(frozen=True)
class Change:
    """One row of the table.

    Attributes:
        base: a name of ``bases.BASES``, or several by their prefixes.
        target: the class asked for; None: the base's own.
        options: of ``plan``, ``extend`` and ``from_pretrained``.
        names: the name in the result of a tensor of the base.
        new: globs of what is new as a whole: names in the result.
        moved: glob -> where each element comes from, of what is kept in part: names in the result.
        gone: globs of what has no place: names in the base.
        taken: a base, perhaps another -> the name in the result of what is taken of it besides, or None.
        places: gives the options that are folders, of other bases or made in a place for it.
        skipped: globs of what is left to the library: in the model, and in no file.
        ignored: globs of what the class doesn't load and the files keep: names in the result.
        by_class_name: the library converts names of this class alone, and of no class made of it.
        slow: whether the base is a real checkpoint.
    """

    base: str | Mapping[str, str]
    target: Any = None
    options: Mapping[str, Any] = field(default_factory=dict)
    names: Callable[[str], str] = str
    new: tuple[str, ...] = ()
    moved: Mapping[str, Callable[[Origins], Origins]] = field(default_factory=dict)
    gone: tuple[str, ...] = ()
    taken: Mapping[str, Callable[[str], str | None]] = field(default_factory=dict)
    places: Callable[[Bases, Path], Mapping[str, Any]] | None = None
    skipped: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()
    by_class_name: bool = False
    slow: bool = False

    @property
    def heads(self) -> bool:
        """Whether the result has several heads, or is one of several."""
        return self.base == "several heads" or "add_heads" in self.options


def below(prefix: str) -> Callable[[str], str]:
    """Every name gets this prefix."""
    return lambda name: prefix + name


def instead(*pairs: tuple[str, str]) -> Callable[[str], str]:
    """The first beginning that a name has is replaced."""

    def renamed(name: str) -> str:
        for old, new in pairs:
            if name.startswith(old):
                return new + name[len(old) :]
        return name

    return renamed


CLASSIFIER = ("classifier.weight", "classifier.bias")
POOLER = ("pooler.*",)
TRAINED = {"default": "normal(std=0.5)"}
NEW_SENTIMENTS = ["pos", "mixed", "neg", "irony", "neu"]
NEW_ANIMALS = ["car", "bus", "cat", "van"]
WORDS = ["abcab", "hello", {"token": "<tool>", "special": True}, {"token": "<x>", "description": "the tab"}]
REAL_WORDS = [" electroencephalographically", {"token": "<|tool|>", "special": True}]
EXAMPLES = [("abc the ab", "a"), ("the the he", "b"), ("ab abc", "a"), ("he the", "b")] * 2


class Classifier(InitMixin, transformers.BertForSequenceClassification):
    """A class with a recipe of its own, for what the library would hand to its `_init_weights`."""

    init_recipe = Recipe([Rule("uniform(a=-0.25, b=0.25)", name="classifier.weight")], default="zeros", seed=3)


class Tolerant(transformers.BertForSequenceClassification):
    """A class that loads without a bias, and says so."""

    _keys_to_ignore_on_load_missing: ClassVar = [r"^classifier\."]


ONLY_DRAWN: dict[str, Any] = {"recipe": TRAINED}  # asks no model for its values: a class of the tests can't be found


def _classes(rows: Sequence[int | None]) -> dict[str, Along]:
    return dict.fromkeys(CLASSIFIER, Along(rows))


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


def _labels(rows: Sequence[int | None], **options: Any) -> Change:
    """The trained head of three sentiments with other labels."""
    if None in rows and "recipe" not in options:
        options["recipe"] = TRAINED
    return Change("sentiment", options=options, moved=_classes(rows) if {*rows} != {None} else {}, **_whole(rows))


def _whole(rows: Sequence[int | None]) -> dict[str, Any]:
    return {"new": CLASSIFIER, "gone": CLASSIFIER} if {*rows} == {None} else {}


def _tokens(name: str, *tables: str, also: Mapping[str, Any] | None = None, **options: Any) -> Change:
    """Four tokens more."""
    moved = {**dict.fromkeys(tables, grown(ROWS, 4)), **(also or {})}
    return Change(f"{name} with tokens", options={"add_tokens": WORDS, "seed": 3, **options}, moved=moved)


def _padded(rows: int, places: Sequence[int]) -> Along:
    """Of the padded rows of Qwen, those of the new tokens and those that it didn't have are new."""
    return Along([None if row in places or row >= ROWS + 20 else row for row in range(rows)])


def _prefix(source: Origins) -> Origins:
    """Of a table of positions the class token's row, in one for 6 x 6 patches."""
    return np.concatenate([source[:, :1], np.full((1, 36, source.shape[2]), -1)], 1)


def _doubled(source: Origins) -> Origins:
    return grown(len(source), len(source))(source)


def _doubled_in(source: Origins) -> Origins:
    return grown(source.shape[1], source.shape[1], 1)(source)


PHI = ("model.embed_tokens.weight", "lm_head.weight", "lm_head.bias")
QWEN = ("model.embed_tokens.weight", "lm_head.weight")


def _another_tokenizer(bases: Bases, scratch: Path) -> dict[str, Any]:
    other = tokenizer(extra=("<new>", "hello"), merges=[("a", "b")])
    other.save_pretrained(scratch / "tokenizer")
    return {"tokenizer": scratch / "tokenizer"}


def _by_text() -> Along:
    """The row of each token of the other tokenizer, by its text, and one more."""
    old, new = tokenizer().get_vocab(), tokenizer(extra=("<new>", "hello"), merges=[("a", "b")]).get_vocab()
    return Along([*(old.get(text) for text in sorted(new, key=lambda text: new[text])), None])


OTHER_CHARACTERS = ["|", "<s>", "</s>", "<unk>", "<pad>", "c", "d", "a", "e"]


def _other_characters(bases: Bases, scratch: Path) -> dict[str, Any]:
    return {"tokenizer": str(character_tokenizer(scratch / "characters", OTHER_CHARACTERS))}


def _of_head(name: str) -> Callable[[str], str | None]:
    """Of a plain classifier its head alone, under another name."""
    return lambda old: f"heads.{name}.{old}" if old in CLASSIFIER else None


def _topic(name: str) -> str | None:
    """Of several heads one, under another name."""
    return name.replace("heads.topic", "heads.other") if name.startswith("heads.topic.") else None


TAGGING = {"kind": "token-classification", "labels": ["x", "y"]}
SKIPPING = Recipe([Rule("skip", name="classifier.bias")], default="normal(std=0.5)")
LONGER = {"config": {"max_position_embeddings": 96}}
MATCHED = Recipe([Rule("matched_normal", role="embedding.position")], seed=4)
HALF = slice(0, 32), slice(32, 64), slice(64, 96)
WIDER: dict[str, Any] = {
    "*intermediate.dense.weight": {"boxes": [
        ([[0, 32], [0, 32]], [[0, 32], [0, 32]]), ([[64, 96], [0, 32]], [[32, 64], [0, 32]]),
    ]},
    "*intermediate.dense.bias": [*range(32), *[None] * 32, *range(32, 64)],
    "*layer.?.output.dense.weight": {"boxes": [
        ([[0, 32], [0, 32]], [[0, 32], [0, 32]]), ([[0, 32], [64, 96]], [[0, 32], [32, 64]]),
    ]},
}  # fmt: skip
MIDDLE = slice(0, 32)
BY_KIND = Recipe(
    [
        Rule("normal(std=0.05)", name="qa_outputs.weight"),
        Rule("constant(val=0.5)", role="linear.bias"),
        Rule("orthogonal", module="Linear", optional=True),
    ],
    default="error",
    seed=7,
)
EXPERTS = tuple(f"model.layers.{layer}.block_sparse_moe.experts.{expert}.*" for layer in (0, 1) for expert in (4, 5))

CHANGES: dict[str, Change] = {
    # A new head on a trunk.
    "bert, a head for 3 labels": Change(
        "bert", "BertForSequenceClassification", {"num_labels": 3, "seed": 5}, below("bert."), CLASSIFIER
    ),
    "bert, tags, float16": Change(
        "bert in float16", "BertForTokenClassification", {"labels": TAGS, "drop": POOLER}, below("bert."), CLASSIFIER,
        gone=POOLER,
    ),
    "bert, a tied language head": Change(
        "bert", "BertForMaskedLM", {"drop": "pooler.*"}, below("bert."),
        ("cls.predictions.bias", "cls.predictions.transform.*"), gone=POOLER,
    ),
    "bert, an auto class and rules by name, role and module": Change(
        "bert", "AutoModelForQuestionAnswering", {"recipe": BY_KIND, "drop": POOLER}, below("bert."), ("qa_outputs.*",),
        gone=POOLER,
    ),
    "bert, old names": Change(
        "bert of old names", "BertForTokenClassification", {"labels": ["a", "b"], "drop": POOLER}, below("bert."),
        CLASSIFIER, gone=POOLER,
    ),
    "bert, a layer more by a known recipe": Change(
        "bert", options={"config": {"num_hidden_layers": 3}, "recipe": "auto"}, new=("encoder.layer.2.*",)
    ),
    "bert, a class with its own recipe": Change(
        "bert", Classifier, {"num_labels": 3}, below("bert."), CLASSIFIER
    ),
    "bert, a bias left to the library": Change(
        "bert", Tolerant, {"num_labels": 3, "recipe": SKIPPING}, below("bert."), ("classifier.weight",),
        skipped=("classifier.bias",),
    ),
    "bert, a choice": Change("bert", "BertForMultipleChoice", names=below("bert."), new=CLASSIFIER),
    "bert, whether a sentence is the next": Change(
        "bert", "BertForNextSentencePrediction", names=below("bert."), new=("cls.seq_relationship.*",)
    ),
    "a head beside another of the same shape": Change(
        "pretraining", "BertForSequenceClassification", {"num_labels": 2, "drop": ["cls.*"]}, new=CLASSIFIER,
        gone=("cls.*",),
    ),
    "a class that adds an adapter": Change("sentiment", Adapted, ONLY_DRAWN, new=("adapter.*",)),
    "a class that adds an adapter, and a layer goes": Change(
        "sentiment", Adapted, {**ONLY_DRAWN, "config": {"num_hidden_layers": 1}, "drop": ["bert.encoder.layer.1.*"]},
        new=("adapter.*",), gone=("bert.encoder.layer.1.*",),
    ),
    "a head that the class names otherwise, given up": Change(
        "sentiment", Renamed, {**ONLY_DRAWN, "allow_new": ["scores.*"], "drop": CLASSIFIER}, new=("scores.*",),
        gone=CLASSIFIER,
    ),
    "a head that the files name otherwise, given up": Change(
        "misnamed head", options={"allow_new": "classifier.*", "drop": "head.*"}, new=CLASSIFIER, gone=("head.out.*",)
    ),
    "a head that the files name otherwise, found": Change(
        "misnamed head", options={"key_mapping": {r"^head\.out\.": "classifier."}},
        names=instead(("head.out.", "classifier.")),
    ),
    "a bias that the class does without": Change(
        "no classifier's bias", Tolerant, ONLY_DRAWN, new=("classifier.bias",)
    ),
    "counters that the class makes itself": Change("resnet without its counters", new=("*num_batches_tracked",)),
    "a classifier's trunk": Change(
        "sentiment", "BertModel", {"drop": CLASSIFIER}, instead(("bert.", "")), gone=CLASSIFIER
    ),
    "another head in the place of a trained one": Change(
        "sentiment", "BertForQuestionAnswering",
        {"recipe": "transformer", "drop": ["classifier.*", "*pooler*"]}, new=("qa_outputs.*",),
        gone=(*CLASSIFIER, "bert.pooler.*"),
    ),
    "vit": Change(
        "vit", "ViTForImageClassification", {"labels": ANIMALS, "recipe": "vision", "drop": POOLER}, below("vit."),
        CLASSIFIER, gone=POOLER,
    ),
    "wav2vec2": Change(
        "wav2vec2", "Wav2Vec2ForSequenceClassification", {"num_labels": 4}, below("wav2vec2."),
        ("projector.*", *CLASSIFIER),
    ),
    "llama, bfloat16": Change(
        "llama in bfloat16", "LlamaForSequenceClassification", {"num_labels": 3, "recipe": "classic"},
        new=("score.weight",),
    ),
    "t5": Change(
        "t5 with tokens", "T5ForSequenceClassification", {"num_labels": 3}, below("transformer."),
        ("classification_head.*",),
    ),
    "gpt2, a Conv1D trunk": Change(
        "gpt2", "GPT2ForSequenceClassification", {"num_labels": 3}, new=("score.weight",)
    ),
    "mixtral, experts that are converted": Change(
        "mixtral", "MixtralForSequenceClassification", {"num_labels": 3, "drop": "lm_head.*"}, new=("score.weight",),
        gone=("lm_head.weight",),
    ),
    "mixtral, a layer more": Change(
        "mixtral", options={"config": {"num_hidden_layers": 3}}, new=("model.layers.2.*",)
    ),
    "qwen3, experts that are converted": Change(
        "qwen3 of experts", "Qwen3MoeForSequenceClassification", {"num_labels": 2}, below("model."), ("score.weight",)
    ),
    "gte, a layer more that is fused on disk": Change(
        "gte", options={"config": {"num_hidden_layers": 3}}, new=("encoder.layer.2.*",), by_class_name=True
    ),
    "mixtral in shards, other shards": Change(
        "mixtral in shards", "MixtralForTokenClassification", {"num_labels": 2, "drop": "lm_head.*"}, new=("score.*",),
        gone=("lm_head.weight",),
    ),
    "bart's decoder, tied by a second name of the base": Change(
        "bart", "BartForCausalLM", {"drop": ["encoder.*"]},
        instead(("shared.", "model.decoder.embed_tokens."), ("", "model.")), gone=("encoder.*",),
    ),
    "llama untied, one tensor in two places": Change(
        "llama", options={"config": {"tie_word_embeddings": False}},
        taken={"llama": lambda name: "lm_head.weight" if name == "model.embed_tokens.weight" else None},
    ),
    "llama untied, its head by a rule": Change(
        "llama trunk", "LlamaForCausalLM",
        {
            "config": {"tie_word_embeddings": False},
            "recipe": Recipe([Rule("normal(std=0.5)", name="lm_head.weight")]),
        },
        below("model."), ("lm_head.weight",),
    ),
    "llama's table made anew, with the head that is tied to it": Change(
        "llama trunk", "LlamaForCausalLM",
        {"recipe": Recipe([Rule("normal(std=0.5)", name="*")]), "keep": {"model.embed_tokens.weight": "none"}},
        below("model."), ("model.embed_tokens.weight",), gone=("embed_tokens.weight",),
    ),
    "a head solved from examples": Change(
        "llama with tokens", "LlamaForSequenceClassification",
        {"labels": ["a", "b"], "head": "ridge", "examples": EXAMPLES}, new=("score.weight",),
    ),
    # Other labels on a trained head.
    "labels, in another order": _labels([2, 0, 1], labels=["pos", "neg", "neu"], labels_keep="names"),
    "labels, some new": _labels([2, None, 0, None, 1], labels=NEW_SENTIMENTS),
    "labels, some gone": _labels([2, 0], labels=["pos", "neg"]),
    "labels, the same by their names": _labels([0, 1, 2], num_labels=3),
    "labels, none kept and others": _labels([None, None], labels=["a", "b"], labels_keep="none"),
    "labels, renamed": _labels([0, 1, 2], rename_labels={"neg": "bad", "pos": "neg"}),
    "labels, renamed and new": _labels([None, 0], rename_labels={"neg": "bad"}, labels=["x", "bad"]),
    "labels, by place": _labels([0, 1, 2, None, None], num_labels=5, labels_keep="leading"),
    "labels, fewer by place": _labels([0, 1], labels=["a", "b"], labels_keep="leading"),
    "labels, none kept": _labels([None] * 3, labels=SENTIMENTS, labels_keep="none"),
    "labels, by their counts": _labels(
        [2, None, 0, None, 1], labels=NEW_SENTIMENTS, recipe=None,
        label_counts=dict(zip(NEW_SENTIMENTS, (4, 1, 3, 2, 6), strict=True)),
    ),
    "labels, a map of the user's own": _labels(
        [1, None, 0, 2, None], labels=NEW_SENTIMENTS, keep={"classifier.*": [1, None, 0, 2, None]}
    ),
    "labels, rows twice and rows dropped": _labels(
        [1, 1, 0], num_labels=3, keep={"classifier.*": {"index": [1, 1, 0], "drop": True}}
    ),
    "tags, by entity type": Change(
        "tags", options={"entities": ["DRUG", "LOC"]}, moved=_classes([0, None, None, 3, 4])
    ),
    "a matrix of labels": Change(
        "tagger", Tagger, {"labels": ["car", "bus", "cat"], "recipe": TRAINED},
        moved={"scores.*": Along([2, None, 0]), "transitions": Along([2, None, 0], (0, 1))},
    ),
    "resnet's labels": Change(
        "resnet", options={"labels": NEW_ANIMALS}, moved={"classifier.1.*": Along([2, None, 0, None])}
    ),
    "segformer's labels, a convolution": Change(
        "segformer", options={"labels": NEW_ANIMALS}, moved={"decode_head.classifier.*": Along([2, None, 0, None])},
        by_class_name=True,
    ),
    "yolos' labels and its row for no object": Change(
        "yolos", options={"labels": NEW_ANIMALS},
        moved={"class_labels_classifier.layers.2.*": Along([2, None, 0, None, 3])},
    ),
    "eomt's labels and its row for no object": Change(
        "eomt", options={"labels": NEW_ANIMALS},
        moved={"class_predictor.*": Along([2, None, 0, None, 3]), "criterion.*": Along([2, None, 0, None, 3])},
    ),
    "detr's labels and its row for no object": Change(
        "detr", options={"labels": NEW_ANIMALS}, moved={"class_labels_classifier.*": Along([2, None, 0, None, 3])}
    ),
    # Tokens.
    "tokens, tied": _tokens("llama", "model.embed_tokens.weight"),
    "tokens, untied with a bias": _tokens("phi", *PHI),
    "tokens, rows drawn by a scheme": _tokens("phi", *PHI, row_scheme="gaussian"),
    "tokens distilled from texts": _tokens(
        "qwen", also=dict.fromkeys(QWEN, _padded(ROWS + 20, range(ROWS, ROWS + 4))),
        row_scheme="distilled(steps=2, before=3, after=2)", texts=["the abcab, hello; abcab he the tab", "a hello"],
    ),
    "tokens in padding rows": _tokens("qwen", also=dict.fromkeys(QWEN, _padded(ROWS + 20, range(ROWS, ROWS + 4)))),
    "tokens, padded to a multiple": _tokens(
        "qwen", pad_to_multiple_of=64,
        also=dict.fromkeys(QWEN, _padded(64 * math.ceil((ROWS + 20) / 64), range(ROWS, ROWS + 4))),
    ),
    "tokens of an encoder-decoder": _tokens(
        "bart", "model.shared.weight", also={"final_logits_bias": grown(ROWS, 4, dim=1)}
    ),
    "tokens of t5": _tokens("t5", "shared.weight"),
    "tokens of text beside pictures": _tokens("gemma3", "language_model.model.embed_tokens.weight"),
    "tokens with a table for each layer": _tokens(
        "gemma3n", "model.embed_tokens.weight", "model.embed_tokens_per_layer.weight"
    ),
    "tokens before a row behind them": Change(
        "a row behind the tokens", RowBehind, {"add_tokens": ["hello", "abcab"]},
        moved={"more.weight": Along([*range(ROWS), None, None, ROWS]), **dict.fromkeys(QWEN, grown(ROWS, 2))},
    ),
    "another tokenizer": Change(
        "phi with tokens", options={"add_tokens": ["world!"], "seed": 2}, places=_another_tokenizer,
        moved=dict.fromkeys(PHI, _by_text()),
    ),
    "another tokenizer of a CTC head": Change(
        "ctc", places=_other_characters,
        moved={"lm_head.*": Along([CHARACTERS.index(c) if c in CHARACTERS else None for c in OTHER_CHARACTERS])},
    ),
    "a character more for a CTC head": Change(
        "ctc", options={"add_tokens": [{"token": "\u00e1", "description": "a"}]}, moved={"lm_head.*": grown(8, 1)}
    ),
    "rows made again by their ids": Change(
        "phi with tokens", options={"reinit_rows": [4, 40], "seed": 1},
        moved=dict.fromkeys(PHI, Along([None if row in (4, 40) else row for row in range(ROWS)])),
    ),
    "padding rows given up": Change(
        "qwen with tokens", options={"allow_shrink": True, "pad_to_multiple_of": 2},
        moved=dict.fromkeys(QWEN, Along(range(ROWS + ROWS % 2))),
    ),
    # Several heads.
    "several heads on a trunk": Change(
        "bert", options={"add_heads": HEADS}, names=below("trunk."), new=("heads.topic.*", "heads.entities.*")
    ),
    "a plain head becomes the first of several": Change(
        "sentiment", options={"name_head": "mood", "add_heads": {"more": TAGGING}},
        names=instead(("bert.", "trunk."), ("", "heads.mood.")), new=("heads.more.*",),
    ),
    "a head replaced by another of its name": Change(
        "several heads", options={"remove_heads": ["topic"], "add_heads": {"topic": "regression"}},
        new=("heads.topic.*",), gone=("heads.topic.*",),
    ),
    "a head replaced by one that is renamed": Change(
        "several heads", options={"remove_heads": ["topic"], "rename_heads": {"entities": "topic"}},
        names=instead(("heads.entities.", "heads.topic.")), gone=("heads.topic.*",),
    ),
    "a head replaced by one from elsewhere": Change(
        "several heads", options={"remove_heads": "topic"}, gone=("heads.topic.*",),
        places=lambda bases, _: {"take_heads": {"topic": bases("sentiment")}}, taken={"sentiment": _of_head("topic")},
    ),
    "heads removed": Change("several heads", options={"remove_heads": ["topic", "meaning"]}, gone=("heads.topic.*",)),
    "heads that change names": Change(
        "several heads", options={"rename_heads": {"topic": "entities", "entities": "topic"}},
        names=instead(("heads.topic.", "heads.entities."), ("heads.entities.", "heads.topic.")),
    ),
    "heads taken from elsewhere": Change(
        "several heads",
        places=lambda bases, _: {
            "take_heads": {"mood": bases("sentiment"), "other": (bases("several heads"), "topic")}
        },
        taken={"sentiment": _of_head("mood"), "several heads": _topic},
    ),
    "a head exported": Change(
        "several heads", options={"export_head": "topic"},
        names=instead(("trunk.", "bert."), ("heads.topic.", "")), gone=("heads.entities.*",),
    ),
    "a language head beside another": Change(
        "gpt2", options={"name_head": "lm", "add_heads": {"more": TAGGING}},
        names=instead(("transformer.", "trunk.")), new=("heads.more.*",),
    ),
    "heads on experts": Change(
        "mixtral", options={"name_head": "lm", "add_heads": {"more": TAGGING}},
        names=instead(("model.", "trunk."), ("", "heads.lm.")), new=("heads.more.*",),
    ),
    # Several checkpoints.
    "two towers and a new projector": Change(
        {"vision_tower.": "clip", "language_model.": "llama untied"}, "LlavaForConditionalGeneration",
        {
            "config": llava_config(),
            "recipe": {"default": "model", "rules": [{"name": "*projector*", "scheme": "normal(std=0.02)"}]},
        },
        new=("*multi_modal_projector.*",), by_class_name=True,
    ),
    "a new projector between the towers of one checkpoint": Change(
        "llava without a projector",
        options={
            "recipe": Recipe([Rule("xavier_uniform", name="*.weight"), Rule("zeros", name="*.bias")]),
            "allow_new": ["*projector*"],
        },
        new=("*multi_modal_projector.*",), by_class_name=True,
    ),
    "new projections of two encoders": Change(
        "two encoders without projections",
        options={"recipe": Recipe([Rule("orthogonal", name="*_projection.weight")])}, new=("*_projection.weight",),
    ),
    # Shapes that change for another reason.
    "more positions, matched": Change(
        "bert", "BertForSequenceClassification",
        {"keep": {"*position_embeddings.weight": "leading"}, "recipe": MATCHED, **LONGER}, below("bert."), CLASSIFIER,
        {"bert.embeddings.position_embeddings.weight": grown(64, 32)},
    ),
    "more positions, as the library draws them": Change(
        "bert", options={"keep": {"*position_embeddings.weight": "leading"}, **LONGER},
        moved={"embeddings.position_embeddings.weight": grown(64, 32)},
    ),
    "positions made anew": Change(
        "bert", options={"keep": {"*position_embeddings*": "none"}, **LONGER},
        new=("embeddings.position_embeddings.weight",), gone=("embeddings.position_embeddings.weight",),
    ),
    "wider in the middle, by boxes": Change(
        "sentiment", options={"keep": WIDER, "config": {"intermediate_size": 96}},
        moved={
            "*intermediate.dense.weight": Boxes((96, 32), [((HALF[0],), (HALF[0],)), ((HALF[2],), (HALF[1],))]),
            "*intermediate.dense.bias": Along([*range(32), *[None] * 32, *range(32, 64)]),
            "*layer.?.output.dense.weight": Boxes(
                (32, 96), [((MIDDLE, HALF[0]), (MIDDLE, HALF[0])), ((MIDDLE, HALF[2]), (MIDDLE, HALF[1]))]
            ),
        },
    ),
    "more experts, new ones on disk and rows of one tensor in memory": Change(
        "mixtral", options={"keep": {"*.gate.weight": "leading"}, "config": {"num_local_experts": 6}, "seed": 2},
        new=EXPERTS, moved={"*.gate.weight": grown(4, 2)},
    ),
    # Growth.
    "llama, a layer inserted": Change(
        "llama", options={"layers": "0,new,1", "seed": 3}, names=instead(("model.layers.1.", "model.layers.2.")),
        new=("model.layers.1.*",),
    ),
    "mixtral, a layer twice": Change(
        "mixtral", options={"layers": [0, 1, 1]},
        taken={"mixtral": lambda name: name.replace(".layers.1.", ".layers.2.") if ".layers.1." in name else None},
    ),
    "bert, a layer inserted that nothing closes": Change(
        "bert", options={"layers": "0,new,1"}, names=instead(("encoder.layer.1.", "encoder.layer.2.")),
        new=("encoder.layer.1.*",),
    ),
    "bert, a student": Change(
        "bert", options={"layers": [1]}, names=instead(("encoder.layer.1.", "encoder.layer.0.")),
        gone=("encoder.layer.0.*",),
    ),
    "vit, a larger image": Change(
        "vit", options={"image_size": 48}, moved={"embeddings.position_embeddings": _prefix}, by_class_name=True,
    ),
    "llama, more neurons": Change(
        "llama", options={"widen": {"intermediate_size": "x2"}},
        moved={"*.gate_proj.weight": _doubled, "*.up_proj.weight": _doubled, "*.down_proj.weight": _doubled_in},
    ),
    # Real checkpoints.
    "MiniLM, a head": Change(
        "minilm", "AutoModelForSequenceClassification", {"labels": SENTIMENTS},
        instead(("embeddings.position_ids",) * 2, ("", "bert.")), CLASSIFIER, ignored=("*position_ids",), slow=True,
    ),
    "MiniLM, tokens and padding": Change(
        "minilm", options={"add_tokens": REAL_WORDS, "pad_to_multiple_of": 128},
        moved={"embeddings.word_embeddings.weight": grown(30522, 30592 - 30522)}, ignored=("*position_ids",), slow=True,
    ),
    "SmolLM2, its language and a reward": Change(
        "smollm2", options={"add_heads": {"reward": "reward"}}, names=instead(("model.", "trunk.")),
        new=("heads.reward.*",), slow=True,
    ),
    "SmolLM2, tokens": Change(
        "smollm2", options={"add_tokens": REAL_WORDS}, moved={"model.embed_tokens.weight": grown(49152, 2)}, slow=True
    ),
}  # fmt: skip
