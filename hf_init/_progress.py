"""How long work reports what it has done: one type and one callback that does nothing, for the whole package."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

Progress: TypeAlias = Callable[[int], object]
"""Called with the bytes done since the last call, by one thread at a time; it may raise to stop the work."""


def no_progress(nbytes: int) -> None:
    """Report to nobody."""
