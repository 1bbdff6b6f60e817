"""Heads solved from examples beside trained rows, and by the words of a language model."""

from __future__ import annotations

import pytest
import torch
import transformers
from labelled_texts import ANSWERS, EXAMPLES, FILMS, LABELS, MANY, SEVERAL, SIZE, logits
from safetensors.torch import load_file
from transformers import AutoTokenizer, BertForSequenceClassification, LlamaForCausalLM, LlamaForSequenceClassification

import hf_init

# New rows beside trained ones.


ODD = ("rain in the north", "a cold and windy day", "sunny with some clouds", "snow on the hills", "a storm is near")
THREE = [*EXAMPLES, *((text, "weather") for text in ODD)]
GROWN = ["weather", "pos", "neg"]


@pytest.fixture(scope="module")
def two(minilm, tmp_path_factory):
    """MiniLM with a head for two labels."""
    out = tmp_path_factory.mktemp("two") / "out"
    hf_init.extend(minilm, out, BertForSequenceClassification, labels=LABELS, head="ridge", examples=EXAMPLES)
    return out


@pytest.mark.slow
def test_new_rows_are_solved_with_the_trained_ones_held(two, tmp_path):
    hf_init.extend(two, tmp_path / "out", labels=GROWN, examples=THREE)
    before, after = (BertForSequenceClassification.from_pretrained(folder) for folder in (two, tmp_path / "out"))
    assert torch.equal(after.classifier.weight[[2, 1]], before.classifier.weight)
    assert torch.equal(after.classifier.bias[[2, 1]], before.classifier.bias)
    found = logits(after, two, [text for text, _ in THREE]).argmax(1).tolist()
    assert [GROWN[k] for k in found] == [label for _, label in THREE]
    memory = hf_init.from_pretrained(BertForSequenceClassification, two, labels=GROWN, examples=THREE)
    assert torch.equal(memory.classifier.weight, after.classifier.weight)
    (fill,) = memory.init_plan["classifier.weight"].new
    assert fill.scheme.method == "logistic" and fill.why.endswith("while the kept rows stay fixed")
    assert hf_init.verify(tmp_path / "out", base=two, recompute=True, examples=THREE).ok


def test_a_head_without_a_bias_has_new_rows_too(tiny, tmp_path):
    words = {"config": {"pad_token_id": 0}, "recipe": {"default": "normal(std=0.1)"}}
    hf_init.extend(tiny("llama"), tmp_path / "two", LlamaForSequenceClassification, labels=LABELS, **words)
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(3, 96, (24, 5), generator=generator)
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": torch.arange(24) % 3}
    model = hf_init.from_pretrained(
        LlamaForSequenceClassification, tmp_path / "two", labels=[*LABELS, "odd"], examples=[batch]
    )
    before = LlamaForSequenceClassification.from_pretrained(tmp_path / "two").score.weight
    assert torch.equal(model.score.weight[:2], before) and bool(model.score.weight[2].any())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"head": "ridge", "examples": THREE}, "head='logistic' solves the new ones while the kept rows stay fixed"),
        ({"examples": [each for each in THREE if each[1] != "neg"]}, r"neg \(0\)"),
        ({"verbalizer": {label: [label] for label in GROWN}}, "a verbalizer gives a whole head"),
    ],
)
def test_what_can_t_stand_beside_trained_rows(two, words, message):
    with pytest.raises(hf_init.HfInitError, match=message):
        hf_init.from_pretrained(BertForSequenceClassification, two, labels=GROWN, **words)


@pytest.mark.parametrize(
    "words", [{"examples": EXAMPLES}, {"head": "verbalizer"}, {"verbalizer": {"neg": "bad", "pos": "good"}}]
)
def test_where_no_row_is_new_there_is_nothing_to_solve(two, words):
    with pytest.raises(hf_init.HfInitError, match=f"{next(iter(words))}: no label is new.*labels_keep='none'"):
        hf_init.plan(two, **words)


