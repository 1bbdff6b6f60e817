"""The tokenizer of a folder, and texts split as it splits them."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Collection, Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, models
from transformers import AddedToken, AutoTokenizer, PreTrainedTokenizerBase

from hf_init._architecture import quiet_library, with_added_tokens
from hf_init._errors import CheckpointError
from hf_init._text import one_line

FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "tekken.json",
)
UNREADABLE = (OSError, ValueError, KeyError, TypeError, AttributeError, ImportError, RuntimeError)
"""What the library raises for a tokenizer that it can't make of the files; a broken tokenizer.json, too."""
MARKERS = ("\u2581", "\u0120")
"""How SentencePiece and byte-level BPE write a space in a token."""


def has_tokenizer(folder: Path) -> bool:
    """Return whether a folder has the files of one."""
    return any((folder / name).is_file() for name in FILES)


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a folder.

    Raises:
        CheckpointError: it has none, or one that can't be read.
    """
    if not has_tokenizer(folder):
        raise CheckpointError(
            f"{folder} has no tokenizer (none of {', '.join(FILES[:5])}...), so which row is which token's isn't "
            "known; put its tokenizer's files there"
        )
    try:
        with quiet_library():
            return AutoTokenizer.from_pretrained(str(folder))
    except UNREADABLE as error:
        raise CheckpointError(f"{folder}: its tokenizer can't be read: {one_line(error)}") from error


def ids_of(tokenizer: Any) -> dict[str, int]:
    """Return every token's id, those of added tokens included, in the order of ids.

    A fast tokenizer gives its vocabulary in another order each time, and plans have to read the same.
    """
    ids = {**tokenizer.get_vocab(), **tokenizer.get_added_vocab()}
    return dict(sorted(ids.items(), key=lambda each: each[1]))


class TokenSplitter:
    """Splits texts as a tokenizer does, but for some tokens that it is to know nothing of.

    Args:
        without: added tokens whose rows were never trained, such as those of an earlier extension.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, without: Collection[str] = ()) -> None:
        self._tokenizer = copy.deepcopy(tokenizer)  # the caller's may get tokens that this one doesn't know
        self._without = frozenset(without)
        self._unknown: object = tokenizer.unk_token_id
        backend = backend_of(self._tokenizer)
        self.encode = _fast_encoder(backend, without) if backend else _slow_encoder(self._tokenizer, without)

    def pieces(self, text: str) -> tuple[int, ...]:
        """Return the ids of a text's pieces, in order: without the unknown token, and without a marker alone in front.

        Example: SentencePiece puts a space before every text; where that space becomes a piece of its own, it isn't
        one of the text's.
        """
        ids = self.encode(text)
        if len(ids) > 1 and not text[:1].isspace() and self.spellings(ids[:1])[0] in MARKERS:
            ids = ids[1:]
        return tuple(id_ for id_ in ids if id_ != self._unknown)

    def spellings(self, ids: Iterable[int]) -> list[str]:
        """Return the tokens as the vocabulary spells them."""
        return [str(token) for token in self._tokenizer.convert_ids_to_tokens(list(ids))]

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of ids, control tokens included."""
        return str(self._tokenizer.decode(list(ids)))

    def text_of(self, token: str) -> str:
        """Return the characters that a token stands for, given as the vocabulary spells it."""
        plain = token.replace(MARKERS[1], " ")
        return plain if plain.isascii() and plain[:1] != "#" else text_of(self._tokenizer, token)

    @cached_property
    def special(self) -> frozenset[str]:
        """Return the control tokens."""
        return frozenset(self._tokenizer.all_special_tokens)

    @cached_property
    def vocabulary(self) -> dict[str, int]:
        """Return every token's id, but for those that it is to know nothing of."""
        return {text: id_ for text, id_ in ids_of(self._tokenizer).items() if text not in self._without}

    @cached_property
    def ids_by_text(self) -> dict[str, int]:
        """Return the same by the text that each stands for, as the function of this name does."""
        known = set(self.vocabulary.values())
        return {text: id_ for text, id_ in ids_by_text(self._tokenizer).items() if id_ in known}

    def id_of(self, text: str) -> int | None:
        """Return the id of a token, given as the vocabulary spells it or as a text that is one token; None if none."""
        if text in self.vocabulary:
            return self.vocabulary[text]
        pieces = self.pieces(text)
        return pieces[0] if len(pieces) == 1 and self._unknown not in self.encode(text) else None

    def lengths(self, ids: Iterable[int]) -> tuple[int, ...]:
        """Return how many characters each piece stands for, its word marker not counted; at least 1."""
        return tuple(max(1, len(text.lstrip("".join(MARKERS)).removeprefix("##"))) for text in self.spellings(ids))


