"""Tensors that grow: what was there is there, byte for byte, and what is new is named, in memory and on disk."""

from __future__ import annotations

import pytest
import torch
import transformers
from safetensors.torch import load_file

import hf_init
from hf_init import HfInitError, Recipe, Rule
from hf_init._tensors import Status

LONGER = {"max_position_embeddings": 96}
KEEP = {"*position_embeddings.weight": "leading"}
NAME = "bert.embeddings.position_embeddings.weight"
MATCHED = Recipe([Rule("matched_normal", role="embedding.position")], seed=4)


def test_a_change_of_shape_is_refused_until_it_is_declared(tiny):
    with pytest.raises(HfInitError, match=r"64x32 in the checkpoint, 96x32 asked for.*\n.*--keep 'GLOB=leading'"):
        hf_init.plan(tiny("bert"), transformers.BertForSequenceClassification, **LONGER)


def test_positions_grow(tiny, tmp_path):
    base, out = tiny("bert"), tmp_path / "out"
    cls = transformers.BertForSequenceClassification
    hf_init.extend(base, out, cls, recipe=MATCHED, keep=KEEP, **LONGER)
    assert hf_init.verify(out, recompute=True).ok
    before = load_file(base / "model.safetensors")["embeddings.position_embeddings.weight"]
    after = load_file(out / "model.safetensors")[NAME]
    assert torch.equal(after[:64], before) and after.shape == (96, 32)
    assert abs(float(after[64:].std() / before.std()) - 1) < 0.1
    memory = hf_init.from_pretrained(cls, base, recipe=MATCHED, keep=KEEP, **LONGER)
    assert torch.equal(memory.state_dict()[NAME], after)
    assert memory.init_plan[NAME].status is Status.RESIZED
    assert cls.from_pretrained(out).config.max_position_embeddings == 96


def test_a_tampered_row_on_either_side_is_caught(tiny, tmp_path):
    base, out = tiny("bert"), tmp_path / "out"
    hf_init.extend(base, out, "BertModel", recipe=MATCHED, keep=KEEP, **LONGER)
    entry = hf_init._checkpoint.Checkpoint.open(out).entries["embeddings.position_embeddings.weight"]
    for row, reason in ((5, "kept"), (80, "new")):
        path = out / "model.safetensors"
        data = bytearray(path.read_bytes())
        data[entry.start + row * 32 * 4] ^= 1
        path.write_bytes(data)
        report = hf_init.verify(out)
        assert not report.ok, reason
        assert {difference["name"] for difference in report.differences} == {entry.name}
        data[entry.start + row * 32 * 4] ^= 1
        path.write_bytes(data)
    assert hf_init.verify(out).ok


def test_the_library_s_own_scheme_fills_new_rows_too(tiny):
    cls = transformers.BertForSequenceClassification
    model = hf_init.from_pretrained(cls, tiny("bert"), keep=KEEP, **LONGER)
    rows = model.state_dict()[NAME][64:]
    assert abs(float(rows.std()) / 0.02 - 1) < 0.1


def test_none_makes_the_whole_tensor_new_and_names_what_was_dropped(tiny):
    plan = hf_init.plan(tiny("bert"), "BertModel", keep={"*position_embeddings*": "none"}, **LONGER)
    assert plan["embeddings.position_embeddings.weight"].status is Status.NEW
    assert [unused.name for unused in plan.unused] == ["embeddings.position_embeddings.weight"]


def test_more_experts_keep_the_old_ones(tiny, tmp_path):
    """Disk holds an expert a tensor, memory one tensor for all: the old experts are kept, the new ones are new."""
    base, out = tiny("mixtral"), tmp_path / "out"
    keep = {"*.gate.weight": "leading"}
    cls = transformers.MixtralForCausalLM
    hf_init.extend(base, out, cls, keep=keep, config={"num_local_experts": 6}, seed=2)
    plan = hf_init.Plan.load(out)
    new = {tensor.name for tensor in plan.tensors if tensor.status is Status.NEW}
    assert {name.split("experts.")[1].split(".")[0] for name in new} == {"4", "5"}
    memory = hf_init.from_pretrained(cls, base, keep=keep, num_local_experts=6, seed=2)
    plain = cls.from_pretrained(out)
    for name, tensor in plain.state_dict().items():
        assert torch.equal(tensor, memory.state_dict()[name]), name
    old = cls.from_pretrained(base).state_dict()
    fused = "model.layers.0.mlp.experts.gate_up_proj"
    assert torch.equal(plain.state_dict()[fused][:4], old[fused])
    assert hf_init.verify(out, recompute=True).ok


# What a correspondence may say.

LABELS = Recipe([Rule("zeros", name="classifier.*")])