@pytest.mark.slow
def test_of_several_labels_a_new_one_is_solved_alone(minilm, tmp_path):
    hf_init.extend(minilm, tmp_path / "two", BertForSequenceClassification, examples=SEVERAL, **MANY)
    more = [(text, [*labels, *["meal"] * ("film" not in labels)]) for text, labels in SEVERAL]
    words = {"labels": ["meal", "film", "good"], "head": "ridge", "examples": more}
    grown = hf_init.from_pretrained(BertForSequenceClassification, tmp_path / "two", **words)
    before = BertForSequenceClassification.from_pretrained(tmp_path / "two")
    assert torch.equal(grown.classifier.weight[1:], before.classifier.weight)
    whole = hf_init.from_pretrained(BertForSequenceClassification, tmp_path / "two", labels_keep="none", **words)
    assert torch.equal(grown.classifier.weight[0], whole.classifier.weight[0])
    assert torch.equal(grown.classifier.bias[0], whole.classifier.bias[0])


@pytest.mark.slow
def test_a_verbalizer_s_logits_are_the_language_model_s(smollm2):
    model = hf_init.from_pretrained(
        LlamaForSequenceClassification, smollm2, labels=LABELS, config={"pad_token_id": 2},
        verbalizer={"neg": ["bad"], "pos": ["good"]},
    )  # fmt: skip
    language = LlamaForCausalLM.from_pretrained(smollm2)
    tokenizer = AutoTokenizer.from_pretrained(smollm2)
    text = "The film was a joy from start to end. All in all it was"
    wanted = logits(language, smollm2, [text])[0, -1]
    ids = [tokenizer(f" {word}")["input_ids"][0] for word in ("bad", "good")]
    assert torch.equal(logits(model, smollm2, [text])[0], wanted[ids])


@pytest.mark.slow
def test_without_words_a_label_s_name_is_its_word(smollm2):
    words = {"labels": ["good", "bad"], "config": {"pad_token_id": 2}}
    named = hf_init.from_pretrained(LlamaForSequenceClassification, smollm2, head="verbalizer", **words)
    spelled = hf_init.from_pretrained(
        LlamaForSequenceClassification, smollm2, verbalizer={"good": "good", "bad": "bad"}, **words
    )
    assert torch.equal(named.score.weight, spelled.score.weight) and named.score.weight.any()


def test_without_a_language_head_the_words_are_those_of_the_input(minilm):
    """Every piece of every word counts alike."""
    words = {"neg": ["bad", "boring"], "pos": ["photosynthesis"]}
    model = hf_init.from_pretrained(BertForSequenceClassification, minilm, labels=LABELS, verbalizer=words)
    table = load_file(minilm / "model.safetensors")["embeddings.word_embeddings.weight"]
    tokenizer = AutoTokenizer.from_pretrained(minilm)
    for row, texts in zip(model.classifier.weight, words.values(), strict=True):
        ids = [id_ for text in texts for id_ in tokenizer(text, add_special_tokens=False)["input_ids"]]
        torch.testing.assert_close(row, table[ids].mean(0))
    assert not bool(model.classifier.bias.any())


def test_a_transform_that_the_classifier_has_too_is_kept_with_the_rows(minilm, tmp_path):
    """ModernBERT's classifier has the layer and the norm that its language-model head has."""
    config = transformers.ModernBertConfig(vocab_size=30522, **SIZE, pad_token_id=0, cls_token_id=101, sep_token_id=102)
    language = transformers.ModernBertForMaskedLM(config).eval()
    torch.nn.init.normal_(language.decoder.bias)
    language.save_pretrained(tmp_path / "base")
    AutoTokenizer.from_pretrained(minilm).save_pretrained(tmp_path / "base")
    cls = transformers.ModernBertForSequenceClassification
    model = hf_init.from_pretrained(
        cls,
        tmp_path / "base",
        labels=LABELS,
        verbalizer={"neg": "bad", "pos": "good"},
        config={"classifier_pooling": "cls"},
    )
    encoded = AutoTokenizer.from_pretrained(minilm)(["a film"], return_tensors="pt")
    inputs = {key: encoded[key] for key in ("input_ids", "attention_mask")}
    ids = AutoTokenizer.from_pretrained(minilm).convert_tokens_to_ids(["bad", "good"])
    with torch.no_grad():
        wanted, found = language(**inputs).logits[0, 0, ids], model(**inputs).logits[0]
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5)


