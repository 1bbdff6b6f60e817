"""What a user asks of heads: which are added, removed, renamed, taken from elsewhere, or exported."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hf_init._errors import PlanError
from hf_init._multihead.configuration_multi_head import HeadSpec
from hf_init._multihead.origins import HeadOrigin
from hf_init._options import HeadsOptions, options_of
from hf_init._plan import Rule
from hf_init.recipes import find_recipe
from hf_init.schemes import Model

HEAD_OPTIONS = tuple(options_of(HeadsOptions))


@dataclass(frozen=True)
class HeadRequest:
    """The words, read.

    Attributes:
        add: specs by name. recipes: of those that have one of their own.
        take: by its name in the target, the checkpoint that a head is taken from, and its name there (empty: its
            only one).
    """

    add: Mapping[str, HeadSpec] = field(default_factory=dict)
    recipes: Mapping[str, Any] = field(default_factory=dict)
    remove: tuple[str, ...] = ()
    rename: Mapping[str, str] = field(default_factory=dict)
    take: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    name_head: str | None = None
    export: str | None = None

    @classmethod
    def of(cls, words: Mapping[str, Any]) -> HeadRequest:
        """Raises PlanError for what can't be read."""
        added = _mapping("add_heads", words.get("add_heads"), "{NAME: KIND or {'kind': ..., 'labels': [...]}}")
        specs, recipes = {}, {}
        for name, given in added.items():
            rest = dict(given) if isinstance(given, Mapping) else given
            if isinstance(rest, dict) and rest.get("recipe") is not None:
                recipes[name] = rest["recipe"]
            if isinstance(rest, dict):
                rest.pop("recipe", None)
            specs[name] = _spec(name, rest)
        taken = _mapping("take_heads", words.get("take_heads"), "{NAME: FOLDER or (FOLDER, NAME THERE)}")
        removed = words.get("remove_heads") or ()
        return cls(
            specs,
            recipes,
            (removed,) if isinstance(removed, str) else tuple(removed),
            _mapping("rename_heads", words.get("rename_heads"), "{OLD: NEW}"),
            {name: _place(name, given) for name, given in taken.items()},
            words.get("name_head"),
            words.get("export_head"),
        )

    def heads(self, base: HeadOrigin, donors: Mapping[str, HeadOrigin]) -> tuple[dict[str, HeadSpec], dict[str, str]]:
        """The heads of the target by name, and those of the base by their names in the target.

        Args:
            donors: the checkpoints that heads are taken from, by the names in the target.

        Raises:
            PlanError: no such head, two of one name, or none left.
        """
        self._refuse_unknown(base)
        moves = {old: self.rename.get(old, old) for old in base.heads if old not in self.remove}
        named = [*moves.values(), *donors, *self.add]
        twice = sorted({name for name in named if named.count(name) > 1})
        if twice:
            raise PlanError(f"two heads of one name: {', '.join(twice)}; rename one (rename_heads), or remove it")
        if not named:
            raise PlanError(
                f"{base.name}: no head would be left; to leave a trunk alone, export it or extend to its class"
            )
        taken = {name: donor.heads[self.there(name, donor)] for name, donor in donors.items()}
        return {**{new: base.heads[old] for old, new in moves.items()}, **taken, **self.add}, moves

    def there(self, name: str, donor: HeadOrigin) -> str:
        """What a head that is taken is called where it comes from.

        Raises:
            PlanError: it isn't there, or it isn't said which.
        """
        wanted = self.take[name][1]
        found = wanted or (next(iter(donor.heads)) if len(donor.heads) == 1 else "")
        if found not in donor.heads:
            raise PlanError(
                f"take_heads: {name!r}: {donor.name} has {'no head ' + repr(wanted) if wanted else 'not one head'}; "
                f"its heads: {', '.join(donor.heads) or 'none'}"
            )
        return found

    def rules(self) -> tuple[Rule, ...]:
        """The recipes of heads as rules on full names."""
        return tuple(rule for head, recipe in self.recipes.items() for rule in _scoped(head, recipe))

    def _refuse_unknown(self, base: HeadOrigin) -> None:
        given = {"remove_heads": self.remove, "rename_heads": tuple(self.rename)}
        problems = [
            f"{word}: no head {name!r}" for word, names in given.items() for name in names if name not in base.heads
        ]
        both = sorted(set(self.remove) & set(self.rename))
        problems += [f"{name!r} is both removed and renamed" for name in both]
        if problems:
            raise PlanError(f"{base.name}: {'; '.join(problems)}; its heads: {', '.join(base.heads) or 'none'}")


def _scoped(head: str, recipe: Any) -> list[Rule]:
    made, before = find_recipe(recipe), f"heads.{head}."
    rules = [
        Rule(rule.scheme, name=before + (rule.name or "*"), module=rule.module, role=rule.role, optional=rule.optional)
        for rule in made.rules
    ]
    if made.default is not None and not isinstance(made.default, Model):
        rules.append(Rule(made.default, name=before + "*", optional=True))
    return rules


def _spec(name: str, given: Any) -> HeadSpec:
    try:
        return HeadSpec.of(name, given)
    except (ValueError, TypeError) as error:
        raise PlanError(f"add_heads: {error}") from None


def _place(name: str, given: Any) -> tuple[str, str]:
    folder, inner = (given, "") if isinstance(given, str) or not isinstance(given, Sequence) else given
    if not str(folder):
        raise PlanError(f"take_heads: {name!r}: an empty folder name; give the checkpoint that the head is in")
    return str(folder), inner or ""


def _mapping(word: str, given: Any, like: str) -> Mapping[str, Any]:
    if given is not None and not isinstance(given, Mapping):
        raise PlanError(f"{word}: expected {like}, not {given!r}")
    return given or {}
