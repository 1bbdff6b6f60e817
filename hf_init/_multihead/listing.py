"""The heads of a checkpoint, from its config and headers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import ClassVar

import transformers

from hf_init._architecture import building_on_meta, on_disk
from hf_init._base_report import Draw, Report
from hf_init._checkpoint import BaseCheckpoint
from hf_init._errors import PlanError
from hf_init._multihead.configuration_multi_head import MultiHeadConfig
from hf_init._multihead.kinds_multi_head import backbone_class
from hf_init._multihead.origins import HeadOrigin
from hf_init._tensors import num_elements
from hf_init._text import format_count

HEAD_COLUMNS = ("head", "kind", "class", "outputs", "labels", "tensors", "parameters")


@dataclass(frozen=True)
class ListedHead:
    """One head.

    Attributes:
        plain: the class of transformers that it is; None: a custom head of MultiHead's own.
        outputs: numbers of an answer, where they aren't the vocabulary's or a vector's.
        parameters: in the files; what it shares with the backbone isn't counted.
    """

    name: str
    kind: str
    plain: str | None
    outputs: int | None
    labels: tuple[str, ...] | None
    tensors: int
    parameters: int

    def cells(self) -> tuple[str, ...]:
        outputs = "" if self.outputs is None else str(self.outputs)
        labels = ", ".join(self.labels or ())
        count = format_count(self.parameters)
        return self.name, self.kind, self.plain or "own", outputs, labels, str(self.tensors), count


@dataclass(frozen=True, repr=False)
class HeadListing(Report):
    """The heads of a checkpoint, and the size of its backbone.

    Attributes:
        parameters: of the backbone.
    """

    folder: str
    backbone: str
    parameters: int
    heads: tuple[ListedHead, ...]

    schema: ClassVar[str] = "hf_init.heads/1"

    @property
    def headline(self) -> str:
        heads = f"{len(self.heads)} head{'s' * (len(self.heads) != 1)}"
        return f"{self.folder}: {heads} on a {self.backbone} of {format_count(self.parameters)} parameters"

    def document(self) -> Mapping[str, object]:
        backbone = {"class": self.backbone, "parameters": self.parameters}
        return {"backbone": backbone, "heads": [asdict(head) for head in self.heads]}

    def parts(self, draw: Draw) -> Iterator[str]:
        yield draw(self.headline, HEAD_COLUMNS, [head.cells() for head in self.heads])


def list_heads(name: str, *, subfolder: str = "", **hub: object) -> HeadListing:
    """List the heads of a folder or a hub id.

    Raises:
        CheckpointError, PlanError: it can't be read, or isn't a backbone with heads.
    """
    base = BaseCheckpoint.open(name, headers_only=True, subfolder=subfolder, hub=hub)
    if (
        base.class_name
        and not hasattr(transformers, base.class_name)
        and base.config.get("model_type") != MultiHeadConfig.model_type
    ):
        return _list_modules(base)
    origin = HeadOrigin.of(base, None)
    sizes = {tensor: num_elements(entry.shape) for tensor, entry in base.source.entries.items()}
    heads = []
    for head, spec in origin.heads.items():
        mine = [size for tensor, size in sizes.items() if origin.is_of_head(tensor, head)]
        outputs = None if spec.kind in ("language-model", "similarity") else spec.num_outputs
        heads.append(ListedHead(head, spec.kind, spec.plain, outputs, spec.labels, len(mine), sum(mine)))
    rest = sum(sizes.values()) - sum(head.parameters for head in heads)
    return HeadListing(name, (origin.backbone.architectures or [""])[0], rest, tuple(heads))


def _list_modules(base: BaseCheckpoint) -> HeadListing:
    """List what a class of somebody's own has beside its backbone, module by module."""
    backbone, prefix = _backbone_in(base)
    modules: dict[str, list[int]] = {}
    for tensor, entry in base.source.entries.items():
        within = backbone if tensor.startswith(prefix) else tensor.partition(".")[0]
        modules.setdefault(within, []).append(num_elements(entry.shape))
    trunk = modules.pop(backbone, [])
    heads = [ListedHead(name, "own", None, None, None, len(sizes), sum(sizes)) for name, sizes in modules.items()]
    return HeadListing(base.name, backbone, sum(trunk), tuple(heads))


def _backbone_in(base: BaseCheckpoint) -> tuple[str, str]:
    """Return the class of a checkpoint's backbone and its prefix: the library's for this config, else the largest part.

    A custom class may have it under any attribute, so it is found by the names of the tensors in it.
    """
    entries = base.source.entries
    parts = sorted({name.partition(".")[0] + "." for name in entries})
    try:
        config = HeadOrigin.of(base, None).backbone
        with building_on_meta():
            trunk = backbone_class(config)(config)
        shared = {part: sum(part + name in entries for name in on_disk(trunk, trunk.state_dict())) for part in parts}
        if any(shared.values()):
            return type(trunk).__name__, max(parts, key=shared.__getitem__)
    except (PlanError, ValueError):  # a config of somebody's own, too
        pass
    sizes = {p: sum(num_elements(e.shape) for n, e in entries.items() if n.startswith(p)) for p in parts}
    prefix = max(parts, key=sizes.__getitem__)
    return f"{base.class_name}.{prefix[:-1]}", prefix
