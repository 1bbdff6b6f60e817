"""Rows made from texts: read as the token's old pieces are, and said where the texts say the token."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Annotated, ClassVar

from hf_init._tensors import Slot
from hf_init.schemes._rows import SubTokens
from hf_init.schemes._settings import Above0, AtLeast0, AtLeast1, Share, TableSide, Text, WholeNumber

if TYPE_CHECKING:
    import torch

__all__ = ["Distilled"]


@dataclass(frozen=True)
class Distilled(SubTokens):
    """Read as the token's pieces are, and said where texts say it.

    An input row is trained by Adam from the mean of the pieces on: behind the token, in texts with it, the states of a
    layer are to be those behind the pieces; in an encoder those before it, too. An output row is solved, by logistic
    regression on the states that the output layer of a causal model is handed: where the texts have the token next,
    and where they don't, around it and anywhere, held to where it starts by how far that moves its logits. Old tokens
    keep their ratios to each other, but the new one may win over them. A tied row has both aims at once, and is trained
    in coordinates where it moves most easily where no logit changes. Each row is made on its own, with every other
    word in pieces, so what it becomes depends on no other new token.

    Formula: input: least mean over texts and places of |h(before, token, after) - h(before, pieces, after)|^2 / |h|^2,
        h the states of a layer; output: least mean of -log p where the token is next + r * mean of -log(1 - p)
        elsewhere + hold/n * mean of (h.w - h.start)^2 anywhere, p = sigmoid(h.w - log sum_old exp(h.e)), r the places
        for each with the token, n of which are seen; tied: the first + output * the second
    Use: New words, where texts with them are at hand; written as row_scheme='distilled', texts=FILE; without texts
        input rows alone, as 'distilled(written=12)'. With texts auto distils input rows, and others
        under guarantee='learning'.
    Source: Dobler, Elliott and de Melo, Token Distillation: Attention-Aware Input Embeddings for New Tokens, 2026, for
        input rows.

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
        output: weight of what a tied row says, in nats, beside how it is read.
        hold: how much an output row is held to where it starts, in places of the token.
        side: of the table; bound by the plan.
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
    bound: ClassVar[tuple[str, ...]] = (*SubTokens.bound, "side", "data")
    passages: AtLeast1 = 12
    steps: AtLeast1 = 9
    batch: AtLeast1 = 4
    written: Annotated[int, WholeNumber(0)] = 0
    rate: Above0 = 0.25
    depth: Share = 0.25
    before: AtLeast1 = 8
    after: AtLeast1 = 6
    output: AtLeast0 = 0.01
    hold: AtLeast0 = 16.0
    side: TableSide = "input"
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
