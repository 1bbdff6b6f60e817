"""The options on tokens, read strictly."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

from transformers import AddedToken, PreTrainedTokenizerBase

from hf_init._distill import GivenTexts
from hf_init._errors import PlanError
from hf_init._options import TokenOptions, options_of
from hf_init._paths import user_path
from hf_init._plan import parse_scheme
from hf_init._text import join_names
from hf_init._vocabulary.choose import BIAS, Guarantee
from hf_init._vocabulary.tokenizer_files import FLAGS
from hf_init.schemes import Distilled, Scheme


def read_token_file(path: str | Path) -> list[object]:
    """Read the tokens of a file, as ``add_tokens`` takes them.

    A ``.json`` file holds a list of texts and of objects with ``token``, ``description``, ``special`` and the flags of
    a token, or one object of descriptions (or null) by token; a ``.jsonl`` file such a text or object a line; a
    ``.csv`` or ``.tsv`` file columns of these names. Any other file has a token a line, taken as it is, spaces
    included; an empty line is none.

    Raises:
        PlanError: the file can't be read, or is of another form.

    Example:
        >>> import tempfile, pathlib
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = pathlib.Path(folder, "tokens.json")
        ...     _ = path.write_text('{"<tool>": "a call of a tool"}')
        ...     read_token_file(path)
        [{'token': '<tool>', 'description': 'a call of a tool'}]
    """
    path = user_path(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
        lines = [line.rstrip("\r") for line in text.split("\n") if line.rstrip("\r")]
        suffix = path.suffix.lower()
        if suffix in (".csv", ".tsv"):
            return _csv_tokens(path, text, "," if suffix == ".csv" else "\t")
        if suffix == ".jsonl":
            return [*map(json.loads, filter(str.strip, lines))]
        data: object = json.loads(text) if suffix == ".json" else lines
    except (OSError, ValueError, RecursionError) as error:
        raise PlanError(f"{path}: tokens can't be read from it: {error}; give a token a line, or JSON") from error
    if isinstance(data, dict):
        return [{"token": token, "description": description} for token, description in data.items()]
    if not isinstance(data, list):
        raise PlanError(f"{path}: expected a JSON list of tokens, or an object of descriptions, not {data!r:.60}")
    return [*data]


def _csv_tokens(path: Path, text: str, delimiter: str) -> list[object]:
    rows = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter)
    if "token" not in (rows.fieldnames or ()):
        raise PlanError(f"{path}: no column is called token; its first line names {join_names(rows.fieldnames or [])}")
    plain, known = {"true": True, "false": False}, ("token", "description", "special", *FLAGS)
    return [
        {
            key: plain.get(value.lower(), value) if key not in known[:2] else value
            for key, value in row.items()
            if value and key in known
        }
        for row in rows
        if row["token"]
    ]


ROW_SCHEME_OPTIONS = {
    "row_scheme": ("input", "output", "bias", "tied", "tied_bias"),
    "input_rows": ("input",),
    "output_rows": ("output", "bias"),
}
TOKEN_OPTIONS = tuple(options_of(TokenOptions))
TOKEN_LISTS = ("add_tokens", "add_tokens_file", "special_tokens")
ROLE_OPTIONS = ("pad_token", "eos_token", "bos_token", "unk_token", "mask_token")
GUARANTEES: tuple[str, ...] = get_args(Guarantee)


@dataclass(frozen=True)
class RequestedToken:
    """A token that the user wants.

    Attributes:
        description: a text that says what it is for.
        special: a control token, which decoding may skip; not a word of the language.
        flags: of how texts are matched, such as ``single_word``; what isn't given has a default.
    """

    text: str
    description: str | None = None
    special: bool = False
    flags: Mapping[str, bool] = field(default_factory=dict)

    @classmethod
    def of(cls, one: str | AddedToken | Mapping[str, Any], special: bool) -> RequestedToken:
        """Read what a user gives as one token."""
        if isinstance(one, str):
            return cls(one, special=special)
        if isinstance(one, AddedToken):
            flags = {key: value for key, value in one.__getstate__().items() if key in FLAGS}
            return cls(str(one.content), special=special or one.special, flags=flags)
        flags = {key: value for key, value in one.items() if key in FLAGS}
        return cls(one["token"], one.get("description"), one.get("special", special), flags)


@dataclass(frozen=True)
class TokenRequest:
    """Everything that the options on tokens ask for.

    Attributes:
        multiple_of: rows are added until this divides their number.
        shrink: rows without a token may go.
        reinit_ids: ids whose rows are re-initialized.
        tokenizer: another tokenizer, or the folder of one, which takes the place of the base's.
        guarantee: what the rows of the new tokens promise.
        schemes: of the new rows, by the side of the model that they are on.
        one_sided: the options that gave a scheme to one side alone.
        skip_existing: tokens that are there already are left as they are.
        flags: of every new token that has none of its own.
        roles: the token of each role that was named, such as ``pad_token``.
        renamed: tokens that keep their row under another text.
        template: of chats.
        texts: that rows are distilled from.
    """

    tokens: tuple[RequestedToken, ...] = ()
    multiple_of: int | None = None
    shrink: bool = False
    reinit_ids: tuple[int, ...] = ()
    tokenizer: Path | PreTrainedTokenizerBase | None = None
    guarantee: Guarantee = "greedy"
    schemes: Mapping[str, Scheme] = field(default_factory=dict)
    one_sided: tuple[str, ...] = ()
    skip_existing: bool = False
    flags: Mapping[str, bool] = field(default_factory=dict)
    roles: Mapping[str, str] = field(default_factory=dict)
    renamed: Mapping[str, str] = field(default_factory=dict)
    template: str | None = None
    texts: GivenTexts | None = None

    @property
    def edits(self) -> bool:
        """Return whether the tokenizer changes in what no row depends on."""
        return bool(self.roles or self.renamed or self.template is not None)


def read_token_request(options: Mapping[str, Any]) -> TokenRequest | None:
    """Return what the options ask for; None where they ask for nothing.

    Raises:
        PlanError: an option of another kind, an empty or repeated token: all at once.
    """
    given = {key: value for key, value in options.items() if value is not None}
    if not given:
        return None
    if "add_tokens_file" in given:
        file = given["add_tokens_file"]
        given["add_tokens_file"] = read_token_file(file)
        if not given["add_tokens_file"]:
            raise PlanError(f"add_tokens_file: {file} has no token in it; give a token a line, or leave it out")
    if faults := [*_option_faults(given)]:
        raise PlanError("\n".join(faults))
    tokens = tuple(RequestedToken.of(one, key == "special_tokens") for key in TOKEN_LISTS for one in given.get(key, ()))
    if faults := [*_token_faults(tokens)]:
        raise PlanError("\n".join(faults))
    # The option for one side comes after the option for all, and so goes before it.
    row_schemes = [(key, parse_scheme(given[key])) for key in ROW_SCHEME_OPTIONS if key in given]
    request = TokenRequest(
        tokens,
        given.get("pad_to_multiple_of"),
        given.get("allow_shrink", False),
        tuple(given.get("reinit_rows", ())),
        user_path(given["tokenizer"]) if isinstance(given.get("tokenizer"), (str, Path)) else given.get("tokenizer"),
        given.get("guarantee", "greedy"),
        {side: scheme for key, scheme in row_schemes for side in _sides_of(key, scheme)},
        tuple(key for key in ("input_rows", "output_rows") if key in given),
        given.get("existing") == "skip",
        {key: given[key] for key in FLAGS if key in given},
        {key: given[key] for key in ROLE_OPTIONS if key in given},
        given.get("rename_tokens", {}),
        _template(given["chat_template"]) if "chat_template" in given else None,
        GivenTexts.of(given["texts"]) if "texts" in given else None,
    )
    distils = any(isinstance(scheme, Distilled) for _, scheme in row_schemes)
    others = [key for key, scheme in row_schemes if key != "output_rows" and not distils]
    if request.texts is not None and others:
        raise PlanError(f"texts: the scheme of {others[0]} reads none; leave out one of the two, or say distilled")
    idle = [key for key in ("guarantee", "existing", "texts", *FLAGS, *ROW_SCHEME_OPTIONS) if key in given]
    wanted = request.tokens or request.reinit_ids or request.tokenizer is not None or request.roles
    if idle and not wanted and request.multiple_of is None:
        raise PlanError(f"{', '.join(idle)}: no row is new; say which tokens are (add_tokens, special_tokens)")
    return request


def _sides_of(key: str, scheme: Scheme) -> tuple[str, ...]:
    """Return the sides of a model that a scheme is for, given by this option: a bias isn't distilled."""
    sides = ROW_SCHEME_OPTIONS[key]
    return tuple(side for side in sides if side not in BIAS) if isinstance(scheme, Distilled) else sides


