"""The tokenizer of a folder, and texts split as it splits them."""

from __future__ import annotations

import copy
import json
from collections.abc import Collection, Iterable, Mapping
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
    """Whether a folder has the files of one."""
    return any((folder / name).is_file() for name in FILES)


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The tokenizer of a folder.

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
        unknown: Any = tokenizer.unk_token_id
        self._unknown = {unknown}
        backend = getattr(tokenizer, "backend_tokenizer", None)
        self._fast = _fast_without(backend, without) if isinstance(backend, Tokenizer) else None
        self._slow = _slow_without(self._tokenizer, without) if self._fast is None else None

    def pieces(self, text: str) -> tuple[int, ...]:
        """The ids of a text's pieces, in order: without what stands for no character of it, without the unknown token.

        Example: SentencePiece puts a space before every text; where that space becomes a piece of its own, it isn't
        one of the text's.
        """
        ids = self._ids(text)
        if len(ids) > 1 and not text[:1].isspace() and self.strings(ids[:1])[0] in MARKERS:
            ids = ids[1:]
        return tuple(id_ for id_ in ids if id_ not in self._unknown)

    def strings(self, ids: Iterable[int]) -> list[str]:
        """The tokens as the vocabulary spells them."""
        return [str(token) for token in self._tokenizer.convert_ids_to_tokens(list(ids))]

    @cached_property
    def vocabulary(self) -> dict[str, int]:
        """Every token's id, but for those that it is to know nothing of."""
        return {text: id_ for text, id_ in ids_of(self._tokenizer).items() if text not in self._without}

    @cached_property
    def texts(self) -> dict[str, int]:
        """The same by the text that each stands for, as ``by_text`` has it."""
        known = set(self.vocabulary.values())
        return {text: id_ for text, id_ in by_text(self._tokenizer).items() if id_ in known}

    def id_of(self, text: str) -> int | None:
        """The id of a token, given as the vocabulary spells it or as a text that is one token; None: it is none."""
        pieces = self.pieces(text) if text not in self.vocabulary else (self.vocabulary[text],)
        return pieces[0] if len(pieces) == 1 else None

    def lengths(self, ids: Iterable[int]) -> tuple[int, ...]:
        """How many characters each piece stands for, its word marker not counted; at least 1."""
        return tuple(max(1, len(text.lstrip("".join(MARKERS)).removeprefix("##"))) for text in self.strings(ids))

    def _ids(self, text: str) -> list[int]:
        if self._fast is not None:
            return self._fast.encode(text, add_special_tokens=False).ids
        assert self._slow is not None
        return list(self._slow.encode(text, add_special_tokens=False))


def text_of(tokenizer: PreTrainedTokenizerBase, token: str) -> str:
    """The characters that a token of a vocabulary stands for; empty where they are no whole ones."""
    if MARKERS[0] in token:
        return token.replace(MARKERS[0], " ")
    text: Any = tokenizer.convert_tokens_to_string([token.removeprefix("##") if of_words(tokenizer) else token])
    if isinstance(text, Mapping):  # a CTC tokenizer tells where each character is, too
        text = text["text"]
    return "" if "\ufffd" in text else text


def of_words(tokenizer: Any) -> bool:
    """Whether it is WordPiece, where a token begins a word unless ``##`` is before it."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if isinstance(backend, Tokenizer):
        return isinstance(backend.model, models.WordPiece)
    return hasattr(tokenizer, "wordpiece_tokenizer")


def by_text(tokenizer: PreTrainedTokenizerBase) -> dict[str, int]:
    """Every token's id by the text that it stands for, which begins with a space where the token begins a word.

    So tokens of different kinds of tokenizers come together. One that stands for no whole characters, or is a control
    token, goes by its spelling.
    """
    control = set(tokenizer.all_special_tokens)
    begin = of_words(tokenizer)
    found: dict[str, int] = {}
    for token, id_ in ids_of(tokenizer).items():
        text = "" if token in control else text_of(tokenizer, token)
        found.setdefault(f" {text}" if begin and text and not token.startswith("##") else text or token, id_)
    return found


def _hidden(id_: int) -> str:
    """A token that no text has: its id stays taken."""
    return f"\U0010ffff{id_}\U0010ffff"


def _fast_without(backend: Tokenizer, without: Collection[str]) -> Tokenizer:
    data: dict[str, Any] = json.loads(backend.to_str())
    for token in data["added_tokens"]:
        if token["content"] in without:
            token["content"] = _hidden(token["id"])
    made = Tokenizer.from_str(json.dumps(data))
    made.no_truncation()
    made.no_padding()
    return made


def _slow_without(tokenizer: Any, without: Collection[str]) -> Any:
    added: Mapping[int, AddedToken] = tokenizer.added_tokens_decoder
    tokens = {id_: AddedToken(_hidden(id_)) if token.content in without else token for id_, token in added.items()}
    return with_added_tokens(tokenizer, tokens)
