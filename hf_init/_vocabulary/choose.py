"""Which scheme for the rows of new tokens, and what it promises: by the side of the table and the kind of token."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

from hf_init import schemes
from hf_init._checkpoint import Checkpoint, folder_of
from hf_init._errors import RecipeError
from hf_init._plan import Choice
from hf_init._text import join_names
from hf_init._vocabulary.tokenizer import TokenSplitter, ids_by_text, ids_of, load_tokenizer
from hf_init.schemes import RowScheme, Scheme

Guarantee: TypeAlias = Literal["distribution", "greedy", "learning"]
TokenKind: TypeAlias = Literal["word", "described", "control", "bare", "padding"]
"""``control``: a control token whose own text is all that is known; ``bare``: not even that can be split."""

LEAN = 0.05
"""Of an all but uniform mean: with equal weights two tokens of the same pieces in another order would be one row."""
NOISE = 0.1
"""Of a control token's input row, in standard deviations of the trained rows: it parts the tokens, and no more."""


@dataclass(frozen=True)
class NewToken:
    """A token whose row is new.

    Attributes:
        pieces: ids of what its text, or its description, is made of.
    """

    id: int
    text: str
    kind: TokenKind
    pieces: tuple[int, ...] = ()


@dataclass(frozen=True)
class EmbeddingTable:
    """A vocabulary-sized tensor of the base, and what binds a scheme to it.

    Attributes:
        source: its name in the base's files.
        side: ``input``, ``output``, ``tied`` (both), ``bias`` (of an output matrix) or ``tied_bias``.
        trained: ranges of its trained rows; empty where all are.
        order: the position of every new token among all of them, by its id.
    """

    source: str
    side: str
    trained: tuple[tuple[int, int], ...]
    order: Mapping[int, int]
    splitter: TokenSplitter | None


BIAS = ("bias", "tied_bias")
_CONVEX = "in the convex hull of the old rows: greedy choices stay"
_SUBTOKENS = schemes.SubTokens(weights="exp_first", alpha=LEAN)
_CALIBRATED = schemes.SubTokens(weights="exp_last", alpha=LEAN, norm="median")
_MEAN, _PARTED = schemes.MeanRow(), schemes.MeanRow(noise=NOISE)
_FIRST = schemes.SubTokens(weights="exp_first")
_WEIGHED = schemes.SubTokens(weights="characters_first", alpha=LEAN)

_INPUT = {
    "word": Choice(_CALIBRATED, "a word: the mean of its pieces, as long as an old row"),
    "described": Choice(_CALIBRATED, "the mean of its description's pieces, as long as an old row"),
    "control": Choice(_PARTED, "a control token: the mean row, with noise that parts them"),
    "bare": Choice(_PARTED, "no pieces: the mean row, with noise that parts them"),
    "padding": Choice(_MEAN, "padding, no token's: the mean row"),
}
_OUTPUT = {
    "word": Choice(_FIRST, f"a word: its pieces, the first most, {_CONVEX}"),
    "described": Choice(_SUBTOKENS, f"its description's pieces, {_CONVEX}"),
    "control": Choice(_MEAN, "a control token: the mean row, whose logit is the mean logit"),
    "bare": Choice(_MEAN, "no pieces: the mean row, whose logit is the mean logit"),
    "padding": Choice(_MEAN, "padding, no token's: the mean row, never the likeliest; zeros might be"),
}
_TIED = {
    "word": Choice(_WEIGHED, f"a word, tied: its pieces by their lengths, {_CONVEX}"),
    "described": Choice(_SUBTOKENS, f"tied: the mean of its description's pieces, {_CONVEX}"),
    "control": Choice(_SUBTOKENS, f"a control token, tied: the mean of its own text's pieces, {_CONVEX}"),
    "bare": Choice(_PARTED, "no pieces, tied: the mean row, with noise that parts them"),
    "padding": _OUTPUT["padding"],
}
# A bias goes with its matrix: a row of both together is in the hull of the old ones only with the same weights.
_TIED_BIAS = {**_TIED, "bare": _OUTPUT["bare"]}
_SIDES: dict[str, Mapping[str, Choice]] = {
    "input": _INPUT,
    "output": _OUTPUT,
    "bias": _OUTPUT,
    "tied": _TIED,
    "tied_bias": _TIED_BIAS,
}


def auto_row_scheme(side: str, kind: TokenKind, guarantee: Guarantee) -> Choice:
    """Return the scheme for a kind of token on one side of a model, and why.

    Evidence: composition of pieces learns faster than the mean row; on the input a calibrated length helps; on the
    output the first piece is what the model predicts, and a row in the hull never wins (Mundra et al., 2024). Where
    both are one table, pieces by their lengths learn at least as well as any others (scripts/evidence/vocabulary.py).
    """
    if guarantee == "distribution" and side != "input":
        return Choice(_MEAN, "the mean row: n new tokens take at most n/(V+n) of the probability")
    return _SIDES[side][kind]