def _template(given: str | Path) -> str:
    """Return the text of a chat template, which Python may give itself."""
    if isinstance(given, str) and "{" in given:
        return given
    try:
        return user_path(given).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise PlanError(f"chat_template: {given} can't be read: {error}") from error


def _option_faults(given: Mapping[str, Any]) -> Iterator[str]:
    for key in TOKEN_LISTS:
        tokens = given.get(key, ())
        if isinstance(tokens, (str, bytes, Mapping)) or not isinstance(tokens, Sequence):
            yield f"{key}: expected a list of tokens, such as ['<tool>'], not {tokens!r}"
        elif wrong := [repr(one) for one in tokens if not isinstance(one, (str, AddedToken)) and not _is_mapping(one)]:
            yield f"{key}: expected texts, or mappings with token, description and special, not {join_names(wrong)}"
    for key, right, expected in (
        ("pad_to_multiple_of", lambda value: type(value) is int and value >= 1, "a whole number of at least 1"),
        ("allow_shrink", lambda value: isinstance(value, bool), "True or False"),
        ("reinit_rows", _are_ids, "a list of token ids, none twice"),
        (
            "tokenizer",
            lambda value: isinstance(value, PreTrainedTokenizerBase) or (isinstance(value, (str, Path)) and str(value)),
            "the name of a folder, or a tokenizer",
        ),
        ("guarantee", GUARANTEES.__contains__, f"one of {', '.join(GUARANTEES)}"),
        ("existing", ("error", "skip").__contains__, "'error' or 'skip'"),
        ("rename_tokens", _are_names, "a new text for each token, none twice"),
        *((key, lambda value: isinstance(value, bool), "True or False") for key in FLAGS),
        *((key, _is_text, "the text of a token") for key in ROLE_OPTIONS),
        ("chat_template", lambda value: isinstance(value, (str, Path)) and str(value), "the name of a file"),
    ):
        if key in given and not right(given[key]):
            yield f"{key}: expected {expected}, not {given[key]!r}"


