"""Heads solved from labelled examples, and heads of words: in memory, on disk, proved again, and refused."""

from __future__ import annotations

import json

import pytest
import torch
from transformers import (
    AutoModelForTokenClassification,
    AutoTokenizer,
    BertForSequenceClassification,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
)

import hf_init
from hf_init._checkpoint import Checkpoint

GOOD = ("a joy", "wonderful film", "I loved it", "great acting", "brilliant", "a moving story")
BAD = ("a bore", "terrible film", "I hated it", "bad acting", "awful", "a dull story")
EXAMPLES = [(text, "pos") for text in GOOD] + [(text, "neg") for text in BAD]
LABELS = ["neg", "pos"]


def logits(model, folder, texts):
    encoded = AutoTokenizer.from_pretrained(folder)(list(texts), padding=True, return_tensors="pt")
    with torch.no_grad():
        return model(**encoded).logits


@pytest.mark.parametrize("method", ["class_means", "lda", "ridge"])
def test_a_solved_head_tells_its_examples_apart_and_leaves_the_trunk(minilm, method):
    model = hf_init.from_pretrained(
        BertForSequenceClassification, minilm, labels=LABELS, head=method, examples=EXAMPLES
    )
    found = logits(model, minilm, [text for text, _ in EXAMPLES]).argmax(1)
    wrong = sum(a != LABELS.index(label) for a, (_, label) in zip(found.tolist(), EXAMPLES, strict=True))
    assert wrong <= (1 if method == "class_means" else 0)  # the nearest mean needn't be one's own
    source = Checkpoint.open(minilm)
    assert model.init_report.bytes_compared + getattr(model.init_report, "bytes_mapped", 0) > 0
    assert set(model.init_report.restored) == set()
    assert len(model.init_plan.tensors) == len(source.entries) + 2


def test_memory_and_disk_solve_the_same_and_the_examples_prove_it(minilm, tmp_path):
    words = {"labels": LABELS, "head": "ridge", "examples": EXAMPLES}
    hf_init.extend(minilm, tmp_path / "out", "BertForSequenceClassification", **words)
    memory = hf_init.from_pretrained(BertForSequenceClassification, minilm, **words)
    disk = BertForSequenceClassification.from_pretrained(tmp_path / "out")
    assert torch.equal(memory.classifier.weight, disk.classifier.weight)
    assert torch.equal(memory.classifier.bias, disk.classifier.bias)
    assert hf_init.verify(tmp_path / "out").ok
    assert hf_init.verify(tmp_path / "out", recompute=True, examples=EXAMPLES).ok
    with pytest.raises(hf_init.HfInitError, match="examples"):
        hf_init.verify(tmp_path / "out", recompute=True)
    with pytest.raises(hf_init.HfInitError, match="not the examples"):
        hf_init.verify(tmp_path / "out", recompute=True, examples=EXAMPLES[1:])


def test_the_plan_reads_no_example_into_the_model(minilm):
    plan = hf_init.plan(minilm, "BertForSequenceClassification", labels=LABELS, head="lda", examples=EXAMPLES)
    fill = plan["classifier.weight"].new[0]
    assert fill.scheme.method == "lda" and len(fill.scheme.data) == 64 and "12 labelled examples" in fill.why


def test_every_spelling_of_the_same_examples_is_one(minilm, tmp_path):
    rows = [{"text": text, "label": label} for text, label in EXAMPLES]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "b.json").write_text(json.dumps(rows))
    (tmp_path / "c.csv").write_text("text,label\n" + "".join(f"{text},{label}\n" for text, label in EXAMPLES))
    given = [EXAMPLES, rows, *(str(tmp_path / name) for name in ("a.jsonl", "b.json", "c.csv"))]
    plans = [
        hf_init.plan(minilm, "BertForSequenceClassification", labels=LABELS, head="lda", examples=each)
        for each in given
    ]
    assert len({plan["classifier.weight"].new[0].scheme.data for plan in plans}) == 1


