"""Globs on tensors' names: what they fit, and what was meant by one that fits nothing."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from glob import escape

from hf_init._errors import PlanError, option
from hf_init._text import closest, fits_glob, join_names


def fits_globs(globs: Iterable[str], *names: str) -> bool:
    """Return whether one of the globs fits one of the names; no glob at all fits everything."""
    globs = list(globs)
    return not globs or any(fits_glob(name, glob) for glob in globs for name in names)


def check_globs(name: str, globs: Iterable[str], known: Sequence[str]) -> None:
    """Raise PlanError for globs of an option that fit none of the known names, each with the closest that does."""
    idle = [glob for glob in globs if not fits_globs([glob], *known)]
    if idle:
        texts = ", ".join(f"{glob!r}{closest_glob(glob, known)}" for glob in idle)
        raise PlanError(
            f"{option(name)}: {texts} names no tensor here; there are {join_names([*dict.fromkeys(known)])}"
        )


def exact_glob(name: str) -> str:
    """Return a glob that fits a name, and can be typed whatever the name holds.

    Example:
        >>> exact_glob("heads.a[0]")
        'heads.a[[]0]'
    """
    return "".join(letter if letter.isprintable() else "?" for letter in escape(name))


def closest_glob(glob: str, names: Sequence[str]) -> str:
    """Return `` (did you mean 'bert.*'?)``, or nothing where no glob or name that fits is close.

    Example:
        >>> closest_glob("bert.encoder.layer.2", ["bert.encoder.layer.2.output.dense.weight"])
        " (did you mean 'bert.encoder.layer.2.*'?)"
        >>> closest_glob("layer.2.*", ["bert.encoder.layer.2.output.dense.weight"])
        " (did you mean '*.layer.2.*'?)"
    """
    plain = glob.strip("*").strip(".")
    tries = (f"{plain}.*", f"*.{plain}", f"*.{plain}.*", f"*{plain}*", f"{plain}*") if plain else ()
    for attempt in tries:
        if fits_globs([attempt], *names):
            return f" (did you mean {attempt!r}?)"
    modules = {
        exact_glob(name.rsplit(".", cut)[0]) + ".*" * bool(cut) for name in names for cut in range(name.count(".") + 1)
    }
    return closest(glob, modules)
