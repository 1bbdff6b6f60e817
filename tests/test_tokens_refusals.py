"""Tokens that can't be had: one message that says which, what was seen, and what to do; nothing written."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
import transformers
from safetensors.torch import save_file
from token_bases import ROWS, tensors, tokenizer
from transformers import AutoTokenizer

import hf_init
from hf_init import HfInitError
from hf_init.cli import main


@pytest.fixture
def phi(bases):
    return bases("phi with tokens")


@pytest.fixture
def copy(phi, tmp_path):
    """A base of one's own, to be spoilt."""
    shutil.copytree(phi, tmp_path / "base", copy_function=shutil.copyfile)
    return tmp_path / "base"


def test_tokens_that_exist_may_be_skipped_and_are_named(phi):
    plan = hf_init.plan(phi, add_tokens=["abc", "hello"], existing="skip")
    assert plan["lm_head.weight"].shape[0] == ROWS + 1
    assert any("skipped: 'abc'" in note for note in plan.notes)


def test_a_token_that_normalization_changes_into_another_is_refused(minilm, tmp_path):
    with pytest.raises(HfInitError, match=r"never produce '\\u200b': it normalizes"):
        hf_init.plan(minilm, add_tokens=[{"token": "\u200b", "description": "nothing"}])
    with pytest.raises(HfInitError, match=r"'Hello' \(id 7592\): one token of the tokenizer already"):
        hf_init.plan(minilm, add_tokens=["Hello"])
    with pytest.raises(HfInitError, match=r"the description of '<t>' comes to no piece"):
        hf_init.plan(minilm, add_tokens=[{"token": "<t>", "description": "\U0001f9ff"}])


def test_a_folder_without_a_tokenizer_is_refused_but_may_be_padded(copy):
    for path in copy.glob("tokenizer*"):
        path.unlink()
    with pytest.raises(HfInitError, match="has no tokenizer"):
        hf_init.plan(copy, add_tokens=["hello"])
    assert hf_init.plan(copy, pad_to_multiple_of=64)["lm_head.weight"].shape[0] % 64 == 0


def test_a_broken_tokenizer_is_refused(copy):
    (copy / "tokenizer.json").write_text("{")
    with pytest.raises(HfInitError, match="its tokenizer can't be read"):
        hf_init.plan(copy, add_tokens=["hello"])


def test_ids_that_mean_images_and_sounds_are_not_given_to_tokens(copy):
    config = json.loads((copy / "config.json").read_text())
    config["audio_config"] = {"vocab_offset": ROWS}
    (copy / "config.json").write_text(json.dumps(config))
    with pytest.raises(HfInitError, match=rf"ids from {ROWS} on aren't text's.*audio_config.vocab_offset"):
        hf_init.plan(copy, add_tokens=["hello"])


def test_a_tokenizer_without_a_common_token_is_refused(phi, tmp_path):
    made = json.loads(tokenizer().backend_tokenizer.to_str())
    made["model"] = {"type": "WordLevel", "vocab": {"\u4e00": 0, "\u4e8c": 1}, "unk_token": "\u4e00"}
    made["added_tokens"] = []
    backend = type(tokenizer().backend_tokenizer).from_str(json.dumps(made))
    transformers.PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="\u4e00").save_pretrained(tmp_path)
    with pytest.raises(HfInitError, match="no token in common"):
        hf_init.plan(phi, tokenizer=tmp_path)


