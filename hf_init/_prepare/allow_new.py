"""What the user says may be new, and what may go: lists of globs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hf_init._change import Change, ChangePlan, TargetContext
from hf_init._checkpoint import BaseCheckpoint
from hf_init._errors import PlanError, option


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
        return None if given is None else cls(parse_globs("allow_new", given))

    def plan(self, context: TargetContext) -> ChangePlan:
        return ChangePlan(allowed=self.globs)


def parse_globs(name: str, given: object) -> tuple[str, ...]:
    """Return the globs that an option was given, one or a list.

    Raises:
        PlanError: they are none.
    """
    globs = [given] if isinstance(given, str) else given
    if not isinstance(globs, Sequence) or not all(isinstance(glob, str) and glob.strip() for glob in globs):
        raise PlanError(f"{option(name)}: expected a list of globs, such as ['classifier.*'], not {given!r}")
    return tuple(globs)