def backend_of(tokenizer: PreTrainedTokenizerBase) -> Tokenizer | None:
    """Return what a tokenizer of the tokenizers library splits with; None for one in Python."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    return backend if isinstance(backend, Tokenizer) else None


def text_of(tokenizer: PreTrainedTokenizerBase, token: str) -> str:
    """Return the characters that a token of a vocabulary stands for; empty where they are no whole ones."""
    if MARKERS[0] in token:
        return token.replace(MARKERS[0], " ")
    plain = token.removeprefix("##") if is_word_piece(tokenizer) else token
    text: Any = tokenizer.convert_tokens_to_string([plain])
    if isinstance(text, Mapping):  # a CTC tokenizer tells the offset of each character, too
        text = text["text"]
    return "" if "\ufffd" in text else text


def is_word_piece(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Return whether it is WordPiece, where a token begins a word unless ``##`` is before it."""
    backend = backend_of(tokenizer)
    return isinstance(backend.model, models.WordPiece) if backend else hasattr(tokenizer, "wordpiece_tokenizer")


def is_sentencepiece(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Return whether its vocabulary writes a space as SentencePiece does."""
    backend = backend_of(tokenizer)
    parts = (backend.normalizer, backend.pre_tokenizer, backend.decoder) if backend else ()
    return any(MARKERS[0] in str(part) for part in parts) or hasattr(tokenizer, "sp_model")


def is_byte_level(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Return whether its vocabulary writes each byte of a text as a character of its own."""
    backend = backend_of(tokenizer)
    return backend is not None and "ByteLevel" in f"{backend.pre_tokenizer} {backend.decoder}"


def ids_by_text(tokenizer: PreTrainedTokenizerBase) -> dict[str, int]:
    """Return every token's id by the text it stands for, which begins with a space where the token begins a word.

    So tokens of different kinds of tokenizers come together. One that stands for no whole characters, or is a control
    token, goes by its spelling.
    """
    control, word_piece = set(tokenizer.all_special_tokens), is_word_piece(tokenizer)
    ids: dict[str, int] = {}
    for token, id_ in ids_of(tokenizer).items():
        text = "" if token in control else text_of(tokenizer, token)
        spaced = word_piece and text and not token.startswith("##")
        ids.setdefault(f" {text}" if spaced else text or token, id_)
    return ids


def _hidden_token(id_: int) -> str:
    """Return a token that no text has: its id stays taken."""
    return f"\U0010ffff{id_}\U0010ffff"


def _fast_encoder(backend: Tokenizer, without: Collection[str]) -> Callable[[str], list[int]]:
    encoder = backend
    if without:
        data = json.loads(backend.to_str())
        for token in data["added_tokens"]:
            if token["content"] in without:
                token["content"] = _hidden_token(token["id"])
        encoder = Tokenizer.from_str(json.dumps(data))
    encoder.no_truncation()
    encoder.no_padding()
    return lambda text: encoder.encode(text, add_special_tokens=False).ids


def _slow_encoder(tokenizer: Any, without: Collection[str]) -> Callable[[str], list[int]]:
    added: Mapping[int, AddedToken] = tokenizer.added_tokens_decoder
    encoder = with_added_tokens(
        tokenizer,
        {id_: AddedToken(_hidden_token(id_)) if token.content in without else token for id_, token in added.items()},
    )
    return lambda text: list(encoder.encode(text, add_special_tokens=False))
