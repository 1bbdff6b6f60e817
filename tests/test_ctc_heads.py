"""Heads with a row for each token and no table of input rows, as CTC has: rows and biases follow the tokenizer."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoTokenizer, Wav2Vec2Config, Wav2Vec2CTCTokenizer, Wav2Vec2ForCTC

import hf_init
from hf_init import HfInitError

OLD = ["<pad>", "<s>", "</s>", "<unk>", "|", "a", "b", "c"]
NEW = ["|", "<s>", "</s>", "<unk>", "<pad>", "c", "d", "a", "e"]
TINY = {
    "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16,
    "conv_dim": (8, 8), "conv_stride": (5, 2), "conv_kernel": (10, 3), "num_feat_extract_layers": 2,
    "num_conv_pos_embeddings": 4, "num_conv_pos_embedding_groups": 2,
}  # fmt: skip
HEAD = ("lm_head.weight", "lm_head.bias")


def tokenizer_at(folder, tokens):
    folder.mkdir(parents=True)
    (folder / "vocab.json").write_text(json.dumps({token: k for k, token in enumerate(tokens)}))
    Wav2Vec2CTCTokenizer(str(folder / "vocab.json")).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A tiny Wav2Vec2 for CTC over eight tokens, its rows and biases all different."""
    folder = tokenizer_at(tmp_path_factory.mktemp("ctc") / "base", OLD)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Wav2Vec2ForCTC(Wav2Vec2Config(vocab_size=len(OLD), pad_token_id=0, **TINY))
        torch.nn.init.normal_(model.lm_head.weight)
        torch.nn.init.normal_(model.lm_head.bias)
    model.save_pretrained(folder)
    return folder


def test_rows_follow_the_tokens_of_another_tokenizer(base, tmp_path):
    """The blank of CTC is a token like others: it moves with its row, and the config says where it is now."""
    other = tokenizer_at(tmp_path / "other", NEW)
    report = hf_init.extend(base, tmp_path / "out", tokenizer=str(other))
    assert report.ok and hf_init.verify(tmp_path / "out", base=base, recompute=True).ok
    before, after = (load_file(folder / "model.safetensors") for folder in (base, tmp_path / "out"))
    kept = [token for token in NEW if token in OLD]
    for name in HEAD:
        assert len(after[name]) == len(NEW)
        places, origins = [NEW.index(token) for token in kept], [OLD.index(token) for token in kept]
        assert torch.equal(after[name][places].view(torch.int32), before[name][origins].view(torch.int32))
    model, info = Wav2Vec2ForCTC.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not any(info.values())
    assert (model.config.vocab_size, model.config.pad_token_id) == (len(NEW), NEW.index("<pad>"))
    assert AutoTokenizer.from_pretrained(tmp_path / "out").decode([7, 7, 4, 7, 5, 0, 6]) == "aac d"


def test_the_old_logits_are_at_their_tokens_new_places(base, tmp_path):
    other = tokenizer_at(tmp_path / "other", NEW)
    before = Wav2Vec2ForCTC.from_pretrained(base)
    after = hf_init.from_pretrained(Wav2Vec2ForCTC, base, tokenizer=str(other))
    sound = torch.randn(1, 400, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        old, new = before(sound).logits, after(sound).logits
    kept = [token for token in NEW if token in OLD]
    places, origins = [NEW.index(token) for token in kept], [OLD.index(token) for token in kept]
    torch.testing.assert_close(new[..., places], old[..., origins], rtol=0, atol=2e-6)


def test_a_new_character_starts_as_the_one_that_describes_it(base):
    words = {"add_tokens": [{"token": "\u00e1", "description": "a"}]}
    model = hf_init.from_pretrained(Wav2Vec2ForCTC, base, **words)
    tensors = load_file(base / "model.safetensors")
    for name, tensor in zip(HEAD, (model.lm_head.weight, model.lm_head.bias), strict=True):
        assert torch.equal(tensor[:8], tensors[name]) and torch.equal(tensor[8], tensors[name][5])
    assert model.init_tokenizer("a\u00e1b").input_ids == [5, 8, 6]


def test_labels_are_not_its_words(base):
    with pytest.raises(HfInitError, match=r"lm_head\.weight has a row for each token instead.*tokenizer=DIR"):
        hf_init.plan(base, labels=["a", "b"])
