"""How often each label occurs, as a user gives it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any

from hf_init._errors import PlanError
from hf_init._labels._names import Names, close, listed

NO_OBJECT = "no object"
"""The name of a detector's last row, which belongs to no label."""


def numbers(what: str, given: Any, least: float = -math.inf) -> Mapping[str, float] | tuple[float, ...]:
    """Numbers for labels: by name, or in order.

    Raises:
        PlanError: they are not finite numbers of at least ``least``, or none.

    Example:
        >>> numbers("label_counts", [3, 1])
        (3.0, 1.0)
    """
    if isinstance(given, Mapping):
        return {str(name): _number(what, value, least) for name, value in given.items()}
    if isinstance(given, str) or not isinstance(given, Sequence) or not given:
        raise PlanError(f"{what}: expected a number for each label, by name or in order, not {given!r}")
    return tuple(_number(what, value, least) for value in given)


def _number(what: str, value: Any, least: float) -> float:
    if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value) or value < least:
        bound = f" of at least {least:g}" if math.isfinite(least) else ""
        raise PlanError(f"{what}: expected finite numbers{bound}, not {value!r}")
    return float(value)


def by_row(
    what: str, given: Mapping[str, float] | tuple[float, ...], names: Names, extra: Sequence[str] = ()
) -> tuple[float, ...]:
    """One number for each row.

    Args:
        names: of the labels. extra: names of the rows after them, which may be left out: they get 0.

    Raises:
        PlanError: labels without a number, numbers without a label.

    Example:
        >>> by_row("label_counts", {"pos": 1.0, "neg": 3.0}, ("neg", "pos"))
        (3.0, 1.0)
    """
    rows = (*names, *extra)
    if isinstance(given, tuple):
        if not len(names) <= len(given) <= len(rows):
            raise PlanError(f"{what}: {len(given)} numbers for {len(names)} labels ({listed(names)})")
        return (*given, *(0.0,) * (len(rows) - len(given)))
    unknown = [f"{name!r}{close(name, rows)}" for name in given if name not in rows]
    missing = tuple(name for name in names if name not in given)
    problems = [f"no label is named {', '.join(unknown)}"] * bool(unknown)
    problems += [f"{listed(missing)} have no number"] * bool(missing)
    if problems:
        raise PlanError(f"{what}: {'; '.join(problems)}; give one for each of {listed(names)}")
    return tuple(given.get(name, 0.0) for name in rows)
