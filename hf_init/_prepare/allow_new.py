"""The change that lists what may be new."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hf_init._change import Change, ChangePlan, TargetContext
from hf_init._checkpoint import BaseCheckpoint
from hf_init._errors import PlanError


@dataclass(frozen=True)
class AllowNew(Change):
    """The list of what may be new; anything else that would be is an error.

    Attributes:
        globs: on names on disk or in memory.
    """

    globs: tuple[str, ...]

    OPTIONS = ("allow_new",)

    @classmethod
    def of(cls, base: BaseCheckpoint, options: Mapping[str, object]) -> AllowNew | None:
        given = options.get("allow_new")
        if given is None:
            return None
        globs = [given] if isinstance(given, str) else given
        if not isinstance(globs, Sequence) or not all(isinstance(glob, str) and glob.strip() for glob in globs):
            raise PlanError(f"allow_new: expected a list of globs, such as ['classifier.*'], not {given!r}")
        return cls(tuple(globs))

    def plan(self, context: TargetContext) -> ChangePlan:
        return ChangePlan(allowed=self.globs)
