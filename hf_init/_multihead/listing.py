"""The heads of a checkpoint, from its config and headers."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from hf_init import _html
from hf_init._checkpoint import BaseCheckpoint
from hf_init._multihead.origins import HeadOrigin
from hf_init._tensors import num_elements
from hf_init._text import format_count, text_table

COLUMNS = ("head", "kind", "class", "outputs", "labels", "tensors", "elements")


@dataclass(frozen=True)
class ListedHead:
    """One head.

    Attributes:
        plain: the class of transformers that it is; None: one of MultiHead's own.
        outputs: numbers of an answer, where they aren't the vocabulary's or a vector's.
        elements: in the files; what it shares with the trunk isn't counted.
    """

    name: str
    kind: str
    plain: str | None
    outputs: int | None
    labels: tuple[str, ...] | None
    tensors: int
    elements: int


@dataclass(frozen=True)
class HeadListing:
    """The heads of a checkpoint, and the size of its trunk."""

    folder: str
    trunk: str
    elements: int
    heads: tuple[ListedHead, ...]

    def __str__(self) -> str:
        return text_table(self._title, COLUMNS, list(self._rows()))

    def _repr_html_(self) -> str:
        return _html.html_document([_html.html_table(self._title, COLUMNS, list(self._rows()))])

    def to_json(self) -> dict[str, Any]:
        return {
            "trunk": {"class": self.trunk, "elements": self.elements},
            "heads": [asdict(each) for each in self.heads],
        }

    @property
    def _title(self) -> str:
        many = f"{len(self.heads)} head{'' if len(self.heads) == 1 else 's'}"
        return f"{self.folder}: {many} on a {self.trunk} of {format_count(self.elements)} elements"

    def _rows(self) -> Iterable[tuple[str, ...]]:
        for head in self.heads:
            labels = ", ".join(head.labels or ())
            outputs = "" if head.outputs is None else str(head.outputs)
            yield (
                head.name,
                head.kind,
                head.plain or "own",
                outputs,
                labels,
                str(head.tensors),
                format_count(head.elements),
            )


def list_heads(name: str, **hub: Any) -> HeadListing:
    """The heads of a folder or a hub id.

    Raises:
        CheckpointError, PlanError: it can't be read, or isn't a trunk with heads.
    """
    base = BaseCheckpoint.open(name, headers_only=True, hub=hub)
    origin = HeadOrigin.of(base, None)
    shapes = {tensor: num_elements(entry.shape) for tensor, entry in base.source.entries.items()}
    mine = {head: [n for n in shapes if _is_of(n, head, origin)] for head in origin.heads}
    entries = tuple(
        ListedHead(
            head,
            spec.kind,
            spec.plain,
            None if spec.kind in ("language-model", "similarity") else spec.num_outputs,
            spec.labels,
            len(mine[head]),
            sum(shapes[n] for n in mine[head]),
        )
        for head, spec in origin.heads.items()
    )
    rest = sum(shapes.values()) - sum(entry.elements for entry in entries)
    return HeadListing(name, (origin.trunk.architectures or [""])[0], rest, entries)


def _is_of(name: str, head: str, origin: HeadOrigin) -> bool:
    if origin.multi:
        return name.startswith(f"heads.{head}.")
    return name.partition(".")[0] in origin.modules
