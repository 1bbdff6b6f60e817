"""What a plan says of old inputs: whether the result computes what the base computes."""

from __future__ import annotations

from collections.abc import Iterable

EXACT = "exact"
ROUNDING = "exact to rounding"
INTERPOLATION = "as the base's own interpolation"
NONE = "none, because "
CLAIMS = (EXACT, ROUNDING, INTERPOLATION, NONE)
"""From the strongest to the weakest; the last goes on with the reason."""


def no_claim(reason: str) -> str:
    """Return the claim that nothing holds, and why."""
    return f"{NONE}{reason}"


def weakest_claim(claims: Iterable[str]) -> str:
    """Return the weakest of some claims, all reasons together; ``exact`` where there are none.

    Example:
        >>> weakest_claim(["exact", no_claim("a is new"), "exact to rounding", no_claim("b goes")])
        'none, because a is new; b goes'
    """
    said = tuple(dict.fromkeys(claims))
    reasons = [claim.removeprefix(NONE) for claim in said if claim.startswith(NONE)]
    if reasons:
        return no_claim("; ".join(reasons))
    return max(said, key=CLAIMS.index, default=EXACT)


def is_claim(text: object) -> bool:
    """Return whether a text is one of the claims."""
    return isinstance(text, str) and (text in CLAIMS[:-1] or (text.startswith(NONE) and text != NONE))
