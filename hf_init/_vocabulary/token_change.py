"""The change that adds tokens: read from the user's options, with the base's tokenizer and config."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, get_args

from transformers import PreTrainedModel

from hf_init._architecture import Target
from hf_init._change import Change, ChangePlan, TargetContext
from hf_init._checkpoint import BaseCheckpoint
from hf_init._errors import PlanError
from hf_init._plan import Choice, Fill, Match
from hf_init._tensors import Rows, Status, TensorSpec
from hf_init._vocabulary.choose import EmbeddingTable, NewToken, TableKind, auto_row_scheme, probability_bound
from hf_init._vocabulary.config_fields import moving_fields, sides_of
from hf_init._vocabulary.notes import token_notes
from hf_init._vocabulary.plan import VocabularyChange, vocabulary_change
from hf_init._vocabulary.record import TOKEN_RECORD, EarlierTokens, carry_record
from hf_init._vocabulary.request import ROW_SCHEME_OPTIONS, TOKEN_OPTIONS, read_token_request
from hf_init._vocabulary.rows import VocabularyRows
from hf_init._vocabulary.save import renumber_generation, save_tokenizer
from hf_init.schemes import RowScheme


@dataclass(frozen=True)
class TokenChange(Change):
    """The tokens asked for, and what becomes of the vocabulary."""

    change: VocabularyChange

    OPTIONS = TOKEN_OPTIONS

    @classmethod
    def of(cls, base: BaseCheckpoint, options: Mapping[str, Any]) -> TokenChange | None:
        asked = read_token_request(options)
        return None if asked is None else cls(vocabulary_change(base, asked))

    def config_values(self) -> Mapping[str, Any]:
        change = self.change
        return {**dict.fromkeys(change.fields.counts, change.vocabulary.after), **change.ids}

    def plan(self, context: TargetContext) -> ChangePlan:
        target = context.target
        change = self.change
        if not change.vocabulary.changes:
            return ChangePlan(notes=tuple(token_notes(change, ())), write=self._write, finish=self._finish)
        dims = moving_fields(target, change.fields.counts)
        tables = {t.name: (t, dims[t.parameter]) for t in target.layout.tensors if t.parameter in dims}
        sides = sides_of(tables, target)
        _check_one_sided(change, set(sides.values()))
        return ChangePlan(
            keep={name: VocabularyRows(change.vocabulary, dim) for name, (_, dim) in tables.items()},
            fills=partial(_fills, change, sides),
            notes=tuple(token_notes(change, sides.values())),
            write=self._write,
            finish=self._finish,
            record=self._record(tables, target),
        )

    def _write(self, folder: str | os.PathLike[str]) -> None:
        change, out = self.change, Path(folder)
        if change.tokenizer is not None:
            save_tokenizer(change.tokenizer, out, replaced=change.replaced)
            renumber_generation(out, change.generation)

    def _finish(self, model: PreTrainedModel) -> None:
        vars(model)["init_tokenizer"] = self.change.tokenizer
        for key, value in self.change.generation.items():
            setattr(model.generation_config, key, value)

    def _record(self, tables: Mapping[str, tuple[TensorSpec, int]], target: Target) -> dict[str, Any]:
        change = self.change
        earlier = change.earlier if not change.replaced else EarlierTokens()
        return {
            TOKEN_RECORD: {
                "tokens": {**earlier.tokens, **{token.text: token.id for token in change.fresh}},
                "tables": {name: dim for name, (_, dim) in tables.items()},
                "untrained": carry_record(earlier, change.vocabulary.fresh, target),
            }
        }


def _check_one_sided(change: VocabularyChange, sides: set[str]) -> None:
    """A scheme for input rows alone means nothing where they are the output rows, too."""
    idle = [word for word in change.asked.one_sided if ROW_SCHEME_OPTIONS[word][0] not in sides]
    if idle:
        raise PlanError(
            f"{', '.join(idle)}: the vocabulary's tables are {', '.join(sorted(sides))} here, none of that side alone; "
            "say row_scheme"
        )


def _fills(change: VocabularyChange, sides: Mapping[str, str], match: Match, choice: Choice) -> Sequence[Fill] | None:
    """The new rows of a table, in groups of tokens of one kind; None where they are the recipe's or the user's own."""
    name = match.target.name
    if name not in sides or match.status is not Status.RESIZED or not _of_vocabulary(match, change):
        return None
    by_rule = choice.why != "default" and not choice.advised
    if by_rule and not isinstance(choice.scheme, RowScheme):
        return None
    table = EmbeddingTable(match.copies[0].source, sides[name], change.trained, change.order, change.splitter)
    asked = choice.scheme if by_rule else change.asked.schemes.get(sides[name])
    (region,) = match.new
    assert isinstance(region, Rows)
    made = []
    for kind, tokens in _groups(change, region.index, together=asked is not None):
        chosen = auto_row_scheme(table.side, kind, change.asked.guarantee)
        if asked is not None and kind != "padding":
            chosen = Choice(asked, choice.why if by_rule else "asked for")
        rows = replace(region, index=tuple(token.id for token in tokens))
        made.append(Fill(rows, probability_bound(chosen.scheme, table, tokens), chosen.why))
    return made


def _of_vocabulary(match: Match, change: VocabularyChange) -> bool:
    """Whether the new part is what the vocabulary says: the user's own ``keep`` may say otherwise."""
    rows = [region.index if isinstance(region, Rows) else None for region in match.new]
    return rows == [change.new_rows]


def _groups(
    change: VocabularyChange, rows: Sequence[int], together: bool
) -> Iterator[tuple[TableKind, list[NewToken]]]:
    """The tokens of those rows by kind; rows without a token are padding."""
    tokens = {token.id: token for token in change.fresh}
    here = [tokens.get(row, NewToken(row, "", "padding")) for row in rows]
    kinds: tuple[TableKind, ...] = ("word", "padding") if together else get_args(TableKind)
    for kind in kinds:
        group = [t for t in here if t.kind == kind or (together and kind == "word" and t.kind != "padding")]
        if group:
            yield kind, group
