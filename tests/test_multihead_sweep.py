"""A fixed few of the sweep of heads over every trunk of transformers, and its checks, which must be able to fail."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from multihead_trunks import LABELS, TEXTS, multi, text

SCRIPTS = Path(__file__).parent.parent / "scripts" / "prove"


@pytest.fixture
def sweep(monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPTS))
    import _sweep_heads

    return _sweep_heads


@pytest.mark.slow
def test_a_few_trunks_with_every_kind_of_head():
    """Experts, windows, an encoder-decoder of speech, one that sees, ties by odd names; two towers are refused."""
    command = [sys.executable, str(SCRIPTS / "sweep.py"), "--heads", "--workers", "1"]
    done = subprocess.run(
        [*command, "mixtral", "swin", "whisper", "llava", "ibert", "clip"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    lines = {line.split()[0]: line.split()[1] for line in done.stdout.splitlines() if line.startswith("  ")}
    assert int(lines["passed"]) >= 38 and lines["wrong"] == "0", done.stdout
    assert "clip every kind: CLIPModel gives no last_hidden_state" in done.stdout
    assert "6 types, 6 reached" in done.stdout


def test_it_says_what_is_wrong(sweep, tmp_path):
    model = multi(TEXTS["bert"](), {"topic": {"kind": "sequence-classification", "labels": LABELS}})
    other = copy.deepcopy(model)
    assert sweep._problem(model, other, "topic", text(), tmp_path) == ""
    assert sweep._trained(copy.deepcopy(model), "topic", text()) == ""
    other.heads.topic.classifier.bias.data += 1e-6
    assert "after saving and loading" in sweep._problem(model, other, "topic", text(), tmp_path)
    broken = copy.deepcopy(model)
    broken.heads.topic.classifier.bias.data[0] = float("nan")
    assert sweep._problem(broken, broken, "topic", text(), tmp_path) == "its answer isn't finite"
    assert "aren't finite" in sweep._trained(broken, "topic", text())
    mine = torch.zeros(3, 3)
    assert sweep._exported(model, "topic", text(), mine, tmp_path) == "BertForSequenceClassification answers otherwise"


def test_a_folder_that_is_not_the_models_is_wrong(sweep, tmp_path):
    model = multi(TEXTS["bert"](), {"topic": {"kind": "sequence-classification", "labels": LABELS}})
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["heads"]["more"] = {**config["heads"]["topic"]}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(RuntimeError, match=r"loads with .*heads\.more\.classifier\.weight"):
        sweep._loaded(type(model), tmp_path)
