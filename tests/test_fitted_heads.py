"""Heads solved from labelled examples, and heads of words: in memory, on disk, proved again, and refused."""

from __future__ import annotations

import json

import pytest
import torch
import transformers
from labelled_texts import ANSWERS, BAD, EXAMPLES, GOOD, LABELS, MANY, SEVERAL, SIZE, logits
from safetensors.torch import load_file
from torch.utils.data import DataLoader
from transformers import AutoModelForTokenClassification, AutoTokenizer, BertForSequenceClassification

import hf_init

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("method", ["class_means", "lda", "ridge"])
def test_a_solved_head_tells_its_examples_apart_and_leaves_the_trunk(minilm, method):
    model = hf_init.from_pretrained(
        BertForSequenceClassification, minilm, labels=LABELS, head=method, examples=EXAMPLES
    )
    found = logits(model, minilm, [text for text, _ in EXAMPLES]).argmax(1)
    wrong = sum(a != LABELS.index(label) for a, (_, label) in zip(found.tolist(), EXAMPLES, strict=True))
    assert wrong <= (1 if method == "class_means" else 0)  # the nearest mean needn't be one's own
    assert model.init_report.bytes_compared + getattr(model.init_report, "bytes_mapped", 0) > 0
    assert set(model.init_report.restored) == set()
    assert len(model.init_plan.tensors) == len(load_file(minilm / "model.safetensors")) + 2


@pytest.mark.slow
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
    with pytest.raises(hf_init.HfInitError, match="doesn't have: odd"):
        hf_init.plan(minilm, "BertForSequenceClassification", labels=LABELS, examples=[*EXAMPLES, ("a", "odd")])


@pytest.mark.slow
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
        BertForSequenceClassification,
        minilm,
        labels=LABELS,
        head="ridge",
        examples=DataLoader(batches, batch_size=None),
    )
    assert logits(model, minilm, GOOD).argmax(1).all() and not logits(model, minilm, BAD).argmax(1).any()


@pytest.mark.parametrize(
    ("cls", "layer", "drop"),
    [
        ("RobertaForSequenceClassification", "classifier.out_proj", ["pooler.*"]),
        ("DistilBertForSequenceClassification", "classifier", None),
    ],
)
def test_a_layer_is_solved_for_what_the_head_itself_gives_it(tmp_path, cls, layer, drop):
    """After the head's own dense layer and activation, without its dropout: its rows are combinations of those."""
    cls = getattr(transformers, cls)
    config = cls.config_class(vocab_size=60, **SIZE, classifier_dropout=0.5, seq_classif_dropout=0.5)
    transformers.AutoModel.from_config(config).save_pretrained(tmp_path / "base")
    ids = torch.arange(2, 58).reshape(14, 4)
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": torch.arange(14) % 2}
    model = hf_init.from_pretrained(cls, tmp_path / "base", labels=LABELS, examples=[batch], head="ridge", drop=drop)
    last, seen = model.get_submodule(layer), []
    last.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].detach()))
    model.eval()(input_ids=ids, attention_mask=batch["attention_mask"])
    basis = torch.linalg.qr((seen[0][1:] - seen[0].mean(0)).T)[0]  # 13 of 16 dimensions
    torch.testing.assert_close(last.weight @ basis @ basis.T, last.weight, rtol=0, atol=1e-4)
    assert bool(last.weight.any())


@pytest.mark.slow
def test_tokens_have_labels_and_a_new_one_is_solved_beside_the_known(minilm, tmp_path):
    words = ["the", "red", "house", "of", "blue", "stone"]
    tags = ["O", "COLOR", "THING", "O", "COLOR", "THING"]
    known = [tag.replace("THING", "O") for tag in tags]
    examples, before = (
        [{"tokens": words[k:] + words[:k], "labels": told[k:] + told[:k]} for k in range(6)] for told in (tags, known)
    )
    cls = "BertForTokenClassification"
    hf_init.extend(minilm, tmp_path / "two", cls, labels=["O", "COLOR"], examples=before, drop=["pooler.*"])
    hf_init.extend(tmp_path / "two", tmp_path / "out", labels=["THING", "COLOR", "O"], examples=examples)
    old, new = (load_file(tmp_path / name / "model.safetensors") for name in ("two", "out"))
    assert torch.equal(new["classifier.weight"][[2, 1]], old["classifier.weight"])
    encoded = AutoTokenizer.from_pretrained(minilm)(words, is_split_into_words=True, return_tensors="pt")
    for folder, wanted in (("two", known), ("out", tags)):
        model = AutoModelForTokenClassification.from_pretrained(tmp_path / folder)
        with torch.no_grad():
            found = model(**encoded).logits[0, 1:-1].argmax(1)
        assert [model.config.id2label[int(k)] for k in found] == wanted


@pytest.mark.slow
def test_a_regression_head_predicts_one_number_or_several(minilm):
    one = hf_init.from_pretrained(
        BertForSequenceClassification,
        minilm,
        num_labels=1,
        head="ridge",
        examples=[(text, 2.0) for text in GOOD] + [(text, -1.0) for text in BAD],
    )
    found = logits(one, minilm, [*GOOD, *BAD])[:, 0]
    assert (found[:6] > 0.5).all() and (found[6:] < 0.5).all()
    examples = [(text, [2.0, 0.0]) for text in GOOD] + [(text, [-1.0, 5.0]) for text in BAD]
    words = {"labels": ["liking", "boredom"], "config": {"problem_type": "regression"}}
    model = hf_init.from_pretrained(BertForSequenceClassification, minilm, examples=examples, **words)
    found = logits(model, minilm, [text for text, _ in examples])
    assert (found[:6, 0] > 0.5).all() and (found[6:, 0] < 0.5).all()
    assert (found[:6, 1] < 2.5).all() and (found[6:, 1] > 2.5).all()
    with pytest.raises(hf_init.HfInitError, match="expected 2 finite numbers each"):
        hf_init.from_pretrained(BertForSequenceClassification, minilm, examples=[("a", 1.0), ("b", 2.0)], **words)


@pytest.mark.parametrize("method", ["class_means", "logistic"])
def test_an_example_may_have_several_labels(minilm, method):
    model = hf_init.from_pretrained(BertForSequenceClassification, minilm, head=method, examples=SEVERAL, **MANY)
    found = logits(model, minilm, [text for text, _ in SEVERAL]) > 0
    assert (found == torch.tensor([answers for _, answers in ANSWERS]).bool()).float().mean() > 0.8
    assert model.config.problem_type == "multi_label_classification"


@pytest.mark.slow
def test_names_and_answers_say_the_same_and_disk_is_as_memory(minilm, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(minilm)
    texts, answers = zip(*ANSWERS, strict=True)
    batch = {**tokenizer(list(texts), padding=True, return_tensors="pt"), "labels": torch.tensor(answers)}
    hf_init.extend(minilm, tmp_path / "out", "BertForSequenceClassification", examples=SEVERAL, **MANY)
    disk = BertForSequenceClassification.from_pretrained(tmp_path / "out")
    for examples in (ANSWERS, [batch]):
        model = hf_init.from_pretrained(BertForSequenceClassification, minilm, examples=examples, **MANY)
        assert torch.equal(model.classifier.weight, disk.classifier.weight)
        assert torch.equal(model.classifier.bias, disk.classifier.bias)
    assert hf_init.verify(tmp_path / "out", recompute=True, examples=SEVERAL).ok
