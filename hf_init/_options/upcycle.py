"""The value of ``experts`` that makes a mixture of a dense model, and how it is written."""

from __future__ import annotations

import re
from dataclasses import dataclass

from hf_init._errors import PlanError, option


@dataclass(frozen=True)
class Upcycle:
    """The mixture that a dense model becomes: ``experts=Upcycle(8, top_k=2)``.

    Attributes:
        experts: how many there are in each block, each a copy of the feed-forward block.
        top_k: how many of them a token is given to.
    """

    experts: int
    top_k: int = 2

    def __str__(self) -> str:
        return f"upcycle({self.experts}, top_k={self.top_k})"


def parse_experts(given: object) -> int | Upcycle | None:
    """Return how many experts are wanted, or the mixture, from any of its spellings.

    Raises:
        PlanError: it is none.

    Example:
        >>> parse_experts("16"), parse_experts("upcycle(8, top_k=1)")
        (16, Upcycle(experts=8, top_k=1))
    """
    if isinstance(given, str):
        spelled = re.fullmatch(r"\s*upcycle\(\s*(\d+)\s*(?:,\s*(?:top_k\s*=\s*)?(\d+)\s*)?\)\s*", given, re.IGNORECASE)
        number = int(given) if given.strip().isdecimal() else given
        given = Upcycle(*(int(each) for each in spelled.groups() if each)) if spelled else number
    counts = (given.experts, given.top_k) if isinstance(given, Upcycle) else (given,)
    if given is not None and any(isinstance(n, bool) or not isinstance(n, int) or n < 1 for n in counts):
        raise PlanError(
            f"{option('experts')}: expected a whole number of at least 1, or upcycle(8, top_k=2), not {given!s}"
        )
    if isinstance(given, Upcycle) and given.top_k > given.experts:
        raise PlanError(f"{option('experts')}: {given}: of {given.experts} experts {given.top_k} can't be chosen")
    return given if isinstance(given, (int, Upcycle)) else None
