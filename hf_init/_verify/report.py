"""What ``verify`` found, as a value."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from hf_init import _html
from hf_init._errors import ProofError
from hf_init._text import format_bytes, format_count

_SHOWN = 5


@dataclass(frozen=True)
class VerifyReport:
    """The outcome of a proof.

    Attributes:
        counts: tensors of the plan by status, ``unused`` ones of the source, and ``tensors`` in the result's plan.
        bytes_compared: bytes of the result compared with the base.
        bytes_digested: bytes of the result whose digests were compared with the manifest: those of new regions and,
            without a base, of kept ones.
        differences: one dict each, with ``name`` and ``reason`` at least; differing bytes also have ``index``, ``row``,
            ``seen``, ``expected``, their bits in hex, ``region`` and, where everything was compared, ``changed_rows``
            and ``changed_elements``.
        notes: what is worth knowing and proves nothing.
        base: the folder compared with; None without one.
        complete: whether everything was compared; else it ended with the first difference.
        bytes_linked: kept bytes of files that are the base's own, by a link: there is one file, and nothing to compare.
        bytes_shared: of the proof that ``extend`` ends with, kept bytes that lie in the same blocks of the disk as the
            base's (a copy by reflink): equal without being read, until one of the two files is written to.
    """

    counts: dict[str, int]
    bytes_compared: int
    bytes_digested: int
    differences: tuple[dict[str, Any], ...]
    notes: tuple[str, ...]
    base: str | None
    complete: bool = True
    bytes_linked: int = 0
    bytes_shared: int = 0

    @property
    def ok(self) -> bool:
        """Whether everything that should be equal is."""
        return not self.differences

    def to_json(self) -> dict[str, Any]:
        return {
            "ok": self.ok,
            "counts": self.counts,
            "bytes_compared": self.bytes_compared,
            "bytes_digested": self.bytes_digested,
            "bytes_linked": self.bytes_linked,
            "bytes_shared": self.bytes_shared,
            "differences": jsonable(list(self.differences)),
            "notes": list(self.notes),
            "base": self.base,
            "complete": self.complete,
        }

    def raise_if_failed(self) -> None:
        """Raise ProofError, naming the first differences with rows and both values, unless all is equal."""
        if not self.ok:
            raise ProofError(
                f"{count_statuses(self.differences)} from what {self._due()} for:\n"
                f"{list_differences(self.differences)}\n"
                "Don't use this result: make it again, or restore the file that has changed."
            )

    def __str__(self) -> str:
        counts = ", ".join(f"{format_count(many)} {word}" for word, many in self.counts.items())
        details = f"\n{list_differences(self.differences)}" if self.differences else ""
        return f"{self._outcome()}: {counts}\n{self._amounts()}{details}"

    def _repr_html_(self) -> str:
        rows = [(each["name"], describe_proof(each)) for each in self.differences]
        counts = _html.html_table(
            self._outcome(), [*self.counts], [[format_count(many) for many in self.counts.values()]]
        )
        return _html.html_document(
            (counts, self._amounts(), _html.html_table("", ("tensor", "difference"), rows) if rows else "")
        )

    def _outcome(self) -> str:
        return count_statuses(self.differences) if self.differences else "proved"

    def _due(self) -> str:
        return "the manifest asks" if self.base is None else f"the plan and {self.base} ask"

    def _amounts(self) -> str:
        compared = "no base" if self.base is None else f"{format_bytes(self.bytes_compared)} compared with {self.base}"
        linked = f", {format_bytes(self.bytes_linked)} in files that are its own, by links" if self.bytes_linked else ""
        shared = f", {format_bytes(self.bytes_shared)} in the same blocks of the disk" if self.bytes_shared else ""
        rest = [] if self.complete else ["the comparison ended here; everything=True (--all) lists all that differs"]
        notes = "".join(f"\nnote: {note}" for note in (*self.notes, *rest))
        return f"{compared}{linked}{shared}, {format_bytes(self.bytes_digested)} with their digests{notes}"


def count_statuses(differences: Sequence[dict[str, Any]]) -> str:
    """How many there are, in words."""
    return "1 difference" if len(differences) == 1 else f"{len(differences)} differences"


def list_differences(differences: Iterable[dict[str, Any]]) -> str:
    """The first differences, one a line."""
    lines = [f"  {describe_proof(difference)}" for difference in differences]
    more = [f"  ... and {len(lines) - _SHOWN} more"] if len(lines) > _SHOWN else []
    return "\n".join(lines[:_SHOWN] + more)


def describe_proof(difference: dict[str, Any]) -> str:
    """One difference in a line: the tensor, the reason, the row and both values."""
    text = f"{difference['name']}: {difference['reason']}"
    if "index" in difference:
        text += f" at row {difference['row']}, index {difference['index']}"
    if "changed_rows" in difference and "index" in difference:
        rows, word = difference["changed_rows"], "row" if difference["changed_rows"] == 1 else "rows"
        text += f" ({rows} {word} changed)"
    if "seen" in difference:
        text += f": seen {_with_bits(difference, 'seen')}, expected {_with_bits(difference, 'expected')}"
    return text


def _with_bits(difference: dict[str, Any], which: str) -> str:
    value, bits = difference[which], difference.get(f"{which}_bits")
    return f"{value}" if bits is None or bits == value else f"{value} ({bits})"


def jsonable(value: Any) -> Any:
    """The value with what JSON can't hold, numbers that are not finite, spelled as strings."""
    if isinstance(value, dict):
        return {key: jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [jsonable(item) for item in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
