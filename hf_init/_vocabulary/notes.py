"""What a plan says of its tokens, in sentences."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from hf_init._text import format_count, join_names
from hf_init._vocabulary.plan import VocabularyChange
from hf_init._vocabulary.rows import format_ids

OUTPUT = {"output", "tied", "bias", "tied_bias"}


def token_notes(change: VocabularyChange, sides: Collection[str]) -> Iterator[str]:
    """What is added, where, what goes, and which of the three guarantees holds.

    Args:
        sides: of the vocabulary's tables.
    """
    yield from _tokens(change)
    yield from _rows(change)
    yield from _lost(change)
    if change.fresh or change.padding:
        yield _guarantee(change, set(sides))
    yield from _equal(change)
    for path, value in change.fields.others.items():
        yield f"{path} stays at {value}: it counts something else than the {change.fields.rows} rows of the vocabulary"


def _tokens(change: VocabularyChange) -> Iterator[str]:
    named = [f"{token.text!r} ({token.id})" for token in change.fresh]
    if change.replaced:
        kept = format_count(len(change.vocabulary.moved or ()))
        yield f"another tokenizer: {kept} tokens keep their rows, {format_count(len(named))} get new ones"
    elif named:
        yield f"{format_count(len(named))} token{'s' if len(named) > 1 else ''} with new rows: {join_names(named)}"
    if change.there:
        said = [f"{text!r} (id {id_})" for text, id_ in change.there.items()]
        yield f"already tokens, skipped: {join_names(said)}"


def _rows(change: VocabularyChange) -> Iterator[str]:
    vocabulary = change.vocabulary
    inside = [token.id for token in change.fresh if token.id < vocabulary.before and token.id not in change.asked.again]
    if vocabulary.after != vocabulary.before:
        yield f"the vocabulary goes from {format_count(vocabulary.before)} to {format_count(vocabulary.after)} rows"
    if inside and not change.replaced:
        yield f"rows {format_ids(inside)} were padding in the base: they are tokens' now, and made anew"
    if change.padding:
        yield f"rows {format_ids(change.padding)} are no token's: padding"
    if change.earlier.ids:
        yield f"{len(change.earlier.ids)} rows of an earlier extension were never trained: no mean counts them"


def _lost(change: VocabularyChange) -> Iterator[str]:
    if change.replaced and change.lost:
        yield f"{format_count(len(change.lost))} tokens of the base go: {join_names([*map(repr, change.lost)])}"
    elif dropped := change.vocabulary.dropped():
        yield f"rows {format_ids(dropped)} of the base go: no token has them"
    if change.adrift:
        yield f"{', '.join(change.adrift)}: their token is none of the new tokenizer's; give them another value"


def _equal(change: VocabularyChange) -> Iterator[str]:
    """Tokens whose pieces are the same in the same order: no mean of them tells them apart."""
    groups: dict[tuple[int, ...], list[str]] = {}
    for token in change.fresh:
        if token.pieces:
            groups.setdefault(token.pieces, []).append(repr(token.text))
    same = [" = ".join(texts) for texts in groups.values() if len(texts) > 1]
    if same:
        yield f"made of the same pieces, so equal until they are trained: {join_names(same)}"


def _guarantee(change: VocabularyChange, sides: set[str]) -> str:
    if not sides & OUTPUT:
        return "no output rows: nothing that the model says changes on old tokens"
    if any(side in change.asked.schemes for side in sides & OUTPUT):
        return "no guarantee: the output rows follow the scheme that was asked for"
    new = len(change.new_rows)
    trained = sum(stop - start for start, stop in change.trained)
    return {
        "distribution": (
            f"guarantee: distribution kept: {format_count(new)} new rows take at most "
            f"{new / (trained + new):.2g} of the "
            "probability"
        ),
        "greedy": "guarantee: greedy kept: new output rows are in the convex hull of old ones, none is the likeliest",
        "learning": "guarantee: fastest to learn, and greedy kept",
    }[change.asked.guarantee] + " (unless a recipe's rule names the rows)"
