"""What ``diff`` found, as a value."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar

from hf_init._base_report import Draw, Report, draw_lines
from hf_init._block_names import layer_of
from hf_init._plan import alike_rows
from hf_init._text import format_count, text_table
from hf_init._verify.differences import Difference
from hf_init._verify.pairs import describe_renaming
from hf_init._verify.report import describe_difference

STATUSES = ("identical", "renamed", "cast", "changed", "added", "removed")


@dataclass(frozen=True, repr=False)
class DiffReport(Report):
    """How one checkpoint differs from another; true if it doesn't.

    Attributes:
        a, b: the folders.
        tensors: one dict each, what both have, what only ``a``, what only ``b`` has: ``name``, ``status``, ``shape``,
            ``dtype`` (in ``b``, unless removed); ``name_before`` of one that has another name in ``a``. The status is
            ``identical``; ``renamed``: the same bytes under another name; ``cast``: the exact cast from
            ``dtype_before``, what that means in ``cast``; ``changed``, with a ``reason`` (bytes, shape, dtype);
            ``added``; ``removed``. Changed bytes have ``first`` (where, ``seen`` in b, ``expected`` as in a),
            ``rows``, ``changed_rows`` and ``changed_elements``; another shape or dtype, ``shape_before`` and
            ``dtype_before``; another number of rows, ``common_rows`` and ``common_rows_identical`` too.
        by_layer: whether to print a line a layer instead of one a tensor.
    """

    a: str
    b: str
    tensors: tuple[Difference, ...]
    by_layer: bool = False

    schema: ClassVar[str] = "hf_init.diff/1"

    @property
    def counts(self) -> dict[str, int]:
        """Count the tensors by status."""
        counts = Counter(tensor["status"] for tensor in self.tensors)
        return {status: counts[status] for status in STATUSES}

    @property
    def ok(self) -> bool:
        """Return whether both have the same tensors, of the same names, shapes and dtypes, with the same bytes."""
        return self.counts["identical"] == len(self.tensors)

    @property
    def identical(self) -> bool:
        """Return the same as ``ok``."""
        return self.ok

    @property
    def headline(self) -> str:
        counts = [f"{format_count(number)} {status}" for status, number in self.counts.items() if number]
        return f"{self.a} -> {self.b}: {', '.join(counts) or 'no tensor'}"

    @property
    def failure(self) -> str:
        rows = [(tensor["name"], _describe(tensor)) for tensor in self.tensors if tensor["status"] != "identical"]
        return f"{self.headline}; expected identical ones:\n{draw_lines(text_table, ('', ''), rows)}"

    def layers(self) -> dict[str, dict[str, int]]:
        """Count the tensors of each layer by status; what is in no layer, by the module that it is in."""
        layers: dict[str, Counter[str]] = {}
        for tensor in self.tensors:
            layers.setdefault(layer_of(tensor["name"]), Counter())[tensor["status"]] += 1
        return {layer: dict(counts) for layer, counts in layers.items()}

    def document(self) -> Mapping[str, object]:
        return {"a": self.a, "b": self.b, "tensors": self.tensors, "counts": self.counts, "layers": self.layers()}

    def parts(self, draw: Draw) -> Iterator[str]:
        yield self.summary
        yield from self._groups(draw)
        if self.by_layer:
            yield self._layer_table(draw)
            return
        changed = [(each["name"], _describe(each)) for each in self._of("changed")]
        yield draw_lines(draw, ("tensor", "difference"), changed, most=None)
        for status in ("added", "removed"):
            rows = [(each["name"], each["dtype"], str(each["shape"])) for each in self._of(status)]
            yield draw(f"{status} ({len(rows)})", ("tensor", "dtype", "shape"), alike_rows(rows)) if rows else ""

    def _layer_table(self, draw: Draw) -> str:
        statuses = [status for status, number in self.counts.items() if number]
        counts = ((layer, [counts.get(status, 0) for status in statuses]) for layer, counts in self.layers().items())
        rows = [(layer, *map(format_count, numbers)) for layer, numbers in counts]
        return draw("by layer", ("layer", *statuses), rows) if rows else ""

    @property
    def summary(self) -> str:
        """Return the outcome, and in a sentence what became of everything that the first one holds."""
        counts = self.counts
        there = sum(counts[status] for status in ("identical", "renamed", "cast"))
        of = len(self.tensors) - counts["added"]
        if self.ok or not there:
            return self.headline
        cast = ", as its exact cast" if counts["cast"] == there else ""
        more = f" ({counts['cast']} as its exact cast)" if counts["cast"] and not cast else ""
        all_of, verb = ("each of", "is") if there == of else (f"{format_count(there)} of", "are")
        return f"{self.headline}\n{all_of} the {format_count(of)} tensors of {self.a} {verb} in {self.b}{cast or more}"

    def _of(self, status: str) -> Iterable[Difference]:
        return (tensor for tensor in self.tensors if tensor["status"] == status)

    def _groups(self, draw: Draw) -> Iterator[str]:
        """Yield what one change of names, or one cast, explains: a row for all of it."""
        renamed = Counter(
            describe_renaming(each["name_before"], each["name"]) for each in self.tensors if "name_before" in each
        )
        rows = [(*names, format_count(number)) for names, number in renamed.most_common()]
        yield draw("under another name", ("was", "is", "tensors"), rows) if rows else ""
        casts = Counter((each["dtype_before"], each["dtype"], each["cast"]) for each in self._of("cast"))
        rows = [(f"{before} -> {after}", cast, format_count(n)) for (before, after, cast), n in casts.most_common()]
        yield draw("cast", ("dtype", "", "tensors"), rows) if rows else ""


def _describe(tensor: Difference) -> str:
    """Return in a line how a tensor isn't identical."""
    was = f", was {tensor['name_before']}" if "name_before" in tensor else ""
    if tensor["status"] == "cast":
        return f"{tensor['dtype_before']} -> {tensor['dtype']}, {tensor['cast']}{was}"
    if tensor["status"] != "changed":
        return f"{tensor['status']}, {tensor['dtype']} {tensor['shape']}{was}"
    text = describe_difference({**tensor, **tensor.get("first", {})})
    if "shape_before" in tensor:
        text += f", {tensor['dtype_before']} {tensor['shape_before']} -> {tensor['dtype']} {tensor['shape']}"
    if "common_rows" in tensor:
        text += f"; {tensor['common_rows_identical']} of {tensor['common_rows']} common rows identical"
    return text + was
