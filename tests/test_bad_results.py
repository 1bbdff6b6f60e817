"""What can't be proved or compared: one clear message, exit 2, nothing written."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from refusals import HEAD, refusal

import hf_init

MANIFEST = "hf_init.json"


@pytest.fixture
def out(tiny, tmp_path) -> Path:
    """A result that a test may spoil, with its base beside it."""
    shutil.copytree(tiny("bert"), tmp_path / "base")
    hf_init.extend(tmp_path / "base", tmp_path / "out", HEAD[1], recipe={"default": "normal(std=0.02)"})
    return tmp_path / "out"


@pytest.fixture
def refused(tmp_path, capsys) -> Callable[..., str]:
    return lambda *argv: refusal(tmp_path, capsys, *argv)


def edit(out: Path, change: Callable[[dict[str, Any]], object]) -> None:
    manifest = json.loads((out / MANIFEST).read_text())
    change(manifest)
    (out / MANIFEST).write_text(json.dumps(manifest))


def test_no_such_result(refused, tmp_path):
    assert f"{tmp_path / 'none'} has no {MANIFEST}" in refused("verify", tmp_path / "none")


def test_a_folder_that_is_no_result(refused, out, tmp_path):
    message = refused("verify", tmp_path / "base")
    assert f"has no {MANIFEST}" in message and "`hf-init diff`" in message


@pytest.mark.parametrize("text", ["", "{", "[]", "{}"])
def test_a_manifest_that_is_none(refused, out, text):
    (out / MANIFEST).write_text(text)
    assert str(out / MANIFEST) in refused("verify", out)


def test_a_manifest_of_a_later_version(refused, out):
    edit(out, lambda manifest: manifest.update(version=99))
    assert "99" in refused("verify", out)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda plan: plan.pop("seed"), "plan.seed is None, expected a whole number"),
        (lambda plan: plan["tensors"][0].update(geometry=3), "geometry is 3, expected"),
        (lambda plan: plan["tensors"][0].update(geometry={}), "geometry is {}, expected fan_in"),
        (lambda plan: new(plan)[0]["scheme"].update(name="nosuch"), "unknown scheme 'nosuch'"),
        (lambda plan: new(plan)[0]["scheme"].update(std=-1), "std is -1"),
    ],
)
def test_an_edited_plan_is_not_recomputed(refused, out, change, words):
    edit(out, lambda manifest: change(manifest["plan"]))
    assert words in refused("verify", out, "--recompute")


def new(plan: dict[str, Any]) -> list[dict[str, Any]]:
    return next(tensor["new"] for tensor in plan["tensors"] if tensor["status"] == "new")


def test_a_base_that_has_moved(refused, out, tmp_path):
    (tmp_path / "base").rename(tmp_path / "moved")
    message = refused("verify", out)
    assert str(tmp_path / "base") in message and "--base FOLDER" in message
    assert hf_init.verify(out, base=tmp_path / "moved").ok


@pytest.mark.parametrize("recompute", [(), ("--recompute",)])
def test_a_base_that_is_none(refused, out, tmp_path, recompute):
    assert f"{tmp_path / 'none'} is not a folder" in refused("verify", out, "--base", tmp_path / "none", *recompute)


@pytest.mark.parametrize("side", [0, 1])
def test_what_can_not_be_compared(refused, out, tmp_path, side):
    sides = [out, tmp_path / "none"]
    assert f"{tmp_path / 'none'} is not a folder" in refused("diff", sides[side], sides[1 - side])


def test_a_truncated_result(refused, out):
    path = out / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-10])
    assert f"{path} is truncated" in refused("verify", out) and f"{path} is truncated" in refused("diff", out, out)


def test_a_plan_that_names_a_tensor_the_model_lacks_is_not_recomputed(refused, tiny, tmp_path):
    out = tmp_path / "out"
    hf_init.extend(tiny("bert"), out, "BertForSequenceClassification", num_labels=3)
    manifest = json.loads((out / "hf_init.json").read_text())
    entry = next(tensor for tensor in manifest["plan"]["tensors"] if tensor["name"] == "classifier.weight")
    entry["parameter"] = "classifier.wait"
    (out / "hf_init.json").write_text(json.dumps(manifest))
    assert "no tensor 'classifier.wait'" in refused("verify", out, "--recompute")
