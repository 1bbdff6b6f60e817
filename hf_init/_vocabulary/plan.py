"""What becomes of a vocabulary, decided before the target is built: ids, rows, kinds of tokens. Reads no weights.

Of a base that an earlier extension wrote it reads the rows that are named there, to see whether they changed since.
"""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, get_args

from transformers import PreTrainedTokenizerBase

from hf_init._checkpoint import BaseCheckpoint
from hf_init._distill import ReadTexts, read_texts
from hf_init._errors import PlanError
from hf_init._text import join_names
from hf_init._vocabulary.choose import NewToken, TokenKind
from hf_init._vocabulary.config_fields import VocabularyFields, vocabulary_fields
from hf_init._vocabulary.in_text import TextCheck, check_in_text
from hf_init._vocabulary.record import EarlierTokens, earlier_tokens
from hf_init._vocabulary.request import ROLE_OPTIONS, TokenRequest
from hf_init._vocabulary.rows import Vocabulary, format_ids, id_ranges, rows_needed
from hf_init._vocabulary.token_ids import MovedIds, generation_values, id_fields, ids_within, moved_ids, text_ends
from hf_init._vocabulary.tokenizer import TokenSplitter, has_tokenizer, ids_of, load_tokenizer, text_of
from hf_init._vocabulary.tokenizer_files import TokenizerEdit, TokenizerFiles, check_read_back
from hf_init._vocabulary.tokens import WantedTokens, check_read, wanted_tokens


@dataclass(frozen=True)
class VocabularyChange:
    """A vocabulary before and after.

    Attributes:
        before: the base's tokenizer. tokenizer: of the target; None where there is none.
        files: of the target's tokenizer, where they aren't the base's own.
        new_tokens: tokens whose rows are new.
        trained: ranges of the base's rows that are trained tokens'.
        moved: values of the configs that are ids of tokens.
        wanted: the tokens of the request. in_text: what they do to texts.
        lost_tokens: the base's tokens that the other tokenizer doesn't have.
        generation: the base's generation config.
        taken: fields of the config that name an id which was no token's, and is a new one's now.
    """

    request: TokenRequest
    fields: VocabularyFields
    vocabulary: Vocabulary
    before: PreTrainedTokenizerBase | None
    tokenizer: PreTrainedTokenizerBase | None
    splitter: TokenSplitter | None
    new_tokens: tuple[NewToken, ...]
    trained: tuple[tuple[int, int], ...]
    earlier: EarlierTokens
    files: TokenizerFiles | None = None
    moved: MovedIds = field(default_factory=MovedIds)
    wanted: WantedTokens = field(default_factory=WantedTokens)
    in_text: TextCheck = field(default_factory=TextCheck)
    lost_tokens: tuple[str, ...] = ()
    generation: Mapping[str, Any] = field(default_factory=dict)
    taken: Mapping[str, int] = field(default_factory=dict)

    @property
    def replaced(self) -> bool:
        """Return whether another tokenizer takes the place of the base's."""
        return self.request.tokenizer is not None

    @property
    def padding(self) -> tuple[int, ...]:
        """Return the rows that are new though no token has them."""
        return self.vocabulary.padding({token.id for token in self.new_tokens})

    @cached_property
    def order(self) -> Mapping[int, int]:
        """Return the position of every token among those whose rows are new, by its id."""
        return {id_: position for position, id_ in enumerate(sorted(token.id for token in self.new_tokens))}

    @cached_property
    def words(self) -> Mapping[int, str]:
        """Return the new tokens that stand for what their pieces say, by their ids: those that can be distilled."""
        return {token.id: token.text for token in self.new_tokens if token.kind == "word"}

    def tokens_by_kind(self, rows: Sequence[int], together: bool) -> Iterator[tuple[TokenKind, list[NewToken]]]:
        """Yield the tokens of those rows by kind, or all but padding as one; rows without a token are padding."""
        by_id = {token.id: token for token in self.new_tokens}
        tokens = [by_id.get(row, NewToken(row, "", "padding")) for row in rows]
        kinds: tuple[TokenKind, ...] = ("word", "padding") if together else get_args(TokenKind)
        for kind in kinds:
            group = [t for t in tokens if t.kind == kind or (together and kind == "word" and t.kind != "padding")]
            if group:
                yield kind, group

    @cached_property
    def read(self) -> ReadTexts:
        """Return the request's texts with the new words that are found in them."""
        if self.before is None or self.tokenizer is None:
            return ReadTexts((), {})
        texts = self.request.texts.texts if self.request.texts is not None else ()
        return read_texts(texts, self.before, self.tokenizer, self.words)


