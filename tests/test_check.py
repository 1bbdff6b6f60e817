"""The start-up check: each finding appears where it should and nowhere else, and the model is left as it was."""

from __future__ import annotations

import math
import re

import pytest
import torch
import transformers
from checked_models import CLASSES, HEAD, Net, batch, found, nan_weight, net, plan, trained
from torch import nn

from hf_init import HfInitError, check


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
