"""What becomes of a vocabulary, decided before the target is built: ids, rows, kinds of tokens. Reads no weights.

Of a base that an earlier extension wrote it reads the rows that are named there, to see whether they changed since.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from transformers import PreTrainedTokenizerBase

from hf_init._checkpoint import BaseCheckpoint
from hf_init._errors import PlanError
from hf_init._text import join_names
from hf_init._vocabulary.choose import NewToken
from hf_init._vocabulary.config_fields import VocabularyFields, vocabulary_fields
from hf_init._vocabulary.record import EarlierTokens, earlier_tokens
from hf_init._vocabulary.request import RequestedToken, TokenRequest
from hf_init._vocabulary.rows import Vocabulary, format_ids, id_ranges, rows_needed
from hf_init._vocabulary.save import extended_tokenizer, generation_token_ids
from hf_init._vocabulary.tokenizer import TokenSplitter, has_tokenizer, ids_of, load_tokenizer, text_of

ROLES = ("bos", "eos", "pad", "unk", "sep", "cls", "mask")


@dataclass(frozen=True)
class VocabularyChange:
    """A vocabulary before and after.

    Attributes:
        tokenizer: of the target: the base's with the new tokens, or the other one; None where there is none.
        new_tokens: tokens whose rows are new.
        trained: ranges of the base's rows that are trained tokens'.
        config_ids, generation_ids: values of the config, and of the generation config, that are ids of tokens and get
            another number.
        stale_fields: paths of those that name a token that is no more.
        existing: tokens that were requested and are there already, with their ids.
        lost_tokens: the base's tokens that the other tokenizer doesn't have.
    """

    request: TokenRequest
    fields: VocabularyFields
    vocabulary: Vocabulary
    tokenizer: PreTrainedTokenizerBase | None
    splitter: TokenSplitter | None
    new_tokens: tuple[NewToken, ...]
    trained: tuple[tuple[int, int], ...]
    earlier: EarlierTokens
    config_ids: Mapping[str, object] = field(default_factory=dict)
    generation_ids: Mapping[str, object] = field(default_factory=dict)
    stale_fields: tuple[str, ...] = ()
    existing: Mapping[str, int] = field(default_factory=dict)
    lost_tokens: tuple[str, ...] = ()

    @property
    def replaced(self) -> bool:
        """Return whether another tokenizer takes the place of the base's."""
        return self.request.tokenizer is not None

    @property
    def padding(self) -> tuple[int, ...]:
        """Return the rows that are new though no token has them."""
        return self.vocabulary.padding({token.id for token in self.new_tokens})

    @cached_property
    def new_rows(self) -> tuple[int, ...]:
        return self.vocabulary.padding(())

    @cached_property
    def order(self) -> Mapping[int, int]:
        """Return the position of every token among those whose rows are new, by its id."""
        return {id_: position for position, id_ in enumerate(sorted(token.id for token in self.new_tokens))}


