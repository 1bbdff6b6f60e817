"""What a plan says of its tokens, in sentences."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator

from hf_init._plan import EXACT, ROUNDING, no_claim
from hf_init._text import format_count, join_names
from hf_init._vocabulary.guarantee import OUTPUT
from hf_init._vocabulary.plan import VocabularyChange
from hf_init._vocabulary.rows import format_ids
from hf_init._vocabulary.tokenizer import backend_of, ids_of
from hf_init._vocabulary.tokenizer_files import ADDED, SENTENCEPIECE
from hf_init.schemes import Distilled

TIMES = "<|notimestamps|>"
CONTROL = re.compile(r"<\|[^|<>\s]+\|>|\[/?[A-Z_]+\]|</?[a-z_]+>")
"""What looks like a control token in a template."""
FEW_PLACES = 4
"""Places below which a row is said to be distilled from few."""
COST = 1e-8
"""Seconds of one core for a word and a parameter of the base: tied SmolLM2 in bfloat16, the scheme as it is."""


def token_notes(change: VocabularyChange) -> Iterator[str]:
    """Yield what is added, where, and what goes."""
    yield from _notes_on_times(change)
    yield from _notes_on_tokens(change)
    yield from change.in_text.notes()
    yield from _notes_on_rows(change)
    yield from _notes_on_files(change)
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
    names = [f"{token.text!r} ({token.id + change.fields.offset})" for token in change.new_tokens]
    if change.replaced:
        kept = format_count(len(change.vocabulary.moved or ()))
        yield f"another tokenizer: {kept} tokens keep their rows, {format_count(len(names))} get new ones"
    elif names:
        yield f"{format_count(len(names))} token{'s' if len(names) > 1 else ''} with new rows: {join_names(names)}"
    if respelled := [f"{spelled!r} is {text!r} in a text" for spelled, text in change.wanted.respelled.items()]:
        yield f"given as the vocabulary spells them: {join_names(respelled)}"
    texts = [token.text for token in change.wanted.new.values()]
    if spaced := [repr(text) for text in texts if text.rstrip() != text or "\t" in text]:
        yield f"with tabs, or spaces at the end, which are part of the token: {join_names(spaced)}"
    if unknown := [
        repr(t.text) for t in change.new_tokens if t.kind == "bare" and t.id + change.fields.offset in change.wanted.new
    ]:
        yield f"without a piece that the base's tokenizer knows, so from the mean row: {join_names(unknown)}"
    if change.wanted.existing:
        skipped = [f"{text!r} (id {id_})" for text, id_ in change.wanted.existing.items()]
        yield f"already tokens, skipped: {join_names(skipped)}"


def _notes_on_times(change: VocabularyChange) -> Iterator[str]:
    """Yield what becomes of tokens that Whisper takes for times: ids behind the last of its control tokens.

    So do its generation with times, its tokenizer and the pipeline (``timestamp_begin`` in all three).
    """
    ids = {} if change.tokenizer is None else ids_of(change.tokenizer)
    last = ids.get(TIMES, len(ids))
    taken = [t.text for t in change.new_tokens if t.id > last and not re.fullmatch(r"<\|\d+\.\d\d\|>", t.text)]
    if taken:
        yield (
            f"{join_names([*map(repr, taken)], 3)}: behind {TIMES}, where Whisper has its times. Its pipeline leaves "
            "these tokens out of texts, and with times (return_timestamps, output_offsets, audio of more than 30 s) "
            "old texts come out wrong, too: read a word by generate and decode, without times; for a control token, "
            "give one in reserve another name (rename_tokens). A new language needs its id in lang_to_id of the "
            "generation config"
        )


def _notes_on_rows(change: VocabularyChange) -> Iterator[str]:
    vocabulary, reinit_ids = change.vocabulary, change.request.reinit_ids
    inside = [t.id for t in change.new_tokens if t.id < vocabulary.before and t.id not in reinit_ids]
    if vocabulary.after != vocabulary.before:
        yield f"the vocabulary goes from {format_count(vocabulary.before)} to {format_count(vocabulary.after)} rows"
    if inside and not change.replaced:
        yield f"rows {format_ids(inside)} were padding in the base: they are tokens' now, and re-initialized"
    if change.padding:
        yield f"rows {format_ids(change.padding)} are no token's: padding"
    if change.earlier.ids:
        yield f"{len(change.earlier.ids)} rows of an earlier extension were never trained: no mean counts them"
    lost = change.lost_tokens
    if change.replaced and lost:
        yield f"{format_count(len(lost))} tokens of the base go: {join_names([*map(repr, lost)])}"
        names = {id_: text for text, id_ in ids_of(change.before).items() if text in lost}
        renamed = [f"{names[token.id]!r} is {token.text!r}" for token in change.new_tokens if token.id in names]
        if renamed and all(new == old for new, old in (vocabulary.moved or {}).items()):
            rows = "other names for the same ids, with re-initialized rows (rename_tokens keeps them)"
            yield f"{rows}: {join_names(renamed)}"
    elif dropped := change.vocabulary.dropped():
        yield f"rows {format_ids(dropped)} of the base go: no token has them"


def _notes_on_files(change: VocabularyChange) -> Iterator[str]:
    edit, moved = change.wanted.edit, change.moved
    if edit.renamed:
        names = [f"{old!r} is {new!r}" for old, new in edit.renamed.items()]
        yield f"renamed, with the row as it is: {join_names(names)}"
    if change.replaced and edit.template is not None and edit.template == getattr(change.before, "chat_template", None):
        yield "the chat template is the base's: the other tokenizer has none"
    if change.taken:
        names = [f"{path} {id_}" for path, id_ in change.taken.items()]
        yield f"{join_names(names)}: the id was no token's, and is a new one's now; give the field another value"
    yield from _notes_on_templates(change)
    if moved.lost:
        yield f"{', '.join(moved.lost)}: their token is none of the new tokenizer's; give them another value"
    if moved.unclear:
        yield f"{', '.join(moved.unclear)} stay as they are: whether these are ids of this tokenizer isn't clear"
    changed = {**moved.config, **{f"generation_config.json: {path}": value for path, value in moved.generation.items()}}
    if changed:
        yield f"ids in the configs: {join_names([f'{path} {value}' for path, value in changed.items()], 8)}"
    if edit.tokens and change.files is not None and SENTENCEPIECE in change.files.files:
        yield f"{SENTENCEPIECE} stays as it is, without the new tokens: {ADDED} beside it has them"


def _notes_on_templates(change: VocabularyChange) -> Iterator[str]:
    """Yield what templates of chats and of texts have to do with the tokens."""
    before, after, edit = change.before, change.tokenizer, change.wanted.edit
    if before is None or after is None:
        return
    ids = ids_of(after)
    if unknown := [each for each in dict.fromkeys(CONTROL.findall(edit.template or "")) if each not in ids]:
        yield f"the chat template has {join_names([*map(repr, unknown)], 4)}, no tokens: they are read in pieces"
    backend = backend_of(after)
    around = {} if backend is None else {*backend.encode("x").ids}
    for role in edit.roles:
        old, new = getattr(before, f"{role}_id", None), getattr(after, f"{role}_id")
        if old in around and old != new and new not in around:
            yield (
                f"{getattr(before, role)!r}, the {role} so far, is still put around texts (post_processor of "
                "tokenizer.json): edit it there if the new one is to be"
            )


def text_notes(change: VocabularyChange, sides: Collection[str], parameters: int) -> Iterator[str]:
    """Yield how long distilling takes, which new tokens aren't distilled from the texts that were given, and why.

    Args:
        sides: of the vocabulary's tables.
        parameters: of the base.
    """
    if change.request.texts is None:
        return
    if "tied" in sides and "tied" not in change.request.schemes and change.request.guarantee != "learning":
        yield (
            "the texts are of no use: the table is tied, and a distilled row may win over old tokens in old texts; "
            "where that may be, say guarantee=learning, or row_scheme=distilled"
        )
        return
    found = change.read.found
    writes = any(isinstance(each, Distilled) and each.written for each in change.request.schemes.values())
    count = len(change.words if writes else found)
    seconds = count * parameters * COST
    time = f"{seconds / 60:.0f} minutes" if seconds >= 120 else f"{max(1, round(seconds))} s"
    yield f"words that are distilled: {format_count(count)}, in about {time} of one core, or twice that in float32"
    if lacking := [repr(text) for id_, text in change.words.items() if id_ not in found]:
        yield (
            f"in no text where the base reads pieces that end where it ends, so "
            f"{'distilled from what the base writes' if writes else 'not distilled'}: {join_names(lacking)}"
        )
    if rare := [
        f"{text!r} ({len(found[id_])})"
        for id_, text in change.words.items()
        if 0 < len(found.get(id_, ())) < FEW_PLACES
    ]:
        yield f"distilled from few places, so that they may read well there alone: {join_names(rare)}"
    if others := [repr(token.text) for token in change.new_tokens if token.kind != "word"]:
        yield f"no words that their pieces spell, so not distilled: {join_names(others)}"


def token_claim(change: VocabularyChange, sides: Collection[str]) -> str:
    """Return what holds of old texts: those that were split into the same tokens as now, to begin with.

    Args:
        sides: of the vocabulary's tables.
    """
    check, reasons = change.in_text, []
    if change.replaced:
        reasons.append("another tokenizer splits texts otherwise")
    if check.split or check.split_words:
        count = len(check.split or check.split_words)
        kind = f"old {'token' if check.split else 'word'}{'s' if count > 1 else ''}"
        some = join_names([*map(repr, check.split or check.split_words)], 2)
        reasons.append(f"texts with {format_count(count)} {kind} ({some}) are split otherwise")
    if reinit := change.request.reinit_ids:
        reasons.append(f"the rows of old tokens ({format_ids(reinit)}) are re-initialized")
    if reasons:
        return no_claim("; ".join(reasons))
    return ROUNDING if {*sides} & OUTPUT and change.vocabulary.changes else EXACT
