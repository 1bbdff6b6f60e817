"""The table that the laws are held over: a base, what is asked of it, and where every tensor must then be, by hand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from bases import ANIMALS, HEADS, SENTIMENTS, TAGS, Adapted, Classifier, Renamed, Tagger, Tolerant, llava_config
from change import CLASSIFIER, Along, Change, below, grown, instead
from changes_of_sizes import SIZE_CHANGES
from changes_of_tokens import TOKEN_CHANGES

from hf_init import Recipe, Rule

POOLER = ("pooler.*",)

TRAINED = {"default": "normal(std=0.5)"}

NEW_SENTIMENTS = ["pos", "mixed", "neg", "irony", "neu"]

NEW_ANIMALS = ["car", "bus", "cat", "van"]


REAL_WORDS = [" electroencephalographically", {"token": "<|tool|>", "special": True}]

EXAMPLES = [("abc the ab", "a"), ("the the he", "b"), ("ab abc", "a"), ("he the", "b")] * 2


ONLY_DRAWN: dict[str, Any] = {"recipe": TRAINED}  # asks no model for its values: a class of the tests can't be found


def _classes(rows: Sequence[int | None]) -> dict[str, Along]:
    return dict.fromkeys(CLASSIFIER, Along(rows))


def _labels(rows: Sequence[int | None], **options: Any) -> Change:
    """The trained head of three sentiments with other labels."""
    if None in rows and "recipe" not in options:
        options["recipe"] = TRAINED
    return Change("sentiment", options=options, moved=_classes(rows) if {*rows} != {None} else {}, **_whole(rows))


def _whole(rows: Sequence[int | None]) -> dict[str, Any]:
    return {"new": CLASSIFIER, "gone": CLASSIFIER} if {*rows} == {None} else {}


def _of_head(name: str) -> Callable[[str], str | None]:
    """Of a plain classifier its head alone, under another name."""
    return lambda old: f"heads.{name}.{old}" if old in CLASSIFIER else None


def _topic(name: str) -> str | None:
    """Of several heads one, under another name."""
    return name.replace("heads.topic", "heads.other") if name.startswith("heads.topic.") else None


TAGGING = {"kind": "token-classification", "labels": ["x", "y"]}

SKIPPING = Recipe([Rule("skip", name="classifier.bias")], default="normal(std=0.5)")


BY_KIND = Recipe(
    [
        Rule("normal(std=0.05)", name="qa_outputs.weight"),
        Rule("constant(val=0.5)", role="linear.bias"),
        Rule("orthogonal", module="Linear", optional=True),
    ],
    default="error",
    seed=7,
)


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
    "its language and a reward, bfloat16": Change(
        "llama in bfloat16", options={"add_heads": {"reward": "reward"}}, names=instead(("model.", "trunk.")),
        new=("heads.reward.*",),
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
    # Real checkpoints.
    "MiniLM, a head, tokens and padding": Change(
        "minilm", "AutoModelForSequenceClassification",
        {"labels": SENTIMENTS, "add_tokens": REAL_WORDS, "pad_to_multiple_of": 128},
        instead(("embeddings.position_ids",) * 2, ("", "bert.")), CLASSIFIER,
        {"bert.embeddings.word_embeddings.weight": grown(30522, 30592 - 30522)}, ignored=("*position_ids",), slow=True,
    ),
    "SmolLM2, its language and a reward": Change(
        "smollm2", options={"add_heads": {"reward": "reward"}}, names=instead(("model.", "trunk.")),
        new=("heads.reward.*",), slow=True,
    ),
    "SmolLM2, tokens": Change(
        "smollm2", options={"add_tokens": REAL_WORDS}, moved={"model.embed_tokens.weight": grown(49152, 2)}, slow=True
    ),
    **TOKEN_CHANGES,
    **SIZE_CHANGES,
}  # fmt: skip