def vocabulary_change(base: BaseCheckpoint, request: TokenRequest) -> VocabularyChange:
    """Return what a request comes to for this base.

    Raises:
        PlanError, CheckpointError: each with what was seen and what to do.
    """
    fields, earlier = vocabulary_fields(base.config), earlier_tokens(base)
    untouched = not (request.tokens or request.tokenizer is not None or request.shrink or request.edits)
    if untouched and not has_tokenizer(base.folder):
        return _without_tokenizer(request, fields, earlier)
    old = load_tokenizer(base.folder)
    base_ids = ids_of(old)
    fields = fields.of_ids(max(base_ids.values()) + 1)
    _check_reinit(request, fields.rows)
    reinit = {text for text, id_ in base_ids.items() if id_ in request.reinit_ids}
    splitter = TokenSplitter(old, {*earlier.tokens, *reinit})
    start = _first_files(base, request, old)
    start_tokenizer = old if request.tokenizer is None else start.load()
    whole = TokenSplitter(start_tokenizer) if earlier.tokens or reinit or start_tokenizer is not old else splitter
    template = old.chat_template if isinstance(old.chat_template, str) and not start_tokenizer.chat_template else None
    wanted = wanted_tokens(request, start_tokenizer, whole, template)
    files = start.edited(wanted.edit, start_tokenizer)
    tokenizer = files.load() if wanted.edit else start_tokenizer
    in_text = _tried(wanted.edit, start, start_tokenizer, whole, tokenizer)
    ids, start_ids = ids_of(tokenizer), None if request.tokenizer is None else ids_of(start_tokenizer)
    vocabulary = _rows(request, fields, splitter, base_ids, start_ids, ids)
    moved = _ids_that_move(base, request, fields, old, tokenizer, wanted.edit.renamed)
    taken = {} if request.tokenizer is not None else _taken_ids(fields, moved, {*ids.values()} - {*base_ids.values()})
    return VocabularyChange(
        request=request,
        fields=fields,
        vocabulary=vocabulary,
        before=old,
        tokenizer=tokenizer,
        splitter=splitter,
        new_tokens=tuple(_new_tokens(request, wanted, vocabulary, tokenizer, splitter, fields.offset)),
        trained=id_ranges(fields.rows_of(base_ids.values()) - earlier.ids - {*request.reinit_ids}),
        earlier=earlier,
        files=files if wanted.edit or request.tokenizer is not None else None,
        moved=moved,
        wanted=wanted,
        in_text=in_text,
        lost_tokens=tuple(sorted({*base_ids} - {*ids, *wanted.edit.renamed})),
        generation=generation_values(base.folder),
        taken=taken,
    )


def _tried(
    edit: TokenizerEdit,
    start: TokenizerFiles,
    before: PreTrainedTokenizerBase,
    splitter: TokenSplitter,
    after: PreTrainedTokenizerBase,
) -> TextCheck:
    """Return what added tokens do to texts, tried with the tokenizer as the library reads it from the edited files.

    Raises:
        PlanError: it reads other ids than they say, or tokens that no text comes to.
    """
    check_read_back(edit, before, after)
    in_text = check_in_text(edit.tokens, splitter, after)
    check_read(in_text, edit.tokens, start, before)
    return in_text


def _without_tokenizer(request: TokenRequest, fields: VocabularyFields, earlier: EarlierTokens) -> VocabularyChange:
    _check_reinit(request, fields.rows)
    rows = rows_needed(fields.rows, fields.rows, request.multiple_of, request.shrink)
    vocabulary = Vocabulary(fields.rows, rows, frozenset(request.reinit_ids))
    trained = id_ranges({*range(fields.rows)} - earlier.ids - {*request.reinit_ids})
    _check_reserved_ids(fields, rows)
    return VocabularyChange(request, fields, vocabulary, None, None, None, (), trained, earlier)


def _first_files(base: BaseCheckpoint, request: TokenRequest, old: PreTrainedTokenizerBase) -> TokenizerFiles:
    """Return the files that an edit starts from: the base's, or those of the other tokenizer."""
    other = request.tokenizer
    if other is None:
        return TokenizerFiles.of(base.folder, old, base.folder)
    if isinstance(other, Path):
        return TokenizerFiles.of(other, load_tokenizer(other), base.folder)
    with tempfile.TemporaryDirectory() as folder:
        other.save_pretrained(folder)
        return TokenizerFiles.of(Path(folder), other, base.folder)


def _rows(
    request: TokenRequest,
    fields: VocabularyFields,
    splitter: TokenSplitter,
    base_ids: Mapping[str, int],
    other_ids: Mapping[str, int] | None,
    ids: Mapping[str, int],
) -> Vocabulary:
    """Return the rows: those of the base's tokens stay, unless another tokenizer (``other_ids``) numbers them.

    Rows that are no token's in either stay padding.
    """
    end, rows = max(ids.values()) + 1 - fields.offset, fields.rows
    after = rows_needed(end, rows, request.multiple_of, request.shrink)
    _check_reserved_ids(fields, after)
    behind = max(base_ids.values()) >= rows + fields.offset
    if other_ids is None:
        added = {id_ - fields.offset for id_ in {*ids.values()} - {*base_ids.values()}}
        return Vocabulary(rows, after, frozenset({*added, *request.reinit_ids}), tokens_behind=behind)
    if fields.offset:
        raise PlanError("tokenizer: the vocabulary's rows are in two tables here; say what changes with add_tokens")
    if request.reinit_ids:
        raise PlanError(
            "reinit_rows and tokenizer: with another tokenizer ids mean something else; do one, then the other"
        )
    known = splitter.vocabulary
    moved = {id_: known[text] for text, id_ in other_ids.items() if known.get(text, rows) < rows}
    if not moved:
        raise PlanError(f"{request.tokenizer}: its tokenizer and the base's have no token in common; take another")
    taken = {*base_ids.values(), *ids.values()}
    moved |= {row: row for row in range(min(after, rows)) if row not in taken}
    return Vocabulary(rows, after, moved=moved, tokens_behind=behind)


