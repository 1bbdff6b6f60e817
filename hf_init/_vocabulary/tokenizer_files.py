"""The files of a tokenizer, and the edits that give them tokens, roles and names: every other byte stays."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from transformers import AddedToken, PreTrainedTokenizerBase

from hf_init._errors import CheckpointError, PlanError
from hf_init._text import join_names
from hf_init._vocabulary.json_text import add_items, replace_strings, set_values
from hf_init._vocabulary.tokenizer import FILES, ids_of, load_tokenizer

FAST, SETTINGS, ROLES_FILE, ADDED = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
)  # fmt: skip
SENTENCEPIECE = "tokenizer.model"
TOKENIZER_FILES = (*FILES, ROLES_FILE, ADDED)
TEMPLATES = ("chat_template.jinja", "chat_template.json")
FLAGS = ("single_word", "lstrip", "rstrip", "normalized")


@dataclass(frozen=True)
class TokenizerEdit:
    """What a tokenizer gets.

    Attributes:
        tokens: by their ids. Those whose text is in the vocabulary already keep the id that it has there.
        roles: the token of each role, such as ``pad_token``.
        renamed: tokens that get another text and keep their id.
        template: of chats.
    """

    tokens: Mapping[int, AddedToken] = field(default_factory=dict)
    roles: Mapping[str, str] = field(default_factory=dict)
    renamed: Mapping[str, str] = field(default_factory=dict)
    template: str | None = None

    def __bool__(self) -> bool:
        return bool(self.tokens or self.roles or self.renamed or self.template is not None)


@dataclass(frozen=True)
class TokenizerFiles:
    """All that a tokenizer is made of: the bytes of each file, by its name.

    Attributes:
        home: the folder whose ``config.json`` goes with the tokenizer, and may say whose it is.
    """

    files: Mapping[str, bytes]
    home: Path

    @classmethod
    def of(cls, folder: Path, tokenizer: PreTrainedTokenizerBase, home: Path) -> TokenizerFiles:
        """Read the files of a folder that this tokenizer of it is made of."""
        own = [name for name in tokenizer.vocab_files_names.values() if isinstance(name, str)]
        names = dict.fromkeys([*FILES, ROLES_FILE, ADDED, *TEMPLATES, *own])
        return cls({name: (folder / name).read_bytes() for name in names if (folder / name).is_file()}, home)

    def load(self) -> PreTrainedTokenizerBase:
        """Return the tokenizer that the library makes of the files."""
        with tempfile.TemporaryDirectory() as name:
            self.write(Path(name))
            Path(name, "config.json").write_bytes((self.home / "config.json").read_bytes())
            tokenizer = load_tokenizer(Path(name))
            stores: tuple[dict[str, Any], ...] = (vars(tokenizer), tokenizer.init_kwargs)
            for store in stores:  # the folder that lasts, not the one that goes
                places = {key: value for key, value in store.items() if isinstance(value, str) and name in value}
                store |= {key: value.replace(name, str(self.home)) for key, value in places.items()}
        return tokenizer

    def write(self, folder: Path) -> None:
        """Write the files into a folder."""
        for name, data in self.files.items():
            (folder / name).write_bytes(data)

    def edited(self, edit: TokenizerEdit, tokenizer: PreTrainedTokenizerBase) -> TokenizerFiles:
        """Return the files with what an edit says; ``tokenizer`` is the one that they make now.

        Raises:
            CheckpointError: a file that has to be edited isn't JSON.
        """
        if not edit:
            return self
        texts = {name: self._text(name) for name in (FAST, SETTINGS, ROLES_FILE, ADDED) if name in self.files}
        if edit.renamed:
            texts = {name: replace_strings(text, edit.renamed) for name, text in texts.items()}
        texts |= dict(_with_tokens(texts, edit, tokenizer, SENTENCEPIECE in self.files))
        files = {**self.files, **{name: text.encode() for name, text in texts.items()}}
        if edit.renamed:
            files |= self._vocabularies(edit.renamed)
        if edit.template is not None:
            files |= {"chat_template.jinja": edit.template.encode()}
            files.pop("chat_template.json", None)
        return TokenizerFiles(files, self.home)

    def _text(self, name: str) -> str:
        try:
            text = self.files[name].decode()
            if isinstance(json.loads(text), dict):
                return text
        except ValueError as error:
            raise CheckpointError(f"the tokenizer's {name}: no JSON: {error}") from error
        raise CheckpointError(f"the tokenizer's {name}: expected a JSON object")

    def _vocabularies(self, renamed: Mapping[str, str]) -> Iterator[tuple[str, bytes]]:
        """Yield the vocabulary files that spell a renamed token, with its new name."""
        if "vocab.txt" in self.files:
            lines = self.files["vocab.txt"].decode().split("\n")
            yield "vocab.txt", "\n".join(renamed.get(line, line) for line in lines).encode()
        if "vocab.json" in self.files:
            yield "vocab.json", replace_strings(self._text("vocab.json"), renamed).encode()


def _with_tokens(
    texts: Mapping[str, str], edit: TokenizerEdit, tokenizer: PreTrainedTokenizerBase, sentencepiece: bool
) -> Iterator[tuple[str, str]]:
    """Yield the JSON files that change, with their new text."""
    tokens = {id_: token.__getstate__() for id_, token in edit.tokens.items()}
    if FAST in texts and tokens:
        tokens = {**dict(_unlisted(texts[FAST], tokenizer)), **tokens}
    ids: dict[str, object] = {token["content"]: id_ for id_, token in tokens.items()}
    if FAST in texts:
        yield FAST, add_items(texts[FAST], "added_tokens", [{"id": id_, **token} for id_, token in tokens.items()])
    if ADDED in texts:
        yield ADDED, set_values(texts[ADDED], ids)
    elif sentencepiece and tokens:
        # Programs that read tokenizer.model alone look here for what it doesn't hold; all of it must be here then.
        in_model = tokenizer.vocab_size
        older = {str(token.content): id_ for id_, token in tokenizer.added_tokens_decoder.items() if id_ >= in_model}
        yield ADDED, json.dumps({**older, **ids}, indent=2, ensure_ascii=False) + "\n"
    settings, roles = texts.get(SETTINGS, "{}"), texts.get(ROLES_FILE)
    if FAST not in texts and "added_tokens_decoder" not in json.loads(settings) and tokens:
        # With that list the library reads no special_tokens_map.json any more, and needs every added token in the list.
        said = {} if roles is None else json.loads(roles)
        settings = set_values(settings, said)
        tokens = {id_: token.__getstate__() for id_, token in tokenizer.added_tokens_decoder.items()} | tokens
        settings = set_values(settings, {"added_tokens_decoder": {}})
    if "added_tokens_decoder" in json.loads(settings):
        settings = add_items(settings, "added_tokens_decoder", {str(id_): token for id_, token in tokens.items()})
    special = [str(token.content) for token in edit.tokens.values() if token.special]
    settings = _with_special(set_values(settings, edit.roles), special, edit.roles)
    if settings != texts.get(SETTINGS, "{}"):
        yield SETTINGS, settings
    if roles is not None:
        listed = special if "additional_special_tokens" in json.loads(roles) else []
        yield ROLES_FILE, _with_special(set_values(roles, edit.roles), listed, edit.roles)


def _unlisted(text: str, tokenizer: PreTrainedTokenizerBase) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the added tokens that the tokenizer's class brings, which would move behind those that the file lists."""
    data = json.loads(text)
    vocabulary = data["model"]["vocab"]
    pieces = {*vocabulary} if isinstance(vocabulary, dict) else {piece for piece, _ in vocabulary}
    listed = {token["id"] for token in data["added_tokens"]}
    for id_, token in tokenizer.added_tokens_decoder.items():
        if id_ not in listed and str(token.content) not in pieces:
            yield id_, token.__getstate__()