def distilled_scheme(
    asked: schemes.Distilled, side: Literal["input", "output", "tied"], data: str
) -> schemes.Distilled:
    """Return a scheme with what it says nothing of: where it starts, its side, and its texts."""
    start = _SIDES[side]["word"].scheme
    assert isinstance(start, schemes.SubTokens)
    scheme = replace(asked, data=data, side=side)
    if asked.start != schemes.SubTokens():
        return scheme
    return replace(scheme, weights=start.weights, alpha=start.alpha, norm=start.norm)


def bind_row_scheme(scheme: Scheme, table: EmbeddingTable, tokens: Sequence[NewToken]) -> Scheme:
    """Return a scheme that knows its table and its rows; one that isn't of rows stays as it is.

    Raises:
        RecipeError: a token has no pieces, or isn't known, or the donor's table isn't.
    """
    if not isinstance(scheme, RowScheme):
        return scheme
    if table.side in BIAS:  # no length goes with a bias, and no rows that another tool made for the matrix
        if isinstance(scheme, schemes.SubTokens):
            scheme = replace(scheme, norm=None)
        elif isinstance(scheme, (schemes.Omp, schemes.FromFile, schemes.FromTensor)):
            scheme = _MEAN
    settings: dict[str, object] = {
        "table": table.source,
        "trained": table.trained,
        "keys": tuple(token.text for token in tokens),
    }
    if isinstance(scheme, schemes.SubTokens):
        settings["pieces"] = _pieces_of(scheme, tokens)
        if scheme.needs_lengths and table.splitter is not None:
            settings["lengths"] = tuple(table.splitter.lengths(token.pieces) for token in tokens)
    elif isinstance(scheme, schemes.CopyRow) and scheme.token:
        settings["rows"] = (_row_of_token(scheme.token, table),)
    elif isinstance(scheme, schemes.Interpolate) and scheme.tokens:
        settings["pairs"] = (tuple(_row_of_token(token, table) for token in scheme.tokens),)
    elif isinstance(scheme, schemes.Omp):
        settings |= _donor_settings(scheme, table, tokens)
    elif isinstance(scheme, (schemes.FromFile, schemes.FromTensor)):
        settings["rows"] = tuple(table.order[token.id] for token in tokens)
    unset = {key: value for key, value in settings.items() if key in scheme.bound and not getattr(scheme, key)}
    bound = replace(scheme, **unset)
    return bound.sealed() if isinstance(bound, (schemes.Omp, schemes.FromFile)) else bound


def _pieces_of(scheme: schemes.SubTokens, tokens: Sequence[NewToken]) -> tuple[tuple[int, ...], ...]:
    described = isinstance(scheme, schemes.Description)
    lacking = [repr(t.text) for t in tokens if not t.pieces or (described and t.kind != "described")]
    if lacking:
        raise RecipeError(
            f"{scheme}: {join_names(lacking)} has no {'description' if described else 'pieces'}; give the token a "
            "description, or choose mean"
        )
    return tuple(token.pieces for token in tokens)


def _row_of_token(token: str, table: EmbeddingTable) -> int:
    """Return the row of a token of the base, given as the vocabulary spells it, or as a text that is one token."""
    if table.splitter is None:
        raise RecipeError(f"{token!r}: the base has no tokenizer, so its row isn't known")
    id_ = table.splitter.id_of(token)
    if id_ is None:
        raise RecipeError(f"{token!r} isn't one token of the base's tokenizer; name one that is")
    return id_


def _donor_settings(scheme: schemes.Omp, table: EmbeddingTable, tokens: Sequence[NewToken]) -> dict[str, object]:
    if table.splitter is None:
        raise RecipeError(f"{scheme}: the base has no tokenizer, so which tokens are shared isn't known")
    folder = folder_of(scheme.donor)
    donor = load_tokenizer(folder)
    by_spelling, by_text, base_ids = ids_of(donor), ids_by_text(donor), table.splitter.ids_by_text
    # As the vocabulary spells it; as a text; as a word, which begins with a space where the donor's tokens do.
    rows = [by_spelling.get(t.text, by_text.get(t.text, by_text.get(f" {t.text}"))) for t in tokens]
    lacking = [repr(token.text) for token, row in zip(tokens, rows, strict=True) if row is None]
    if lacking:
        raise RecipeError(f"{scheme}: the donor has no token {join_names(lacking)}; take another, or choose subtokens")
    trained = table.trained or ((0, max(base_ids.values()) + 1),)
    shared = sorted(
        (by_text[text], id_)
        for text, id_ in base_ids.items()
        if text in by_text and by_text[text] not in rows and any(start <= id_ < stop for start, stop in trained)
    )
    donor_table = scheme.donor_table
    if not donor_table:  # the donor's tensor of this name, whatever it is nested in
        name, leaf = table.source, table.source.split(".")[-2:]
        with Checkpoint.open(folder) as checkpoint:
            names = [other for other in checkpoint.entries if other == name or other.split(".")[-2:] == leaf]
        if not names:
            raise RecipeError(f"omp: {folder} has no tensor like {name}; say which is meant: donor_table")
        donor_table = min(names, key=lambda other: (other != name, len(other)))
    rows = tuple(row for row in rows if row is not None)
    return {"donor_table": donor_table, "rows": rows, "shared": tuple(shared)}
