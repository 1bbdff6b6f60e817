"""The change that adds tokens: read from the user's options, with the base's tokenizer and config."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import PreTrainedModel

from hf_init._architecture import Target
from hf_init._change import Change, ChangePlan, TargetContext
from hf_init._checkpoint import BaseCheckpoint
from hf_init._distill import distilled_values, reading_base, says_in_turn
from hf_init._errors import PlanError, option
from hf_init._plan import Choice, Fill, Match, Plan
from hf_init._tensors import Rows, Status
from hf_init._text import join_names
from hf_init._vocabulary.choose import (
    BIAS,
    EmbeddingTable,
    NewToken,
    auto_row_scheme,
    bind_row_scheme,
    distilled_scheme,
)
from hf_init._vocabulary.config_fields import table_sides, vocabulary_dims
from hf_init._vocabulary.guarantee import guarantee
from hf_init._vocabulary.notes import text_notes, token_claim, token_notes
from hf_init._vocabulary.plan import VocabularyChange, vocabulary_change
from hf_init._vocabulary.record import TOKEN_RECORD, EarlierTokens, untrained_record
from hf_init._vocabulary.request import ROW_SCHEME_OPTIONS, TOKEN_OPTIONS, read_token_request
from hf_init._vocabulary.rows import VocabularyRows
from hf_init._vocabulary.token_ids import write_generation
from hf_init._vocabulary.tokenizer_files import TOKENIZER_FILES
from hf_init.schemes import Distilled, RowScheme

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class TokenChange(Change):
    """The requested tokens, and what becomes of the vocabulary."""

    change: VocabularyChange

    OPTIONS = TOKEN_OPTIONS

    @classmethod
    def of(cls, base: BaseCheckpoint, options: Mapping[str, Any]) -> TokenChange | None:
        request = read_token_request(options)
        return None if request is None else cls(vocabulary_change(base, request))

    def config_values(self) -> Mapping[str, object]:
        change = self.change
        return {**dict.fromkeys(change.fields.counts, change.vocabulary.after), **change.moved.config}

    def plan(self, context: TargetContext) -> ChangePlan:
        change, target = self.change, context.target
        if not change.vocabulary.changes:
            return ChangePlan(
                notes=tuple(token_notes(change)),
                write=self._write,
                finish=self._finish,
                claim=lambda plan: token_claim(change, ()),
            )
        dims = vocabulary_dims(target, change.fields.counts)
        tables = {t.name: (t, dims[t.parameter]) for t in target.layout.tensors if t.parameter in dims}
        sides = table_sides(tables, target)
        idle = [each for each in change.request.one_sided if ROW_SCHEME_OPTIONS[each][0] not in sides.values()]
        if idle:
            raise PlanError(
                f"{', '.join(idle)}: the vocabulary's tables are {', '.join(sorted({*sides.values()}))} here, none of "
                "that side alone; say row_scheme"
            )
        claim, places = token_claim(change, sides.values()), {name: dim for name, (_, dim) in tables.items()}
        new = change.new_tokens or change.padding
        trains = change.request.texts is not None or any(map(_writes, change.request.schemes.values()))
        base = reading_base(target) if trains else None
        read = [name for name, side in sides.items() if side in ("input", "tied")]
        if base is not None and len(read) > 1:
            raise PlanError(f"texts: rows of one table are distilled, and here several are read: {join_names(read)}")
        parameters = 0 if base is None else sum(each.numel() for each in base.model.parameters())

        def values(plan: Plan, load: object) -> Mapping[str, torch.Tensor]:
            return {} if base is None else distilled_values(plan, base, change.read, go_on=True)

        return ChangePlan(
            keep={name: VocabularyRows(change.vocabulary, dim) for name, (_, dim) in tables.items()},
            fills=partial(_row_fills, change, sides, base),
            notes=(*token_notes(change), *text_notes(change, sides.values(), parameters)),
            notes_on=lambda plan: [guarantee(change, sides, places, target, plan)] if new else [],
            write=self._write,
            finish=self._finish,
            record=self._record(places, target),
            claim=lambda plan: claim,
            values=None if base is None else values,
        )

    def _write(self, folder: Path) -> None:
        change = self.change
        if change.files is not None:
            for name in TOKENIZER_FILES if change.replaced else ():
                (folder / name).unlink(missing_ok=True)
            change.files.write(folder)
        write_generation(folder, change.moved.generation)

    def _finish(self, model: PreTrainedModel) -> None:
        vars(model)["init_tokenizer"] = self.change.tokenizer
        for key, value in self.change.moved.generation.items():
            setattr(model.generation_config, key, value)

    def _record(self, dims: Mapping[str, int], target: Target) -> dict[str, object]:
        change = self.change
        earlier = change.earlier if not change.replaced else EarlierTokens()
        return {
            TOKEN_RECORD: {
                "tokens": {**earlier.tokens, **{token.text: token.id for token in change.new_tokens}},
                "in_text": change.in_text.to_json(),
                "tables": dims,
                "untrained": untrained_record(earlier, change.vocabulary.new_ids, target),
            }
        }


def _row_fills(
    change: VocabularyChange, sides: Mapping[str, str], base: Target | None, match: Match, choice: Choice
) -> Sequence[Fill] | None:
    """Return the new rows of a table, by kind of token; None where they are the recipe's or the user's own.

    Args:
        base: what rows are distilled with, if any are.
    """
    name = match.target.name
    if name not in sides or match.status is not Status.RESIZED:
        return None
    region = match.new[0]
    if len(match.new) > 1 or not isinstance(region, Rows) or region.index != change.vocabulary.new_rows(region):
        return None  # the user's own ``keep`` says otherwise
    by_rule = choice.why != "default" and not choice.advised
    if by_rule and not isinstance(choice.scheme, RowScheme):
        return None
    table = EmbeddingTable(match.copies[0].source, sides[name], change.trained, change.order, change.splitter)
    scheme = choice.scheme if by_rule else change.request.schemes.get(sides[name])
    distilled = _distilled_words(change, scheme, sides, table.side, base)
    if isinstance(scheme, Distilled):
        scheme = None
    fills = []
    for kind, tokens in change.tokens_by_kind(region.index, together=scheme is not None):
        chosen = auto_row_scheme(table.side, kind, change.request.guarantee)
        if scheme is not None and kind != "padding":
            chosen = Choice(scheme, choice.why if by_rule else "asked for")
        if distilled is not None and kind == "word":
            written = table.side != "output" and _writes(distilled.scheme)
            found = [token for token in tokens if written or token.id in change.read.found]
            tokens = [token for token in tokens if token not in found]
            if found:
                fills.append(_row_fill(region, table, found, distilled))
        if tokens:
            fills.append(_row_fill(region, table, tokens, chosen))
    return fills


def _row_fill(region: Rows, table: EmbeddingTable, tokens: Sequence[NewToken], chosen: Choice) -> Fill:
    rows = replace(region, index=tuple(token.id for token in tokens))
    return Fill(rows, bind_row_scheme(chosen.scheme, table, tokens), chosen.why)


def _distilled_words(
    change: VocabularyChange, scheme: object, sides: Mapping[str, str], side: str, base: Target | None
) -> Choice | None:
    """Return the choice for words that the texts have, or the base writes; None where they aren't distilled.

    Raises:
        PlanError: they are to be, and there are no texts, or the base can't write them, or says no tokens in turn.
    """
    texts, asked = change.request.texts, isinstance(scheme, Distilled)
    if asked and base is None:
        raise PlanError(
            f"{scheme}: rows are distilled from texts with the new tokens in them; give some "
            f"({option('texts', 'FILE')}), or let the base write them ({option('row_scheme', 'distilled(written=12)')})"
        )
    by_default = scheme is None and (side == "input" or change.request.guarantee == "learning")
    if base is None or side in BIAS or not (asked or by_default):
        return None
    words = scheme if isinstance(scheme, Distilled) else Distilled()
    data = "" if texts is None else texts.fingerprint
    if side == "output":
        speaks = says_in_turn(base.model) and [*sides.values()].count("output") == 1
        if speaks and texts is not None:
            return Choice(distilled_scheme(words, "output", data), "a word: solved to be said where the texts say it")
        if "output_rows" in change.request.one_sided:
            lacks = f"give some ({option('texts', 'FILE')})" if speaks else f"{base.cls.__name__} has no such head"
            raise PlanError(f"output_rows: distilled rows of a causal head are solved from texts; {lacks}")
        return None
    if _writes(scheme) and not base.cls.can_generate():
        raise PlanError(f"{scheme}: {base.cls.__name__} writes no texts; give some ({option('texts', 'FILE')})")
    assert side in ("input", "tied")
    return Choice(distilled_scheme(words, side, data), "a word: trained to be read as its pieces are, in texts with it")


def _writes(scheme: object) -> bool:
    return isinstance(scheme, Distilled) and scheme.written > 0
