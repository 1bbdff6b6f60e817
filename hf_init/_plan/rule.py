"""One rule: a scheme and the tensors that it is for, as an object, a mapping or a text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from hf_init._errors import RecipeError, option
from hf_init._plan.recipe_text import SchemeLike, format_condition, is_mapping, parse_scheme, scheme_to_dict
from hf_init._roles import matches
from hf_init._tensors import TensorSpec
from hf_init._text import closest, fits_glob
from hf_init.schemes import Scheme

RuleLike: TypeAlias = "Rule | Mapping[str, object] | str"

KEYS = ("name", "module", "role", "optional", "scheme")


@dataclass(frozen=True, init=False)
class Rule:
    """One scheme and the tensors that it is for; every condition that is given must hold.

    Args:
        scheme: a scheme, its name, ``"normal(std=0.02)"``, or ``{"normal": {"std": 0.02}}``.
        name: a glob on the tensor's full name, on disk or in memory (``*`` crosses dots).
        module: the class name of the module that owns the tensor, or of one of its bases.
        role: what the tensor does; ``"norm"`` covers ``"norm.weight"`` and ``"norm.bias"``.
        optional: a rule that finds no new tensor is no mistake.

    Raises:
        RecipeError: no condition is given, a glob is malformed, or the scheme can't be built.

    Example:
        >>> Rule("zeros", name="*.bias")
        Rule(name='*.bias', scheme=zeros)
    """

    scheme: Scheme
    name: str | None
    module: str | None
    role: str | None
    optional: bool

    def __init__(
        self,
        scheme: SchemeLike,
        *,
        name: str | None = None,
        module: str | None = None,
        role: str | None = None,
        optional: bool = False,
    ) -> None:
        for key, value in (("name", name), ("module", module), ("role", role)):
            object.__setattr__(self, key, format_condition(key, value))
        if not (name or module or role):
            raise RecipeError("a rule needs at least one condition: name (a glob), module (a class name) or role")
        object.__setattr__(self, "optional", _checked_flag(optional))
        object.__setattr__(self, "scheme", parse_scheme(scheme))

    def __repr__(self) -> str:
        return f"Rule({self.conditions}, scheme={self.scheme})"

    @property
    def conditions(self) -> str:
        given = (("name", self.name), ("module", self.module), ("role", self.role))
        return ", ".join(f"{key}={value!r}" for key, value in given if value)

    def matches(self, tensor: TensorSpec) -> bool:
        """Return whether every condition holds for this tensor."""
        return (
            (self.name is None or any(fits_glob(name, self.name) for name in (tensor.name, tensor.parameter)))
            and (self.module is None or self.module in tensor.module)
            and (self.role is None or matches(tensor.role, self.role))
        )

    def to_dict(self) -> dict[str, object]:
        conditions = {key: getattr(self, key) for key in ("name", "module", "role") if getattr(self, key)}
        optional = {"optional": True} if self.optional else {}
        return {**conditions, "scheme": scheme_to_dict(self.scheme), **optional}


def parse_rules(rules: Sequence[RuleLike] | None) -> tuple[Rule, ...]:
    """Return rules given as objects, mappings or texts such as ``"GLOB=SCHEME"``.

    Example:
        >>> parse_rules(["classifier.*=normal(std=0.02)"])
        (Rule(name='classifier.*', scheme=normal(std=0.02)),)
    """
    if isinstance(rules, str | Mapping | Rule):
        raise RecipeError(f"{option('rules')}: expected a list of rules, not {rules!r}")
    parsed: list[Rule] = []
    for number, rule in enumerate(rules or (), 1):
        if isinstance(rule, str):
            glob, equals, scheme = rule.partition("=")
            if not equals or not glob.strip() or not scheme.strip():
                raise RecipeError(
                    f"{option('rules')} {rule!r}: expected 'GLOB=SCHEME', such as 'classifier.weight=normal(std=0.02)'"
                )
            rule = Rule(scheme.strip(), name=glob.strip())
        parsed.append(parsed_rule(rule, number))
    return tuple(parsed)


def parsed_rule(rule: Rule | Mapping[str, object], number: int) -> Rule:
    """Return a rule that is given as an object or a mapping; its number is for the error."""
    if isinstance(rule, Rule):
        return rule
    if not is_mapping(rule):
        raise RecipeError(f"rule {number}: expected a mapping such as {{name: GLOB, scheme: SCHEME}}, not {rule!r}")
    try:
        check_keys("rule", rule, KEYS)
        if rule.get("scheme") is None:
            raise RecipeError("it has no scheme")
        return Rule(**{key: value for key, value in rule.items() if value is not None})
    except RecipeError as error:
        conditions = ", ".join(f"{key}: {value}" for key, value in rule.items() if key != "scheme") or "no condition"
        raise RecipeError(f"rule {number} ({conditions}): {error}") from None


def _checked_flag(optional: object) -> bool:
    if not isinstance(optional, bool):
        raise RecipeError(f"optional is true or false, not {optional!r}")
    return optional


def check_keys(what: str, data: Mapping[str, object], known: Sequence[str]) -> None:
    """Raise if a mapping has a key that isn't known."""
    unknown = [key for key in data if key not in known]
    if unknown:
        hints = ", ".join(f"{key!r}{closest(str(key), known)}" for key in unknown)
        raise RecipeError(f"unknown key in a {what}: {hints}; known: {', '.join(known)}")
