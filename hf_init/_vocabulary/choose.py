"""Which scheme for the rows of new tokens, and what it promises: by the side of the table and the kind of token."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeAlias

from hf_init import schemes
from hf_init._checkpoint import Checkpoint
from hf_init._errors import RecipeError
from hf_init._plan import Choice
from hf_init._text import join_names
from hf_init._vocabulary.tokenizer import TokenSplitter, by_text, ids_of, load_tokenizer
from hf_init.schemes import RowScheme, Scheme

Guarantee: TypeAlias = Literal["distribution", "greedy", "learning"]
TableKind: TypeAlias = Literal["word", "described", "control", "bare", "padding"]
"""``control``: a control token whose own text is all that is known; ``bare``: not even that can be split."""

LEAN = 0.05
"""Of an all but uniform mean: with equal weights two tokens of the same pieces in another order would be one row."""
NOISE = 0.1
"""Of a control token's input row, in standard deviations of the trained rows: it parts the tokens, and no more."""


@dataclass(frozen=True)
class NewToken:
    """A token whose row is made anew.

    Attributes:
        pieces: ids of what its text, or its description, is made of.
    """

    id: int
    text: str
    kind: TableKind
    pieces: tuple[int, ...] = ()


@dataclass(frozen=True)
class EmbeddingTable:
    """A vocabulary-sized tensor of the base, and what binds a scheme to it.

    Attributes:
        source: its name in the base's files.
        side: ``input``, ``output``, ``tied`` (both), ``bias`` (of an output matrix) or ``tied_bias``.
        trained: ranges of its trained rows; empty where all are.
        order: the place of every new token among all of them, by its id.
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


def auto_row_scheme(side: str, kind: TableKind, guarantee: Guarantee) -> Choice:
    """The scheme for a kind of token on one side of a model, and why.

    Evidence: composition of pieces learns faster than the mean row; on the input a calibrated length helps; on the
    output the first piece is what the model predicts, and a row in the hull never wins (Mundra et al., 2024). Where
    both are one table, pieces by their lengths learn at least as well as any others (scripts/evidence/vocabulary.py).
    """
    if guarantee == "distribution" and side != "input":
        return Choice(_MEAN, "the mean row: n new tokens take at most n/(V+n) of the probability")
    return _SIDES[side][kind]


def probability_bound(scheme: Scheme, table: EmbeddingTable, tokens: Sequence[NewToken]) -> Scheme:
    """A scheme that knows its table and its rows; one that isn't of rows stays as it is.

    Raises:
        RecipeError: a token has no pieces, or isn't known, or the donor's table isn't.
    """
    if not isinstance(scheme, RowScheme):
        return scheme
    if table.side in BIAS:
        scheme = _for_bias(scheme)
    known: dict[str, Any] = {"table": table.source, "trained": table.trained, "keys": tuple(t.text for t in tokens)}
    if isinstance(scheme, schemes.SubTokens):
        known |= _of_pieces(scheme, table, tokens)
    elif isinstance(scheme, schemes.CopyRow) and scheme.token:
        known["rows"] = (_row(scheme.token, table),)
    elif isinstance(scheme, schemes.Interpolate) and scheme.tokens:
        known["pairs"] = (tuple(_row(token, table) for token in scheme.tokens),)
    elif isinstance(scheme, schemes.Omp):
        known |= _from_donor(scheme, table, tokens)
    elif isinstance(scheme, (schemes.FromFile, schemes.FromTensor)):
        known["rows"] = tuple(table.order[token.id] for token in tokens)
    unset = {key: value for key, value in known.items() if key in scheme.bound and not getattr(scheme, key)}
    bound = replace(scheme, **unset)
    return bound.sealed() if isinstance(bound, (schemes.Omp, schemes.FromFile)) else bound


def _for_bias(scheme: RowScheme) -> RowScheme:
    """What a bias has of a scheme for its matrix: no length, and no rows that another tool made for the matrix."""
    if isinstance(scheme, schemes.SubTokens):
        return replace(scheme, norm=None)
    return _MEAN if isinstance(scheme, (schemes.Omp, schemes.FromFile, schemes.FromTensor)) else scheme


def _of_pieces(scheme: schemes.SubTokens, table: EmbeddingTable, tokens: Sequence[NewToken]) -> dict[str, Any]:
    described = isinstance(scheme, schemes.Description)
    lacking = [repr(t.text) for t in tokens if not t.pieces or (described and t.kind != "described")]
    if lacking:
        raise RecipeError(
            f"{scheme}: {join_names(lacking)} "
            f"{'has no description' if described else 'has no pieces'}; give the token a "
            "description, or choose mean"
        )
    found: dict[str, Any] = {"pieces": tuple(token.pieces for token in tokens)}
    if scheme.needs_lengths and table.splitter is not None:
        found["lengths"] = tuple(table.splitter.lengths(token.pieces) for token in tokens)
    return found


def _row(token: str, table: EmbeddingTable) -> int:
    """The row of a token of the base, given as the vocabulary spells it, or as a text that is one token."""
    if table.splitter is None:
        raise RecipeError(f"{token!r}: the base has no tokenizer, so its row isn't known")
    id_ = table.splitter.id_of(token)
    if id_ is None:
        raise RecipeError(f"{token!r} isn't one token of the base's tokenizer; name one that is")
    return id_


def _from_donor(scheme: schemes.Omp, table: EmbeddingTable, tokens: Sequence[NewToken]) -> dict[str, Any]:
    if table.splitter is None:
        raise RecipeError(f"{scheme}: the base has no tokenizer, so which tokens are shared isn't known")
    folder = Path(scheme.donor).expanduser()
    donor = load_tokenizer(folder)
    theirs, spelled, ours = by_text(donor), ids_of(donor), table.splitter.texts
    # As the vocabulary spells it; as a text; as a word, which begins with a space where the donor's tokens do.
    rows = [spelled.get(t.text, theirs.get(t.text, theirs.get(f" {t.text}"))) for t in tokens]
    lacking = [repr(token.text) for token, row in zip(tokens, rows, strict=True) if row is None]
    if lacking:
        raise RecipeError(f"{scheme}: the donor has no token {join_names(lacking)}; take another, or choose subtokens")
    trained = table.trained or ((0, max(ours.values()) + 1),)
    shared = sorted(
        (theirs[text], id_)
        for text, id_ in ours.items()
        if text in theirs and theirs[text] not in rows and any(start <= id_ < stop for start, stop in trained)
    )
    return {
        "donor_table": scheme.donor_table or _donor_table(folder, table.source),
        "rows": tuple(row for row in rows if row is not None),
        "shared": tuple(shared),
    }


def _donor_table(folder: Path, name: str) -> str:
    """The donor's tensor of this name, whatever it is nested in."""
    with Checkpoint.open(folder) as donor:
        found = sorted(
            (other for other in donor.entries if other == name or _leaf(other) == _leaf(name)),
            key=lambda other: (other != name, len(other)),
        )
    if not found:
        raise RecipeError(f"omp: {folder} has no tensor like {name}; say which is meant: donor_table")
    return found[0]


def _leaf(name: str) -> str:
    return ".".join(name.rsplit(".", 2)[-2:])
