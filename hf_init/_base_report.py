"""What every report has in common: true if all is well, and told as text, HTML, Markdown or JSON."""

from __future__ import annotations

import math
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar, TypeAlias

from hf_init._errors import HfInitError, ProofError, python_spelling, spell_options
from hf_init._html import html_document, html_table
from hf_init._text import markdown_table, printable, text_table

Draw: TypeAlias = Callable[[str, Sequence[str], Sequence[Sequence[str]]], str]
"""Makes a headline, columns and rows a table: of text, of HTML or of Markdown."""


class Report(ABC):
    """What a function found; true if all is well.

    A subclass is a dataclass that says ``schema``, ``headline``, ``parts`` and ``document``, and, where it can be
    wrong, ``ok`` and ``failure``.

    Attributes:
        schema: name and version of its JSON.
        error: what ``raise_if_failed`` raises.
    """

    schema: ClassVar[str]
    error: ClassVar[type[HfInitError]] = ProofError

    @property
    def ok(self) -> bool:
        """Return whether all is well."""
        return True

    @property
    @abstractmethod
    def headline(self) -> str:
        """Return the outcome in a line."""

    @property
    def failure(self) -> str:
        """Return what is wrong and what to do, where something is."""
        return str(self)

    def worries(self) -> Sequence[str]:
        """Return what is worth looking into, though it is no failure."""
        return ()

    @abstractmethod
    def parts(self, draw: Draw) -> Iterable[str]:
        """Return the report in parts, the outcome first: texts, and tables as ``draw`` makes them."""

    @abstractmethod
    def document(self) -> Mapping[str, object]:
        """Return what its JSON holds besides ``schema`` and ``ok``."""

    def __bool__(self) -> bool:
        return self.ok

    def raise_if_failed(self) -> None:
        """Raise an HfInitError that says what is wrong and what to do, unless all is well."""
        if not self.ok:
            raise self.error(self.failure)

    def to_json(self) -> dict[str, Any]:
        """Return the report as a JSON document, whose ``schema`` names its version."""
        return {"schema": self.schema, "ok": self.ok, **jsonable(self.document())}

    def to_markdown(self) -> str:
        """Return the report as Markdown, for a pull request or a model card."""
        return re.sub(r"(?<!\n)\n(?![\n|])", "  \n", self.text(draw=markdown_table))

    def text(self, spell: Callable[[str, str], str] = python_spelling, draw: Draw = text_table) -> str:
        """Return the whole report, its options written by ``spell(name, value)``; see ``option``."""
        return printable(spell_options("\n\n".join(part for part in self.parts(draw) if part), spell))

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {printable(self.headline)}>"

    def __str__(self) -> str:
        return self.text()

    def _repr_html_(self) -> str:
        return printable(spell_options(html_document(self.parts(html_table)), python_spelling))


def draw_lines(draw: Draw, columns: tuple[str, str], rows: Sequence[tuple[str, str]], most: int | None = 5) -> str:
    """Return what is said of the first few names: a line each in plain text, elsewhere a table; of all in HTML."""
    shown = list(rows if draw is html_table else rows[:most])
    if len(shown) < len(rows):
        shown.append((f"... and {len(rows) - len(shown)} more", ""))
    if draw is text_table:
        return "\n".join(f"  {': '.join(printable(cell, lines=False) for cell in row if cell)}" for row in shown)
    return draw("", columns, shown) if shown else ""


def jsonable(value: Any) -> Any:
    """Return the value with what JSON can't hold, numbers that are not finite, spelled as strings."""
    if isinstance(value, Mapping):
        return {key: jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [jsonable(item) for item in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
