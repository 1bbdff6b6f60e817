"""Which tokens a tokenizer gets: as texts spell them, with their flags and ids, and what is in the way."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

from tokenizers import models
from transformers import AddedToken, PreTrainedTokenizerBase

from hf_init._errors import PlanError, option
from hf_init._text import join_names
from hf_init._vocabulary.in_text import TextCheck
from hf_init._vocabulary.request import RequestedToken, TokenRequest
from hf_init._vocabulary.tokenizer import (
    MARKERS,
    TokenSplitter,
    backend_of,
    is_byte_level,
    is_sentencepiece,
    is_word_piece,
    text_of,
)
from hf_init._vocabulary.tokenizer_files import TokenizerEdit, TokenizerFiles

_UNSPACED = ("CJK", "HIRAGANA", "KATAKANA", "THAI", "LAO", "KHMER", "MYANMAR", "TIBETAN")
"""Scripts that put no spaces between words."""


@dataclass(frozen=True)
class WantedTokens:
    """The tokens of a request, for one tokenizer.

    Attributes:
        new: those that are added, by their ids. existing: those that are there already, with their ids.
        respelled: texts by the vocabulary's spelling that the user gave.
        edit: what the tokenizer's files get.
    """

    new: Mapping[int, RequestedToken] = field(default_factory=dict)
    existing: Mapping[str, int] = field(default_factory=dict)
    respelled: Mapping[str, str] = field(default_factory=dict)
    edit: TokenizerEdit = field(default_factory=TokenizerEdit)


def wanted_tokens(
    request: TokenRequest, tokenizer: PreTrainedTokenizerBase, splitter: TokenSplitter, template: str | None
) -> WantedTokens:
    """Return the tokens that are to be added, those that are there already, and the edit of the tokenizer's files.

    Args:
        template: of chats, where the request has none.

    Raises:
        PlanError: a token that is there already, unless that is allowed; spellings that no text has; names that can't
            be given: all at once.
    """
    ids = dict(splitter.vocabulary)
    faults = [*_rename_faults(request.renamed, ids, tokenizer)]
    existing: dict[str, int] = {}
    new: dict[str, RequestedToken] = {}
    respelled: dict[str, str] = {}
    for token in request.tokens:
        text = token.text if token.special or token.text in ids else _text_form(token.text, tokenizer)
        if text is None:
            faults.append(
                f"add_tokens: {token.text!r} is how the vocabulary spells the inside of a word, which no text has; "
                f"give {token.text[2:]!r} (a word of its own; with {option('single_word', False)} inside others, too), "
                f"or a tokenizer that was built with it: {option('tokenizer', 'DIR')}"
            )
            continue
        if text != token.text:
            respelled[token.text] = text
        id_ = ids[text] if text in ids else splitter.id_of(text)
        if id_ is None or text in request.renamed:
            new[text] = replace(token, text=text)
        else:
            existing[token.text] = id_
    if existing and not request.skip_existing:
        names = ", ".join(f"{text!r} (id {id_})" for text, id_ in existing.items())
        faults.append(
            f"add_tokens: {names}: one token of the tokenizer already; leave them out, or say "
            f"{option('existing', 'skip')}"
        )
    if faults:
        raise PlanError("\n".join(faults))
    for text in request.roles.values():
        if text in new or text not in {*ids, *request.renamed.values()}:
            new[text] = replace(new.get(text, RequestedToken(text)), special=True)
    first = max(ids.values(), default=-1) + 1
    numbered = {first + index: token for index, token in enumerate(new.values())}
    added = {id_: added_token(token, request, tokenizer) for id_, token in numbered.items()}
    added |= _in_vocabulary(request, tokenizer, ids)
    edit = TokenizerEdit(dict(sorted(added.items())), request.roles, request.renamed, request.template or template)
    return WantedTokens(numbered, existing, respelled, edit)


def added_token(token: RequestedToken, request: TokenRequest, tokenizer: PreTrainedTokenizerBase) -> AddedToken:
    """Return a token with its own flags, those for all, and else the defaults.

    A word of WordPiece's stands alone: anywhere else its text is a part of other words, which must stay as they are.
    Spaces around a token are looked for before SentencePiece's normalization, which moves or drops them.
    """
    text, spaced = token.text, token.text != token.text.strip() and is_sentencepiece(tokenizer)
    scripts = {unicodedata.name(character, "").split(" ")[0] for character in text}
    word = text[:1].isalnum() and text[-1:].isalnum() and scripts.isdisjoint(_UNSPACED)
    flags = {
        "single_word": not token.special and is_word_piece(tokenizer) and word,
        "normalized": not token.special and not spaced,
        **request.flags,
        **token.flags,
    }
    return AddedToken(text, special=token.special, **flags)


def _in_vocabulary(
    request: TokenRequest, tokenizer: PreTrainedTokenizerBase, ids: Mapping[str, int]
) -> Iterator[tuple[int, AddedToken]]:
    """Yield tokens of the vocabulary that no text comes to unless they are added, too: renamed, or with a role."""
    names = {new: old for old, new in request.renamed.items()}
    known = {str(token.content) for token in tokenizer.added_tokens_decoder.values()}
    for text in dict.fromkeys([*names, *request.roles.values()]):
        old = names.get(text, text)
        if old in ids and old not in known:
            requested = RequestedToken(text, special=text in request.roles.values())
            yield ids[old], added_token(requested, request, tokenizer)


def _text_form(text: str, tokenizer: PreTrainedTokenizerBase) -> str | None:
    """Return a token as texts have it, where it is given as the vocabulary spells it; None for the inside of a word."""
    if text.startswith("##") and len(text) > 2 and is_word_piece(tokenizer):
        return None
    if MARKERS[0] in text and is_sentencepiece(tokenizer):
        return text.replace(MARKERS[0], " ")
    if text.startswith(MARKERS[1]) and is_byte_level(tokenizer):
        return text_of(tokenizer, text) or text.replace(MARKERS[1], " ")
    return text


def _rename_faults(
    renamed: Mapping[str, str], ids: Mapping[str, int], tokenizer: PreTrainedTokenizerBase
) -> Iterator[str]:
    if missing := [repr(old) for old in renamed if old not in ids]:
        yield f"rename_tokens: {', '.join(missing)}: no token of the tokenizer; name those that are"
    backend = backend_of(tokenizer)
    added = {str(token.content) for token in tokenizer.added_tokens_decoder.values()}
    merged = [repr(old) for old in renamed if old in ids and old not in added]
    if merged and backend and isinstance(backend.model, models.BPE):
        yield f"rename_tokens: {', '.join(merged)}: put together from pieces; only added tokens can be renamed here"
    if taken := [f"{new!r} (id {ids[new]})" for new in renamed.values() if new in ids and new not in renamed]:
        yield f"rename_tokens: {', '.join(taken)}: a token already; take another text"


def check_read(
    check: TextCheck, added: Mapping[int, AddedToken], files: TokenizerFiles, tokenizer: PreTrainedTokenizerBase
) -> None:
    """Raise PlanError for tokens that no text comes to, with a spelling that works, where there is one."""
    unread = [id_ for id_, token in added.items() if str(token.content) in check.unread]
    if not unread:
        return
    first, *others = [repr(str(added[id_].content)) for id_ in unread]
    seen = join_names([first + _spelling_that_works(unread[0], added, files, tokenizer), *others], 5)
    raise PlanError(
        f"add_tokens: the tokenizer would never produce {seen}: it normalizes texts to something else, or reads "
        "another token there; give each as it looks after normalization, or as a special token, which isn't normalized"
    )


def _spelling_that_works(
    id_: int, added: Mapping[int, AddedToken], files: TokenizerFiles, tokenizer: PreTrainedTokenizerBase
) -> str:
    token = added[id_]
    text, flags = str(token.content), token.__getstate__()
    for spelled in dict.fromkeys((text, text.strip(), f" {text.strip()}") if text.strip().isprintable() else ()):
        for normalized in (token.normalized, not token.normalized):
            if (spelled, normalized) == (text, token.normalized):
                continue  # which of two tokens of one text is read may differ from load to load
            other = AddedToken(**{**flags, "content": spelled, "normalized": normalized})
            after = files.edited(TokenizerEdit({**added, id_: other}), tokenizer).load()
            if spelled.strip() and id_ in after.encode(f"x {spelled.strip()} y", add_special_tokens=False):
                way = "" if normalized == token.normalized else f" with {option('normalized', normalized)}"
                return f" ({spelled!r}{way} would be read)"
    return ""
