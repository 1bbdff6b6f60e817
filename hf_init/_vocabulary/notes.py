"""What a plan says of its tokens, in sentences."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from hf_init._text import format_count, join_names
from hf_init._vocabulary.plan import VocabularyChange
from hf_init._vocabulary.rows import format_ids

OUTPUT = {"output", "tied", "bias", "tied_bias"}


def token_notes(change: VocabularyChange, sides: Collection[str]) -> Iterator[str]:
    """Yield what is added, where, what goes, and which of the three guarantees holds.

    Args:
        sides: of the vocabulary's tables.
    """
    yield from _notes_on_tokens(change)
    yield from _notes_on_rows(change)
    if change.new_tokens or change.padding:
        yield _guarantee(change, set(sides))
    equal: dict[tuple[int, ...], list[str]] = {}
    for token in change.new_tokens:
        equal.setdefault(token.pieces, []).append(repr(token.text))
    # No mean of the same pieces in the same order tells tokens apart.
    same = [" = ".join(texts) for pieces, texts in equal.items() if pieces and len(texts) > 1]
    if same:
        yield f"made of the same pieces, so equal until they are trained: {join_names(same)}"
    for path, value in change.fields.others.items():
        yield f"{path} stays at {value}: it counts something else than the {change.fields.rows} rows of the vocabulary"


def _notes_on_tokens(change: VocabularyChange) -> Iterator[str]:
    names = [f"{token.text!r} ({token.id})" for token in change.new_tokens]
    if change.replaced:
        kept = format_count(len(change.vocabulary.moved or ()))
        yield f"another tokenizer: {kept} tokens keep their rows, {format_count(len(names))} get new ones"
    elif names:
        yield f"{format_count(len(names))} token{'s' if len(names) > 1 else ''} with new rows: {join_names(names)}"
    if change.existing:
        skipped = [f"{text!r} (id {id_})" for text, id_ in change.existing.items()]
        yield f"already tokens, skipped: {join_names(skipped)}"


def _notes_on_rows(change: VocabularyChange) -> Iterator[str]:
    vocabulary, reinit_ids = change.vocabulary, change.request.reinit_ids
    inside = [t.id for t in change.new_tokens if t.id < vocabulary.before and t.id not in reinit_ids]
    if vocabulary.after != vocabulary.before:
        yield f"the vocabulary goes from {format_count(vocabulary.before)} to {format_count(vocabulary.after)} rows"
    if inside and not change.replaced:
        yield f"rows {format_ids(inside)} were padding in the base: they are tokens' now, and made anew"
    if change.padding:
        yield f"rows {format_ids(change.padding)} are no token's: padding"
    if change.earlier.ids:
        yield f"{len(change.earlier.ids)} rows of an earlier extension were never trained: no mean counts them"
    lost = change.lost_tokens
    if change.replaced and lost:
        yield f"{format_count(len(lost))} tokens of the base go: {join_names([*map(repr, lost)])}"
    elif dropped := change.vocabulary.dropped():
        yield f"rows {format_ids(dropped)} of the base go: no token has them"
    if fields := change.stale_fields:
        yield f"{', '.join(fields)}: their token is none of the new tokenizer's; give them another value"


def _guarantee(change: VocabularyChange, sides: set[str]) -> str:
    if not sides & OUTPUT:
        return "no output rows: nothing that the model says changes on old tokens"
    if any(side in change.request.schemes for side in sides & OUTPUT):
        return "no guarantee: the output rows follow the scheme that was asked for"
    new = len(change.new_rows)
    trained = sum(stop - start for start, stop in change.trained)
    return {
        "distribution": (
            f"guarantee: distribution kept: {format_count(new)} new rows take at most {new / (trained + new):.2g} of "
            "the probability"
        ),
        "greedy": "guarantee: greedy kept: new output rows are in the convex hull of old ones, none is the likeliest",
        "learning": "guarantee: fastest to learn, and greedy kept",
    }[change.request.guarantee] + " (unless a recipe's rule names the rows)"
