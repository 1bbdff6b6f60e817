"""What was meant to stay as it was."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TypeAlias

from hf_init._errors import PlanError
from hf_init._text import join_names

FrozenLike: TypeAlias = str | Sequence[str]

KEPT, NONE = "kept", "none"


@dataclass(frozen=True)
class FrozenGlobs:
    """Words in order, of which the last that speaks of a tensor decides.

    ``kept`` is everything pretrained, kept regions of resized tensors too; a glob is all of the tensors of that name;
    ``!`` before either takes out again.

    Example:
        >>> frozen = Frozen.of(["kept", "!*.q_proj.weight"])
        >>> frozen.holds(("layers.0.q_proj.weight",), "kept"), frozen.holds(("layers.0.k_proj.weight",), "kept")
        (False, True)
    """

    words: tuple[str, ...]

    @classmethod
    def of(cls, words: FrozenLike) -> FrozenGlobs:
        """From ``"kept"``, ``"none"``, a glob, or a sequence of those.

        Raises:
            PlanError: something else.
        """
        given = (words,) if isinstance(words, str) else tuple(words)
        bad = [word for word in given if not isinstance(word, str) or not word.removeprefix("!")]
        if bad:
            raise PlanError(f"frozen: {bad[0]!r} is no word of it; give 'kept', 'none', or globs on tensors' names")
        return cls(tuple(word for word in given if word != NONE))

    def holds(self, names: tuple[str, ...], origin: str) -> bool:
        """Whether a part of a tensor, ``kept`` or ``new``, was meant to stay; a tensor may have several names."""
        said = [word for word in self.words if _speaks(word.removeprefix("!"), names, origin)]
        return bool(said) and not said[-1].startswith("!")

    def refuse_idle(self, parts: Iterable[tuple[tuple[str, ...], str]]) -> None:
        """Raise PlanError for globs that no tensor answers to."""
        known = list(parts)
        globs = [word.removeprefix("!") for word in self.words if word.removeprefix("!") != KEPT]
        idle = [glob for glob in globs if not any(_speaks(glob, *part) for part in known)]
        if idle:
            seen = join_names([names[0] for names, _ in known])
            raise PlanError(f"frozen: {', '.join(map(repr, idle))} names no tensor here; there are {seen}")

    def __str__(self) -> str:
        if not self.words:
            return "nothing"
        return ", ".join("everything kept" if word == KEPT else word for word in self.words)


def _speaks(word: str, names: tuple[str, ...], origin: str) -> bool:
    return origin == KEPT if word == KEPT else any(fnmatchcase(name, word) for name in names)
