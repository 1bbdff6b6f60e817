"""Positions of text: more of them, with the old ones in their places; the tokenizer and the config in step."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from hf_init._architecture import text_config
from hf_init._change import Change, ChangePlan, TargetContext, TargetRequest
from hf_init._checkpoint import BaseCheckpoint
from hf_init._errors import PlanError, option
from hf_init._growth.axis import changed_tensors, other_ways, own_target, path_of, planned_fills, value_at
from hf_init._plan import RowMap, RowMapping, no_claim, weakest_claim
from hf_init._roles import matches
from hf_init._tensors import SourceTensor, TensorSpec
from hf_init.schemes import Resample, Scheme

FIELDS = ("max_position_embeddings", "n_positions", "max_target_positions", "max_positions")
WAYS = ("tile", "interpolate")


@dataclass(frozen=True)
class PositionsChange(Change):
    """The number of positions that the user wants.

    Attributes:
        count: of positions. way: how new ones start, one of ``WAYS``.
        kept: how many of the first positions stay, with ``interpolate``.
    """

    count: int
    way: str = "tile"
    kept: int = 0

    OPTIONS = ("positions", "positions_by", "positions_keep")

    @classmethod
    def of(cls, base: BaseCheckpoint, options: Mapping[str, object]) -> PositionsChange | None:
        count, way, kept = (options.get(name) for name in cls.OPTIONS)
        if count is None:
            if given := [name for name in cls.OPTIONS if options.get(name) is not None]:
                raise PlanError(f"{option(given[0])} says how {option('positions')} start; give their number")
            return None
        if isinstance(count, bool) or not isinstance(count, int) or count < 1:
            raise PlanError(f"{option('positions')}: expected a whole number of at least 1, not {count!r}")
        if way not in (None, *WAYS):
            raise PlanError(f"{option('positions_by')}: expected one of {', '.join(WAYS)}, not {way!r}")
        counted = kept is None or (isinstance(kept, int) and not isinstance(kept, bool) and kept >= 0)
        if not counted or (kept is not None and way != "interpolate"):
            stretched = option("positions_by", "interpolate")
            raise PlanError(f"{option('positions_keep')}: expected a whole number, with {stretched}; not {kept!r}")
        return cls(count, str(way or "tile"), kept if isinstance(kept, int) else 0)

    def retarget(self, request: TargetRequest) -> TargetRequest:
        own = own_target(request, "positions")
        path = path_of(text_config(own.config), own.config, FIELDS)
        if path is None:
            raise PlanError(
                f"{option('positions')}: the config of a {own.config.model_type} has no number of positions"
            )
        before = value_at(own.config, path)
        if not isinstance(before, int):
            raise PlanError(
                f"{option('positions')}: the config of a {own.config.model_type} has {path}={before!r}, no number"
            )
        if self.count < before:
            raise PlanError(
                f"{option('positions')}: {self.count} are fewer than the base's {before}; rows can't go this way"
            )
        if self.kept >= before:
            raise PlanError(
                f"{option('positions_keep')}: {self.kept} of the base's {before} would stay, and none be stretched"
            )
        return request.with_values({path: self.count})

    def plan(self, context: TargetContext) -> ChangePlan:
        target = context.target
        base = target.base_config
        path = None if base is None else path_of(text_config(base), base, FIELDS)
        if base is None or path is None:
            return ChangePlan()
        before = value_at(base, path)
        assert isinstance(before, int)
        tables = {
            tensor.name: (tensor, source)
            for tensor, source in changed_tensors(target)
            if matches(tensor.role, "embedding.position") and source.shape[-1] == tensor.shape[-1]
        }
        keep: dict[str, RowMapping] = {}
        schemes: dict[str, tuple[Scheme, str]] = {}
        for name, (tensor, source) in tables.items():
            keep[name], scheme = self._rows(tensor, source, before)
            schemes |= {name: (scheme, "computed from the old positions")} if scheme else {}
        stretched = ["positions are interpolated"] if tables and self.way != "tile" else []
        claim = weakest_claim(map(no_claim, [*stretched, *other_ways(target, {path: before})]))
        return ChangePlan(
            keep=keep,
            fills=partial(planned_fills, schemes),
            notes=tuple(self._notes(before, tables)),
            claim=lambda plan: claim,
            config=frozenset([path]),
            write=partial(_write_length, before, self.count),
        )

    def _rows(self, tensor: TensorSpec, source: SourceTensor, before: int) -> tuple[RowMapping, Resample | None]:
        """Return which rows of a table are kept or copied, and the scheme of the others."""
        dim = len(tensor.shape) - 2
        rows, more = source.shape[dim], tensor.shape[dim]
        first = rows - before  # rows before the first position, such as OPT's two
        if not 0 <= first < 8 or more - first != self.count:
            raise PlanError(
                f"{option('positions')}: {tensor.name} has {rows} rows for {before} positions and {more} for "
                f"{self.count}, so which row is which position's isn't known; say it: {option('keep', {'GLOB': 'HOW'})}"
            )
        if not first and tensor.padding is not None:  # RoBERTa counts the rows up to that of padding, too
            first = tensor.padding + 1
        if self.way == "tile":
            index = (*range(rows), *(first + (row - first) % (rows - first) for row in range(rows, more)))
            return RowMap(index, dim), None
        head = min(first + self.kept, rows - 1)
        index = (*range(head), *[None] * (more - head))
        return RowMap(index, dim, drop=True), Resample("linear", head, 0, (rows - head,), (more - head,), source.name)

    def _notes(self, before: int, tables: Mapping[str, object]) -> Iterator[str]:
        how = "the old ones again and again" if self.way == "tile" else "the old ones, stretched"
        yield f"positions: {before} -> {self.count}" + (f", in {', '.join(tables)}: {how}" if tables else "")


def _write_length(before: int, after: int, folder: Path) -> None:
    """Write the tokenizer's longest text, where it is the base's number of positions."""
    path = folder / "tokenizer_config.json"
    if not path.is_file():
        return
    settings = json.loads(path.read_text(encoding="utf-8"))
    length = settings.get("model_max_length")
    if isinstance(length, int) and 0 <= before - length < 8:
        settings["model_max_length"] = after - (before - length)
        path.write_text(json.dumps(settings, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
