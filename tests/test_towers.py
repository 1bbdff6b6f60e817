"""One model from two checkpoints: pretrained towers, a new projector between them, both proved."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import (
    CLIPVisionConfig,
    CLIPVisionModel,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaModel,
    LlavaConfig,
    LlavaForConditionalGeneration,
)

import hf_init
from hf_init._checkpoint.checkpoint import Checkpoint

VISION = dict(
    hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, image_size=16, patch_size=8
)
TEXT = dict(
    vocab_size=96, hidden_size=48, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, max_position_embeddings=64,
)  # fmt: skip


@pytest.fixture(scope="module")
def towers(tmp_path_factory) -> dict[str, Path]:
    """Prefixes of LLaVA's names on disk, and the checkpoints that belong there."""
    root = tmp_path_factory.mktemp("towers")
    torch.manual_seed(7)
    CLIPVisionModel(CLIPVisionConfig(**VISION)).save_pretrained(root / "vision")
    LlamaForCausalLM(LlamaConfig(**TEXT)).save_pretrained(root / "text")
    (root / "text" / "tokenizer_note.txt").write_text("the text tower's own")
    (root / "vision" / "preprocessor_config.json").write_text("{}")
    return {"vision_tower.": root / "vision", "language_model.": root / "text"}


def config() -> LlavaConfig:
    return LlavaConfig(vision_config=CLIPVisionConfig(**VISION), text_config=LlamaConfig(**TEXT), image_token_index=95)


def test_the_projector_is_new_and_both_towers_are_kept(towers, tmp_path):
    out = tmp_path / "out"
    words = {
        "config": config(),
        "recipe": {"default": "error", "rules": [{"name": "*projector*", "scheme": "normal(std=0.02)"}]},
    }
    report = hf_init.extend(towers, out, LlavaForConditionalGeneration, digest=True, **words)
    assert report.ok
    plan = hf_init.Plan.load(out)
    assert {t.name for t in plan.tensors if t.new} == {t.name for t in plan.tensors if "projector" in t.name}
    held = {prefix + name: part.raw(name).tobytes() for prefix, part in opened(towers) for name in part.entries}
    result = Checkpoint.open(out)
    kept = {copy.source: tensor.name for tensor in plan.tensors for copy in tensor.kept}
    assert kept.keys() | {unused.name for unused in plan.unused} == held.keys()
    assert all(result.raw(name).tobytes() == held[source] for source, name in kept.items())

    model, info = LlavaForConditionalGeneration.from_pretrained(out, output_loading_info=True)
    assert not any(info.values())
    memory = hf_init.from_pretrained(LlavaForConditionalGeneration, towers, **words)
    mine, theirs = memory.state_dict(), model.state_dict()
    assert mine.keys() == theirs.keys() and all(torch.equal(mine[name], theirs[name]) for name in mine)


def opened(towers):
    return [(prefix, Checkpoint.open(folder)) for prefix, folder in towers.items()]


def test_the_small_files_of_both_come_along(towers, tmp_path):
    hf_init.extend(towers, tmp_path / "out", LlavaForConditionalGeneration, config=config())
    assert (tmp_path / "out" / "tokenizer_note.txt").is_file()
    assert (tmp_path / "out" / "preprocessor_config.json").is_file()


def test_it_is_proved_again_from_the_manifest_and_a_flipped_bit_is_found(towers, tmp_path):
    out = tmp_path / "out"
    hf_init.extend(towers, out, LlavaForConditionalGeneration, config=config(), digest=True)
    assert hf_init.verify(out).ok and hf_init.verify(out, towers).ok and hf_init.verify(out, recompute=True).ok
    assert hf_init.verify(out, False).ok
    result = Checkpoint.open(out)
    entry = next(entry for name, entry in result.entries.items() if "language_model" in name and "q_proj" in name)
    data = bytearray((out / entry.shard).read_bytes())
    data[entry.start] ^= 1
    (out / entry.shard).write_bytes(data)
    for base in (None, False):
        (difference,) = hf_init.verify(out, base).differences
        assert difference["name"] == entry.name


def test_a_tower_that_moved_is_named(towers, tmp_path):
    moved = {prefix: folder.rename(tmp_path / folder.name) for prefix, folder in towers.items()}
    try:
        hf_init.extend(moved, tmp_path / "out", LlavaForConditionalGeneration, config=config())
    finally:
        for prefix, folder in towers.items():
            moved[prefix].rename(folder)
    with pytest.raises(hf_init.HfInitError, match=r"vision, .*text, is not there"):
        hf_init.verify(tmp_path / "out")
    assert hf_init.verify(tmp_path / "out", towers).ok


def test_two_checkpoints_that_claim_one_tensor_are_refused(towers, tmp_path):
    LlamaModel(LlamaConfig(**TEXT)).save_pretrained(tmp_path / "other")
    twice = {**towers, "model.language_model.": tmp_path / "other"}
    with pytest.raises(hf_init.HfInitError, match=r"claimed by two checkpoints.*language_model.* of .*other"):
        hf_init.plan(twice, LlavaForConditionalGeneration, config=config())


def test_one_name_in_two_checkpoints_is_refused(towers):
    part = Checkpoint.open(towers["vision_tower."])
    first, entry = next(iter(part.entries.items()))
    shorter = Checkpoint(part.root, part.headers, {first[2:]: replace(entry, name=first[2:], stored=first)})
    with pytest.raises(hf_init.HfInitError, match=f"{re.escape(first)}.*\n.*prefix of its own"):
        Checkpoint.merged({"": part, first[:2]: shorter})


@pytest.mark.parametrize("given", [None, {"text_config": {}}])
def test_several_checkpoints_need_the_config_of_the_whole(towers, given):
    with pytest.raises(hf_init.HfInitError, match="needs the config of the whole as an object"):
        hf_init.plan(towers, LlavaForConditionalGeneration, config=given)


def test_out_must_not_lie_in_any_of_them(towers):
    inside = towers["language_model."] / "out"
    with pytest.raises(hf_init.HfInitError, match="lies inside the base"):
        hf_init.extend(towers, inside, LlavaForConditionalGeneration, config=config())
    assert not inside.exists()
