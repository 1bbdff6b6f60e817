"""A fixed tenth of the sweep over every model type of transformers, and its own helpers, which must be able to fail."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

import hf_init

SCRIPTS = Path(__file__).parent.parent / "scripts" / "prove"


@pytest.fixture
def scripts(monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPTS))


@pytest.mark.slow
def test_a_tenth_of_all_types(tmp_path):
    """None is wrong, and who does what a refusal says passes: in this tenth, all."""
    results = tmp_path / "results.jsonl"
    command = [sys.executable, str(SCRIPTS / "sweep.py"), "--part", "10", "--results", str(results)]
    done = subprocess.run(command, capture_output=True, text=True)
    entries = [json.loads(line) for line in results.read_text().splitlines()]
    counts = Counter(pair["result"] for entry in entries for pair in entry["pairs"])
    assert done.returncode == 0 and counts["wrong"] == 0, done.stdout + done.stderr[-2000:]
    assert counts["refused"] == 0 and counts["passed"] >= 80, done.stdout
    assert sum(not entry["unreachable"] for entry in entries) >= 0.85 * len(entries) >= 40, done.stdout


def test_it_goes_on_where_its_results_end_and_ends_with_1_if_anything_is_wrong(scripts, tmp_path, capsys):
    import sweep

    results = tmp_path / "results.jsonl"
    pair = {"head": "BertModel", "result": "wrong", "why": "one bit", "plain": "right", "plain_why": "", "again": ""}
    entry = {"type": "bert", "base": "", "unreachable": "", "seconds": 1.0, "parameters": 1, "pairs": [pair]}
    for name in _classes():
        sweep.append(results, {**entry, "type": name, "pairs": [pair] if name == "bert" else []})
    assert sweep.main(["--results", str(results)]) == 1
    shown = capsys.readouterr().out
    assert "wrong            1" in shown and "bert BertModel: one bit" in shown


def _classes():
    from _sweep_pairs import classes

    return classes()


def test_parts_are_fixed_and_cover_everything(scripts):
    import sweep

    assert [name for name in ("bert", "gpt2", "llama", "t5") if sweep.in_part(name, 1)] == [
        "bert",
        "gpt2",
        "llama",
        "t5",
    ]
    names = list(_classes())
    assert 0.05 < sum(sweep.in_part(name, 10) for name in names) / len(names) < 0.15


def test_shrinking_keeps_ratios_and_drops_tokens_into_range(scripts):
    from _sweep_shrink import Choice, shrunk

    config = transformers.Qwen2VLConfig().to_dict()
    small = shrunk(config, Choice())
    before, after = config["text_config"], small["text_config"]
    assert after["hidden_size"] * before["intermediate_size"] == before["hidden_size"] * after["intermediate_size"]
    assert after["num_attention_heads"] == before["num_attention_heads"]
    assert len(after["layer_types"]) == after["num_hidden_layers"] == 2
    tokens = [small[name] for name in ("image_token_id", "video_token_id", "vision_start_token_id")]
    assert len(set(tokens)) == 3 and all(0 <= token < after["vocab_size"] for token in tokens)


def test_a_type_that_no_numbers_serve_is_unreachable(scripts):
    from _sweep_shrink import Unreachable, tiny_config

    class Never(transformers.BertModel):
        def __init__(self, config):
            raise ValueError("not these numbers")

    with pytest.raises(Unreachable, match="not these numbers"):
        tiny_config("bert", [Never])


@pytest.fixture
def extended(scripts, tiny, tmp_path):
    """A base, a result, and the model in memory."""
    cls = transformers.BertForTokenClassification
    hf_init.extend(tiny("bert"), tmp_path / "out", cls, drop=["pooler.*"])
    return cls, tiny("bert"), tmp_path / "out", hf_init.from_pretrained(cls, tiny("bert"), drop=["pooler.*"])


@pytest.mark.parametrize(
    ("name", "says"),
    [("bert.embeddings.LayerNorm.weight", "isn't embeddings.LayerNorm.weight of the source"), ("classifier.bias", "")],
)
def test_the_check_finds_one_flipped_bit(extended, name, says):
    from _sweep_pairs import check

    assert list(check(*extended)) == []
    path = extended[2] / "model.safetensors"
    tensors = load_file(path)
    tensors[name].view(torch.int32)[1] ^= 1
    path.unlink()
    save_file(tensors, path, metadata={"format": "pt"})
    problems = list(check(*extended))
    assert any(says in problem and name in problem for problem in problems)
    assert "verify fails" in problems


def test_the_check_finds_a_changed_model_and_a_changed_buffer(extended):
    from _sweep_pairs import check

    model = extended[3]
    with torch.no_grad():
        model.classifier.weight[0, 0] += 1
        model.bert.embeddings.position_ids[0, 0] += 1
    problems = list(check(*extended))
    assert "classifier.weight differs in memory and in the result" in problems
    assert "buffer bert.embeddings.position_ids isn't what a freshly built model holds" in problems


def test_poison_is_recognised(scripts):
    from _sweep_pairs import poisoned, same_bytes

    assert poisoned(torch.tensor([0.0, float("nan")])) and poisoned(torch.tensor([2**63 - 1]))
    assert not poisoned(torch.tensor([0.0, float("inf")])) and not poisoned(torch.tensor([True]))
    assert not same_bytes(torch.tensor([0.0]), torch.tensor([-0.0]))
    assert same_bytes(torch.tensor([float("nan")]), torch.tensor([float("nan")]))


def test_a_library_test_that_fails_through_the_mixin_alone_is_wrong_unless_it_has_a_reason(scripts):
    import library_tests

    def entry(*pairs):
        found = [{"head": test, "result": result, "plain": "right", "why": why} for test, result, why in pairs]
        return {"type": "bert", "unreachable": "", "pairs": found}

    known = [(test, "wrong", pattern.replace(".*", "")) for test, pattern, _ in library_tests.REASONS]
    text, wrong = library_tests.table([entry(("test_save_load", "passed", ""), *known)], stale=True)
    assert not wrong and f"{len(known)} fail for a reason, 0 fail without one" in text
    text, wrong = library_tests.table([entry(("test_save_load", "wrong", known[0][2]), *known)], stale=True)
    assert wrong and "WRONG bert test_save_load" in text
    text, wrong = library_tests.table([entry(*known[1:])], stale=True)
    assert wrong and f"stale: {known[0][0]}" in text
