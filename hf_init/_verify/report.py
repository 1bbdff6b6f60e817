"""What ``verify`` found, as a value."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from hf_init import _html
from hf_init._errors import ProofError, option, python_spelling, spell_options
from hf_init._text import format_bytes, format_count
from hf_init._verify.differences import Difference

_SHOWN = 5


@dataclass(frozen=True, repr=False)
class VerifyReport:
    """The outcome of a proof; true if everything that should be equal is.

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
        bytes_cloned: of the proof that ``extend`` ends with, kept bytes of files that the filesystem cloned whole in
            the same run (reflink), and that nobody has written to since: they aren't read. ``verify`` reads them.
    """

    counts: dict[str, int]
    bytes_compared: int
    bytes_digested: int
    differences: tuple[Difference, ...]
    notes: tuple[str, ...]
    base: str | None
    complete: bool = True
    bytes_linked: int = 0
    bytes_cloned: int = 0

    @property
    def ok(self) -> bool:
        """Return whether everything that should be equal is."""
        return not self.differences

    def __bool__(self) -> bool:
        return self.ok

    def raise_if_failed(self) -> None:
        """Raise ProofError, naming the first differences with rows and both values, unless all is equal."""
        if self.ok:
            return
        expected = "the manifest asks" if self.base is None else f"the plan and {self.base} ask"
        raise ProofError(
            f"{self._outcome} from what {expected} for:\n"
            f"{list_differences(self.differences)}\n"
            "Don't use this result: make it again, or restore the file that has changed."
        )

    def to_json(self) -> dict[str, object]:
        return {
            "schema": "hf_init.verify/1",
            "ok": self.ok,
            "counts": self.counts,
            "bytes_compared": self.bytes_compared,
            "bytes_digested": self.bytes_digested,
            "bytes_linked": self.bytes_linked,
            "bytes_cloned": self.bytes_cloned,
            "differences": jsonable(list(self.differences)),
            "notes": list(self.notes),
            "base": self.base,
            "complete": self.complete,
        }

    def __repr__(self) -> str:
        return f"<VerifyReport: {self._outcome}, {format_count(self.counts.get('tensors', 0))} tensors>"

    def __str__(self) -> str:
        return self.spelled(python_spelling)

    def spelled(self, spell: Callable[[str, str], str]) -> str:
        """Return the whole report, its options written by ``spell(name, value)``; see ``option``."""
        counts = ", ".join(f"{format_count(number)} {status}" for status, number in self.counts.items())
        details = f"\n{list_differences(self.differences)}" if self.differences else ""
        return f"{self._outcome}: {counts}\n{spell_options(self._amounts(), spell)}{details}"

    def _repr_html_(self) -> str:
        rows = [(each["name"], describe_difference(each)) for each in self.differences]
        numbers = [format_count(number) for number in self.counts.values()]
        counts = _html.html_table(self._outcome, [*self.counts], [numbers])
        differences = _html.html_table("", ("tensor", "difference"), rows) if rows else ""
        return _html.html_document((counts, spell_options(self._amounts(), python_spelling), differences))

    @property
    def _outcome(self) -> str:
        number = len(self.differences)
        return f"{number} difference{'s' * (number != 1)}" if number else "proved"

    def _amounts(self) -> str:
        parts = ["no base" if self.base is None else f"{format_bytes(self.bytes_compared)} compared with {self.base}"]
        if self.bytes_linked:
            parts.append(f"{format_bytes(self.bytes_linked)} in files that are its own, by links")
        if self.bytes_cloned:
            parts.append(f"{format_bytes(self.bytes_cloned)} in files that the filesystem has just cloned from it")
        parts.append(f"{format_bytes(self.bytes_digested)} with their digests")
        rest = (
            [] if self.complete else [f"the comparison ended here; {option('everything', True)} lists all that differs"]
        )
        return ", ".join(parts) + "".join(f"\nnote: {note}" for note in (*self.notes, *rest))


def list_differences(differences: Iterable[Difference]) -> str:
    """Return the first differences, one a line."""
    lines = [f"  {describe_difference(difference)}" for difference in differences]
    more = [f"  ... and {len(lines) - _SHOWN} more"] if len(lines) > _SHOWN else []
    return "\n".join(lines[:_SHOWN] + more)


def describe_difference(difference: Difference) -> str:
    """Return one difference in a line: the tensor, the reason, the row and both values."""
    text = f"{difference['name']}: {difference['reason']}"
    if "index" in difference:
        text += f" at row {difference['row']}, index {difference['index']}"
    if "changed_rows" in difference and "index" in difference:
        rows = difference["changed_rows"]
        text += f" ({rows} row{'s' * (rows != 1)} changed)"
    if "seen" in difference:
        text += f": seen {_with_bits(difference, 'seen')}, expected {_with_bits(difference, 'expected')}"
    return text


def _with_bits(difference: Difference, side: str) -> str:
    value, bits = difference[side], difference.get(f"{side}_bits")
    return f"{value}" if bits is None or bits == value else f"{value} ({bits})"


def jsonable(value: Any) -> Any:
    """Return the value with what JSON can't hold, numbers that are not finite, spelled as strings."""
    if isinstance(value, dict):
        return {key: jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [jsonable(item) for item in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
