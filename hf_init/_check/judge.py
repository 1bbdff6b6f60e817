"""What the facts mean: findings, each with a sentence that says what to do. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from hf_init._check.facts import Facts, Units
from hf_init._text import format_count, join_names

ERROR, WARNING, NOTE = "error", "warning", "note"

ABOVE = 0.5
"""How far above its reference a new head's loss may be: about what logits of standard deviation 1 add to it."""

SPREAD = 2.0
"""Logits within an example may differ by this standard deviation before a softmax over them counts as decided."""

SHARE = 0.1
"""The share of units, or of elements, from which on something is worth a warning."""

LARGE = 1e4
"""Activations of this root mean square are within a few deviations of float16's end, 65504."""


@dataclass(frozen=True)
class CheckFinding:
    """One thing worth doing something about.

    Attributes:
        severity: ``error`` (training can't work as it is set up), ``warning`` (it will cost something), ``note``.
        kind: a short name, one for each sort of finding.
        text: what was seen, and what to do.
        names: of the tensors or modules.
    """

    severity: str
    kind: str
    text: str
    names: tuple[str, ...] = ()

    def to_json(self) -> dict[str, object]:
        return {"severity": self.severity, "kind": self.kind, "text": self.text, "names": list(self.names)}


def judge_facts(facts: Facts) -> tuple[CheckFinding, ...]:
    """Return all findings, errors first."""
    sources = (
        _judge_finite,
        _judge_loss,
        _judge_logits,
        _judge_layers,
        _judge_units,
        _judge_gradients,
        _judge_rows,
        _judge_updates,
        _judge_optimizer,
        _judge_setup,
    )
    found = [finding for source in sources for finding in source(facts)]
    return tuple(sorted(found, key=lambda each: (ERROR, WARNING, NOTE).index(each.severity)))


def _judge_finite(facts: Facts) -> Iterator[CheckFinding]:
    """Report values that are not finite, at the first place where they show."""
    weights = [weight.name for weight in facts.weights if not weight.finite]
    layers = [layer.name for layer in facts.layers if layer.not_finite]
    gradients = [weight.name for weight in facts.weights if not weight.gradient_finite]
    if weights:
        text = f"NaN or infinite values in {join_names(weights)}: load the checkpoint again, and check it with verify"
        yield CheckFinding(ERROR, "weights not finite", text, tuple(weights))
    if layers or not math.isfinite(facts.loss):
        where = f"first in the output of {layers[0]}" if layers else "in the loss alone: look at the labels"
        text = f"NaN or infinite values {where}; load in float32 or bfloat16, and look at that layer's input"
        yield CheckFinding(ERROR, "outputs not finite", text, tuple(layers))
    if gradients:
        text = f"NaN or infinite gradients in {join_names(gradients)}: train in float32 or bfloat16, or scale the loss"
        yield CheckFinding(ERROR, "gradients not finite", text, tuple(gradients))


def _judge_loss(facts: Facts) -> Iterator[CheckFinding]:
    due, head = facts.reference, facts.logits
    if due is None or head is None or not math.isfinite(facts.loss):
        return
    if due.kind == "regression":
        if due.floor is not None and due.value > 2 * due.floor > 0:
            text = (
                f"the labels lie far from what the head gives at first: a mean square of {due.value:.4g}, of which "
                f"only {due.floor:.4g} is their variance; start the bias at their mean, or scale the labels"
            )
            yield CheckFinding(WARNING, "labels not centred", text)
    elif head.new is False:
        if facts.loss > 1.05 * due.value + 0.05:
            yield CheckFinding(
                WARNING, "loss above chance", f"the loss, {facts.loss:.4g}, is worse than what knowing nothing gives, "
                f"{due.value:.4g} ({due.formula}), though the head is pretrained: check the labels' ids and shift"
            )  # fmt: skip
    elif facts.loss > due.value + ABOVE:
        text = (
            f"the loss, {facts.loss:.4g}, is far above {due.value:.4g} ({due.formula}): the head's first guesses are "
            f"confident and wrong; start {head.head or 'the head'} smaller, such as normal(std=0.02) or zeros"
        )
        yield CheckFinding(WARNING, "loss above chance", text, (head.head,))
    elif head.new and facts.loss < 0.6 * due.value:
        text = (
            f"the loss, {facts.loss:.4g}, is far below {due.value:.4g} ({due.formula}) before any training: see "
            "whether the input gives the labels away, and whether the head is as new as the plan says"
        )
        yield CheckFinding(WARNING, "loss below chance", text, (head.head,))


