"""What becomes of a vocabulary, decided before the target is built: ids, rows, kinds of tokens. Reads no weights.

Of a base that an earlier extension wrote it reads the rows that are named there, to see whether they changed since.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from transformers import PreTrainedTokenizerBase

from hf_init._checkpoint import BaseCheckpoint
from hf_init._errors import PlanError
from hf_init._text import join_names
from hf_init._vocabulary.choose import NewToken, TableKind
from hf_init._vocabulary.config_fields import VocabularyFields, fields_of
from hf_init._vocabulary.record import EarlierTokens, earlier_tokens
from hf_init._vocabulary.request import RequestedToken, TokenRequest
from hf_init._vocabulary.rows import Vocabulary, format_ids, id_ranges, rows_for
from hf_init._vocabulary.save import extended_tokenizer, generation_ids
from hf_init._vocabulary.tokenizer import TokenSplitter, has_tokenizer, ids_of, load_tokenizer, text_of

ROLES = ("bos", "eos", "pad", "unk", "sep", "cls", "mask")


def moved_ids(old: Mapping[str, int], new: Mapping[str, int], rows: int) -> dict[int, int]:
    """For each id of the new tokenizer whose token the old one spells the same, the old one's id."""
    return {id_: old[text] for text, id_ in new.items() if text in old and old[text] < rows}


def renumbered_fields(
    values: Mapping[str, Any], old: PreTrainedTokenizerBase, new: PreTrainedTokenizerBase
) -> tuple[dict[str, Any], list[str]]:
    """Config values that are ids of tokens, as the new tokenizer numbers them; and paths of those that it can't.

    A role (``bos_token_id``) goes to the new tokenizer's token of that role, anything else to the same token.
    """
    spelled = {id_: text for text, id_ in ids_of(old).items()}
    ids = ids_of(new)
    found, lost = {}, []
    for path, value in values.items():
        many = value if isinstance(value, list) else [value]
        same = [ids[spelled[id_]] for id_ in many if spelled.get(id_) in ids]
        role = _role(path, new)
        if role is not None and not isinstance(value, list):
            found[path] = role
        elif len(same) == len(many):
            found[path] = same if isinstance(value, list) else same[0]
        else:
            lost.append(path)
    return found, lost


def _role(path: str, new: PreTrainedTokenizerBase) -> int | None:
    name = path.rpartition(".")[2].removesuffix("_token_id")
    return getattr(new, f"{name}_token_id") if name in ROLES else None


@dataclass(frozen=True)
class VocabularyChange:
    """A vocabulary before and after.

    Attributes:
        tokenizer: of the target: the base's with the new tokens, or the other one; None where there is none.
        fresh: tokens whose rows are made anew.
        trained: ranges of the base's rows that are trained tokens'.
        ids, generation: values of the config, and of the generation config, that are ids of tokens and get another
            number.
        adrift: paths of those that name a token that is no more.
        there: tokens that were asked for and are there already, with their ids.
        lost: the base's tokens that the other tokenizer doesn't have.
    """

    asked: TokenRequest
    fields: VocabularyFields
    vocabulary: Vocabulary
    tokenizer: PreTrainedTokenizerBase | None
    splitter: TokenSplitter | None
    fresh: tuple[NewToken, ...]
    trained: tuple[tuple[int, int], ...]
    earlier: EarlierTokens
    ids: Mapping[str, Any] = field(default_factory=dict)
    generation: Mapping[str, Any] = field(default_factory=dict)
    adrift: tuple[str, ...] = ()
    there: Mapping[str, int] = field(default_factory=dict)
    lost: tuple[str, ...] = ()

    @property
    def replaced(self) -> bool:
        return self.asked.tokenizer is not None

    @property
    def padding(self) -> tuple[int, ...]:
        """Rows that are made anew though no token has them."""
        return self.vocabulary.padding({token.id for token in self.fresh})

    @cached_property
    def new_rows(self) -> tuple[int, ...]:
        """All rows that are made anew."""
        return self.vocabulary.padding(())

    @cached_property
    def order(self) -> Mapping[int, int]:
        """The place of every token among those whose rows are made anew, by its id."""
        return {id_: place for place, id_ in enumerate(sorted(token.id for token in self.fresh))}