def _is_mapping(one: object) -> bool:
    return (
        isinstance(one, Mapping)
        and {"token"} <= set(one) <= {"token", "description", "special", *FLAGS}
        and isinstance(one["token"], str)
        and isinstance(one.get("description", ""), (str, type(None)))
        and all(isinstance(one.get(key, False), bool) for key in ("special", *FLAGS))
    )


def _are_names(value: object) -> bool:
    if not isinstance(value, Mapping) or len({*value.values()}) < len(value):
        return False
    return all(_is_text(text) for pair in value.items() for text in pair)


def _is_text(value: object) -> bool:
    """Return whether a value is a text that tokenizers take: of whole characters, and not empty."""
    return isinstance(value, str) and value != "" and value == value.encode(errors="replace").decode()


def _token_faults(tokens: Sequence[RequestedToken]) -> Iterator[str]:
    counts = Counter(token.text for token in tokens)
    if strange := [ascii(text) for text in counts if text and not _is_text(text)]:
        yield f"add_tokens: {join_names(strange)}: not Unicode, but halves of characters or bytes of another encoding"
    if "" in counts:
        yield f"add_tokens: token {[*counts].index('') + 1} is empty; give each a text"
    if twice := sorted(repr(text) for text, count in counts.items() if count > 1):
        yield f"add_tokens: named twice: {join_names(twice)}; name each once"
    silent = [repr(t.text) for t in tokens if t.description is not None and not t.description.strip()]
    if silent:
        yield f"add_tokens: an empty description for {join_names(silent)}; say what the token is for, or leave it out"


def _are_ids(value: object) -> bool:
    if not isinstance(value, Sequence) or isinstance(value, (str, bytes)):
        return False
    return all(type(id_) is int and id_ >= 0 for id_ in value) and len(set(value)) == len(value)