def _with_special(text: str, special: list[str], roles: Mapping[str, str]) -> str:
    """Return settings that name tokens without a role as special, under the key that versions 4 and 5 both know.

    A list under ``extra_special_tokens`` is version 5's own: version 4 can't load it, so there it is the right place.
    """
    data = json.loads(text)
    key = "extra_special_tokens" if isinstance(data.get("extra_special_tokens"), list) else "additional_special_tokens"
    listed = {each["content"] if isinstance(each, dict) else each for each in data.get(key) or ()}
    names = [token for token in special if token not in {*roles.values(), *listed}]
    return add_items(text, key, names) if names else text


def check_read_back(edit: TokenizerEdit, before: PreTrainedTokenizerBase, after: PreTrainedTokenizerBase) -> None:
    """Raise PlanError if the library reads other ids from the edited files than they say."""
    expected = {edit.renamed.get(text, text): id_ for text, id_ in ids_of(before).items()}
    expected |= {str(token.content): id_ for id_, token in edit.tokens.items()}
    actual = ids_of(after)
    wrong = [text for text, id_ in expected.items() if actual.get(text) != id_]
    if wrong or len(actual) != len(expected):
        seen = [f"{text!r} (id {actual.get(text)}, not {expected[text]})" for text in wrong]
        raise PlanError(
            f"{type(after).__name__} reads its files otherwise than they say: {join_names(seen) or 'more tokens'}; "
            "give the folder a tokenizer.json"
        )