def vocabulary_change(base: BaseCheckpoint, request: TokenRequest) -> VocabularyChange:
    """Return what a request comes to for this base.

    Raises:
        PlanError, CheckpointError: each with what was seen and what to do.
    """
    fields, earlier = vocabulary_fields(base.config), earlier_tokens(base)
    needed = request.tokens or request.tokenizer is not None or request.shrink or has_tokenizer(base.folder)
    tokenizer = load_tokenizer(base.folder) if needed else None
    ids = ids_of(tokenizer) if tokenizer is not None else {}
    _check_base_ids(ids, request.reinit_ids, fields.rows)
    reinit = {text: id_ for text, id_ in ids.items() if id_ in request.reinit_ids}
    splitter = None if tokenizer is None else TokenSplitter(tokenizer, {*earlier.tokens, *reinit})
    trained = set(range(fields.rows) if tokenizer is None else ids.values()) - earlier.ids - {*request.reinit_ids}
    if request.tokenizer is not None:
        return _replaced_vocabulary(base, request, fields, splitter, id_ranges(trained), earlier)
    wanted, existing = _wanted_tokens(request, splitter, ids)
    added = extended_tokenizer(tokenizer, wanted) if tokenizer is not None and wanted else {}
    end = max([*ids.values(), *added.values()], default=fields.rows - 1) + 1
    vocabulary = Vocabulary(
        fields.rows,
        rows_needed(end, fields.rows, request.multiple_of, request.shrink),
        frozenset({*added.values(), *request.reinit_ids}),
    )
    _check_reserved_ids(fields, vocabulary.after)
    new_tokens: list[NewToken] = []
    if splitter is not None:
        new_tokens += [_requested_token(token, added[token.text], splitter) for token in wanted]
        new_tokens += [_spelled_token(text, id_, text, splitter, request.reinit_ids) for text, id_ in reinit.items()]
    _check_pieces(new_tokens)
    return VocabularyChange(
        request=request,
        fields=fields,
        vocabulary=vocabulary,
        tokenizer=tokenizer,
        splitter=splitter,
        new_tokens=tuple(new_tokens),
        trained=id_ranges(trained),
        earlier=earlier,
        existing=existing,
    )


def _replaced_vocabulary(
    base: BaseCheckpoint,
    request: TokenRequest,
    fields: VocabularyFields,
    splitter: TokenSplitter | None,
    trained: tuple[tuple[int, int], ...],
    earlier: EarlierTokens,
) -> VocabularyChange:
    """Return what becomes of a vocabulary where another tokenizer takes the place of the base's."""
    assert request.tokenizer is not None and splitter is not None
    if request.reinit_ids:
        raise PlanError(
            "reinit_rows and tokenizer: with another tokenizer ids mean something else; do one, then the other"
        )
    old, new = load_tokenizer(base.folder), load_tokenizer(request.tokenizer)
    wanted, existing = _wanted_tokens(request, TokenSplitter(new), ids_of(new))
    added = extended_tokenizer(new, wanted)
    ids, base_ids = ids_of(new), splitter.vocabulary
    moved = {id_: base_ids[text] for text, id_ in ids.items() if base_ids.get(text, fields.rows) < fields.rows}
    if not moved:
        raise PlanError(f"{request.tokenizer}: its tokenizer and the base's have no token in common; take another")
    rows = rows_needed(max(ids.values()) + 1, fields.rows, request.multiple_of, request.shrink)
    _check_reserved_ids(fields, rows)
    new_tokens = [_requested_token(token, added[token.text], splitter) for token in wanted]
    _check_pieces(new_tokens)
    control = {str(token.content) for token in new.added_tokens_decoder.values() if token.special}
    for text, id_ in ids.items():
        if id_ not in moved and text not in added:
            plain = text if text in control else text_of(new, text)
            new_tokens.append(_spelled_token(text, id_, plain, splitter, (), text in control))
    config_ids, stale = renumbered_fields(fields.ids, old, new)
    generation_ids, stale_generation = renumbered_fields(generation_token_ids(base.folder), old, new)
    return VocabularyChange(
        request=request,
        fields=fields,
        vocabulary=Vocabulary(fields.rows, rows, moved=moved),
        tokenizer=new,
        splitter=splitter,
        new_tokens=tuple(new_tokens),
        trained=trained,
        earlier=earlier,
        config_ids=config_ids,
        generation_ids=generation_ids,
        stale_fields=(*stale, *(f"generation_config.json: {key}" for key in stale_generation)),
        existing=existing,
        lost_tokens=tuple(sorted(set(ids_of(old)) - set(ids))),
    )