def vocabulary_change(base: BaseCheckpoint, asked: TokenRequest) -> VocabularyChange:
    """What the words come to for this base.

    Raises:
        PlanError, CheckpointError: each with what was seen and what to do.
    """
    fields, before = fields_of(base.config), earlier_tokens(base)
    needed = asked.tokens or asked.tokenizer is not None or asked.shrink or has_tokenizer(base.folder)
    old = load_tokenizer(base.folder) if needed else None
    known = ids_of(old) if old is not None else {}
    _check_larger(known, fields.rows)
    _check_outside(asked.again, fields.rows)
    again = {text: id_ for text, id_ in known.items() if id_ in asked.again}
    splitter = None if old is None else TokenSplitter(old, {*before.tokens, *again})
    trained = set(known.values() if old is not None else range(fields.rows)) - before.ids - {*asked.again}
    if asked.tokenizer is not None:
        return _replaced(base, asked, fields, splitter, id_ranges(trained), before)
    todo, there = _todo(asked, splitter, known)
    added = extended_tokenizer(old, todo) if old is not None and todo else {}
    top = max([*known.values(), *added.values()], default=fields.rows - 1) + 1
    vocabulary = Vocabulary(
        fields.rows,
        rows_for(top, fields.rows, asked.multiple, asked.shrink),
        frozenset({*added.values(), *asked.again}),
    )
    _check_reserved(fields, vocabulary.after)
    fresh = [_asked(token, added[token.text], splitter) for token in todo if splitter is not None]
    fresh += [_known(text, id_, text, splitter, asked.again) for text, id_ in again.items() if splitter is not None]
    _check_wordless(fresh)
    return VocabularyChange(
        asked, fields, vocabulary, old, splitter, tuple(fresh), id_ranges(trained), before, there=there
    )


def _replaced(
    base: BaseCheckpoint,
    asked: TokenRequest,
    fields: VocabularyFields,
    splitter: TokenSplitter | None,
    trained: tuple[tuple[int, int], ...],
    before: EarlierTokens,
) -> VocabularyChange:
    """Another tokenizer in place of the base's."""
    assert asked.tokenizer is not None and splitter is not None
    if asked.again:
        raise PlanError(
            "reinit_rows and tokenizer: with another tokenizer ids mean something else; do one, then the other"
        )
    old, new = load_tokenizer(base.folder), load_tokenizer(asked.tokenizer)
    todo, there = _todo(asked, TokenSplitter(new), ids_of(new))
    added = extended_tokenizer(new, todo)
    known = ids_of(new)
    same = moved_ids(splitter.vocabulary, known, fields.rows)
    if not same:
        raise PlanError(f"{asked.tokenizer}: its tokenizer and the base's have no token in common; take another")
    vocabulary = Vocabulary(
        fields.rows, rows_for(max(known.values()) + 1, fields.rows, asked.multiple, asked.shrink), moved=same
    )
    _check_reserved(fields, vocabulary.after)
    fresh = [_asked(token, added[token.text], splitter) for token in todo]
    _check_wordless(fresh)
    fresh += _theirs(new, {text: id_ for text, id_ in known.items() if id_ not in same and text not in added}, splitter)
    ids, adrift = renumbered_fields(fields.ids, old, new)
    generation, adrift_there = renumbered_fields(generation_ids(base.folder), old, new)
    return VocabularyChange(
        asked,
        fields,
        vocabulary,
        new,
        splitter,
        tuple(fresh),
        trained,
        before,
        ids,
        generation,
        (*adrift, *(f"generation_config.json: {key}" for key in adrift_there)),
        there,
        tuple(sorted(set(ids_of(old)) - set(known))),
    )


