"""Rows trained so that a model reads on behind a token as it does behind the token's old pieces."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Annotated, ClassVar

from hf_init._tensors import Slot
from hf_init.schemes._rows import SubTokens
from hf_init.schemes._settings import Above0, AtLeast0, AtLeast1, Share, Text, WholeNumber

if TYPE_CHECKING:
    import torch

__all__ = ["Distilled"]


@dataclass(frozen=True)
class Distilled(SubTokens):
    """Trained to be read as the token's old pieces are.

    From the mean of the pieces on, the row alone is trained by Adam: behind the token, in texts with it, the states of
    a layer are to be those behind the pieces; in an encoder those before it, too. Each row is trained on its own, with
    every other word in pieces, so what it becomes depends on no other new token. The base's states are computed once.

    Formula: least mean over texts and places of |h(before, token, after) - h(before, pieces, after)|^2 / |h|^2, h the
        states of a layer; tied: plus output times the cross-entropy of p(token) to p(pieces) where it stands, elsewhere
        to 0
    Use: New words, where texts with them are at hand: input rows and tied ones; written as row_scheme='distilled',
        texts=FILE; or without texts as 'distilled(written=12)'.
    Source: Dobler, Elliott and de Melo, Token Distillation: Attention-Aware Input Embeddings for New Tokens, 2026.

    Args:
        passages: of the texts, with the token in them, that are read; drawn by the seed where there are more.
        steps: of Adam.
        batch: of the passages, that one step reads at most: some with as many pieces; all in turn.
        written: passages that the base writes itself, behind the pieces of a token that no text has; 0: that one isn't
            distilled.
        rate: of the steps, in standard deviations of the table; it falls evenly to 0.
        depth: share of the layers behind which the states are compared; those behind it aren't run.
        before: tokens that are read before the token.
        after: tokens that are read behind it, and count.
        output: weight of what the row says as an output row; for tied tables.
        data: SHA-256 of the texts, if there are any; bound by the plan.

    Raises:
        RecipeError: when called without the texts at hand.

    Example:
        >>> from hf_init import schemes
        >>> str(schemes.Distilled(steps=12))
        'distilled(steps=12)'
    """

    name: ClassVar[str] = "distilled"
    needs_model: ClassVar[bool] = True
    bound: ClassVar[tuple[str, ...]] = (*SubTokens.bound, "data")
    passages: AtLeast1 = 12
    steps: AtLeast1 = 9
    batch: AtLeast1 = 4
    written: Annotated[int, WholeNumber(0)] = 0
    rate: Above0 = 0.25
    depth: Share = 0.25
    before: AtLeast1 = 8
    after: AtLeast1 = 6
    output: AtLeast0 = 0.0
    data: Text = ""

    @property
    def start(self) -> SubTokens:
        """Return the scheme of the rows that training starts from."""
        return SubTokens(**{field.name: getattr(self, field.name) for field in fields(SubTokens)})

    @property
    def is_mixture(self) -> bool:
        return False

    def rows_of(self, slot: Slot, dim: int) -> torch.Tensor:
        from hf_init.schemes import _row_math

        given = None if slot.context is None else slot.context.given(slot)
        if given is None:
            raise self.refusal(slot, "the texts that it is trained on aren't at hand: give them (texts=...)")
        return _row_math.as_rows(given, dim)