def _ids_that_move(
    base: BaseCheckpoint,
    request: TokenRequest,
    fields: VocabularyFields,
    old: PreTrainedTokenizerBase,
    new: PreTrainedTokenizerBase,
    renamed: Mapping[str, str],
) -> MovedIds:
    """Return the values of the configs that change: ids, roles, and where texts end."""
    base_ids, ids, moved = ids_of(old), ids_of(new), MovedIds()
    # The roles that go to another token than the base's tokenizer says, or that were asked for.
    roles: dict[str, int] = {}
    for key in dict.fromkeys((*ROLE_OPTIONS, "sep_token", "cls_token")):
        id_ = getattr(new, f"{key}_id", None)
        if id_ is not None and (key in request.roles or getattr(new, key) != getattr(old, key)):
            roles[key.removesuffix("_token")] = id_
    if request.tokenizer is not None or roles:
        texts = {id_: renamed.get(text, text) for text, id_ in base_ids.items()}
        generation = generation_values(base.folder)
        moved = moved_ids(fields, generation, lambda id_: ids.get(texts[id_]) if id_ in texts else None, roles)
    return replace(moved, config={**moved.config, **text_ends(fields, base_ids.get(str(old.eos_token)), base_ids, ids)})


def _taken_ids(fields: VocabularyFields, moved: MovedIds, added: Collection[int]) -> dict[str, int]:
    """Return the fields that name ids which are new tokens' now.

    Raises:
        PlanError: such a row is in the base, so it means something that isn't a token.
    """
    stay = ((path, ids_within(value)) for path, value in id_fields(fields.values) if path not in moved.config)
    taken = {path: id_ for path, ids in stay for id_ in ids if id_ in added}
    if rows := {path: id_ for path, id_ in taken.items() if id_ < fields.rows}:
        names = join_names([f"{path} {id_}" for path, id_ in rows.items()])
        raise PlanError(
            f"config.json: {names}: a row that no token of the tokenizer has, and that a new one would take; give it a "
            "token in the tokenizer first, or the field another value"
        )
    return taken


def _new_tokens(
    request: TokenRequest,
    wanted: WantedTokens,
    vocabulary: Vocabulary,
    tokenizer: PreTrainedTokenizerBase,
    splitter: TokenSplitter,
    offset: int,
) -> Iterator[NewToken]:
    """Yield every token whose row is new: requested, re-initialized, or a tokenizer's own without a row in the base.

    Of tables behind others the id is the row's number, and pieces, which have their rows in the others, say nothing.
    """
    if offset:
        for text, id_ in ids_of(tokenizer).items():
            if id_ >= offset and vocabulary.source(id_ - offset) is None:
                yield NewToken(id_ - offset, text, "bare")
        return
    control = {str(token.content) for token in tokenizer.added_tokens_decoder.values() if token.special}
    for id_, token in wanted.new.items():
        described = token.description is not None
        pieces = splitter.pieces(token.text if token.description is None else token.description)
        if described and not pieces:
            raise PlanError(
                f"add_tokens: the description of {token.text!r} comes to no piece but the unknown token under the "
                "base's tokenizer; say it in its words, or leave it out"
            )
        kind = "described" if described else "bare" if not pieces else "control" if token.special else "word"
        yield NewToken(id_, token.text, kind, pieces)
    for text, id_ in ids_of(tokenizer).items():
        if id_ in wanted.new or vocabulary.source(id_) is not None:
            continue
        named = id_ in request.reinit_ids or text in control
        plain = text if named else text_of(tokenizer, text)
        pieces = splitter.pieces(plain) if plain else ()
        if not set(pieces).isdisjoint(request.reinit_ids):  # rows that are re-initialized themselves say nothing
            pieces = ()
        yield NewToken(id_, text, "bare" if not pieces else "control" if named else "word", pieces)


def _check_reinit(request: TokenRequest, rows: int) -> None:
    outside = [id_ for id_ in request.reinit_ids if id_ >= rows]
    if outside:
        raise PlanError(f"reinit_rows: {format_ids(outside)}: the base has rows 0 to {rows - 1}")


def _check_reserved_ids(fields: VocabularyFields, after: int) -> None:
    taken = {path: offset for path, offset in fields.reserved.items() if fields.rows < after and offset < after}
    if taken:
        names = ", ".join(f"{path} {offset}" for path, offset in taken.items())
        raise PlanError(
            f"ids from {min(taken.values())} on aren't text's in this architecture ({names}), so tokens with ids up to "
            f"{after - 1} would be taken for something else; use ids that the tokenizer holds in reserve: rename_tokens"
        )