@pytest.fixture(scope="module")
def three(tiny, tmp_path_factory):
    """A checkpoint with a head for three labels."""
    out = tmp_path_factory.mktemp("three") / "out"
    hf_init.extend(tiny("bert"), out, "BertForSequenceClassification", num_labels=3, seed=8)
    return out


def head(folder):
    tensors = load_file(folder / "model.safetensors")
    return tensors["classifier.weight"], tensors["classifier.bias"]


@pytest.mark.parametrize(
    ("rows", "drop"),
    [([2, 0, None, 1, None], False), ([1, 1, 0, 2], False), ([None, 2], True), ([0, 1, 2, None], False)],
)
def test_an_index_map_moves_rows(three, tmp_path, rows, drop):
    keep = {"classifier.*": {"index": rows, "drop": drop}}
    out = tmp_path / "out"
    hf_init.extend(three, out, keep=keep, num_labels=len(rows), recipe=LABELS if None in rows else None)
    before, after = head(three), head(out)
    for old, new in zip(before, after, strict=True):
        for row, at in enumerate(rows):
            assert torch.equal(new[row], torch.zeros_like(new[row]) if at is None else old[at])
    assert hf_init.verify(out, recompute=True).ok
    cls = transformers.BertForSequenceClassification
    memory = hf_init.from_pretrained(
        cls, three, keep=keep, num_labels=len(rows), recipe=LABELS if None in rows else None
    )
    assert torch.equal(memory.classifier.weight, after[0])


def test_boxes_say_it_one_by_one(three, tmp_path):
    """The intermediate layer of one block grows by half, around the middle."""
    grown = {"intermediate_size": 96}
    out_boxes = [([[0, 32], [0, 32]], [[0, 32], [0, 32]]), ([[64, 96], [0, 32]], [[32, 64], [0, 32]])]
    in_boxes = [([[0, 32], [0, 32]], [[0, 32], [0, 32]]), ([[0, 32], [64, 96]], [[0, 32], [32, 64]])]
    keep = {
        "*intermediate.dense.weight": {"boxes": out_boxes},
        "*intermediate.dense.bias": [*range(32), *[None] * 32, *range(32, 64)],
        "*layer.?.output.dense.weight": {"boxes": in_boxes},
    }
    out = tmp_path / "out"
    hf_init.extend(three, out, keep=keep, config=grown)
    before, after = (load_file(folder / "model.safetensors") for folder in (three, out))
    name = "bert.encoder.layer.1.intermediate.dense.weight"
    assert torch.equal(after[name][64:], before[name][32:]) and torch.equal(after[name][:32], before[name][:32])
    name = "bert.encoder.layer.1.output.dense.weight"
    assert torch.equal(after[name][:, 64:], before[name][:, 32:])
    assert hf_init.verify(out, recompute=True).ok


@pytest.mark.parametrize(
    ("keep", "message"),
    [
        ([0, 1], "the map has 2 rows, the target 4"),
        ([0, 1, 2, 5], r"reads rows \[5\], the source has rows 0 to 2"),
        ([0, 1, None, None], "source rows 2 would have no place: place them, or say drop"),
        ({"index": [0, 1, 2, None], "dim": 1}, "don't fit into 4x32"),
        ({"boxes": [([[0, 3], [0, 32]], [[0, 2], [0, 32]])]}, "a box of 2x32 doesn't fit into one of 3x32"),
        ({"boxes": [([[0, 5], [0, 32]], [[0, 5], [0, 32]])]}, r"\[0:5, 0:32\] lies outside the target, 4x32"),
        ({"boxes": [([[0, 2], [0, 32]], [[0, 2], [0, 32]])]}, "32 source elements would have no place"),
        (
            {"boxes": [([[0, 2], [0, 32]], [[0, 2], [0, 32]]), ([[1, 3], [0, 32]], [[1, 3], [0, 32]])]},
            "boxes of the target overlap",
        ),
        ("tail", "unknown correspondence for 'classifier.weight': 'tail'"),
        ([0, -1, 2, None], "unknown correspondence"),
        ([0, True, 2, None], "unknown correspondence"),
        ({"rows": [0]}, "unknown correspondence"),
        (7, "unknown correspondence"),
    ],
)
def test_a_map_that_overlaps_or_loses_or_reads_outside_is_refused(three, keep, message):
    with pytest.raises(HfInitError, match=message):
        hf_init.plan(three, num_labels=4, keep={"classifier.weight": keep, "classifier.bias": "leading"})


def test_none_makes_a_head_new_though_its_shape_is_the_same(three):
    plan = hf_init.plan(three, num_labels=3, keep={"classifier.*": "none"})
    assert {plan[name].status for name in ("classifier.weight", "classifier.bias")} == {Status.NEW}
    assert {unused.name for unused in plan.unused} == {"classifier.weight", "classifier.bias"}
