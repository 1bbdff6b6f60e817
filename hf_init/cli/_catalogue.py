"""The catalogue: every scheme's idea, formula, settings, use and source, from its class, for ``hf-init schemes``.

Imports no torch.
"""

from __future__ import annotations

import inspect
import itertools
import re
import textwrap
from dataclasses import MISSING, asdict, dataclass

from hf_init import schemes

PAGE_WIDTH = 100
# The sections of a scheme's docstring; the idea is the line before them.
_TITLE = re.compile(r"^(Formula|Use|Torch|Source|Args|Raises|Example):", re.MULTILINE)
_SETTING = re.compile(r"^ {4}(\w+(?:, \w+)*): (.*(?:\n {5,}.*)*)", re.MULTILINE)


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

    def to_json(self) -> dict[str, object]:
        return {**asdict(self), "settings": [asdict(setting) for setting in self.settings], "aliases": [*self.aliases]}


def catalogue() -> list[CatalogueEntry]:
    """Return every scheme, in the order in which they are shown.

    Example:
        >>> [entry.name for entry in catalogue()][:3]
        ['zeros', 'ones', 'constant']
    """
    return [catalogue_entry(name) for name in schemes.REGISTRY]


def catalogue_entry(name: str) -> CatalogueEntry:
    """Return the entry of a scheme, by its name or an alias.

    Raises:
        RecipeError: there is no such scheme.

    Example:
        >>> [str(setting) for setting in catalogue_entry("he_normal").settings]
        ['a=0', 'mode=fan_in', 'nonlinearity=leaky_relu']
    """
    kind = schemes.find(name)
    text = docstring_sections(kind)
    meanings: dict[str, str] = {}
    for base in reversed(kind.__mro__):  # the class's own word on a setting counts
        for names, meaning in _SETTING.findall(docstring_sections(base).get("Args", "")):
            meanings.update(dict.fromkeys(names.split(", "), _one_line(meaning)))
    settings = tuple(
        Setting(setting, "" if default is MISSING else schemes.format_setting(default), meanings.get(setting, ""))
        for setting, default in schemes.settings_of(kind).items()
    )
    idea, formula, when, torch_function, source = (
        _one_line(text.get(title, "")) for title in ("", "Formula", "Use", "Torch", "Source")
    )
    return CatalogueEntry(
        kind.name, kind.group, idea, formula, settings, when, torch_function, source, aliases=kind.aliases
    )


def docstring_sections(kind: type) -> dict[str, str]:
    """Return the sections of a class's docstring by their titles, and its first line under the empty one.

    Example:
        >>> docstring_sections(schemes.Eye)[""], docstring_sections(schemes.Eye)["Formula"].strip()
        ('A matrix that passes its input on.', 'w[i, i] = 1; 0 elsewhere')
    """
    lead, *rest = _TITLE.split(inspect.cleandoc(kind.__doc__ or ""))
    return {"": lead.partition("\n")[0], **dict(zip(rest[::2], rest[1::2], strict=True))}


def catalogue_json() -> list[dict[str, object]]:
    return [each.to_json() for each in catalogue()]


def catalogue_table() -> str:
    """Return the whole catalogue for a terminal: a line a scheme, in groups, at most 100 columns.

    Example:
        >>> print(catalogue_table().splitlines()[1])
          zeros                                  Every element is 0
    """
    lines: list[str] = []
    for group, entries in itertools.groupby(catalogue(), key=lambda each: each.group):
        lines += ["", group]
        for each in entries:
            bound = schemes.find(each.name).bound
            settings = ", ".join(str(setting) for setting in each.settings if setting.name not in bound)
            head = f"  {f'{each.name}({settings})' if settings else each.name}"
            # A long list of settings has lines of its own.
            long = textwrap.wrap(head, 100, subsequent_indent=" " * 6)
            lines += [f"{head:<40} {each.idea}"] if len(head) <= 40 else [*long, f"{'':40} {each.idea}"]
    return "\n".join(lines[1:])


def describe_scheme(name: str) -> str:
    """Return one scheme on a page for a terminal, at most 100 columns.

    Raises:
        RecipeError: there is no such scheme.

    Example:
        >>> print(describe_scheme("eye").splitlines()[0])
        eye: A matrix that passes its input on
    """
    each = catalogue_entry(name)
    facts = [
        ("formula", each.formula),
        *(("setting", f"{setting}: {setting.meaning}") for setting in each.settings),
        ("when", each.when),
        ("torch", each.torch_function or "none"),
        ("source", each.source or "none"),
        ("also", ", ".join(each.aliases)),
    ]
    wrap = textwrap.TextWrapper(PAGE_WIDTH, subsequent_indent=" " * 9, break_on_hyphens=False)
    lines = [wrap.fill(f"{label:<9}{text}") for label, text in facts if text]
    return "\n".join([f"{each.name}: {each.idea}", "", *lines])


def _one_line(text: str) -> str:
    """Return a section as the catalogue prints it: on one line, without markup and the last stop."""
    return " ".join(text.replace("``", "").split()).removesuffix(".")
