"""The wish for tokens: read from the user's words, with the base's tokenizer and config; told in a scene."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, get_args

from transformers import PreTrainedModel

from hf_init._diff import Match
from hf_init._errors import PlanError
from hf_init._plan import Fill
from hf_init._recipe import Choice
from hf_init._spec import Rows, Status, TensorSpec
from hf_init._vocabulary import VocabularyRows
from hf_init.hf._tokens._asked import SCHEMES, WORDS, read
from hf_init.hf._tokens._choose import Fresh, Kind, Table, auto, bound
from hf_init.hf._tokens._earlier import RECORD, Earlier, carried
from hf_init.hf._tokens._extend import renumber_generation, save
from hf_init.hf._tokens._fields import moving, sides_of
from hf_init.hf._tokens._notes import notes
from hf_init.hf._tokens._plan import Change, change_of
from hf_init.hf._wish import Base, Scene, Terms, Wish
from hf_init.schemes._row_base import RowScheme


@dataclass(frozen=True)
class Tokens(Wish):
    """The tokens asked for, and what becomes of the vocabulary."""

    change: Change

    WORDS = WORDS

    @classmethod
    def of(cls, base: Base, words: Mapping[str, Any]) -> Tokens | None:
        asked = read(words)
        return None if asked is None else cls(change_of(base, asked))

    def values(self) -> Mapping[str, Any]:
        change = self.change
        return {**dict.fromkeys(change.fields.counts, change.vocabulary.after), **change.ids}

    def terms(self, scene: Scene) -> Terms:
        change = self.change
        if not change.vocabulary.changes:
            return Terms(notes=tuple(notes(change, ())), write=self._write, finish=self._finish)
        dims = moving(scene, change.fields.counts)
        tables = {t.name: (t, dims[t.parameter]) for t in scene.layout.tensors if t.parameter in dims}
        sides = sides_of(tables, scene)
        _refuse_one_sided(change, set(sides.values()))
        return Terms(
            keep={name: VocabularyRows(change.vocabulary, dim) for name, (_, dim) in tables.items()},
            fills=partial(_fills, change, sides),
            notes=tuple(notes(change, sides.values())),
            write=self._write,
            finish=self._finish,
            record=self._record(tables, scene),
        )

    def _write(self, folder: str | os.PathLike[str]) -> None:
        change, out = self.change, Path(folder)
        if change.tokenizer is not None:
            save(change.tokenizer, out, replaced=change.replaced)
            renumber_generation(out, change.generation)

    def _finish(self, model: PreTrainedModel) -> None:
        vars(model)["init_tokenizer"] = self.change.tokenizer
        for key, value in self.change.generation.items():
            setattr(model.generation_config, key, value)

    def _record(self, tables: Mapping[str, tuple[TensorSpec, int]], scene: Scene) -> dict[str, Any]:
        change = self.change
        earlier = change.earlier if not change.replaced else Earlier()
        return {
            RECORD: {
                "tokens": {**earlier.tokens, **{token.text: token.id for token in change.fresh}},
                "tables": {name: dim for name, (_, dim) in tables.items()},
                "untrained": carried(earlier, change.vocabulary.fresh, scene),
            }
        }


def _refuse_one_sided(change: Change, sides: set[str]) -> None:
    """A scheme for input rows alone means nothing where they are the output rows, too."""
    idle = [word for word in change.asked.one_sided if SCHEMES[word][0] not in sides]
    if idle:
        raise PlanError(
            f"{', '.join(idle)}: the vocabulary's tables are {', '.join(sorted(sides))} here, none of that side alone; "
            "say row_scheme"
        )


def _fills(change: Change, sides: Mapping[str, str], match: Match, choice: Choice) -> Sequence[Fill] | None:
    """The new rows of a table, in groups of tokens of one kind; None where they are the recipe's or the user's own."""
    name = match.target.name
    if name not in sides or match.status is not Status.RESIZED or not _of_vocabulary(match, change):
        return None
    by_rule = choice.why != "default" and not choice.advised
    if by_rule and not isinstance(choice.scheme, RowScheme):
        return None
    table = Table(match.copies[0].source, sides[name], change.trained, change.order, change.splitter)
    asked = choice.scheme if by_rule else change.asked.schemes.get(sides[name])
    (region,) = match.new
    assert isinstance(region, Rows)
    made = []
    for kind, tokens in _groups(change, region.index, together=asked is not None):
        chosen = auto(table.side, kind, change.asked.guarantee)
        if asked is not None and kind != "padding":
            chosen = Choice(asked, choice.why if by_rule else "asked for")
        rows = replace(region, index=tuple(token.id for token in tokens))
        made.append(Fill(rows, bound(chosen.scheme, table, tokens), chosen.why))
    return made


def _of_vocabulary(match: Match, change: Change) -> bool:
    """Whether the new part is what the vocabulary says: the user's own ``keep`` may say otherwise."""
    rows = [region.index if isinstance(region, Rows) else None for region in match.new]
    return rows == [change.new_rows]


def _groups(change: Change, rows: Sequence[int], together: bool) -> Iterator[tuple[Kind, list[Fresh]]]:
    """The tokens of those rows by kind; rows without a token are padding."""
    tokens = {token.id: token for token in change.fresh}
    here = [tokens.get(row, Fresh(row, "", "padding")) for row in rows]
    kinds: tuple[Kind, ...] = ("word", "padding") if together else get_args(Kind)
    for kind in kinds:
        group = [t for t in here if t.kind == kind or (together and kind == "word" and t.kind != "padding")]
        if group:
            yield kind, group
