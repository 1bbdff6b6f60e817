"""What a user requests of heads: which are added, removed, renamed, taken from elsewhere, or exported."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from hf_init._errors import PlanError
from hf_init._multihead.configuration_multi_head import HeadSpec
from hf_init._multihead.origins import HeadOrigin
from hf_init._options import HeadsOptions, options_of
from hf_init._plan import RecipeLike, Rule
from hf_init.recipes import find_recipe
from hf_init.schemes import Model

HEAD_OPTIONS = tuple(options_of(HeadsOptions))


@dataclass(frozen=True)
class HeadRequest:
    """The options, read.

    Attributes:
        add: specs by name. recipes: of those that have one of their own.
        take: by its name in the target, the checkpoint that a head is taken from, and its name there (empty: its
            only one).
    """

    add: Mapping[str, HeadSpec] = field(default_factory=dict)
    recipes: Mapping[str, RecipeLike] = field(default_factory=dict)
    remove: tuple[str, ...] = ()
    rename: Mapping[str, str] = field(default_factory=dict)
    take: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    name_head: str | None = None
    export: str | None = None

    @classmethod
    def of(cls, options: Mapping[str, object]) -> HeadRequest:
        """Read the options of ``HEAD_OPTIONS``.

        Raises:
            PlanError: one can't be read.
        """
        specs, recipes = {}, {}
        for name, given in _mapping_option(options, "add_heads", "{NAME: KIND or {'kind': ..., 'labels': [...]}}"):
            if isinstance(given, Mapping) and given.get("recipe") is not None:
                recipes[name] = given["recipe"]
            if isinstance(given, Mapping):
                given = {key: value for key, value in given.items() if key != "recipe"}
            try:
                specs[name] = HeadSpec.of(name, given)
            except (ValueError, TypeError) as error:
                raise PlanError(f"add_heads: {error}") from None
        take = {}
        for name, given in _mapping_option(options, "take_heads", "{NAME: FOLDER or (FOLDER, NAME THERE)}"):
            folder, there = (given, "") if isinstance(given, str) or not isinstance(given, Sequence) else given
            if not str(folder):
                raise PlanError(f"take_heads: {name!r}: an empty folder name; give the checkpoint that the head is in")
            take[name] = str(folder), there or ""
        asked = cast("HeadsOptions", options)
        removed = asked.get("remove_heads") or ()
        return cls(
            specs,
            recipes,
            (removed,) if isinstance(removed, str) else tuple(removed),
            dict(_mapping_option(options, "rename_heads", "{OLD: NEW}")),
            take,
            asked.get("name_head"),
            asked.get("export_head"),
        )

    def resolve_heads(
        self, base: HeadOrigin, donors: Mapping[str, HeadOrigin]
    ) -> tuple[dict[str, HeadSpec], dict[str, str]]:
        """Return the heads of the target by name, and those of the base by their names in the target.

        Args:
            donors: the checkpoints that heads are taken from, by the names in the target.

        Raises:
            PlanError: no such head, two of one name, or none left.
        """
        self._check_known(base)
        moves = {old: self.rename.get(old, old) for old in base.heads if old not in self.remove}
        names = [*moves.values(), *donors, *self.add]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise PlanError(f"two heads of one name: {', '.join(twice)}; rename one (rename_heads), or remove it")
        if not names:
            raise PlanError(
                f"{base.name}: no head would be left; to leave a backbone alone, export it or extend to its class"
            )
        taken = {name: donor.heads[self.name_there(name, donor)] for name, donor in donors.items()}
        return {**{new: base.heads[old] for old, new in moves.items()}, **taken, **self.add}, moves

    def name_there(self, name: str, donor: HeadOrigin) -> str:
        """Return the name of a head that is taken, where it comes from.

        Raises:
            PlanError: it isn't there, or it isn't said which.
        """
        wanted = self.take[name][1]
        there = wanted or (next(iter(donor.heads)) if len(donor.heads) == 1 else "")
        if there not in donor.heads:
            raise PlanError(
                f"take_heads: {name!r}: {donor.name} has {'no head ' + repr(wanted) if wanted else 'not one head'}; "
                f"its heads: {', '.join(donor.heads) or 'none'}"
            )
        return there

    def recipe_rules(self) -> Iterator[Rule]:
        """Yield the recipes of heads as rules on full names."""
        for head, given in self.recipes.items():
            recipe, before = find_recipe(given), f"heads.{head}."
            for rule in recipe.rules:
                name = before + (rule.name or "*")
                yield Rule(rule.scheme, name=name, module=rule.module, role=rule.role, optional=rule.optional)
            if recipe.default is not None and not isinstance(recipe.default, Model):
                yield Rule(recipe.default, name=before + "*", optional=True)

    def _check_known(self, base: HeadOrigin) -> None:
        given = {"remove_heads": self.remove, "rename_heads": tuple(self.rename)}
        problems = [
            f"{option}: no head {name!r}" for option, names in given.items() for name in names if name not in base.heads
        ]
        both = sorted(set(self.remove) & set(self.rename))
        problems += [f"{name!r} is both removed and renamed" for name in both]
        if problems:
            raise PlanError(f"{base.name}: {'; '.join(problems)}; its heads: {', '.join(base.heads) or 'none'}")


def _mapping_option(options: Mapping[str, object], option: str, form: str) -> Iterator[tuple[str, Any]]:
    """Yield the items of an option that is a mapping.

    Raises:
        PlanError: it is none.
    """
    given = options.get(option)
    if given is not None and not isinstance(given, Mapping):
        raise PlanError(f"{option}: expected {form}, not {given!r}")
    yield from (given or {}).items()
