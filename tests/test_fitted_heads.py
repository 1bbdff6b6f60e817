"""Heads solved from labelled examples, and heads of words: in memory, on disk, proved again, and refused."""

from __future__ import annotations

import json

import pytest
import torch
import transformers
from safetensors.torch import load_file
from torch.utils.data import DataLoader
from transformers import (
    AutoModelForTokenClassification,
    AutoTokenizer,
    BertForSequenceClassification,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
)

import hf_init

GOOD = ("a joy", "wonderful film", "I loved it", "great acting", "brilliant", "a moving story")
BAD = ("a bore", "terrible film", "I hated it", "bad acting", "awful", "a dull story")
EXAMPLES = [(text, "pos") for text in GOOD] + [(text, "neg") for text in BAD]
LABELS = ["neg", "pos"]

pytestmark = pytest.mark.usefixtures("one_thread")


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


SIZE = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}


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


# Several labels an example.

MANY = {"labels": ["film", "good"], "config": {"problem_type": "multi_label_classification"}}
FILMS = ("a moving film with great acting", "a film that I loved", "what a wonderful film")
BORES = ("a dull film with bad acting", "a film that I hated", "what a terrible film")
MEALS = ("the soup was delicious", "I loved the cake", "what wonderful bread")
SCRAPS = ("the soup was cold and stale", "I hated the cake", "what terrible bread")
TOLD = [(FILMS, ["film", "good"]), (BORES, ["film"]), (MEALS, ["good"]), (SCRAPS, [])]
SEVERAL = [(text, labels) for texts, labels in TOLD for text in texts]
ANSWERS = [(text, [float(name in labels) for name in MANY["labels"]]) for text, labels in SEVERAL]


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
    (
        {"examples": [("a", ["pos"]), ("b", ["neg", "pos"])]},
        "say config={'problem_type': 'multi_label_",
    ),
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
