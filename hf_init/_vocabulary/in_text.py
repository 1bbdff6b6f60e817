"""New tokens in running text: which are reached, what decoding makes of them, and which old words they break."""

from __future__ import annotations

import unicodedata
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field

from transformers import AddedToken, PreTrainedTokenizerBase

from hf_init._text import format_count, join_names
from hf_init._vocabulary.texts import TEXTS
from hf_init._vocabulary.tokenizer import MARKERS, TokenSplitter, backend_of

EXAMPLES = 20
"""Of each list, at most, in a plan's JSON."""


@dataclass(frozen=True)
class TextCheck:
    """What new tokens do to texts.

    Attributes:
        unread: the tokens that no text comes to.
        not_at_start, not_in_brackets: those that are reached after a space alone.
        broken: those that decoding doesn't give back, with the text that went in and the one that came out.
        two_pieces: words that are read behind a space that is a piece of its own.
        inside: words that are read inside longer ones.
        also: tokens with another text that is read as them, since texts are normalized first.
        entries: old tokens that a text was one of. split: those of them that are several pieces now, by their text.
        words: of texts. split_words: those of them that are split otherwise though none is a new token.
    """

    unread: tuple[str, ...] = ()
    not_at_start: tuple[str, ...] = ()
    not_in_brackets: tuple[str, ...] = ()
    broken: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    two_pieces: tuple[str, ...] = ()
    inside: tuple[str, ...] = ()
    also: Mapping[str, str] = field(default_factory=dict)
    entries: int = 0
    split: Mapping[str, str] = field(default_factory=dict)
    words: int = 0
    split_words: Mapping[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, object]:
        """Return counts, and examples of each list."""
        document: dict[str, object] = {}
        for name, value in asdict(self).items():
            if isinstance(value, int):
                document[name] = value
            elif value:
                some = list(value)[:EXAMPLES]
                examples = {key: value[key] for key in some} if isinstance(value, Mapping) else some
                document[name] = {"count": len(value), "examples": examples}
        return document

    @property
    def _way_out(self) -> str:
        """Return how words stay whole; behind a token's own space no word can begin."""
        spaced = any(text[:1].isspace() for text in self.inside)
        return "" if spaced or not self.inside else "; not so as whole words (single_word)"

    def notes(self) -> Iterator[str]:
        """Yield what a user should know, in sentences."""
        for names, where in ((self.not_at_start, "at the start of a text"), (self.not_in_brackets, "behind a bracket")):
            if names:
                yield f"not read {where}, where no space is: {_some(names)}"
        if self.two_pieces:
            spaced = f" {self.two_pieces[0]}"
            yield (
                f"two pieces in running text, a space and the token: {_some(self.two_pieces)}; with the space in it, "
                f"as {spaced!r}, it is one there, but isn't read where no space is"
            )
        if self.inside:
            yield (f"read inside longer words, too, which are read otherwise then: {_some(self.inside)}{self._way_out}")
        if self.also:
            texts = [f"{other!r} as {text!r}" for text, other in self.also.items()]
            yield f"read as a new token, too, since the tokenizer normalizes texts first: {join_names(texts, 3)}"
        if self.broken:
            token, (before, after) = next(iter(self.broken.items()))
            way_out = "" if token[:1].isspace() else f"; with its space, as {f' {token}'!r}, it may"
            yield (
                f"decoding doesn't give back texts with {_some(self.broken)}: {before!r} comes back as "
                f"{after!r}{way_out}"
            )
        if self.split:
            examples = [f"{text!r} ({pieces})" for text, pieces in self.split.items()]
            what, are = ("tokens", "are") if len(examples) > 1 else ("token", "is")
            yield (
                f"{format_count(len(examples))} old {what} of {format_count(self.entries)} {are} split otherwise now: "
                f"{join_names(examples, 3)}; texts with them are read otherwise{self._way_out}"
            )
        if self.split_words:
            yield (
                f"of {format_count(self.words)} words of texts that come with hf_init {len(self.split_words)} are "
                f"split otherwise now: {join_names([*map(repr, self.split_words)], 3)}"
            )


def _some(names: Collection[str]) -> str:
    return join_names([*map(repr, names)], 3)


