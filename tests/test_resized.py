"""Tensors that grow: what was there is there, byte for byte, and what is new is named, in memory and on disk."""

from __future__ import annotations

import pytest
import torch
import transformers
from safetensors.torch import load_file

import hf_init
from hf_init import HfInitError, Recipe, Rule
from hf_init._spec import Status

LONGER = {"max_position_embeddings": 96}
KEEP = {"*position_embeddings.weight": "leading"}
NAME = "bert.embeddings.position_embeddings.weight"
MATCHED = Recipe([Rule("matched_normal", role="embedding.position")], seed=4)


def test_a_change_of_shape_is_refused_until_it_is_declared(tiny):
    with pytest.raises(HfInitError, match=r"64x32 in the checkpoint, 96x32 asked for.*\n.*--map 'GLOB=leading'"):
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
    hf_init.extend(base, out, cls, keep=keep, num_local_experts=6, seed=2)
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
