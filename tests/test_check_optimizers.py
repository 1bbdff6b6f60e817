"""What a check says of optimizers and dtypes, that it leaves a model as it was, and of a folder by the command line."""

from __future__ import annotations

import json
import math
import random
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from checked_models import HEAD, Net, batch, found, nan_weight, net, plan, trained
from torch import nn

import hf_init
from hf_init import HfInitError, check
from hf_init.cli import main


@pytest.mark.parametrize(
    ("dtype", "rate", "kinds"),
    [(torch.bfloat16, 1e-6, {"updates lost"}), (torch.bfloat16, 1e-1, set()), (torch.float32, 1e-6, set())],
)
def test_a_half_precision_head_loses_small_updates(dtype, rate, kinds):
    model = trained(net()).to(dtype)
    for parameter in (*model.trunk.parameters(), *model.embed.parameters()):
        parameter.requires_grad = False
    optimizer = torch.optim.AdamW(model.head.parameters(), lr=rate)
    seen = found(model, optimizer=optimizer)
    assert {"updates lost"} & set(seen) == kinds
    assert ("half precision" in found(model)) == (dtype is torch.bfloat16)


def test_the_lost_updates_are_those_that_really_are_lost():
    """By doing it: the first step of AdamW on a bfloat16 head."""
    model = trained(net()).to(torch.bfloat16)
    rate = 4e-5
    optimizer = torch.optim.AdamW(model.head.parameters(), lr=rate, weight_decay=0.0)
    report = check(model, batch(), optimizer, plan(model, *HEAD))
    said = next(weight.lost for weight in report.facts.weights if weight.name == "head.weight")
    before = model.head.weight.detach().clone()
    model(**batch())["loss"].backward()
    optimizer.step()
    assert float((model.head.weight == before).float().mean()) == pytest.approx(said, abs=0.08)
    assert 0.1 < said < 0.9


def test_an_optimizer_that_lacks_what_trains():
    model = trained(net())
    optimizer = torch.optim.SGD([*model.trunk.parameters(), *model.embed.parameters()], lr=0.1)
    finding = found(model, optimizer=optimizer)["not optimized"]
    assert finding.severity == "error"
    assert finding.names == HEAD
    assert "of which 2 are new" in finding.text
    optimizer.add_param_group({"params": list(model.head.parameters())})
    assert "not optimized" not in found(model, optimizer=optimizer)


def test_an_optimizer_of_another_model_or_made_before_freezing():
    model = trained(net())
    other = torch.optim.SGD(net().parameters(), lr=0.1)
    assert found(model, optimizer=other)["optimizer of another model"].severity == "error"
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    assert "optimizer before freezing" not in found(model, optimizer=optimizer)
    model(**batch())["loss"].backward()
    model.trunk.requires_grad_(False)
    finding = found(model, optimizer=optimizer)["optimizer before freezing"]
    assert (finding.severity, finding.names) == ("error", ("trunk.weight", "trunk.bias"))
    assert "a step moves it" in finding.text
    optimizer.zero_grad()
    assert found(model, optimizer=optimizer)["optimizer before freezing"].severity == "warning"


@pytest.mark.parametrize("training", [True, False])
def test_the_model_is_left_as_it_was(training):
    """Parameters, buffers, gradients, modes, hooks and random states, in both modes and after an error."""

    class Normed(Net):
        def norm_of(self, hidden: torch.Tensor) -> torch.Tensor:
            random.random()
            np.random.random()
            return self.norm(torch.cat([hidden, hidden], -1))[:, :8]

    model = Normed().train(training)
    model.norm.eval()
    if training:
        model.norm.train()
    model.trunk.weight.grad = torch.ones_like(model.trunk.weight)
    before = _snapshot(model)
    check(model, batch())
    assert _snapshot(model) == before
    with pytest.raises(HfInitError, match="no loss"):
        check(model, {"ids": torch.arange(12)})
    assert _snapshot(model) == before
    model(**batch())
    assert (_snapshot(model) != before) == training, "without a check, batch statistics and dropout leave traces"


def _snapshot(model: nn.Module) -> Any:
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    grads = {name: None if p.grad is None else (id(p.grad), p.grad.tolist()) for name, p in model.named_parameters()}
    return (
        {name: (id(tensor), tensor.tolist(), tensor.requires_grad) for name, tensor in tensors.items()},
        grads,
        [module.training for module in model.modules()],
        [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules()],
        torch.get_rng_state().tolist() if model.training else None,
        random.getstate() if model.training else None,
        str(np.random.get_state()) if model.training else None,
    )