def test_a_tokenizer_in_python_gets_tokens_and_needs_no_saving(copy, tmp_path, monkeypatch):
    for path in copy.glob("tokenizer*"):
        path.unlink()
    slow = transformers.ByT5Tokenizer()
    slow.save_pretrained(copy)
    rows = max(slow.get_vocab().values()) + 1
    data = {
        name: torch.randn(rows, *tensor.shape[1:]) if tensor.shape[:1] == (ROWS,) else tensor
        for name, tensor in tensors(copy).items()
    }
    save_file(data, copy / "model.safetensors", {"format": "pt"})
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, "vocab_size": rows}))
    hf_init.extend(copy, tmp_path / "a", add_tokens=["hello"])
    hf_init.extend(tmp_path / "a", tmp_path / "b", add_tokens=["hello world"])
    assert AutoTokenizer.from_pretrained(tmp_path / "b").convert_tokens_to_ids("hello world") == rows + 1
    fill = hf_init.Plan.load(tmp_path / "b")["lm_head.weight"].new[0]
    assert len(fill.scheme.pieces[0]) == len("hello world")  # type: ignore[attr-defined]

    monkeypatch.delattr(transformers.ByT5Tokenizer, "save_vocabulary")
    hf_init.extend(copy, tmp_path / "c", add_tokens=["hello"])
    assert AutoTokenizer.from_pretrained(tmp_path / "c").convert_tokens_to_ids("hello") == rows


# Rows that were never trained.


def test_untrained_rows_are_in_the_report_of_a_base_and_of_a_result_and_stay_as_they_are(phi, copy, tmp_path, capsys):
    data = tensors(copy)
    data["lm_head.weight"][[5, 9]] = 1e-9
    data["lm_head.weight"][7] = -data["lm_head.weight"][7].abs()  # no sign of it
    save_file(data, copy / "model.safetensors", {"format": "pt"})
    hf_init.extend(copy, tmp_path / "out", add_tokens=["hello"], guarantee="distribution")
    assert torch.equal(tensors(tmp_path / "out")["lm_head.weight"][:ROWS], data["lm_head.weight"])
    pages = [page(folder, tmp_path / f"{folder.name}.html") for folder in (phi, copy, tmp_path / "out")]
    assert [UNTRAINED in text for text in pages] == [False, True, True]
    assert "guarantee: distribution kept" in pages[2]


@pytest.mark.parametrize("config", [{"text_config": {"vocab_size": ROWS}, "other": {"vocab_size": 3}}, None])
def test_the_number_of_rows_is_found_in_any_config(copy, tmp_path, config):
    data = tensors(copy)
    data["lm_head.weight"][[5, 9]] = 1e-9
    save_file(data, copy / "model.safetensors", {"format": "pt"})
    (copy / "config.json").unlink()
    if config is not None:
        (copy / "config.json").write_text(json.dumps(config))
    assert (UNTRAINED in page(copy, tmp_path / "page.html")) is (config is not None)


UNTRAINED = "lm_head.weight: 2 rows (5, 9) never trained: max |x| 1e-09"


def page(folder, out):
    assert main(["report", str(folder), "-o", str(out)]) == 0
    return out.read_text()


# Files of tokens.


@pytest.mark.parametrize(
    ("name", "text", "tokens", "special"),
    [
        ("t.txt", "one\n two \n\n<x>\r\n", ["one", " two ", "<x>"], []),
        ("t.json", '["one", {"token": "<x>", "special": true}]', ["one", "<x>"], ["<x>"]),
        ("t.json", '{"<x>": "the tab", "y!": null}', ["<x>", "y!"], []),
    ],
)
def test_a_file_of_tokens_is_read(phi, tmp_path, name, text, tokens, special):
    (tmp_path / name).write_text(text, newline="")
    hf_init.extend(phi, tmp_path / "out", add_tokens_file=tmp_path / name)
    added = AutoTokenizer.from_pretrained(tmp_path / "out").added_tokens_decoder
    assert [(str(added[id_]), added[id_].special) for id_ in range(ROWS, ROWS + len(tokens))] == [
        (token, token in special) for token in tokens
    ]


@pytest.mark.parametrize("text", ["{", "7", '"x"', "[]", "{}", None])
def test_a_file_of_no_tokens_is_refused(phi, tmp_path, text):
    if text is not None:
        (tmp_path / "t.json").write_text(text)
    with pytest.raises(HfInitError, match=r"t\.json"):
        hf_init.plan(phi, add_tokens_file=tmp_path / "t.json")
