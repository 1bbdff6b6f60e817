"""The folder of a PEFT adapter: the base is proved, and the adapter's own full tensors are compared."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import hf_init
from hf_init import HfInitError, drift

# --- a PEFT adapter's folder, its files as peft 0.21 writes them: the base is proved, what it carries compared ---


PREFIX = "base_model.model."


@pytest.fixture
def extended(tiny, tmp_path: Path) -> Path:
    hf_init.extend(tiny("bert"), tmp_path / "extended", "BertForSequenceClassification", labels=["a", "b"])
    return tmp_path / "extended"


def adapter(folder: Path, base: Path, tensors: dict[str, np.ndarray], **config: object) -> Path:
    folder.mkdir()
    said = {"peft_type": "LORA", "base_model_name_or_path": str(base), **config}
    (folder / "adapter_config.json").write_text(json.dumps(said))
    save_file({f"{PREFIX}{name}": value for name, value in tensors.items()}, folder / "adapter_model.safetensors")
    return folder


def lora() -> dict[str, np.ndarray]:
    name = "bert.encoder.layer.0.attention.self.query"
    return {f"{name}.lora_A.weight": np.ones((2, 32), "float32"), f"{name}.lora_B.weight": np.ones((32, 2), "float32")}


def head(base: Path, add: float) -> dict[str, np.ndarray]:
    tensors = load_file(base / "model.safetensors")
    return {name: tensors[name] + np.float32(add) for name in ("classifier.weight", "classifier.bias")}


def test_the_base_is_proved_and_the_carried_head_compared(extended, tmp_path):
    folder = adapter(tmp_path / "adapter", extended, lora() | head(extended, 0.5), modules_to_save=["classifier"])
    report = drift(None, folder, frozen="kept")
    assert report.ok
    assert report.proof is not None
    assert {t.name: (t.status, t.origin) for t in report.tensors} == {
        "classifier.weight": ("new", "new"),
        "classifier.bias": ("new", "new"),
    }
    assert report.tensors[0].change.largest == pytest.approx(0.5)
    text = str(report)
    for words in (
        "the base isn't in it",
        "2 tensors of the adapter's own",
        "modules_to_save=['classifier']",
        "proved: ",
    ):
        assert words in text
    assert not report.warnings


def test_a_base_that_changed_fails(extended, tmp_path):
    folder = adapter(tmp_path / "adapter", extended, lora() | head(extended, 0.5))
    file = extended / "model.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    report = drift(None, folder, frozen="kept")
    assert not report.ok and not report
    assert report.to_json()["base_proof"]["ok"] is False and "1 difference: " in str(report)
    assert report.plan == str(extended / "hf_init.json")
    with pytest.raises(HfInitError, match="1 difference"):
        report.raise_if_failed()


def test_a_new_head_that_the_adapter_leaves_out_or_never_moved_is_a_warning(extended, tmp_path):
    without = drift(None, adapter(tmp_path / "without", extended, lora()), frozen="kept")
    assert "the adapter doesn't carry it: classifier" in without.warnings[0]
    still = drift(None, adapter(tmp_path / "still", extended, lora() | head(extended, 0.0)), frozen="kept")
    assert [warning for warning in still.warnings if "still as it was made" in warning]
    assert {t.status for t in still.tensors} == {"untrained"}


def test_trainable_tokens_are_compared_row_by_row(tiny, tmp_path):
    base = tiny("llama")
    rows = load_file(base / "model.safetensors")["model.embed_tokens.weight"][[7, 90]].copy()
    rows[1] += 1
    name = "model.embed_tokens.token_adapter.trainable_tokens_delta"
    folder = adapter(tmp_path / "a", base, {name: rows}, trainable_token_indices={"embed_tokens": [7, 90]})
    (tensor,) = drift(None, folder).tensors
    assert (tensor.name, tensor.portion, tensor.change.rows) == ("model.embed_tokens.weight", "2 rows", 1)
    assert tensor.change.first["index"] == [1, 0]
    assert SimpleNamespace(**tensor.to_json()).status == "trained"


def test_what_cannot_be_proved_is_refused_in_words(tiny, extended, tmp_path):
    plain = adapter(tmp_path / "plain", tiny("bert"), lora())
    assert any("isn't known" in note for note in drift(None, plain).notes)
    with pytest.raises(HfInitError, match=r"has no hf_init\.json that says what it should be"):
        drift(None, plain, frozen="kept")
    lost = adapter(tmp_path / "lost", tmp_path / "nowhere", lora())
    with pytest.raises(HfInitError, match="which its config names, is not a folder here"):
        drift(None, lost)
    assert drift(extended, lost).proof is not None
    (lost / "adapter_model.safetensors").unlink()
    with pytest.raises(HfInitError, match=r"no adapter_model\.safetensors"):
        drift(extended, lost)
