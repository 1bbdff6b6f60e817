"""Rules in order, and what they give to every tensor."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeAlias, TypeGuard

import yaml

from hf_init import schemes
from hf_init._errors import HfInitError, RecipeError, option
from hf_init._globs import closest_glob
from hf_init._paths import user_path
from hf_init._plan.recipe_text import SchemeLike, StrictLoader, is_mapping, parse_scheme, scheme_to_dict
from hf_init._plan.rule import Rule, check_keys, parsed_rule
from hf_init._tensors import TensorSpec
from hf_init._text import qualified_name
from hf_init.schemes import Scheme

RecipeLike: TypeAlias = "Recipe | Mapping[str, object] | str | Path | Callable[[Any], object] | None"

ERROR = "error"


@dataclass(frozen=True)
class Choice:
    """The scheme that a recipe gives one tensor, and why.

    Attributes:
        advised: whether the recipe said `auto`, and the scheme is the one that was advised.
    """

    scheme: Scheme
    why: str
    advised: bool = field(default=False, compare=False, repr=False)


@dataclass(frozen=True, init=False)
class Recipe:
    """Rules in order; the first that matches a new tensor gives its scheme, and ``default`` serves the rest.

    Args:
        rules: ``Rule`` objects, or mappings such as ``{"name": "*.bias", "scheme": "zeros"}``.
        default: a scheme for what no rule names. ``"model"`` (the default) is the architecture's own
            ``_init_weights``; ``"error"`` refuses whatever no rule names.
        seed: of every random value, together with the tensor's name.

    Raises:
        RecipeError: an unknown key, scheme or setting, each with the closest name.

    Example:
        >>> Recipe([Rule("zeros", name="*.bias")], default="normal(std=0.02)", seed=1)
        Recipe([Rule(name='*.bias', scheme=zeros)], default=normal(std=0.02), seed=1)
    """

    rules: tuple[Rule, ...] = ()
    default: Scheme | None = field(default_factory=schemes.Model)
    seed: int = 0
    standing: bool = field(default=False, compare=False)
    function: Callable[[Any], object] | None = field(default=None, compare=False)
    parts: Mapping[str, Recipe] = field(default_factory=dict[str, "Recipe"], compare=False)

    def __init__(
        self, rules: Iterable[Rule | Mapping[str, object]] = (), *, default: SchemeLike = "model", seed: int = 0
    ) -> None:
        object.__setattr__(self, "rules", tuple(parsed_rule(rule, number) for number, rule in enumerate(rules, 1)))
        _check_contradictions(self.rules)
        try:
            object.__setattr__(self, "default", None if default == ERROR else parse_scheme(default))
        except RecipeError as error:
            raise RecipeError(f"default: {error}") from None
        object.__setattr__(self, "seed", checked_seed(seed))
        object.__setattr__(self, "standing", False)
        object.__setattr__(self, "function", None)
        object.__setattr__(self, "parts", {})

    def __repr__(self) -> str:
        return f"Recipe([{', '.join(map(repr, self.rules))}], default={self.default or ERROR}, seed={self.seed})"

    @classmethod
    def of(cls, recipe: RecipeLike) -> Recipe:
        """Return the recipe that a user means: an object, a mapping, a YAML file's path, or None for the default.

        A function of a module, such as tutorials hand to ``apply``, is run over every module after ``_init_weights``.
        """
        if recipe is None:
            return cls()
        if isinstance(recipe, Recipe):
            return recipe
        if is_mapping(recipe):
            return cls.from_dict(recipe)
        if isinstance(recipe, str | Path):
            return cls.load(recipe)
        if callable(recipe):
            return cls(default=schemes.Model(then=qualified_name(recipe)))._with(function=recipe)
        raise RecipeError(
            "a recipe is a Recipe, a mapping, the path of a YAML file or a function of a module, not "
            f"{type(recipe).__name__}"
        )

    @classmethod
    def from_dict(cls, data: Mapping[str, object]) -> Recipe:
        """Return the recipe that a mapping spells, with the keys ``rules``, ``default`` and ``seed``.

        Example:
            >>> Recipe.from_dict({"rules": [{"name": "*.bias", "scheme": "zeros"}], "default": "error"})
            Recipe([Rule(name='*.bias', scheme=zeros)], default=error, seed=0)
        """
        if not is_mapping(data):
            raise RecipeError(f"a recipe is a mapping with rules, default and seed, not {type(data).__name__}")
        check_keys("recipe", data, ("rules", "default", "seed"))
        rules: object = data.get("rules") or ()
        if not _is_rules(rules):
            raise RecipeError(f"rules must be a list of rules, not {type(rules).__name__}")
        return cls(rules, default=data.get("default", "model"), seed=data.get("seed", 0))

    @classmethod
    def load(cls, path: str | Path) -> Recipe:
        """Read a recipe from a YAML (or JSON) file; every error names the file."""
        try:
            data = yaml.load(user_path(path).read_text(encoding="utf-8"), Loader=StrictLoader)
        except OSError as error:
            raise RecipeError(
                f"recipe {path}: can't be read ({error.strerror}); give the path of a YAML file"
            ) from None
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            raise RecipeError(f"recipe {path}: not valid YAML: {error}") from None
        try:
            return cls.from_dict({} if data is None else data)
        except HfInitError as error:
            raise RecipeError(f"recipe {path}: {error}") from None

    def to_dict(self) -> dict[str, object]:
        """Return what ``from_dict`` reads back to an equal recipe."""
        default = ERROR if self.default is None else scheme_to_dict(self.default)
        return {"seed": self.seed, "rules": [rule.to_dict() for rule in self.rules], "default": default}

    def to_yaml(self) -> str:
        """Return the same as YAML text."""
        return yaml.safe_dump(self.to_dict(), sort_keys=False)

    def with_rules_first(self, rules: Sequence[Rule], seed: int | None = None) -> Recipe:
        """Return this recipe with more rules before its own, and another seed where one is given."""
        return self._with(rules=(*rules, *self.rules), seed=self.seed if seed is None else seed)

    def as_standing(self) -> Recipe:
        """Return this recipe as the lasting one of a class, whose rules may be for what a checkpoint brings already."""
        return self._with(standing=True)

    def with_parts(self, parts: Mapping[str, Recipe]) -> Recipe:
        """Return this recipe with others that serve a part each, by the beginning of its names in memory.

        Its own rules go first, and its default doesn't reach the parts.
        """
        return self._with(parts={prefix: parts[prefix] for prefix in sorted(parts, key=len, reverse=True)})

    def _with(self, **fields: object) -> Recipe:
        """Return a copy with other fields; a rule put before the recipe's own may well contradict them."""
        recipe = copy(self)
        for name, value in fields.items():
            object.__setattr__(recipe, name, value)
        return recipe

    def choose(self, tensor: TensorSpec) -> Choice | None:
        """Return the scheme for one tensor; None where no rule names it and the default is ``error``."""
        for number, rule in enumerate(self.rules, 1):
            if rule.matches(tensor):
                return Choice(rule.scheme, f"rule {number}: {rule.conditions}")
        for prefix, part in self.parts.items():
            if tensor.parameter.startswith(prefix):
                own = replace(
                    tensor, name=tensor.name.removeprefix(prefix), parameter=tensor.parameter.removeprefix(prefix)
                )
                choice = part.choose(own)
                return choice and replace(choice, why=f"{choice.why}, of {prefix.rstrip('.')}")
        return None if self.default is None else Choice(self.default, "default")

    def assign(self, fill: Sequence[TensorSpec], rest: Sequence[TensorSpec] = ()) -> dict[str, Choice]:
        """Choose one scheme for every tensor of ``fill``; ``rest`` are the target's other tensors, which are kept.

        Raises:
            RecipeError: a rule that matches nothing, a rule that matches only kept tensors, a tensor without a
                rule under ``default: error``: all offenders at once, with the way out.
        """
        problems = [*self._dead_rules(fill, rest), *self._uncovered(fill)]
        if problems:
            raise RecipeError("\n".join(problems))
        choices = {tensor.name: self.choose(tensor) for tensor in fill}
        return {name: choice for name, choice in choices.items() if choice is not None}

    def _dead_rules(self, fill: Sequence[TensorSpec], rest: Sequence[TensorSpec]) -> Iterator[str]:
        for number, rule in enumerate(self.rules, 1):
            kept = [tensor.name for tensor in rest if rule.matches(tensor)]
            if rule.optional or (self.standing and kept) or any(rule.matches(tensor) for tensor in fill):
                continue
            label = f"rule {number} ({rule.conditions})"
            if kept:
                names = ", ".join(kept[:5]) + (f" and {len(kept) - 5} more" if len(kept) > 5 else "")
                anew = option("keep", {rule.name or "GLOB": "none"})
                cure = f"remove it, or start them anew: {anew}"
                yield f"{label} matches only pretrained tensors, which stay: {names}; {cure}"
            else:
                hint = closest_glob(rule.name, [tensor.name for tensor in (*fill, *rest)]) if rule.name else ""
                new = ", ".join(tensor.name for tensor in fill[:5]) or "nothing"
                yield f"{label} matches no tensor{hint}; what is new: {new}{', ...' if len(fill) > 5 else ''}"

    def _uncovered(self, fill: Sequence[TensorSpec]) -> list[str]:
        missing = [tensor.name for tensor in fill if self.choose(tensor) is None]
        if not missing:
            return []
        names = ", ".join(missing)
        return [f"no rule covers {names}: add a rule for each, or a default such as `default: model`"]


def checked_seed(seed: object) -> int:
    """Return the seed, if it is a whole number of at most 64 bits."""
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**64:
        raise RecipeError(f"{option('seed')} must be a whole number from 0 to 2**64 - 1, not {seed!r}")
    return seed


def _is_rules(value: object) -> TypeGuard[Iterable[Rule | Mapping[str, object]]]:
    return isinstance(value, Iterable) and not isinstance(value, (str, Mapping))


def _check_contradictions(rules: Sequence[Rule]) -> None:
    """Raise if two rules have the same conditions: the second would never apply."""
    first: dict[str, tuple[int, Rule]] = {}
    problems: list[str] = []
    for number, rule in enumerate(rules, 1):
        before, other = first.setdefault(rule.conditions, (number, rule))
        if other.scheme != rule.scheme:
            problems.append(
                f"rules {before} and {number} contradict each other: {rule.conditions} is {other.scheme} "
                f"and {rule.scheme}; keep one of them"
            )
    if problems:
        raise RecipeError("\n".join(problems))