def renumbered_fields(
    values: Mapping[str, Any], old: PreTrainedTokenizerBase, new: PreTrainedTokenizerBase
) -> tuple[dict[str, object], list[str]]:
    """Return config values that are ids of tokens as the new tokenizer numbers them, and paths of those that it can't.

    A role (``bos_token_id``) goes to the new tokenizer's token of that role, anything else to the same token.
    """
    texts, ids = {id_: text for text, id_ in ids_of(old).items()}, ids_of(new)
    renumbered: dict[str, object] = {}
    lost: list[str] = []
    for path, value in values.items():
        before = value if isinstance(value, list) else [value]
        after = [ids[texts[id_]] for id_ in before if texts.get(id_) in ids]
        role = path.rpartition(".")[2].removesuffix("_token_id")
        id_of_role = getattr(new, f"{role}_token_id") if role in ROLES else None
        if id_of_role is not None and not isinstance(value, list):
            renumbered[path] = id_of_role
        elif len(after) == len(before):
            renumbered[path] = after if isinstance(value, list) else after[0]
        else:
            lost.append(path)
    return renumbered, lost


def _wanted_tokens(
    request: TokenRequest, splitter: TokenSplitter | None, ids: Mapping[str, int]
) -> tuple[list[RequestedToken], dict[str, int]]:
    """Return the tokens that are to be added, and those that are there already, unless that is an error."""
    existing: dict[str, int] = {}
    for token in request.tokens:
        id_ = ids.get(token.text) if splitter is None or token.text in ids else splitter.id_of(token.text)
        if id_ is not None:
            existing[token.text] = id_
    if existing and not request.skip_existing:
        names = [f"{text!r} (id {id_})" for text, id_ in existing.items()]
        raise PlanError(
            f"add_tokens: {join_names(names)}: one token of the tokenizer already; leave them out, or "
            "say existing='skip'"
        )
    return [token for token in request.tokens if token.text not in existing], existing


def _requested_token(token: RequestedToken, id_: int, splitter: TokenSplitter) -> NewToken:
    if token.description is not None:
        return NewToken(id_, token.text, "described", splitter.pieces(token.description))
    pieces = splitter.pieces(token.text)
    return NewToken(id_, token.text, "word" if not token.special else "control" if pieces else "bare", pieces)


def _spelled_token(
    text: str, id_: int, plain: str, splitter: TokenSplitter, reinit_ids: Collection[int], control: bool = True
) -> NewToken:
    """Return a token that nobody describes; its pieces may be rows that are re-initialized themselves."""
    pieces = splitter.pieces(plain) if plain else ()
    if not pieces or not set(pieces).isdisjoint(reinit_ids):
        return NewToken(id_, text, "bare")
    return NewToken(id_, text, "control" if control else "word", pieces)


def _check_pieces(tokens: Sequence[NewToken]) -> None:
    names = {"word": "{!r}", "described": "the description of {!r}"}
    wrong = [names[token.kind].format(token.text) for token in tokens if token.kind in names and not token.pieces]
    if wrong:
        raise PlanError(
            f"add_tokens: {join_names(wrong)} comes to no piece but the unknown token under the base's tokenizer; give "
            "a description in its words, or make it a special token"
        )


def _check_base_ids(ids: Mapping[str, int], reinit_ids: Sequence[int], rows: int) -> None:
    beyond = sorted((id_, text) for text, id_ in ids.items() if id_ >= rows)
    if beyond:
        raise PlanError(
            f"the tokenizer has ids up to {beyond[-1][0]}, the model {rows} rows: no row is there for "
            f"{join_names([f'{text!r} (id {id_})' for id_, text in beyond])}. "
            "Save the tokenizer without them, and add them here: add_tokens"
        )
    outside = [id_ for id_ in reinit_ids if id_ >= rows]
    if outside:
        raise PlanError(f"reinit_rows: {format_ids(outside)}: the base has rows 0 to {rows - 1}")


def _check_reserved_ids(fields: VocabularyFields, after: int) -> None:
    taken = {path: offset for path, offset in fields.reserved.items() if fields.rows < after and offset < after}
    if taken:
        names = ", ".join(f"{path} {offset}" for path, offset in taken.items())
        raise PlanError(
            f"ids from {min(taken.values())} on aren't text's in this architecture ({names}), so tokens with ids up to "
            f"{after - 1} would be taken for something else; use ids that the tokenizer holds in reserve"
        )
