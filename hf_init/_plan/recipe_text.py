"""A recipe's strings: schemes, globs and files, each read strictly. The only place where they are parsed."""

from __future__ import annotations

import ast
from collections.abc import Hashable, Mapping
from typing import Any, TypeAlias, TypeGuard

import yaml

from hf_init import schemes
from hf_init._errors import RecipeError
from hf_init._roles import ROLES, matches
from hf_init._text import closest
from hf_init.schemes import Scheme

SchemeLike: TypeAlias = "Scheme | str | Mapping[str, object]"


def is_mapping(value: object) -> TypeGuard[Mapping[str, Any]]:
    return isinstance(value, Mapping)


def parse_scheme(scheme: SchemeLike) -> Scheme:
    """Return a scheme from any of its spellings.

    Example:
        >>> parse_scheme({"normal": {"std": 0.02}}) == parse_scheme("normal(std=0.02)")
        True
    """
    if isinstance(scheme, Scheme):
        return scheme
    if isinstance(scheme, str):
        return schemes.build(*_parsed_call(scheme))
    if is_mapping(scheme):
        if len(scheme) != 1:
            raise RecipeError(f"a scheme as a mapping has one key, its name; seen: {', '.join(map(repr, scheme))}")
        ((name, settings),) = scheme.items()
        if settings is not None and not is_mapping(settings):
            fault = f"its settings must be a mapping, such as {{std: 0.02}}, not {settings!r}"
            raise RecipeError(f"scheme {name!r}: {fault}")
        return schemes.build(str(name), {str(key): value for key, value in (settings or {}).items()})
    raise RecipeError(f"a scheme is a name, 'name(setting=value)' or {{name: {{setting: value}}}}, not {scheme!r}")


def _parsed_call(text: str) -> tuple[str, dict[str, object]]:
    """Return the name and the settings in ``name`` or ``name(setting=value, ...)``."""
    try:
        node = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError):
        raise RecipeError(f"scheme {text!r}: expected a name or 'name(setting=value)'") from None
    if isinstance(node, ast.Name):
        return node.id, {}
    if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name)) or node.args:
        raise RecipeError(f"scheme {text!r}: expected a name or 'name(setting=value)', every setting by its name")
    names = [str(keyword.arg) for keyword in node.keywords]
    if len(set(names)) < len(names):
        raise RecipeError(f"scheme {text!r}: a setting is given twice; give each once")
    settings: dict[str, object] = {}
    for name, value in zip(names, (keyword.value for keyword in node.keywords), strict=True):
        try:  # a bare word stands for itself (``nonlinearity=relu``)
            settings[name] = value.id if isinstance(value, ast.Name) else ast.literal_eval(value)
        except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
            raise RecipeError(f"scheme {text!r}: {ast.unparse(value)!r} isn't a number or a word") from None
    return node.func.id, settings


def scheme_to_dict(scheme: Scheme) -> str | dict[str, object]:
    settings = {key: value for key, value in scheme.to_json().items() if key != "name"}
    return {scheme.name: settings} if settings else scheme.name


def format_condition(key: str, value: object) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str) or not value:
        raise RecipeError(f"{key} must be a non-empty string, not {value!r}")
    if key == "name":
        _check_glob(value)
    if key == "role" and not any(matches(role, value) for role in ROLES):
        raise RecipeError(f"no such role: {value!r}{closest(value, ROLES)}; roles are {', '.join(ROLES)}")
    return value


def _check_glob(glob: str) -> None:
    """Raise if a glob is malformed: ``fnmatch`` would take it as plain text, and the rule would match nothing."""
    rest = glob
    while "[" in rest:
        rest = rest.partition("[")[2]
        end = rest.find("]", 2 if rest.startswith("!") else 1)
        if end < 0:
            raise RecipeError(f"bad glob {glob!r}: '[' without ']'; write [[] for the character itself")
        rest = rest[end + 1 :]


class StrictLoader(yaml.SafeLoader):
    """YAML, but a key given twice is an error instead of a silent replacement."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, object]:
        keys = [(key.tag, str(key.value)) for key, _ in node.value]
        twice = [text for number, (tag, text) in enumerate(keys) if (tag, text) in keys[:number]]
        if twice:
            raise yaml.constructor.ConstructorError(None, None, f"key given twice: {twice[0]!r}", node.start_mark)
        return super().construct_mapping(node, deep)
