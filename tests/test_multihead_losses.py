"""The losses of heads: those of the plain classes, of rows with a label alone, weighted; and which heads run."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from multihead_heads import THREE, asked
from multihead_heads import bert as bert
from multihead_trunks import LABELS, TEXTS, TRUNKS, inputs, multi, text, twin

# Losses


def _losses(name: str, heads: dict[str, Any], labels: dict[str, torch.Tensor]) -> Any:
    model = multi(TRUNKS[name](), heads)
    return model, model(**inputs(name), labels=labels).losses


def test_losses_are_those_of_the_plain_classes():
    """Where every row has a label. BERT, a decoder, pictures and sounds; frames by number, and not one-hot."""
    tokens = torch.tensor([[0, 1, 2, 0, 1, 2, 0, 1, 2], [1] * 9, [2, 1, 0, -100, 1, 2, 2, -100, -100]])
    two = {"kind": "regression", "outputs": 2}
    cases: list[tuple[str, Any, torch.Tensor, dict[str, Any]]] = [
        ("bert", THREE["topic"], torch.tensor([0, 1, 2]), {}),
        ("bert", {"kind": "multi-label", "labels": LABELS}, torch.tensor([[0.0, 1, 1], [1, 0, 0], [0, 0, 0]]), {}),
        ("bert", "regression", torch.tensor([0.5, -1.0, 2.0]), {}),
        ("bert", two, torch.tensor([[0.5, 1.0], [-1.0, 2], [2.0, 0]]), {}),
        ("bert", THREE["entities"], tokens, {}),
        ("bert", "language-model", text()["input_ids"], {}),
        ("bert", "question-answering", torch.tensor([[0, 2], [1, 20], [3, 3]]), {}),
        ("llama", "language-model", text()["input_ids"], {}),
        ("llama", THREE["topic"], torch.tensor([0, 1, 2]), {}),
        ("vit", {"kind": "image-classification", "labels": LABELS}, torch.tensor([0, 1, 2]), {}),
        ("wav2vec2", {"kind": "audio-classification", "labels": LABELS}, torch.tensor([0, 1, 2]), {}),
    ]
    for name, given, labels, _ in cases:
        model, losses = _losses(name, {"head": given}, {"head": labels})
        span = model.specs["head"].kind == "question-answering"
        told = (
            dict(zip(("start_positions", "end_positions"), labels.unbind(1), strict=True))
            if span
            else {"labels": labels}
        )
        expected = twin(model, "head")(**inputs(name), **told).loss
        assert torch.allclose(losses["head"], expected, rtol=1e-6, atol=1e-6), (name, given)
    model, losses = _losses(
        "wav2vec2",
        {"head": {"kind": "frame-classification", "labels": LABELS}},
        {"head": torch.ones(3, 39, dtype=torch.long)},
    )
    hot = torch.nn.functional.one_hot(torch.ones(3, 39, dtype=torch.long), 3)
    assert torch.allclose(losses["head"], twin(model, "head")(**inputs("wav2vec2"), labels=hot).loss)


def test_multiple_choice_loss_is_that_of_the_plain_class(bert):
    given, labels = asked(bert, "multiple_choice", text()), torch.tensor([0, 1, 1])
    found = bert(**given, labels={"multiple_choice": labels})
    assert set(found.logits) == {"multiple_choice"} and found.logits["multiple_choice"].shape == (3, 2)
    assert torch.allclose(found.loss, twin(bert, "multiple_choice")(**given, labels=labels).loss)


def labels_of_every_head(model: Any, none: bool) -> dict[str, torch.Tensor]:
    """Of the first two rows, or of none; in the shapes of a batch of 3 rows of 9 tokens."""
    made: dict[str, torch.Tensor] = {}
    for name, spec in model.specs.items():
        shapes = {"similarity": (3,), "question-answering": (3, 2), "multi-label": (3, 3)}
        of_tokens = spec.kind in ("token-classification", "language-model", "value")
        shape = shapes.get(spec.kind, (3, 9) if of_tokens else (3,))
        numbers = spec.loss in ("binary_cross_entropy", "mse", "l1", "huber", "preference")
        made[name] = torch.arange(torch.Size(shape).numel()).view(shape) % 2
        made[name] = made[name].float() if numbers else made[name]
        made[name][0 if none else 2 :] = float("nan") if numbers else -100
    return made


def test_rows_without_a_label_count_for_nothing(bert):
    model = copy.deepcopy(bert)
    labels = labels_of_every_head(model, none=False)
    labels.pop("multiple_choice")
    short = {name: each[:2] for name, each in labels.items()}
    given = {key: value[:2] for key, value in text().items()}
    whole, part = model(**text(), labels=labels), model(**given, labels=short)
    for name in labels:
        assert torch.allclose(whole.losses[name], part.losses[name], atol=1e-6), name
        assert part.losses[name] > 0 or name == "similarity", name  # of two rows alike, neither has any other


def test_a_batch_of_no_labels_at_all_costs_nothing_and_moves_nothing(bert):
    model = copy.deepcopy(bert).train()
    labels = labels_of_every_head(model, none=True)
    labels.pop("multiple_choice")
    found = model(**text(), labels=labels)
    found.loss.backward()
    assert {name: loss.item() for name, loss in found.losses.items()} == dict.fromkeys(labels, 0.0)
    assert all(bool((each.grad == 0).all()) for each in model.parameters() if each.grad is not None)


def test_the_loss_is_the_weighted_sum():
    heads = {"topic": {**THREE["topic"], "weight": 0.25}, "entities": {**THREE["entities"], "weight": 3.0}}
    model = multi(TEXTS["bert"](), heads)
    labels = {"topic": torch.tensor([0, 1, 2]), "entities": torch.ones(3, 9, dtype=torch.long)}
    found = model(**text(), labels=labels)
    assert torch.allclose(found.loss, 0.25 * found.losses["topic"] + 3 * found.losses["entities"])
    only = model(**text(), labels={"topic": labels["topic"]})
    assert torch.allclose(only.loss, 0.25 * found.losses["topic"]) and set(only.losses) == {"topic"}


def answered(head: Any, rows: int) -> Any:
    """Of a head on BERT: what it answers on some rows, and a function from their labels to its loss."""
    model, given = multi(TEXTS["bert"](), {"head": head}), text(rows)
    return model(**given).logits["head"], lambda labels: model(**given, labels={"head": labels}).losses["head"]


def test_a_reward_prefers_the_higher_of_each_pair():
    logits, loss = answered("reward", 6)
    labels = torch.tensor([0.0, 1.0, 1.0, 0.0, float("nan"), 1.0])
    better, worse = logits[[1, 2], 0], logits[[0, 3], 0]
    expected = -torch.log(torch.sigmoid(better - worse)).mean()
    assert torch.allclose(loss(labels), expected) and torch.allclose(loss(labels[:, None]), expected)
    with pytest.raises(ValueError, match="pairs of rows, and the batch has 3"):
        answered("reward", 3)[1](labels[:3])


def test_a_meaning_is_drawn_to_those_of_its_group():
    """By hand: the mean over rows that have company of -log of the share of those alike."""
    vectors, loss = answered("similarity", 5)
    labels = torch.tensor([0, 0, 1, -100, 0])
    scores = (vectors @ vectors.T / 0.05).exp()
    known, losses = [0, 1, 2, 4], []
    for row in (0, 1, 4):
        total = sum(scores[row, other] for other in known if other != row)
        alike = [other for other in known if other != row and labels[other] == labels[row]]
        losses.append(-torch.stack([(scores[row, other] / total).log() for other in alike]).mean())
    assert torch.allclose(loss(labels), torch.stack(losses).mean(), atol=1e-5)


# Which heads run


def test_in_training_only_heads_with_labels_run(bert):
    model = copy.deepcopy(bert).train()
    found = model(**text(), labels={"sequence_classification": torch.tensor([0, 1, 2])})
    assert set(found.logits) == {"sequence_classification"}
    assert set(model(**text(), heads=["value", "reward"], return_loss=False).logits) == {"value", "reward"}
    found.loss.backward()
    assert all(each.grad is None for each in model.heads.token_classification.parameters())


def test_what_a_caller_gets_wrong_is_said(bert):
    model = copy.deepcopy(bert).train()
    with pytest.raises(ValueError, match="no head 'tone'; there are: sequence_classification, "):
        model(**text(), labels={"tone": torch.zeros(3)})
    with pytest.raises(ValueError, match="no head 'tone'"):
        model(**text(), heads=["tone"])
    with pytest.raises(ValueError, match="a training batch without any label; give labels="):
        model(**text())
    with pytest.raises(ValueError, match=r"labels of type Tensor; give \{HEAD"):
        model(**text(), labels=torch.zeros(3))
    with pytest.raises(ValueError, match=r"'multiple_choice' reads \(rows, choices, tokens\).*input_ids \(3, 9\)"):
        model(**text(), labels={"multiple_choice": torch.zeros(3)})
    with pytest.raises(ValueError, match="'similarity' can't be exported: transformers has no class for a similarity"):
        model.export("similarity")
    with pytest.raises(ValueError, match="no head 'tone'"):
        model.export("tone")
    with pytest.raises(ValueError, match="no head 'tone'"):
        model.freeze("trunk", "tone")
    assert all(parameter.requires_grad for parameter in model.parameters())
    with pytest.raises(ValueError, match="generate: name one head that generates"):
        model.generate(text()["input_ids"])
    own = multi(TEXTS["bert"](), {"score": {"kind": "regression", "pooling": "mean"}})
    with pytest.raises(ValueError, match="a pooling, a depth or a dropout of its own is in no class of transformers"):
        own.export("score")
    with pytest.raises(ValueError, match=r"attention_mask \(3, 1, 9, 9\) for states \(3, 9, 32\)"):
        own(text()["input_ids"], attention_mask=torch.ones(3, 1, 9, 9))