def _judge_logits(facts: Facts) -> Iterator[CheckFinding]:
    head = facts.logits
    due = facts.reference
    if head is None or head.new is False or (due is not None and due.kind == "regression"):
        return
    name = head.head or "the head"
    if head.spread > SPREAD and (head.new or (due is not None and facts.loss > due.value)):
        text = (
            f"the logits of {name} differ by a standard deviation of {head.spread:.3g} within an example: a softmax "
            f"over them is decided before training; start it smaller, by a factor of {head.spread:.1f} or more"
        )
        yield CheckFinding(WARNING, "logits wide", text, (head.head,))
    if head.between == 0 and math.prod(head.shape[:-1]) > 1:
        text = f"the logits of {name} are the same for every input: fine where it starts at zero"
        yield CheckFinding(NOTE, "logits constant", text, (head.head,))


def _judge_layers(facts: Facts) -> Iterator[CheckFinding]:
    silent = [layer.name for layer in facts.layers if layer.zeros == 1 and layer.new]
    if silent:
        text = (
            f"{join_names(silent)}: only zeros come out; fine for a branch or a head that starts closed, else give it "
            "another scheme"
        )
        yield CheckFinding(NOTE, "outputs zero", text, tuple(silent))
    large = [layer.name for layer in facts.layers if layer.rms > LARGE and (layer.new or not facts.planned)]
    if large:
        text = (
            f"{join_names(large)}: outputs of root mean square above {LARGE:.0e} overflow float16; start them smaller"
        )
        yield CheckFinding(WARNING, "outputs large", text, tuple(large))


def _judge_units(facts: Facts) -> Iterator[CheckFinding]:
    """Judge new units only, since pretrained ones are as they were trained; all where no plan tells."""
    for units in facts.units:
        if not units.new and facts.planned:
            continue
        if units.dead:
            yield _flat_units(units, units.dead, "units dead", "never active", "a smaller scale, or a bias above zero")
        if units.saturated:
            advice = f"a smaller scale before the {units.function}, or a normalization"
            yield _flat_units(units, units.saturated, "units saturated", "always at its ends", advice)


def _flat_units(units: Units, many: int, kind: str, what: str, advice: str) -> CheckFinding:
    share = many / max(units.count, 1)
    text = (
        f"{units.name}: {format_count(many)} of {format_count(units.count)} units ({share:.0%}) "
        f"are {what} in this batch"
    )
    hint = f"; they don't learn from it: give {advice}" if share > SHARE else "; a larger batch may wake them"
    return CheckFinding(WARNING if share > SHARE else NOTE, kind, text + hint, (units.name,))


def _judge_gradients(facts: Facts) -> Iterator[CheckFinding]:
    trained = [weight for weight in facts.weights if weight.trains]
    if not trained:
        text = "no parameter requires gradients: nothing would be trained; unfreeze the new parameters at least"
        yield CheckFinding(ERROR, "nothing trains", text)
        return
    unreached = [weight for weight in trained if weight.gradient is None]
    yield from _unreached_parameters(
        [w.name for w in unreached if w.new], ERROR, "new, and the loss doesn't depend on it"
    )
    yield from _unreached_parameters([w.name for w in unreached if not w.new], NOTE, "the loss doesn't depend on it")
    names = tuple(weight.name for weight in trained if weight.gradient == 0)
    closed = [weight.name for weight in facts.new if weight.norm == 0 and len(weight.shape) > 1]
    if names and closed:
        text = (
            f"the gradient is zero in {format_count(len(names))} tensors, as {join_names(closed)} starts at zero: the "
            "first step moves only that, the rest follows from the second on"
        )
        yield CheckFinding(NOTE, "gradients zero", text, names)
    elif names:
        cause = "what follows lets nothing through, or this batch doesn't use it"
        yield CheckFinding(WARNING, "gradients zero", f"the gradient is zero in {join_names(names)}: {cause}", names)


