"""Two checkpoints run on the same seeded inputs: whether the one computes what the other does."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from transformers import PreTrainedConfig, PreTrainedModel

from hf_init._architecture import UNBUILDABLE, Target, load_plainly, quiet_library, without_zero3
from hf_init._base_report import Draw, Report
from hf_init._checkpoint import BaseCheckpoint
from hf_init._errors import PlanError, ProofError, option
from hf_init._function.inputs import Inputs, main_output, paired_inputs
from hf_init._plan import EXACT, MANIFEST_NAME, NONE, Plan, format_shape
from hf_init._text import format_count, one_line

ROUNDING_STEPS = 64
"""By how many of the dtype's steps, of the largest output, outputs differ that are equal but for rounding."""


@dataclass(frozen=True, repr=False)
class FunctionReport(Report):
    """What two models gave for the same inputs.

    Attributes:
        claim: what was to hold, one of the claims of a plan.
        output: which of the outputs was compared, such as ``logits``.
        elements: of it that both have. differing: how many of them differ in a bit.
        largest: difference. scale: the largest value of the base's.
        inputs: shapes by name. seed: of the inputs.
    """

    schema: ClassVar[str] = "hf_init.function/1"
    claim: str
    output: str
    elements: int
    differing: int
    largest: float
    scale: float
    tolerance: float
    inputs: Mapping[str, tuple[int, ...]]
    seed: int

    @property
    def same(self) -> bool:
        """Return whether every output is the same, bit for bit."""
        return self.elements > 0 and not self.differing

    @property
    def ok(self) -> bool:
        """Return whether the claim holds; where there is none, nothing can fail."""
        if self.claim.startswith(NONE):
            return True
        return self.same if self.claim == EXACT else self.elements > 0 and self.largest <= self.tolerance * self.scale

    @property
    def failure(self) -> str:
        return f"the claim on old inputs, {self.claim!r}, doesn't hold: {self.headline}"

    @property
    def headline(self) -> str:
        if not self.elements:
            return f"the two have no {self.output} in common"
        if not self.differing:
            return f"{format_count(self.elements)} elements of {self.output} are the same, bit for bit"
        return (
            f"{format_count(self.differing)} of {format_count(self.elements)} elements of {self.output} differ, by "
            f"at most {self.largest:.3g} (the largest is {self.scale:.3g})"
        )

    def parts(self, draw: Draw) -> Iterable[str]:
        inputs = ", ".join(f"{name} {format_shape(shape)}" for name, shape in self.inputs.items())
        yield f"old inputs: {self.claim}: {self.headline}; seeded inputs: {inputs} (seed {self.seed})"

    def document(self) -> Mapping[str, object]:
        return {
            "same": self.same,
            "claim": self.claim,
            "output": self.output,
            "elements": self.elements,
            "differing": self.differing,
            "largest": self.largest,
            "scale": self.scale,
            "inputs": {name: list(shape) for name, shape in self.inputs.items()},
            "seed": self.seed,
        }


def compare_functions(base: Target, out: Target, claim: str, seed: int = 0) -> FunctionReport:
    """Run two checkpoints on the CPU, one after the other, and compare what they give.

    Under a class of another task the hidden states of the backbones are compared. An image of another size than the
    base's is shown to the base by its own interpolation. Where the claim seems not to hold, both are run again with
    weights in memory of their own: a kernel may round by the address of a weight, which is mapped from where its file
    has it.

    Raises:
        PlanError: the base can't be run on inputs of its kind.
    """
    report = _compared(base, out, claim, seed, mapped=True)
    return report if report.ok else _compared(base, out, claim, seed, mapped=False)


