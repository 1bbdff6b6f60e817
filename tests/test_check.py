"""The start-up check: each finding appears where it should and nowhere else, and the model is left as it was."""

from __future__ import annotations

import json
import math
import random
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from torch import nn

import hf_init
from hf_init import HfInitError, Plan, check
from hf_init.cli import main

CLASSES = 4


class Net(nn.Module):
    """A trunk, an activation, a head; the loss is the cross entropy, or the square for one output."""

    def __init__(self, activation: Callable[..., Any] = torch.relu, outputs: int = CLASSES) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, 8)
        self.trunk = nn.Linear(8, 16)
        self.norm = nn.BatchNorm1d(16)
        self.drop = nn.Dropout(0.1)
        self.head = nn.Linear(16, outputs)
        self.activation = activation

    def forward(self, ids: torch.Tensor, labels: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
        hidden = self.drop(self.activation(self.trunk(self.norm_of(self.embed(ids)))))
        logits = self.head(hidden)
        if labels is None:
            return {"logits": logits}
        if labels.is_floating_point():
            return {"logits": logits, "loss": ((logits[:, 0] - labels) ** 2).mean()}
        return {"logits": logits, "loss": nn.functional.cross_entropy(logits.float(), labels)}

    def norm_of(self, hidden: torch.Tensor) -> torch.Tensor:
        return hidden


def net(**options: Any) -> Net:
    torch.manual_seed(0)
    model = Net(**options)
    nn.init.normal_(model.head.weight, std=0.02)
    nn.init.zeros_(model.head.bias)
    return model.eval()


def batch(floats: bool = False) -> dict[str, torch.Tensor]:
    labels = torch.arange(12) % CLASSES
    return {"ids": torch.arange(12) % 20, "labels": labels.float() - 1.5 if floats else labels}


def plan(model: nn.Module, *new: str) -> Plan:
    """A plan by which the named tensors are new, and the others kept."""
    entries = [_entry(name, tensor, name in new) for name, tensor in model.state_dict().items()]
    return Plan.from_json({"architecture": "Net", "seed": 0, "tensors": entries, "unused": []})


def _entry(name: str, tensor: torch.Tensor, new: bool) -> dict[str, Any]:
    dtype, region = str(tensor.dtype).removeprefix("torch."), {"start": [0] * tensor.dim(), "stop": list(tensor.shape)}
    entry = {"name": name, "shape": list(tensor.shape), "dtype": dtype, "parameter": name}
    if new:
        return {**entry, "status": "new", "new": [{"region": region, "scheme": {"name": "normal"}}]}
    kept = [{"region": region, "source": name, "source_region": region}]
    return {**entry, "status": "kept", "kept": kept, "source": name}


HEAD = ("head.weight", "head.bias")


def found(
    model: nn.Module, given: dict[str, Any] | None = None, optimizer: Any = None, new: Any = HEAD
) -> dict[str, Any]:
    """The findings by kind."""
    report = check(model, given or batch(), optimizer, plan(model, *new))
    return {finding.kind: finding for finding in report.findings}


def trained(model: nn.Module) -> nn.Module:
    """Without the parameters that its forward doesn't use."""
    for parameter in model.norm.parameters():
        parameter.requires_grad = False
    return model


def test_a_healthy_start_has_nothing_to_say_against_it():
    model = trained(net())
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    report = check(model, batch(), optimizer, plan(model, *HEAD))
    assert report.findings == ()
    assert report.ok
    report.raise_if_failed()
    assert report.facts.reference.value == pytest.approx(math.log(CLASSES))
    assert "ln 4" in str(report)
    assert "head *" in str(report)


# Each of these makes one thing wrong in a model that is fine without it.


def nan_weight(model: Net) -> None:
    model.trunk.weight.data[0, 0] = math.nan


def wide_head(model: Net) -> None:
    model.head.weight.data *= 2000


def zero_head(model: Net) -> None:
    model.head.weight.data.zero_()


def all_frozen(model: Net) -> None:
    model.requires_grad_(False)


def equal_rows(model: Net) -> None:
    model.head.weight.data[2] = model.head.weight.data[0]


def large(model: Net) -> None:
    model.head.bias.data += 1e5


def leaking(model: Net) -> None:
    model.register_forward_hook(lambda m, args, output: {**output, "loss": output["loss"] * 0.1})


def writing(model: Net) -> None:
    model.register_forward_pre_hook(lambda m, args: _write(m))


def _write(model: nn.Module) -> None:
    model.norm.weight.data.mul_(2)


@pytest.mark.parametrize(
    ("spoil", "kind", "severity", "words"),
    [
        (nan_weight, "weights not finite", "error", "trunk.weight"),
        (nan_weight, "outputs not finite", "error", "first in the output of trunk"),
        (nan_weight, "gradients not finite", "error", "NaN or infinite gradients"),
        (wide_head, "loss above chance", "warning", "start head smaller"),
        (wide_head, "logits wide", "warning", "within an example"),
        (zero_head, "logits constant", "note", "the same for every input"),
        (zero_head, "gradients zero", "note", "head.weight starts at zero"),
        (zero_head, "outputs zero", "note", "only zeros come out"),
        (all_frozen, "nothing trains", "error", "no parameter requires gradients"),
        (equal_rows, "rows equal", "warning", "1 of 4 new rows"),
        (leaking, "loss below chance", "warning", "gives the labels away"),
        (writing, "forward writes", "error", "norm.weight"),
        (large, "outputs large", "warning", "head"),
    ],
)
def test_a_finding_appears_where_it_should_and_nowhere_else(spoil, kind, severity, words):
    model = trained(net())
    assert kind not in found(model)
    spoil(model)
    report = check(model, batch(), plan=plan(model, *HEAD))
    (finding,) = (each for each in report.findings if each.kind == kind)
    assert finding.severity == severity
    assert words in finding.text
    if severity == "error":
        assert not report.ok
        with pytest.raises(HfInitError, match=re.escape(words)):
            report.raise_if_failed()


def test_dead_units_are_those_of_new_layers():
    model = trained(net())
    everything = tuple(model.state_dict())
    before = check(model, batch(), plan=plan(model, *everything)).facts.units[0].dead
    model.trunk.bias.data[:5] = -100.0
    finding = found(model, new=everything)["units dead"]
    assert before < 5
    assert finding.severity == "warning"
    assert "of 16 units" in finding.text
    assert "units dead" not in found(model), "the pretrained is as it was trained"
    model.trunk.bias.data += 200
    assert "units dead" not in found(model, new=everything)


SMOOTH = (nn.functional.gelu, nn.GELU(), nn.functional.silu)


@pytest.mark.parametrize(
    ("activation", "bias", "many", "seen"),
    [
        *((each, 50.0, 4, (16, 0, 4)) for each in (torch.tanh, nn.Tanh(), torch.sigmoid, nn.Sigmoid())),
        *((each, -30.0, 3, (16, 3, 0)) for each in SMOOTH),  # the flat tail counts as dead
        # A tanh inside of an approximated GELU is none of its own.
        (transformers.activations.NewGELUActivation(), 50.0, 16, None),
    ],
)
def test_units_of_functions_and_modules_are_counted(activation, bias, many, seen):
    model = trained(net(activation=activation))
    everything = tuple(model.state_dict())
    assert "units saturated" not in found(model, new=everything)
    model.trunk.bias.data[:many] = bias
    report = check(model, batch(), plan=plan(model, *everything))
    units = [(each.count, each.dead, each.saturated) for each in report.facts.units]
    assert units == ([] if seen is None else [seen])
    assert ("units saturated" in {each.kind for each in report.findings}) == (seen == (16, 0, 4))


class Conv(nn.Module):
    """Channels are the units of convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 6, 3), nn.Linear(6, CLASSES)

    def forward(self, pixels: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        logits = self.head(torch.relu(self.conv(pixels)).mean((2, 3)))
        return {"logits": logits, "loss": nn.functional.cross_entropy(logits, labels)}


def test_channels_are_the_units_of_convolutions():
    model = Conv()
    model.conv.bias.data[:2] = -100.0
    (units,) = check(model, {"pixels": torch.randn(4, 3, 8, 8), "labels": torch.arange(4)}).facts.units
    assert (units.count, units.dead) == (6, 2)


class Answers(nn.Module):
    """Logits that are zero, of any shape, beside a loss."""

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(shape))

    def forward(self, labels: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
        return {"logits": self.weight * 1, "loss": self.weight.sum()}


@pytest.mark.parametrize(
    ("shape", "labels", "expected"),
    [
        ((3, 4), torch.ones(3, 4), math.log(2)),  # several labels an example
        ((3, 4), torch.ones(3), None),
        ((3, 4), None, None),
        ((2, 3, 5), torch.full((2, 3), -100), None),  # all ignored
    ],
)
def test_the_loss_of_knowing_nothing_goes_by_the_labels(shape, labels, expected):
    due = check(Answers(*shape), {"labels": labels}).facts.reference
    assert (due and due.value) == (expected and pytest.approx(expected))


def test_a_parameter_that_the_loss_does_not_depend_on():
    model = net()
    assert found(model)["not reached"].severity == "note"
    assert found(model, new=("norm.weight", "norm.bias", *HEAD))["not reached"].severity == "error"
    assert "not reached" not in found(trained(model))


def test_a_pretrained_head_may_be_better_than_chance_and_not_worse():
    model = trained(net())
    assert "loss above chance" not in found(model, new=("trunk.bias",))
    wide_head(model)
    assert "is pretrained" in found(model, new=("trunk.bias",))["loss above chance"].text
    leaking_model = trained(net())
    leaking(leaking_model)
    assert "loss below chance" not in found(leaking_model, new=("trunk.bias",))


def test_a_prior_in_the_bias_changes_what_is_expected():
    model = trained(net())
    labels = torch.tensor([0] * 9 + [1, 2, 3])
    given = {**batch(), "labels": labels}
    assert check(model, given).facts.reference.value == pytest.approx(math.log(4))
    model.head.bias.data = torch.log(torch.tensor([9.0, 1, 1, 1]) / 12)
    due = check(model, given).facts.reference
    entropy = -(0.75 * math.log(0.75) + 3 * math.log(1 / 12) / 12)
    assert due.value == pytest.approx(entropy)
    assert f"entropy is {entropy:.4g}" in due.formula


def test_labels_of_a_regression_that_are_far_from_the_bias():
    model = trained(net(outputs=1))
    given = batch(floats=True)
    assert "labels not centred" not in found(model, given)
    far = {**given, "labels": given["labels"] + 20}
    assert "start the bias at their mean" in found(model, far)["labels not centred"].text
    model.head.bias.data += far["labels"].mean()
    assert "labels not centred" not in found(model, far)


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
