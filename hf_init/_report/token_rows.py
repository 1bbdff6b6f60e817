"""New rows of a vocabulary: their length among the old ones, what they were made of, and the nearest tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer

from hf_init._checkpoint import Checkpoint, Reader
from hf_init._plan import Fill, TensorPlan
from hf_init._report.picture import Picture, picture
from hf_init._roles import matches
from hf_init._tensors import Box

TOKENS = 100
"""The most new tokens of a table that are listed."""

NEAREST = 3

Texts = Callable[[int], str]


@dataclass(frozen=True)
class TokenRow:
    """One new row.

    Attributes:
        text: of its token.
        longer_than: the share of old rows that are shorter.
        pieces: the tokens that it was made of, where its scheme says so.
        nearest: old tokens and the cosines of their rows, the nearest first.
    """

    id: int
    text: str
    norm: float
    longer_than: float
    pieces: tuple[str, ...]
    nearest: tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class TokenRows:
    """The new rows of one table, and the norms of all."""

    rows: tuple[TokenRow, ...]
    new_norms: np.ndarray
    old_norms: np.ndarray


def token_texts(folder: Path) -> Texts:
    """Return what gives a token's text by its id: its number, where the folder has no such tokenizer."""
    file = folder / "tokenizer.json"
    if not file.is_file():
        return lambda id_: f"row {id_}"
    tokenizer = Tokenizer.from_file(str(file))
    return lambda id_: repr(tokenizer.decode([id_], skip_special_tokens=False) or tokenizer.id_to_token(id_))


def token_rows(checkpoint: Checkpoint, tensor: TensorPlan, fill: Fill, text: Texts) -> TokenRows | None:
    """Measure the new rows of a vocabulary's table; None of any other region, and of a table without an old row."""
    ids = _ids_of(fill)
    table = any(matches(tensor.role, role) for role in ("embedding.token", "output_embedding.weight"))
    if not table or len(tensor.shape) != 2 or fill.region.shape != (len(ids), tensor.shape[1]) or not tensor.kept:
        return None
    new = frozenset(id_ for each in tensor.new for id_ in _ids_of(each))
    listed = torch.tensor(list(ids)[:TOKENS])
    with Reader(checkpoint) as reader:
        own = []
        for first, block in _blocks(reader, tensor):
            own.append(block[listed[(listed >= first) & (listed < first + len(block))] - first])
        norms, cosines, nearest = _norms_and_nearest(reader, tensor, torch.cat(own), new)
    old = norms[[id_ for id_ in range(len(norms)) if id_ not in new]]
    pieces = getattr(fill.scheme, "pieces", None) or ((),) * len(ids)
    rows = []
    for id_, made, likeness, near in zip(listed.tolist(), pieces, cosines.tolist(), nearest.tolist(), strict=False):
        norm, named = norms[id_], tuple(zip(map(text, near), likeness, strict=True))
        rows.append(TokenRow(id_, text(id_), float(norm), float((old < norm).mean()), tuple(map(text, made)), named))
    return TokenRows(tuple(rows), norms[list(ids)], old)


def norm_picture(tokens: TokenRows) -> Picture:
    """Return the histogram of the new rows' norms, as high as that of the old rows' norms: there may be few of them."""
    drawn = picture("new rows", tokens.new_norms, None, [("old rows", tokens.old_norms)])
    scale = drawn.neighbours.top / drawn.new.top if drawn.neighbours else 1.0
    traces = tuple(replace(trace, heights=trace.heights * scale) for trace in drawn.new.traces)
    return replace(drawn, new=replace(drawn.new, traces=traces))


def _ids_of(fill: Fill) -> Sequence[int]:
    region = fill.region
    return range(region.start[0], region.stop[0]) if isinstance(region, Box) else region.index


def _blocks(reader: Reader, tensor: TensorPlan) -> Iterator[tuple[int, torch.Tensor]]:
    first = 0
    for block in reader.rows(tensor.name, Box.whole(tensor.shape)):
        yield first, block.float()
        first += len(block)


def _norms_and_nearest(
    reader: Reader, tensor: TensorPlan, own: torch.Tensor, new: frozenset[int]
) -> tuple[np.ndarray, torch.Tensor, torch.Tensor]:
    """Return the norms of all rows, and of the given ones the nearest old rows: cosines and numbers."""
    unit = torch.nn.functional.normalize(own, dim=1)
    norms, cosines, numbers = [], torch.zeros(len(own), 0), torch.zeros(len(own), 0, dtype=torch.int64)
    for first, block in _blocks(reader, tensor):
        norms.append(block.norm(dim=1))
        ids = torch.arange(first, first + len(block))
        old = torch.tensor([id_ not in new for id_ in ids.tolist()])
        found = torch.cat([cosines, unit @ torch.nn.functional.normalize(block[old], dim=1).T], 1)
        of = torch.cat([numbers, ids[old].expand(len(own), -1)], 1)
        cosines, places = found.topk(min(NEAREST, found.shape[1]), dim=1)
        numbers = of.gather(1, places)
    return torch.cat(norms).numpy(), cosines, numbers
