"""What looks at the rows of the laws must be able to see: a changed bit, file, state, warning."""

from __future__ import annotations

import os
import random

import numpy as np
import pytest
import torch
import transformers
from change import Along
from results import Expected, flipped, stored, tensors
from watched import heard, seeded, world

# What looks must be able to see.


def test_the_bits_of_equal_numbers_can_differ():
    zeros = torch.zeros(2)
    assert stored(zeros) == stored(zeros.clone()) != stored(-zeros)
    assert stored(zeros) != stored(zeros.bfloat16()) and stored(zeros) != stored(zeros[:1])
    assert stored(torch.tensor([1.5, -2.0], dtype=torch.bfloat16)).number(1) == -2.0


def test_a_flipped_bit_is_one_bit(bases, tmp_path):
    before, after = (
        tensors(bases("sentiment")),
        tensors(flipped(bases("sentiment"), tmp_path / "out", "classifier.bias", 1)),
    )
    assert {name for name in before if before[name] != after[name]} == {"classifier.bias"}
    assert (before["classifier.bias"].bits ^ after["classifier.bias"].bits).tolist() == [0, 1, 0]


@pytest.mark.parametrize(
    ("what", "change"),
    [
        ("python's random state", lambda *_: random.random()),
        ("numpy's random state", lambda *_: np.random.rand()),
        ("torch's random state", lambda *_: torch.rand(1)),
        ("torch's functions", lambda *_: setattr(torch.nn.init, "zeros_", torch.nn.init.ones_)),
        ("options", lambda options, _: options["labels"].append("c")),
        ("options", lambda options, _: setattr(options["config"], "hidden_size", 8)),
        ("files", lambda _, folder: os.utime(folder / "NOTES.md")),
        ("files", lambda _, folder: (folder / "more").touch()),
    ],
)
def test_the_caller_s_world_shows_every_change(tmp_path, monkeypatch, what, change):
    monkeypatch.setattr(torch.nn.init, "zeros_", torch.nn.init.zeros_)
    (tmp_path / "NOTES.md").touch()
    options = {"labels": ["a", "b"], "config": transformers.BertConfig()}
    with seeded(5):
        before = world({"": tmp_path}, options)
        change(options, tmp_path)
        after = world({"": tmp_path}, options)
    assert [key for key in before if before[key] != after[key]] == [what]


def test_the_library_is_heard(bases):
    with heard() as said:
        transformers.BertForQuestionAnswering.from_pretrained(bases("bert"))
    assert "qa_outputs" in "".join(said)


def test_what_is_expected_has_the_words_of_plans():
    source = stored(torch.arange(6.0).reshape(3, 2))
    whole, moved = Expected(source.places, source), Expected(Along([2, None, 0])(source.places), source)
    assert [Expected(source.places * 0 - 1).status, whole.status, moved.status] == ["new", "kept", "resized"]
    assert moved.origins.tolist() == [[4, 5], [-1, -1], [0, 1]]
    assert Along([1, None], (0, 1))(np.arange(4).reshape(2, 2)).tolist() == [[3, -1], [-1, -1]]