def _theirs(new: PreTrainedTokenizerBase, known: Mapping[str, int], splitter: TokenSplitter) -> list[NewToken]:
    """Tokens that another tokenizer brings along."""
    control = {str(token.content) for token in new.added_tokens_decoder.values() if token.special}
    return [
        _known(text, id_, text if text in control else text_of(new, text), splitter, (), text in control)
        for text, id_ in known.items()
    ]


def _todo(
    asked: TokenRequest, splitter: TokenSplitter | None, known: Mapping[str, int]
) -> tuple[list[RequestedToken], dict[str, int]]:
    """The tokens that are to be added, and those that are there already.

    Raises:
        PlanError: some are there and weren't to be skipped.
    """
    there = {}
    for token in asked.tokens:
        id_ = known.get(token.text) if splitter is None or token.text in known else splitter.id_of(token.text)
        if id_ is not None:
            there[token.text] = id_
    if there and not asked.skip:
        said = [f"{text!r} (id {id_})" for text, id_ in there.items()]
        raise PlanError(
            f"add_tokens: {join_names(said)}: one token of the tokenizer already; leave them out, or "
            "say existing='skip'"
        )
    return [token for token in asked.tokens if token.text not in there], there


def _asked(token: RequestedToken, id_: int, splitter: TokenSplitter) -> NewToken:
    if token.description is not None:
        return NewToken(id_, token.text, "described", splitter.pieces(token.description))
    pieces = splitter.pieces(token.text)
    kind: TableKind = ("control" if pieces else "bare") if token.special else "word"
    return NewToken(id_, token.text, kind, pieces)


def _known(
    text: str, id_: int, spelled_: str, splitter: TokenSplitter, again: Collection[int], control: bool = True
) -> NewToken:
    """A token that nobody describes; its pieces may be rows that are made anew themselves."""
    pieces = splitter.pieces(spelled_) if spelled_ else ()
    if not pieces or not set(pieces).isdisjoint(again):
        return NewToken(id_, text, "bare")
    return NewToken(id_, text, "control" if control else "word", pieces)


def _check_wordless(fresh: Sequence[NewToken]) -> None:
    wrong = [*_wordless(fresh)]
    if wrong:
        raise PlanError(
            f"add_tokens: {join_names(wrong)} comes to no piece but the unknown token under the "
            "base's tokenizer; give a "
            "description in its words, or make it a special token"
        )


def _wordless(fresh: Sequence[NewToken]) -> Iterator[str]:
    for token in fresh:
        if token.kind in ("word", "described") and not token.pieces:
            yield f"the description of {token.text!r}" if token.kind == "described" else repr(token.text)


def _check_larger(known: Mapping[str, int], rows: int) -> None:
    beyond = sorted((id_, text) for text, id_ in known.items() if id_ >= rows)
    if beyond:
        said = [f"{text!r} (id {id_})" for id_, text in beyond]
        raise PlanError(
            f"the tokenizer has ids up to {beyond[-1][0]}, the model {rows} rows: no row is there for "
            f"{join_names(said)}. "
            "Save the tokenizer without them, and add them here: add_tokens"
        )


def _check_outside(again: Sequence[int], rows: int) -> None:
    outside = [id_ for id_ in again if id_ >= rows]
    if outside:
        raise PlanError(f"reinit_rows: {format_ids(outside)}: the base has rows 0 to {rows - 1}")


def _check_reserved(fields: VocabularyFields, after: int) -> None:
    taken = {path: offset for path, offset in fields.reserved.items() if fields.rows < after and offset < after}
    if taken:
        said = ", ".join(f"{path} {offset}" for path, offset in taken.items())
        raise PlanError(
            f"ids from {min(taken.values())} on aren't text's in this architecture ({said}), so tokens with ids up to "
            f"{after - 1} would be taken for something else; use ids that the tokenizer holds in reserve"
        )
