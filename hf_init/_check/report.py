"""What a check found, as a value that prints and draws."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from hf_init._base_report import Draw, Report
from hf_init._block_names import stack_blocks
from hf_init._check.facts import Facts, LayerFacts
from hf_init._check.judge import ERROR, NOTE, WARNING, CheckFinding
from hf_init._check.usual import distance, usual_range
from hf_init._errors import HfInitError, PlanError, option
from hf_init._text import format_count, text_table

_WORST = 3
_COLUMNS = ("layer", "modules", "rms of outputs", "zeros", "gradient by output", "gradient by parameters")


@dataclass(frozen=True, repr=False)
class CheckReport(Report):
    """What one batch told about a model before training.

    Attributes:
        model: its class.
        facts: everything that was seen.
        findings: what to do about it, errors first.
        verbose: as a text, it lists every layer; else the three farthest from what is usual in the model.
    """

    model: str
    facts: Facts
    findings: tuple[CheckFinding, ...]
    verbose: bool = False

    schema: ClassVar[str] = "hf_init.check/1"
    error: ClassVar[type[HfInitError]] = PlanError

    @property
    def ok(self) -> bool:
        """Tell whether nothing was found that prevents training; warnings and notes don't count."""
        return not any(finding.severity == ERROR for finding in self.findings)

    @property
    def headline(self) -> str:
        due, logits = self.facts.reference, self.facts.logits
        formula = f" ({due.formula})" if due else ""
        scale = f"; logits {logits.mean:.3g} +- {logits.std:.3g}, at most {logits.largest:.3g}" if logits else ""
        return f"{self.model}: {self._loss}{formula}{scale}"

    @property
    def failure(self) -> str:
        errors = [finding.text for finding in self.findings if finding.severity == ERROR]
        return "\n  ".join([f"{self.model} can't be trained as it is set up:", *errors])

    def worries(self) -> Sequence[str]:
        return tuple(finding.text for finding in self.findings if finding.severity == WARNING)

    def draw(self, path: str | os.PathLike[str]) -> Path:
        """Write a picture (``.png``) or a page (``.html``): outputs and gradients of all modules, as they ran."""
        from hf_init._check.picture import draw_check

        counts = Counter(finding.severity for finding in self.findings)
        kinds = [(counts[kind], kind) for kind in (ERROR, WARNING, NOTE) if counts[kind]]
        found = ", ".join(f"{format_count(many)} {kind}{'s' if many > 1 else ''}" for many, kind in kinds)
        seen = f"{self._loss}; {found or 'no problems found'}"
        return draw_check(self, self.model, self.facts.layers, seen, path)

    def document(self) -> Mapping[str, object]:
        facts = self.facts
        return {
            "model": self.model,
            "training": facts.training,
            "loss": facts.loss,
            "reference": facts.reference.to_json() if facts.reference else None,
            "logits": facts.logits.to_json() if facts.logits else None,
            "findings": [finding.to_json() for finding in self.findings],
            "layers": [layer.to_json() for layer in facts.layers],
            "units": [units.to_json() for units in facts.units],
            "parameters": [weight.to_json() for weight in facts.weights],
        }

    def parts(self, draw: Draw) -> Iterator[str]:
        training = ["in training mode: dropout is at work"] if self.facts.training else []
        findings = [f"{finding.severity}: {finding.text}" for finding in self.findings] or ["OK: no problems found"]
        yield "\n".join((self.headline, *training, *findings))
        yield from self._tables(draw)

    @property
    def _loss(self) -> str:
        due, head = self.facts.reference, self.facts.logits
        word = "expected about" if head is None or head.new else "knowing nothing gives"
        return f"loss {self.facts.loss:.4g}" + (f", {word} {due.value:.4g}" if due else "")

    def _strangeness(self, group: Sequence[LayerFacts]) -> float:
        """Return how far the outputs or gradients of a group are from what is usual in the model."""
        found, layers = [0.0 if any(layer.not_finite for layer in group) else -math.inf], self.facts.layers
        for values, own in (
            ([layer.rms for layer in layers], [layer.rms for layer in group]),
            ([layer.gradient or 0.0 for layer in layers], [layer.gradient or 0.0 for layer in group]),
        ):
            known = [value for value in values if value > 0 and math.isfinite(value)]
            if known:
                low, high = usual_range(known)
                found += [distance(each, low, high) if each > 0 and math.isfinite(each) else math.inf for each in own]
        return max(found)

    def _tables(self, draw: Draw) -> Iterator[str]:
        groups = grouped(self.facts.layers)
        if draw is text_table and not self.verbose and len(groups) > _WORST:
            worst = sorted(groups, key=lambda name: -self._strangeness(groups[name]))[:_WORST]
            rows = [self._row(name, groups[name]) for name in groups if name in worst]
            title = f"the {_WORST} farthest from what is usual, of {len(groups)} ({option('verbose')} lists all)"
            yield draw(f"{title}; * holds new parameters", _COLUMNS, rows)
            return
        rows = [self._row(name, layers) for name, layers in groups.items()]
        yield draw("in the order of the forward pass (* holds new parameters)", _COLUMNS, rows)
        units = [each for each in self.facts.units if each.dead or each.saturated or each.new]
        if units:
            columns = ("activation", "function", "units", "never active", "saturated", "flat outputs")
            rows = [
                (
                    f"{each.name}{' *' if each.new else ''}",
                    each.function,
                    *map(format_count, (each.count, each.dead, each.saturated)),
                    f"{each.share:.1%}",
                )
                for each in units
            ]
            yield draw("units", columns, rows)

    def _row(self, name: str, layers: Sequence[LayerFacts]) -> tuple[str, ...]:
        inside = {layer.name for layer in layers}
        norms = [
            w.gradient for w in self.facts.weights if w.name.rpartition(".")[0] in inside and w.gradient is not None
        ]
        gradients = [layer.gradient for layer in layers if layer.gradient is not None]
        return (
            f"{name}{' *' if any(layer.new for layer in layers) else ''}",
            format_count(len(layers)),
            _value_range([layer.rms for layer in layers]),
            f"{max(layer.zeros for layer in layers):.0%}",
            _value_range(gradients),
            f"{math.hypot(*norms):.3g}" if norms else "-",
        )


def grouped(layers: Sequence[LayerFacts]) -> dict[str, list[LayerFacts]]:
    """Group modules by the block that they are in; new ones, and those in no block, stand alone."""
    found: dict[str, list[LayerFacts]] = {}
    for layer in layers:
        inside = stack_blocks(f"{layer.name}.")
        found.setdefault(layer.name if layer.new or not inside else inside[0].rstrip("."), []).append(layer)
    return found


def _value_range(values: Sequence[float]) -> str:
    if not values:
        return "-"
    low, high = f"{min(values):.2g}", f"{max(values):.2g}"
    return low if low == high else f"{low} to {high}"
