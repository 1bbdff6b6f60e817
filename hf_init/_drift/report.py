"""What a training run did to a checkpoint, as a value that prints, raises and draws."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hf_init import _html, _text
from hf_init._drift.judge import STATUSES, TensorDrift
from hf_init._drift.layers import Group, by_layer
from hf_init._errors import ProofError
from hf_init._text import format_bytes, format_count, join_names
from hf_init._verify import VerifyReport, describe_difference, jsonable

_SHOWN = 5
_WORDS = {"identical": "frozen and identical", "moved": "frozen and moved", "unproved": "frozen and unproved"}


@dataclass(frozen=True)
class DriftReport:
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

    @property
    def counts(self) -> dict[str, int]:
        """Entries by status."""
        found = Counter(tensor.status for tensor in self.tensors)
        return {status: found[status] for status in STATUSES}

    @property
    def failures(self) -> tuple[TensorDrift, ...]:
        """What was meant to stay and didn't, or can't be shown to have stayed."""
        return tuple(tensor for tensor in self.tensors if tensor.failed)

    @property
    def ok(self) -> bool:
        """Whether everything that was meant to stay did, and the base of an adapter is proved."""
        return not self.failures and (self.proof is None or self.proof.ok)

    def layers(self) -> tuple[Group, ...]:
        """The entries gathered by layer; what is in no layer by the module that it is in."""
        return by_layer(self.tensors)

    def raise_if_failed(self) -> None:
        """Raise ProofError, naming the first failures with the place and both values, unless the report is ok."""
        if self.proof is not None:
            self.proof.raise_if_failed()
        if self.failures:
            raise ProofError(
                f"{self._headline()}\n{self._failed()}\nThese were meant to stay ({self.frozen}). Don't use this "
                "checkpoint as if they had: train again with them frozen, or say what was free to move with frozen=."
            )

    def draw(self, path: str | os.PathLike[str]) -> Path:
        """Write a picture, a PNG: the relative change of each layer and kind of tensor. Raises HfInitError."""
        from hf_init._drift.picture import draw_drift

        return draw_drift(self, path)

    def to_json(self) -> dict[str, Any]:
        return {
            "ok": self.ok,
            "trained": self.trained,
            "base": self.base,
            "plan": self.plan,
            "frozen": self.frozen,
            "counts": self.counts,
            "bytes_compared": self.bytes_compared,
            "layers": jsonable([group.to_json() for group in self.layers()]),
            "tensors": [tensor.to_json() for tensor in self.tensors],
            "notes": list(self.notes),
            "warnings": list(self.warnings),
            **({"base_proof": self.proof.to_json()} if self.proof else {}),
            **({"paste": self.paste} if self.paste else {}),
        }

    def __str__(self) -> str:
        head = "\n".join(part for part in (self._headline(), self._amounts(), self._failed(), self._said()) if part)
        return "\n\n".join(part for part in (head, *self._tables(_text.text_table), self._ending()) if part)

    def _repr_html_(self) -> str:
        head = (self._headline(), self._amounts(), self._failed(), self._said())
        return _html.html_document((*head, *self._tables(_html.html_table), self._ending()))

    def _headline(self) -> str:
        counts = [f"{format_count(many)} {_WORDS.get(status, status)}" for status, many in self.counts.items() if many]
        failed = f"{len(self.failures)} FAILED: " if self.failures else ""
        return f"{self.base} -> {self.trained}: {failed}{', '.join(counts) or 'no tensor'}"

    def _amounts(self) -> str:
        return f"{format_bytes(self.bytes_compared)} compared; plan: {self.plan}; meant to stay: {self.frozen}"

    def _failed(self) -> str:
        lines = [f"  {failure(tensor)}" for tensor in self.failures]
        more = [f"  ... and {len(lines) - _SHOWN} more"] if len(lines) > _SHOWN else []
        return "\n".join(lines[:_SHOWN] + more)

    def _said(self) -> str:
        lines = [*(f"warning: {text}" for text in self.warnings), *(f"note: {text}" for text in self.notes)]
        return "\n".join(lines)

    def _tables(self, draw: Any) -> Iterator[str]:
        new = [tensor for tensor in self.tensors if tensor.status in ("new", "untrained")]
        if new:
            yield draw("new", ("tensor", "part", "elements", "relative change", "largest change"), _rows_of(new))
        groups = [group for group in self.layers() if group.compared]
        if any(group.change for group in groups):
            yield draw("pretrained, by layer: ||after - before|| / ||before||", _COLUMNS, [_row(g) for g in groups])

    def _ending(self) -> str:
        proof = f"the base itself, {self.base}:\n{self.proof}" if self.proof else ""
        paste = f"for the adapter's config, from the plan:\n{self.paste}" if self.paste else ""
        return "\n\n".join(part for part in (proof, paste) if part)


_COLUMNS = ("layer", "tensors", "stayed", "changed", "relative change", "largest change", "most changed")


def failure(tensor: TensorDrift) -> str:
    """A failed entry in a line: how much moved, the first place and both values."""
    part = "" if tensor.portion == "all" else f" ({tensor.portion} elements)"
    if tensor.status == "missing":
        return f"{tensor.name}: missing"
    if tensor.status == "unproved":
        return f"{tensor.name}{part}: nothing says what it was{'; ' + tensor.reason if tensor.reason else ''}"
    change = tensor.change
    if change is None:
        return f"{tensor.name}{part}: {tensor.reason or 'its digest has changed'}"
    text = describe_difference(
        {"name": tensor.name + part, "reason": "moved", **change.first, "changed_rows": change.rows}
    )
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
    """A number in three digits.

    Example:
        >>> figure(0.00012345), figure(float("nan"))
        ('0.000123', '-')
    """
    return "-" if math.isnan(value) else f"{value:.3g}"


def _rows_of(tensors: Sequence[TensorDrift]) -> list[tuple[str, ...]]:
    return [(tensor.name, tensor.portion, format_count(tensor.elements), *_moved(tensor)) for tensor in tensors]


def _moved(tensor: TensorDrift) -> tuple[str, str]:
    if tensor.status == "untrained":
        return "none: still as it was made", "0"
    if tensor.change is None:
        return "not known", "-"
    relative = tensor.change.relative
    return "from zero" if math.isinf(relative) else figure(relative), figure(tensor.change.largest)


def _row(group: Group) -> tuple[str, ...]:
    return (
        group.name,
        format_count(group.compared),
        format_count(group.stayed),
        format_count(group.compared - group.stayed),
        "from zero" if math.isinf(group.relative) else figure(group.relative),
        figure(group.largest),
        group.most,
    )
