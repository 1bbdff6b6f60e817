"""The catalogue: every scheme's idea, formula, settings, use and source, for ``hf-init schemes``. Imports no torch."""

from __future__ import annotations

import itertools
import textwrap
from dataclasses import MISSING, asdict, dataclass
from typing import Any

from hf_init import schemes
from hf_init.schemes._base import format_scheme, settings_of
from hf_init.schemes._entries import BASIC_TEXTS as PLACED
from hf_init.schemes._head_entries import HEAD_TEXTS as HEADS
from hf_init.schemes._row_entries import ROW_TEXTS as ROWS

ALL_TEXTS = {**PLACED, **HEADS, **ROWS}
WIDTH = 100


@dataclass(frozen=True)
class Setting:
    """One setting; ``default`` is as a recipe spells it, and empty where the setting must be given."""

    name: str
    default: str
    meaning: str

    def __str__(self) -> str:
        return f"{self.name}={self.default}" if self.default else self.name


@dataclass(frozen=True)
class CatalogueEntry:
    """One scheme of the catalogue. ``torch_function`` and ``source`` are empty where there is none."""

    name: str
    group: str
    idea: str
    formula: str
    settings: tuple[Setting, ...]
    when: str
    torch_function: str
    source: str
    aliases: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "settings": [asdict(setting) for setting in self.settings], "aliases": [*self.aliases]}


def catalogue() -> list[CatalogueEntry]:
    """Every scheme, in the order in which they are shown.

    Example:
        >>> [entry.name for entry in catalogue()][:3]
        ['zeros', 'ones', 'constant']
    """
    return [catalogue_entry(name) for name in ALL_TEXTS]


def catalogue_entry(name: str) -> CatalogueEntry:
    """The entry of a scheme, by its name or an alias.

    Raises:
        RecipeError: there is no such scheme.

    Example:
        >>> [str(setting) for setting in catalogue_entry("he_normal").settings]
        ['a=0', 'mode=fan_in', 'nonlinearity=leaky_relu']
    """
    kind = schemes.find(name)
    text = ALL_TEXTS[kind.name]
    settings = tuple(
        Setting(setting, "" if default is MISSING else format_scheme(default), text.settings[setting])
        for setting, default in settings_of(kind).items()
    )
    aliases = tuple(alias for alias, of in schemes.ALIASES.items() if of == kind.name)
    return CatalogueEntry(
        name=kind.name,
        group=text.group,
        idea=text.idea,
        formula=text.formula,
        settings=settings,
        when=text.when,
        torch_function=text.torch_function,
        source=text.source,
        aliases=aliases,
    )


def catalogue_json() -> list[dict[str, Any]]:
    """The whole catalogue as plain values."""
    return [each.to_json() for each in catalogue()]


def catalogue_table() -> str:
    """The whole catalogue for a terminal: a line a scheme, in groups, at most 100 columns.

    Example:
        >>> print(catalogue_table().splitlines()[1])
          zeros                                  every element is 0
    """
    groups = itertools.groupby(catalogue(), key=lambda each: each.group)
    return "\n\n".join("\n".join([group, *map(_line, entries)]) for group, entries in groups)


def describe_scheme(name: str) -> str:
    """One scheme on a page for a terminal, at most 100 columns.

    Raises:
        RecipeError: there is no such scheme.

    Example:
        >>> print(describe_scheme("eye").splitlines()[0])
        eye: a matrix that passes its input on
    """
    each = catalogue_entry(name)
    facts = (
        ("formula", each.formula),
        *(("setting", f"{setting}: {setting.meaning}") for setting in each.settings),
        ("when", each.when),
        ("torch", each.torch_function or "none"),
        ("source", each.source or "none"),
        ("also", ", ".join(each.aliases)),
    )
    return "\n".join([f"{each.name}: {each.idea}", "", *(_fact(label, text) for label, text in facts if text)])


def _line(each: CatalogueEntry) -> str:
    bound = getattr(schemes.find(each.name), "bound", ())
    settings = ", ".join(str(setting) for setting in each.settings if setting.name not in bound)
    head = f"  {f'{each.name}({settings})' if settings else each.name:<38}"
    # A long list of settings has a line of its own.
    return f"{head} {each.idea}" if len(head) == 40 else f"{head}\n{'':40} {each.idea}"


def _fact(label: str, text: str) -> str:
    return textwrap.fill(text, WIDTH, initial_indent=f"{label:<9}", subsequent_indent=" " * 9, break_on_hyphens=False)