def test_a_hook_that_steps_on_gradients_is_not_woken():
    model = trained(net())
    woken: list[str] = []
    model.head.weight.register_post_accumulate_grad_hook(lambda p: woken.append("stepped"))
    check(model, batch())
    assert woken == []
    model(**batch())["loss"].backward()
    assert woken == ["stepped"]


def test_a_picture_leaves_out_what_is_not_finite(tmp_path):
    model = net()
    nan_weight(model)
    report = check(model, batch())
    assert not report and report.draw(tmp_path / "check.png").read_bytes().startswith(b"\x89PNG")


def test_a_report_prints_draws_and_round_trips_through_json(tmp_path):
    model = net()
    report = check(model, batch(), plan=plan(model, *HEAD))
    assert "no plan" in {finding.kind for finding in check(model, batch()).findings}
    assert "no plan" not in {finding.kind for finding in report.findings}
    data = json.loads(json.dumps(report.to_json()))
    assert data["ok"] is True
    assert [layer["name"] for layer in data["layers"]] == ["embed", "trunk", "head"]
    assert "<table>" in report._repr_html_()
    assert report.draw(tmp_path / "check.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(HfInitError, match=r"\.png"):
        report.draw(tmp_path / "check.svg")


def test_a_batch_that_is_none_and_a_plan_of_another_model_are_refused():
    with pytest.raises(HfInitError, match="expected the keyword arguments"):
        check(net(), [1, 2])
    with pytest.raises(HfInitError, match=r"weight \(kept in the plan\) isn't in the model"):
        check(net(), batch(), plan=plan(nn.Linear(2, 2)))


# --- a folder, by the command line ---


def checked(capsys: pytest.CaptureFixture[str], *argv: object) -> dict[str, Any]:
    assert main(["check", *map(str, argv), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.mark.slow
def test_a_real_model_with_a_new_head_and_a_folder_of_it(minilm, tmp_path, capsys):
    rules = [{"name": "classifier.weight", "scheme": {"normal": {"std": 0.02}}}]
    recipe, start = {"rules": rules, "default": "zeros"}, tmp_path / "start"
    hf_init.extend(minilm, start, "BertForSequenceClassification", labels=["a", "b", "c"], recipe=recipe)
    report = checked(capsys, start)
    assert report["ok"] and report["loss"] == pytest.approx(math.log(3), abs=0.05)
    assert [layer["name"] for layer in report["layers"] if layer["new"]] == ["classifier"]
    assert len(report["layers"]) == 54
    two = [checked(capsys, start, "--texts", "one", "--texts", "two", "--labels", told) for told in ("c,a", "2,0")]
    assert two[0] == two[1] and two[0]["ok"], "a label is its name or its number"
    for argv, message in (
        ([start, "--texts", "one", "--labels", "c,a"], "1 texts and 2 labels"),
        *(([start, "--texts", "one", "--labels", told], "is none of the 3 classes") for told in ("d", "3", "0.5")),
        ([minilm], "BertModel has no head"),
    ):
        assert main(["check", *map(str, argv)]) == 2
        assert message in capsys.readouterr().err


WORDS = (
    "BertForTokenClassification",
    "BertForQuestionAnswering",
    "BertForMaskedLM",
    "LlamaForCausalLM",
    "GPT2LMHeadModel",
)


@pytest.mark.parametrize("head", WORDS)
def test_labels_are_made_for_the_heads_that_are_known(bases, tmp_path, capsys, head):
    """Of random weights, whose loss is about that of knowing nothing."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(bases("llama with tokens"))
    cls = getattr(transformers, head)
    sizes = {"n_embd": 32, "n_layer": 1, "n_head": 4} if "GPT2" in head else {
        "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 32
    }  # fmt: skip
    torch.manual_seed(0)
    cls(cls.config_class(vocab_size=len(tokenizer), pad_token_id=0, **sizes)).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    report = checked(capsys, tmp_path)
    assert report["loss"] == pytest.approx(report["reference"]["value"], rel=0.15)


def test_images_are_noise_of_the_size_that_the_config_says(tmp_path, capsys):
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    config = transformers.ViTConfig(**sizes, image_size=16, patch_size=8, num_labels=3)
    torch.manual_seed(0)
    transformers.ViTForImageClassification(config).save_pretrained(tmp_path / "vit")
    report = checked(capsys, tmp_path / "vit")
    assert report == checked(capsys, tmp_path / "vit")
    assert report["loss"] == pytest.approx(math.log(3), abs=0.3)
    transformers.ViTModel(config).save_pretrained(tmp_path / "trunk")
    assert main(["check", str(tmp_path / "trunk")]) == 2 and "ViTModel has no head" in capsys.readouterr().err