def check_in_text(
    added: Mapping[int, AddedToken], before: TokenSplitter, tokenizer: PreTrainedTokenizerBase
) -> TextCheck:
    """Return what added tokens, by their ids, do to texts that the tokenizer splits."""
    if not added:
        return TextCheck()
    tokens, after = {str(token.content): id_ for id_, token in added.items()}, TokenSplitter(tokenizer)
    special = {str(token.content) for token in added.values() if token.special}
    old = (before.text_of(spelled) for spelled in before.vocabulary if spelled not in before.special)
    whole = [text for text in _containing(old, tokens) if len(before.encode(text)) == 1]
    frames = {}
    for text in tokens:  # inside a text, at its start, behind a bracket
        left, right = ("" if end.isspace() else " " for end in (text[:1], text[-1:]))
        frames[text] = (f"x{left}{text}{right}y", f"{text.lstrip()}{right}y", f"x ({text.strip()}) y")
    reached = {text: [tokens[text] in after.encode(frame) for frame in frames[text]] for text in tokens}
    plain = [text for text in tokens if text.strip()]
    read = [text for text in tokens if reached[text][0]]
    return TextCheck(
        unread=tuple(text for text in tokens if not any(reached[text])),
        not_at_start=tuple(text for text in plain if any(reached[text]) and not reached[text][1]),
        not_in_brackets=tuple(text for text in plain if any(reached[text]) and not reached[text][2]),
        broken=dict(_broken(read, frames, before, after)),
        two_pieces=tuple(text for text in read if text not in special and _space_alone(text, tokens[text], after)),
        inside=tuple(str(t.content) for id_, t in added.items() if not t.special and _inside_words(t, id_, after)),
        also=dict(_also_read(added, tokenizer, after)),
        entries=len(before.vocabulary),
        split=dict(_split_otherwise(whole, tokens, before, after)),
        words=len({word for text in TEXTS for word in text.split()}),
        split_words=split_words(TEXTS, tokens, before, after),
    )


def split_words(
    texts: Iterable[str], tokens: Collection[str], before: TokenSplitter, after: TokenSplitter
) -> dict[str, str]:
    """Return the words of texts that are split otherwise though none is a new token, with their pieces."""
    words = dict.fromkeys(f" {word}" for text in texts for word in text.split())
    return dict(_split_otherwise(words, tokens, before, after))


def _broken(
    texts: Iterable[str], frames: Mapping[str, tuple[str, str, str]], before: TokenSplitter, after: TokenSplitter
) -> Iterator[tuple[str, tuple[str, str]]]:
    for text in texts:
        left = "" if text[:1].isspace() else " "
        for frame in (frames[text][0], f"x{left}{text}, y"):
            back = after.decode(after.encode(frame))
            if back not in (frame, before.decode(before.encode(frame))):
                yield text, (frame, back)
                break


def _inside_words(token: AddedToken, id_: int, after: TokenSplitter) -> bool:
    """Return whether a word, with a letter more at either end, is still found."""
    text = str(token.content)
    frames = ((f"x {text.strip()}s y", text[-1:].isalnum()), (f"x x{text} y", text[:1].isalnum()))
    return not token.single_word and any(id_ in after.encode(frame) for frame, fits in frames if fits)


def _also_read(
    added: Mapping[int, AddedToken], tokenizer: PreTrainedTokenizerBase, after: TokenSplitter
) -> Iterator[tuple[str, str]]:
    backend = backend_of(tokenizer)
    normalizer = None if backend is None else backend.normalizer
    if normalizer is None:
        return
    for id_, token in added.items():
        text = str(token.content)
        other = " ".join(normalizer.normalize_str(text).replace(MARKERS[0], " ").split())
        if token.normalized and other not in ("", " ".join(text.split())) and id_ in after.encode(f"x {other} y"):
            yield text, other


def _space_alone(text: str, id_: int, after: TokenSplitter) -> bool:
    """Return whether a word has a piece for the space before it."""
    if not text[:1].isalnum():
        return False
    ids = after.encode(f"x {text} y")
    index = ids.index(id_)
    return index > 0 and after.spellings(ids[index - 1 : index])[0] in MARKERS


def _split_otherwise(
    texts: Iterable[str], tokens: Collection[str], before: TokenSplitter, after: TokenSplitter
) -> Iterator[tuple[str, str]]:
    new = {_folded(text) for text in tokens}
    for text in _containing(texts, tokens):
        pieces = after.spellings(after.encode(text))
        core = _folded(text).strip(".,;:!?()[]\"'`")
        if core not in new and pieces != before.spellings(before.encode(text)):
            yield text, " ".join(pieces)


def _containing(texts: Iterable[str], parts: Iterable[str]) -> Iterator[str]:
    """Yield the texts that contain one of the parts, whatever the case and the accents."""
    wanted = {_without_marks(part) for part in parts} - {""}
    lengths = sorted({len(part) for part in wanted})
    for text in texts:
        bare = _without_marks(text)
        ends = ((start, start + n) for start in range(len(bare)) for n in lengths if start + n <= len(bare))
        if any(bare[start:end] in wanted for start, end in ends):
            yield text


def _folded(text: str) -> str:
    return unicodedata.normalize("NFKC", text).casefold().strip()


def _without_marks(text: str) -> str:
    """Return the most that a normalizer may leave of a text: neither case nor accents."""
    apart = text if text.isascii() else unicodedata.normalize("NFKD", text)
    return "".join(each for each in apart.casefold().strip() if each.isascii() or not unicodedata.combining(each))