def test_a_transform_that_the_classifier_has_no_place_for_is_refused(tmp_path):
    transformers.BertForMaskedLM(transformers.BertConfig(vocab_size=60, **SIZE)).save_pretrained(tmp_path / "base")
    with pytest.raises(hf_init.HfInitError, match=r"a layer before its rows \(cls\.predictions\.transform\.dense"):
        hf_init.plan(tmp_path / "base", "BertForSequenceClassification", labels=LABELS, head="verbalizer")


REFUSED = [
    ({"head": "ridge"}, "give them: examples=FILE"),
    ({"head": "svm", "examples": EXAMPLES}, "known: class_means, lda, ridge, logistic, verbalizer"),
    ({"examples": [*EXAMPLES, ("odd", "neutral")]}, "labels that the config doesn't have: neutral"),
    ({"examples": EXAMPLES[:6]}, r"neg \(0\)"),
    ({"examples": []}, "there is none"),
    ({"examples": [("", "pos")]}, "number 1: it has not a text"),
    ({"examples": [("text", None)]}, "has not a label"),
    ({"examples": "missing.jsonl"}, "can't be read"),
    ({"examples": 7}, "expected a .jsonl"),
    ({"examples": [("a", ["pos"]), ("b", ["neg", "pos"])]}, "say config={'problem_type': 'multi_label_"),
    ({"examples": [{"input_ids": torch.ones(2, 3).long(), "labels": torch.ones(2, 2)}]}, "one class number each"),
    ({"examples": [{"input_ids": torch.ones(2, 3).long(), "labels": torch.tensor([0, 2])}]}, r"labels \[2\]"),
    ({"examples": [*SEVERAL, ("odd", ["odd"])], **MANY}, "doesn't have: \\['odd'\\]"),
    ({"examples": [*ANSWERS, ("odd", [1.0])], **MANY}, "doesn't have: \\[1.0\\]"),
    ({"examples": [(text, [0.0, 2.0]) for text in FILMS], **MANY}, "0 or 1 for each of 2"),
    ({"examples": [(text, ["film"]) for text in FILMS], **MANY}, r"with each of good \(0\).*without each of film"),
    ({"examples": EXAMPLES, "label_counts": [1, 2]}, "label_counts: the examples give the bias"),
    ({"verbalizer": {"pos": "good", "neg": "bad"}, "label_counts": [1, 2]}, "label_counts: the words give the bias"),
    (
        {"examples": [("a", 1.0), ("b", [1.0, 2.0])], "config": {"problem_type": "regression"}},
        "as many numbers for each",
    ),
    ({"verbalizer": {"pos": ["good"]}}, "labels without words: neg"),
    ({"verbalizer": {"pos": ["good"], "neg": ["bad"], "odd": ["x"]}}, "doesn't have: odd"),
    ({"verbalizer": ["good"]}, "expected label -> words"),
    ({"verbalizer": {"pos": ["good"], "neg": ["\ufffe"]}}, "tokenize to nothing"),
]


@pytest.mark.parametrize(("words", "message"), REFUSED)
def test_what_can_t_be_made_is_refused(minilm, words, message):
    with pytest.raises(hf_init.HfInitError, match=message):
        hf_init.from_pretrained(BertForSequenceClassification, minilm, **{"labels": LABELS, **words})


def test_a_head_that_has_no_last_layer_of_labels_is_refused(minilm):
    with pytest.raises(hf_init.HfInitError, match="no single linear layer"):
        hf_init.plan(minilm, "BertForMaskedLM", head="ridge", examples=EXAMPLES)
