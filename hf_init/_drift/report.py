"""What a training run did to a checkpoint, as a value that prints, raises and draws."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from hf_init._base_report import Draw, Report, draw_lines
from hf_init._drift.judge import STATUSES, TensorDrift
from hf_init._drift.layers import LayerDrift, by_layer
from hf_init._errors import option
from hf_init._text import format_bytes, format_count, join_names, text_table
from hf_init._verify import VerifyReport, describe_difference

_STATUS_TEXT = {"identical": "frozen and identical", "moved": "frozen and moved", "unproved": "frozen and unproved"}


@dataclass(frozen=True, repr=False)
class DriftReport(Report):
    """Every part of every trained tensor against what it was.

    Attributes:
        trained, base: the folders compared.
        plan: where the plan is from.
        frozen: what was meant to stay, in words.
        tensors: one entry a tensor; two for a tensor of kept and new elements.
        notes: what is worth knowing.
        warnings: what is worth looking into.
        bytes_compared: of the trained checkpoint.
        proof: of the base itself, where the trained folder is an adapter, which doesn't hold it; else None.
        paste: of an adapter: the arguments of its config that the plan asks for, ready to paste.
    """

    trained: str
    base: str
    plan: str
    frozen: str
    tensors: tuple[TensorDrift, ...]
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    bytes_compared: int = 0
    proof: VerifyReport | None = None
    paste: str = ""

    schema: ClassVar[str] = "hf_init.drift/1"

    @property
    def counts(self) -> dict[str, int]:
        """Count the entries by status."""
        found = Counter(tensor.status for tensor in self.tensors)
        return {status: found[status] for status in STATUSES}

    @property
    def failures(self) -> tuple[TensorDrift, ...]:
        """Return what was meant to stay and didn't, or can't be shown to have stayed."""
        return tuple(tensor for tensor in self.tensors if tensor.failed)

    @property
    def ok(self) -> bool:
        """Return whether everything that was meant to stay did, and the base of an adapter is proved."""
        return not self.failures and (self.proof is None or self.proof.ok)

    def layers(self) -> tuple[LayerDrift, ...]:
        """Return the entries gathered by layer; what is in no layer by the module that it is in."""
        return by_layer(self.tensors)

    @property
    def headline(self) -> str:
        counts = {_STATUS_TEXT.get(status, status): number for status, number in self.counts.items() if number}
        statuses = ", ".join(f"{format_count(number)} {status}" for status, number in counts.items())
        failed = f"{len(self.failures)} FAILED: " if self.failures else ""
        return f"{self.base} -> {self.trained}: {failed}{statuses or 'no tensor'}"

    @property
    def failure(self) -> str:
        if self.proof is not None and not self.proof.ok:
            return self.proof.failure
        return (
            f"{self.headline}\n{self._first_failures(text_table)}\nThese were meant to stay ({self.frozen}). Don't use "
            "this checkpoint as if they had: train again with them frozen, or say what was free to move with "
            f"{option('frozen')}."
        )

    def draw(self, path: str | os.PathLike[str]) -> Path:
        """Write a picture (``.png``) or a page (``.html``): the relative change of each layer and kind of tensor."""
        from hf_init._drift.picture import draw_drift
        from hf_init._figure import plain_text

        counts = ", ".join(f"{format_count(number)} {status}" for status, number in self.counts.items() if number)
        subtitle = f"{counts}; meant to stay: {plain_text(self.frozen)}"
        return draw_drift(self, f"{self.base} -> {self.trained}", self.tensors, subtitle, path)

    def worries(self) -> Sequence[str]:
        return self.warnings

    def document(self) -> Mapping[str, object]:
        return {
            "trained": self.trained,
            "base": self.base,
            "plan": self.plan,
            "frozen": self.frozen,
            "counts": self.counts,
            "bytes_compared": self.bytes_compared,
            "layers": [group.to_json() for group in self.layers()],
            "tensors": [tensor.to_json() for tensor in self.tensors],
            "notes": self.notes,
            "warnings": self.warnings,
            **({"base_proof": self.proof.to_json()} if self.proof is not None else {}),
            **({"paste": self.paste} if self.paste else {}),
        }

    def parts(self, draw: Draw) -> Iterator[str]:
        amounts = f"{format_bytes(self.bytes_compared)} compared; plan: {self.plan}; meant to stay: {self.frozen}"
        remarks = [*(f"warning: {text}" for text in self.warnings), *(f"note: {text}" for text in self.notes)]
        yield f"{self.headline}\n{amounts}"
        yield self._first_failures(draw)
        yield "\n".join(remarks)
        yield from self._tables(draw)
        if self.proof is not None:
            yield f"the base itself, {self.base}:"
            yield from self.proof.parts(draw)
        yield f"for the adapter's config, from the plan:\n{self.paste}" if self.paste else ""

    def _first_failures(self, draw: Draw) -> str:
        rows = []
        for tensor in self.failures:
            part = "" if tensor.portion == "all" else f" ({tensor.portion} elements)"
            rows.append((f"{tensor.name}{part}", describe_failure(tensor)))
        return draw_lines(draw, ("tensor", "failure"), rows)

    def _tables(self, draw: Draw) -> Iterator[str]:
        new: list[tuple[str, ...]] = []
        for tensor in self.tensors:
            moved = ("not known", "-")
            if tensor.status == "untrained":
                moved = ("none: still as it was made", "0")
            elif tensor.change is not None:
                moved = (_relative(tensor.change.relative), figure(tensor.change.largest))
            if tensor.status in ("new", "untrained"):
                new.append((tensor.name, tensor.portion, format_count(tensor.elements), *moved))
        if new:
            yield draw("new", ("tensor", "part", "elements", "relative change", "largest change"), new)
        groups = [group for group in self.layers() if group.compared]
        if any(group.change for group in groups):
            rows = [
                (
                    group.name,
                    format_count(group.compared),
                    format_count(group.stayed),
                    format_count(group.compared - group.stayed),
                    _relative(group.relative),
                    figure(group.largest),
                    group.most,
                )
                for group in groups
            ]
            columns = ("layer", "tensors", "stayed", "changed", "relative change", "largest change", "most changed")
            yield draw("pretrained, by layer: ||after - before|| / ||before||", columns, rows)


def describe_failure(tensor: TensorDrift) -> str:
    """Return in a line what is wrong with a failed entry: how much moved, the first place and both values."""
    if tensor.status == "missing":
        return "missing"
    if tensor.status == "unproved":
        return f"nothing says what it was{'; ' + tensor.reason if tensor.reason else ''}"
    change = tensor.change
    if change is None:
        return tensor.reason or "its digest has changed"
    text = describe_difference({"reason": "moved", **change.first, "changed_rows": change.rows})
    elements = f"{format_count(change.elements)} of {format_count(tensor.elements)} elements"
    text += f"; {elements}, the largest change {figure(change.largest)}"
    return text + (f"; {tensor.reason}" if tensor.reason else "")


def untrained_warning(tensors: Sequence[TensorDrift]) -> Iterator[str]:
    """Yield a warning where new tensors are as they were made."""
    untrained = [tensor.name for tensor in tensors if tensor.status == "untrained"]
    if untrained:
        names = join_names(untrained)
        yield f"new, and still as it was made: {names}. Did the optimizer have it, and did it require grad?"


def figure(value: float) -> str:
    """Return a number in three digits.

    Example:
        >>> figure(0.00012345), figure(float("nan"))
        ('0.000123', '-')
    """
    return "-" if math.isnan(value) else f"{value:.3g}"


def _relative(value: float) -> str:
    return "from zero" if math.isinf(value) else figure(value)
