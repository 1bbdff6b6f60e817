"""What ``verify`` found, as a value."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

from hf_init._base_report import Draw, Report, draw_lines
from hf_init._errors import option
from hf_init._text import format_bytes, format_count, text_table
from hf_init._verify.differences import Difference


class ProofPart(NamedTuple):
    """Which part of a proof a report is of.

    Attributes:
        number, of: the part, and how many there are.
        result: SHA-256 over manifest and headers of the result.
        recomputed: whether new values were derived again.
    """

    number: int
    of: int
    result: str
    recomputed: bool


@dataclass(frozen=True, repr=False)
class VerifyReport(Report):
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
        part: which part of the tensors was looked at; None: all of them.
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
    part: ProofPart | None = None

    schema: ClassVar[str] = "hf_init.verify/1"

    @property
    def ok(self) -> bool:
        """Return whether everything that should be equal is."""
        return not self.differences

    @property
    def headline(self) -> str:
        return f"{self._outcome}, {format_count(self.counts.get('tensors', 0))} tensors"

    @property
    def failure(self) -> str:
        expected = "the manifest asks" if self.base is None else f"the plan and {self.base} ask"
        return (
            f"{self._outcome} from what {expected} for:\n"
            f"{draw_differences(text_table, self.differences)}\n"
            "Don't use this result: make it again, or restore the file that has changed."
        )

    def document(self) -> Mapping[str, object]:
        return {
            "counts": self.counts,
            "bytes_compared": self.bytes_compared,
            "bytes_digested": self.bytes_digested,
            "bytes_linked": self.bytes_linked,
            "bytes_cloned": self.bytes_cloned,
            "differences": self.differences,
            "notes": self.notes,
            "base": self.base,
            "complete": self.complete,
            **({} if self.part is None else {"part": self.part._asdict()}),
        }

    def parts(self, draw: Draw) -> Iterator[str]:
        numbers = {status: format_count(number) for status, number in self.counts.items()}
        if draw is text_table:
            counts = ", ".join(f"{number} {status}" for status, number in numbers.items())
            yield f"{self._outcome}: {counts}\n{self._amounts()}"
        else:
            yield draw(self._outcome, [*numbers], [[*numbers.values()]])
            yield self._amounts()
        yield draw_differences(draw, self.differences)

    @property
    def _outcome(self) -> str:
        number = len(self.differences)
        part = "" if self.part is None else f"part {self.part.number} of {self.part.of}: "
        return part + (f"{number} difference{'s' * (number != 1)}" if number else "proved")

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


def draw_differences(draw: Draw, differences: Sequence[Mapping[str, Any]]) -> str:
    """Return the first differences, one a line or row."""
    return draw_lines(
        draw, ("tensor", "difference"), [(each["name"], describe_difference(each)) for each in differences]
    )


def describe_difference(difference: Mapping[str, Any]) -> str:
    """Return one difference of a tensor in a line: the reason, the row and both values."""
    text = difference["reason"]
    if "index" in difference:
        text += f" at row {difference['row']}, index {difference['index']}"
    if "changed_rows" in difference and "index" in difference:
        rows = difference["changed_rows"]
        text += f" ({rows} row{'s' * (rows != 1)} changed)"
    if "seen" in difference:
        text += f": seen {_with_bits(difference, 'seen')}, expected {_with_bits(difference, 'expected')}"
    return text


def _with_bits(difference: Mapping[str, Any], side: str) -> str:
    value, bits = difference[side], difference.get(f"{side}_bits")
    return f"{value}" if bits is None or bits == value else f"{value} ({bits})"
