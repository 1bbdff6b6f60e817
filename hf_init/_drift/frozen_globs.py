"""What was meant to stay as it was."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from hf_init._errors import PlanError
from hf_init._globs import check_globs
from hf_init._text import fits_glob

FrozenLike: TypeAlias = str | Sequence[str]

KEPT, NONE = "kept", "none"


@dataclass(frozen=True)
class FrozenGlobs:
    """Globs in order, of which the last that fits a tensor decides.

    ``kept`` is everything pretrained, kept regions of resized tensors too; a glob is all of the tensors of that name;
    ``!`` before either takes out again.

    Example:
        >>> frozen = FrozenGlobs.of(["kept", "!*.q_proj.weight"])
        >>> frozen.holds(("layers.0.q_proj.weight",), "kept"), frozen.holds(("layers.0.k_proj.weight",), "kept")
        (False, True)
    """

    words: tuple[str, ...]

    @classmethod
    def of(cls, words: FrozenLike) -> FrozenGlobs:
        """Return the globs of ``"kept"``, ``"none"``, a glob, or a sequence of those.

        Raises:
            PlanError: something else.
        """
        given = (words,) if isinstance(words, str) else tuple(words)
        bad = [word for word in given if not isinstance(word, str) or not word.removeprefix("!")]
        if bad:
            raise PlanError(f"frozen: {bad[0]!r} is no word of it; give 'kept', 'none', or globs on tensors' names")
        return cls(tuple(word for word in given if word != NONE))

    def holds(self, names: tuple[str, ...], origin: str) -> bool:
        """Return whether a part of a tensor was meant to stay; a tensor may have several names."""
        held = False
        for word in self.words:
            glob = word.removeprefix("!")
            if origin == KEPT if glob == KEPT else any(fits_glob(name, glob) for name in names):
                held = glob == word
        return held

    def check_used(self, parts: Sequence[tuple[tuple[str, ...], str]]) -> None:
        """Raise PlanError for globs that fit no tensor."""
        names = [name for names, _ in parts for name in names]
        check_globs("frozen", (word.removeprefix("!") for word in self.words if word.removeprefix("!") != KEPT), names)

    def __str__(self) -> str:
        if not self.words:
            return "nothing"
        return ", ".join("everything kept" if word == KEPT else word for word in self.words)
