"""Rules that give every new tensor its scheme. Pure."""

from __future__ import annotations

from hf_init._recipe._rules import Choice as Choice
from hf_init._recipe._rules import Recipe as Recipe
from hf_init._recipe._rules import RecipeLike as RecipeLike
from hf_init._recipe._rules import Rule as Rule
from hf_init._recipe._rules import checked_seed as checked_seed
from hf_init._recipe._rules import parse_init as parse_init
from hf_init._recipe._spelling import SchemeLike as SchemeLike
from hf_init._recipe._spelling import parse_scheme as parse_scheme
