"""Rows of several tasks become one batch, by the collator of a model of several heads."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from multihead_heads import bert as bert
from multihead_trunks import LABELS, PICTURES, SOUNDS, multi

# Rows to batches


class Tokenizer:
    """The part of a tokenizer that a collator asks for."""

    def __init__(self, side: str = "right") -> None:
        self.padding_side = side

    def pad(self, rows: Any, return_tensors: str) -> dict[str, torch.Tensor]:
        long = max(len(row["input_ids"]) for row in rows)
        found = {}
        for key in rows[0]:
            spare = [[0] * (long - len(row[key])) for row in rows]
            left = self.padding_side == "left"
            found[key] = torch.tensor(
                [pad + list(row[key]) if left else list(row[key]) + pad for row, pad in zip(rows, spare, strict=True)]
            )
        return found


def _row(*ids: int, **labels: Any) -> dict[str, Any]:
    return {"input_ids": list(ids), "attention_mask": [1] * len(ids), "labels": labels}


@pytest.mark.parametrize("side", ["right", "left"])
def test_rows_of_several_tasks_make_a_batch(bert, side):
    rows = [
        _row(5, 6, 7, 8, sequence_classification=1, question_answering=[1, 2]),
        _row(9, 10, token_classification=[2, 1], regression=0.5),
        _row(11, 12, 13, multi_label=[1, 0, 1], question_answering=[0, 1], token_classification=None),
    ]
    batch = bert.collator(Tokenizer(side))(rows)
    found, left, nan = batch["labels"], side == "left", float("nan")
    assert batch["input_ids"].shape == (3, 4)
    assert found["sequence_classification"].tolist() == [1, -100, -100]
    assert found["question_answering"].tolist() == [[1, 2], [-100, -100], [1, 2] if left else [0, 1]]
    middle = [-100, -100, 2, 1] if left else [2, 1, -100, -100]
    assert found["token_classification"].tolist() == [[-100] * 4, middle, [-100] * 4]
    assert torch.equal(found["regression"].nan_to_num(7), torch.tensor([7, 0.5, 7]))
    assert torch.equal(
        found["multi_label"].nan_to_num(7), torch.tensor([[nan] * 3, [nan] * 3, [1.0, 0, 1]]).nan_to_num(7)
    )
    mixed = copy.deepcopy(bert).train()(**batch)
    assert set(mixed.losses) == set(found) and mixed.loss.isfinite()


def test_a_mixed_batch_costs_what_its_rows_cost(bert):
    """Each head's loss is that of the rows that have its label, alone and without padding."""
    rows = [_row(5, 6, 7, 8, sequence_classification=1), _row(9, 10, 4, token_classification=[2, 1, 0])]
    collate = bert.collator(Tokenizer())
    mixed = bert(**collate(rows)).losses
    for row, name in zip(rows, ("sequence_classification", "token_classification"), strict=True):
        assert torch.allclose(mixed[name], bert(**collate([row])).losses[name], atol=1e-6)


def test_rows_of_choices_stay_rows_for_a_multiple_choice(bert):
    two = {"input_ids": [[5, 6], [7, 8, 9]], "attention_mask": [[1, 1], [1, 1, 1]]}
    batch = bert.collator(Tokenizer())([{**two, "labels": {"multiple_choice": 1}}, two])
    assert batch["input_ids"].tolist() == [[[5, 6, 0], [7, 8, 9]]] * 2
    assert batch["labels"]["multiple_choice"].tolist() == [1, -100]
    assert bert(**batch).loss.isfinite()
    assert bert.collator(Tokenizer())([two])["input_ids"].shape == (1, 2, 3)


def test_a_rewards_pairs_stay_together(bert):
    two = {"input_ids": [[5, 6], [7, 8, 9]], "attention_mask": [[1, 1], [1, 1, 1]]}
    rows = [_row(4, 5, sequence_classification=2), {**two, "labels": {"reward": [1.0, 0.0]}}]
    batch = bert.collator(Tokenizer())(rows)
    assert batch["input_ids"].tolist() == [[5, 6, 0], [7, 8, 9], [4, 5, 0]]
    assert batch["labels"]["reward"][:2].tolist() == [1, 0] and batch["labels"]["reward"][2].isnan()
    assert batch["labels"]["sequence_classification"].tolist() == [-100, -100, 2]
    scores = bert(**batch).logits["reward"].flatten()
    expected = -torch.nn.functional.logsigmoid(scores[0] - scores[1])
    assert torch.allclose(bert(**batch).losses["reward"], expected)


def test_rows_that_make_no_batch_are_refused(bert):
    collate = bert.collator(Tokenizer())
    with pytest.raises(ValueError, match="labels for no head: 'tone'; there are: sequence_classification"):
        collate([_row(1, tone=1)])
    with pytest.raises(ValueError, match="'token_classification': 3 labels for 2 tokens"):
        collate([_row(1, 2, token_classification=[0, 1, 2])])
    two = {"input_ids": [[5], [7]], "attention_mask": [[1], [1]]}
    with pytest.raises(ValueError, match="a row of 2 choices needs a label for each of head 'reward'"):
        collate([{**two, "labels": {"reward": 1.0}}])


def test_pictures_and_sounds_make_batches():
    from transformers import Wav2Vec2FeatureExtractor

    model = multi(PICTURES["vit"](), {"parts": {"kind": "per-patch", "labels": LABELS}})
    row = {"pixel_values": torch.zeros(3, 16, 16), "labels": {"parts": [1] * 16}}
    batch = model.collator(None)([row, {"pixel_values": torch.ones(3, 16, 16)}])
    assert batch["labels"]["parts"].shape == (2, 16) and model(**batch).loss.isfinite()
    model = multi(SOUNDS["wav2vec2"](), {"x": {"kind": "audio-classification", "labels": LABELS}})
    extractor = Wav2Vec2FeatureExtractor(return_attention_mask=True)
    rows = [{"input_values": [0.1] * 300, "labels": {"x": 1}}, {"input_values": [0.2] * 400, "labels": {"x": 2}}]
    batch = model.collator(extractor)(rows)
    assert batch["input_values"].shape == (2, 400) and model(**batch).loss.isfinite()