def _unreached_parameters(names: Sequence[str], severity: str, what: str) -> Iterator[CheckFinding]:
    if names:
        advice = "see that the forward pass uses it" if severity == ERROR else "freeze it, or leave it: it won't move"
        yield CheckFinding(severity, "not reached", f"{join_names(names)}: {what}; {advice}", tuple(names))


def _judge_rows(facts: Facts) -> Iterator[CheckFinding]:
    for weight in facts.new:
        if weight.twins:
            text = (
                f"{weight.name}: {format_count(weight.twins)} of {format_count(weight.rows)} new rows "
                "repeat another, bit for bit; "
                "equal rows behave as one until their gradients differ: use a scheme that draws each, such as "
                "normal or embedding"
            )
            yield CheckFinding(WARNING, "rows equal", text, (weight.name,))


def _judge_updates(facts: Facts) -> Iterator[CheckFinding]:
    """Report updates that half precision rounds away: below half a unit in the last place nothing changes."""
    for weight in facts.new:
        if weight.trains and weight.lost > SHARE:
            text = (
                f"{weight.name} is {weight.dtype}: at a learning rate of {weight.rate:.2g}, {weight.lost:.0%} of its "
                f"elements are too large to be changed by an update of {facts.optimizer}; keep new parameters "
                "in float32"
            )
            yield CheckFinding(WARNING, "updates lost", text, (weight.name,))
        elif weight.trains and weight.least and not weight.held:
            text = (
                f"{weight.name} is {weight.dtype}: updates below {weight.least:.1e} don't change half of its elements, "
                "and AdamW's are about the learning rate; keep new parameters in float32"
            )
            yield CheckFinding(NOTE, "half precision", text, (weight.name,))
    old = [weight.name for weight in facts.weights if not weight.new and weight.trains and weight.lost > SHARE]
    if old:
        text = (
            f"{format_count(len(old))} pretrained tensors in half precision, such as {old[0]}, lose "
            "updates by rounding at "
            "this learning rate; train float32 copies of them (mixed precision), or freeze them"
        )
        yield CheckFinding(WARNING, "updates lost", text, tuple(old))


def _judge_optimizer(facts: Facts) -> Iterator[CheckFinding]:
    if not facts.optimizer:
        return
    lacking = tuple(weight.name for weight in facts.weights if weight.trains and not weight.held)
    if lacking:
        new = [weight.name for weight in facts.new if weight.name in lacking]
        text = f"in no group of the optimizer: {join_names(lacking)}{f', of which {len(new)} are new' if new else ''}"
        yield CheckFinding(
            ERROR, "not optimized", f"{text}; they stay as they are: make the optimizer with them", lacking
        )
    shut = [weight for weight in facts.weights if weight.held and not weight.trains]
    if shut:
        names, moving = tuple(weight.name for weight in shut), [weight.name for weight in shut if weight.leftover]
        text = (
            f"the optimizer holds {format_count(len(names))} frozen parameters ({join_names(names)}): "
            "it was made before freezing"
        )
        moved = f"a gradient still lies on {join_names(moving)}, so a step moves it: zero_grad(), and make it again"
        severity, advice = (ERROR, moved) if moving else (WARNING, "make it again, of what trains")
        yield CheckFinding(severity, "optimizer before freezing", f"{text}; {advice}", names)
    if facts.strange:
        shapes = join_names(["x".join(map(str, shape)) or "scalar" for shape in facts.strange])
        text = (
            f"{format_count(len(facts.strange))} parameters of the optimizer aren't the model's "
            f"({shapes}): it was made "
            "before the model was resized or moved; make it again"
        )
        yield CheckFinding(ERROR, "optimizer of another model", text)


def _judge_setup(facts: Facts) -> Iterator[CheckFinding]:
    if facts.written:
        text = f"the forward pass itself writes to {join_names(facts.written)}: such a model can't promise what stays"
        yield CheckFinding(ERROR, "forward writes", text, facts.written)
    if not facts.planned:
        text = "no plan: what is new isn't known; give plan=, or the folder that extend wrote"
        yield CheckFinding(NOTE, "no plan", text)
    if facts.logits is not None and facts.reference is None:
        text = "the labels and logits are of no kind whose first loss is known: judge it yourself"
        yield CheckFinding(NOTE, "no reference", text)