def test_batches_are_examples_too(minilm):
    tokenizer = AutoTokenizer.from_pretrained(minilm)
    batches = [
        {**tokenizer(list(texts), padding=True, return_tensors="pt"), "labels": torch.full((len(texts),), label)}
        for texts, label in ((BAD, 0), (GOOD, 1))
    ]
    model = hf_init.from_pretrained(
        BertForSequenceClassification, minilm, labels=LABELS, head="ridge", examples=batches
    )
    assert logits(model, minilm, GOOD).argmax(1).all() and not logits(model, minilm, BAD).argmax(1).any()


def test_tokens_have_labels_of_their_own(minilm):
    words = ["the", "red", "house", "of", "blue", "stone"]
    tags = ["O", "COLOR", "O", "O", "COLOR", "O"]
    examples = [{"tokens": words[k:] + words[:k], "labels": tags[k:] + tags[:k]} for k in range(6)]
    model = hf_init.from_pretrained(
        AutoModelForTokenClassification, minilm, labels=["O", "COLOR"], head="ridge", examples=examples
    )
    tokenizer = AutoTokenizer.from_pretrained(minilm)
    encoded = tokenizer(words, is_split_into_words=True, return_tensors="pt")
    with torch.no_grad():
        found = model(**encoded).logits[0, 1:-1].argmax(1)
    assert [model.config.id2label[int(k)] for k in found] == tags


def test_a_regression_head_predicts(minilm):
    examples = [(text, 2.0) for text in GOOD] + [(text, -1.0) for text in BAD]
    model = hf_init.from_pretrained(
        BertForSequenceClassification, minilm, num_labels=1, head="ridge", examples=examples
    )
    found = logits(model, minilm, [text for text, _ in examples])[:, 0]
    assert (found[:6] > 0.5).all() and (found[6:] < 0.5).all()


def test_a_verbalizer_s_logits_are_the_language_model_s(smollm2):
    model = hf_init.from_pretrained(
        LlamaForSequenceClassification, smollm2, labels=LABELS, pad_token_id=2,
        verbalizer={"neg": ["bad"], "pos": ["good"]},
    )  # fmt: skip
    language = LlamaForCausalLM.from_pretrained(smollm2)
    tokenizer = AutoTokenizer.from_pretrained(smollm2)
    text = "The film was a joy from start to end. All in all it was"
    wanted = logits(language, smollm2, [text])[0, -1]
    ids = [tokenizer(f" {word}")["input_ids"][0] for word in ("bad", "good")]
    assert torch.equal(logits(model, smollm2, [text])[0], wanted[ids])


def test_without_words_a_label_s_name_is_its_word(smollm2):
    words = {"labels": ["good", "bad"], "pad_token_id": 2}
    named = hf_init.from_pretrained(LlamaForSequenceClassification, smollm2, head="verbalizer", **words)
    spelled = hf_init.from_pretrained(
        LlamaForSequenceClassification, smollm2, verbalizer={"good": "good", "bad": "bad"}, **words
    )
    assert torch.equal(named.score.weight, spelled.score.weight) and named.score.weight.any()


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
    ({"verbalizer": {"pos": ["good"]}}, "labels without words: neg"),
    ({"verbalizer": {"pos": ["good"], "neg": ["bad"], "odd": ["x"]}}, "doesn't have: odd"),
    ({"verbalizer": ["good"]}, "expected label -> words"),
    ({"verbalizer": {"pos": ["good"], "neg": ["\ufffe"]}}, "tokenize to nothing"),
]


@pytest.mark.parametrize(("words", "message"), REFUSED)
def test_what_can_t_be_made_is_refused(minilm, words, message):
    with pytest.raises(hf_init.HfInitError, match=message):
        hf_init.from_pretrained(BertForSequenceClassification, minilm, labels=LABELS, **words)


def test_a_head_that_has_no_last_layer_of_labels_is_refused(minilm):
    with pytest.raises(hf_init.HfInitError, match="no single linear layer"):
        hf_init.plan(minilm, "BertForMaskedLM", head="ridge", examples=EXAMPLES)