def _compared(base: Target, out: Target, claim: str, seed: int, mapped: bool) -> FunctionReport:
    tasks = [cls.__name__.partition("For")[2] or cls.__name__ for cls in (base.cls, out.cls)]
    whole = tasks[0] == tasks[1]
    pairs = list(paired_inputs(base.model, out.model, seed))
    model = _loaded(base, mapped)
    results = ((shown, kept, _output(model, shown, whole, seed)) for shown, kept in pairs)
    shown, kept, expected = next((each for each in results if each[2] is not None), ({}, {}, None))
    if expected is None:
        raise PlanError(
            f"{option('prove_function')}: {base.cls.__name__} doesn't run on the inputs that are known for it "
            f"({', '.join(pairs[0][0]) or 'none'}); leave it out, and compare the two on a batch of your own"
        )
    del model
    model = _loaded(out, mapped)
    found = _output(model, kept, whole, seed)
    if found is None:
        raise ProofError(f"{out.cls.__name__} doesn't run on what the base was given ({', '.join(kept)})")
    one, other = _common(expected[1], found[1], base.config, out.config)
    differs = (one != other) & ~(one.isnan() & other.isnan())
    differences = (one.double() - other.double()).abs().where(differs, 0.0)
    return FunctionReport(
        claim,
        expected[0],
        one.numel(),
        int(differs.sum()),
        float(differences.max()) if one.numel() else 0.0,
        float(one.double().nan_to_num().abs().max()) if one.numel() else 0.0,
        ROUNDING_STEPS * torch.finfo(one.dtype).eps,
        {name: tuple(value.shape) for name, value in shown.items() if isinstance(value, torch.Tensor)},
        seed,
    )


def run_both(base: str | Path, out: str | Path, seed: int, trust: bool | None) -> FunctionReport:
    """Compare the functions of two folders or hub ids, each of its own class; see ``compare_functions``."""
    opened = BaseCheckpoint.open(base), BaseCheckpoint.open(out)
    first, second = (Target.of(each, values={}, changed={}, trust=trust) for each in opened)
    made = (opened[1].folder / MANIFEST_NAME).is_file()
    claim = Plan.load(opened[1].folder).claim if made else ""
    return compare_functions(first, second, claim or EXACT, seed)


def _loaded(target: Target, mapped: bool) -> PreTrainedModel:
    try:
        with quiet_library(), without_zero3():
            model: PreTrainedModel = load_plainly(target.cls, str(target.base.folder), config=target.config).eval()
    except UNBUILDABLE as error:
        raise ProofError(
            f"transformers doesn't load a {target.cls.__name__} of this config: {one_line(error)}"
        ) from error
    for tensor in () if mapped else (*model.parameters(), *model.buffers()):
        tensor.data = tensor.data.clone()
    return model


def _output(model: PreTrainedModel, inputs: Inputs, whole: bool, seed: int) -> tuple[str, torch.Tensor] | None:
    """Return the name and value of the output that counts: the logits, else the first; None if such inputs don't do."""
    part = model if whole else model.base_model
    taken = {name: value for name, value in inputs.items() if name in inspect.signature(part.forward).parameters}
    try:
        with quiet_library(), torch.no_grad():
            torch.manual_seed(seed)
            output = part(**taken)
    except UNBUILDABLE:  # what a forward raises for inputs that aren't all, or not those, that it needs
        return None
    return main_output(output)


def _common(
    one: torch.Tensor, other: torch.Tensor, before: PreTrainedConfig, after: PreTrainedConfig
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return what two outputs have in common: the columns of labels of one name, else the leading ones."""
    if one.shape[:-1] != other.shape[:-1] or not one.dim():
        return one.new_empty(0), one.new_empty(0)
    names, numbers = before.id2label or {}, after.label2id or {}
    if (one.shape[-1], other.shape[-1]) == (len(names), len(numbers)):
        pairs = [(int(row), int(numbers[name])) for row, name in names.items() if name in numbers]
    else:
        pairs = [(row, row) for row in range(min(one.shape[-1], other.shape[-1]))]
    rows, others = (torch.tensor([pair[side] for pair in pairs], dtype=torch.int64) for side in (0, 1))
    return one.index_select(-1, rows), other.index_select(-1, others)
