"""Every scheme by name. A scheme is a frozen value that is called with a slot: ``scheme(slot) -> tensor``, float32.

A scheme is one class in one file: the registry, the names here and the catalogue (``hf-init schemes``) are made of the
classes in the ``__all__`` of the files below. Importing this package doesn't import torch; drawing values does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING
from typing import cast

from hf_init._errors import RecipeError
from hf_init.schemes import (
    _derived,
    _elementwise,
    _fans,
    _heads,
    _rows,
    _rows_distilled,
    _rows_donor,
    _rows_drawn,
    _rows_given,
    _special,
    _structured,
)
from hf_init.schemes._base import Scheme, settings_of, whole_slot
from hf_init.schemes._base import format_setting as format_setting
from hf_init.schemes._derived import *
from hf_init.schemes._distribution import Distribution, Part
from hf_init.schemes._distribution import mass as mass
from hf_init.schemes._elementwise import *
from hf_init.schemes._fans import *
from hf_init.schemes._finish import finish
from hf_init.schemes._heads import *
from hf_init.schemes._matrices import Fans, fans_of
from hf_init.schemes._row_base import RowScheme
from hf_init.schemes._rows import *
from hf_init.schemes._rows_distilled import *
from hf_init.schemes._rows_donor import *
from hf_init.schemes._rows_drawn import *
from hf_init.schemes._rows_given import *
from hf_init.schemes._settings import GAINS, closest_name
from hf_init.schemes._special import *
from hf_init.schemes._structured import *

__all__ = [
    "ALIASES",
    "GAINS",
    "REGISTRY",
    "Distribution",
    "Fans",
    "Part",
    "RowScheme",
    "Scheme",
    "build",
    "fans_of",
    "find",
    "finish",
    "from_json",
    "settings_of",
    "whole_slot",
]
__all__ += _derived.__all__
__all__ += _elementwise.__all__
__all__ += _fans.__all__
__all__ += _structured.__all__
__all__ += _special.__all__
__all__ += _heads.__all__
__all__ += _rows_drawn.__all__
__all__ += _rows.__all__
__all__ += _rows_given.__all__
__all__ += _rows_donor.__all__
__all__ += _rows_distilled.__all__

# In the order in which they are shown; within a file, in that of their classes.
_FILES = (
    _elementwise, _fans, _structured, _special, _derived, _heads, _rows_drawn, _rows, _rows_given, _rows_donor,
    _rows_distilled,
)  # fmt: skip
REGISTRY: dict[str, type[Scheme]] = {
    kind.name: kind for file in _FILES for name, kind in vars(file).items() if name in file.__all__
}
ALIASES: dict[str, str] = {alias: kind.name for kind in REGISTRY.values() for alias in kind.aliases}


def find(name: object) -> type[Scheme]:
    """Return the class of the scheme of this name, or of this alias.

    Raises:
        RecipeError: there is no such scheme; it names the closest and all.

    Example:
        >>> find("identity").__name__
        'Eye'
    """
    kind = REGISTRY.get(ALIASES.get(name, name)) if isinstance(name, str) else None
    if kind is None:
        near = closest_name(name, [*REGISTRY, *ALIASES])
        raise RecipeError(f"unknown scheme {name!r}{near}; schemes: {', '.join(REGISTRY)}")
    return kind


def build(name: object, settings: Mapping[str, object] | None = None) -> Scheme:
    """Return the scheme of this name, or of this alias, with these settings.

    Raises:
        RecipeError: there is no such scheme or setting, one is missing, or a value can't be used.

    Example:
        >>> build("he_normal", {"mode": "fan_out"}) == KaimingNormal(mode="fan_out")
        True
    """
    kind = find(name)
    given = settings or {}
    known = settings_of(kind)
    problems = [f"no setting {name!r}{closest_name(name, known)}" for name in given if name not in known]
    problems += [f"{name} is missing" for name, default in known.items() if default is MISSING and name not in given]
    if problems:
        raise RecipeError(f"{kind.name}: {'; '.join(problems)}; its settings: {', '.join(known) or 'none'}")
    return kind(**given)


def from_json(data: object) -> Scheme:
    """Return the scheme that ``to_json`` wrote.

    Raises:
        RecipeError: it isn't ``{"name": ..., **settings}`` of a known scheme.

    Example:
        >>> from_json({"name": "normal", "mean": 0.0, "std": 0.02})
        Normal(mean=0.0, std=0.02)
    """
    if not isinstance(data, Mapping) or "name" not in data:
        raise RecipeError(f"a scheme is written as {{'name': ..., settings}}, seen {data!r}")
    entry = cast("Mapping[str, object]", data)
    return build(entry["name"], {key: value for key, value in entry.items() if key != "name"})
