"""The plan: match, mappings, recipe, the ``auto`` scheme, one status a tensor and one scheme a region, the manifest."""

from __future__ import annotations

from hf_init._plan.auto import Surroundings as Surroundings
from hf_init._plan.auto import choose_auto as choose_auto
from hf_init._plan.auto import settle as settle
from hf_init._plan.base_record import BaseFolders as BaseFolders
from hf_init._plan.base_record import BaseRecord as BaseRecord
from hf_init._plan.chain import is_plan_of as is_plan_of
from hf_init._plan.chain import through as through
from hf_init._plan.claim import EXACT as EXACT
from hf_init._plan.claim import INTERPOLATION as INTERPOLATION
from hf_init._plan.claim import NONE as NONE
from hf_init._plan.claim import ROUNDING as ROUNDING
from hf_init._plan.claim import no_claim as no_claim
from hf_init._plan.claim import weakest_claim as weakest_claim
from hf_init._plan.manifest import Manifest as Manifest
from hf_init._plan.manifest_entries import region_fault as region_fault
from hf_init._plan.manifest_json import MANIFEST_NAME as MANIFEST_NAME
from hf_init._plan.mapping import Boxes as Boxes
from hf_init._plan.mapping import Nothing as Nothing
from hf_init._plan.mapping import RowMap as RowMap
from hf_init._plan.mapping import RowMapping as RowMapping
from hf_init._plan.mapping import format_shape as format_shape
from hf_init._plan.match import DROPPED as DROPPED
from hf_init._plan.match import NO_PLACE as NO_PLACE
from hf_init._plan.match import Keep as Keep
from hf_init._plan.match import Match as Match
from hf_init._plan.match import Unused as Unused
from hf_init._plan.match import match_tensors as match_tensors
from hf_init._plan.match import matches_glob as matches_glob
from hf_init._plan.match import owners as owners
from hf_init._plan.match import sources_of as sources_of
from hf_init._plan.plan import Plan as Plan
from hf_init._plan.planning import make_plan as make_plan
from hf_init._plan.recipe import Choice as Choice
from hf_init._plan.recipe import Recipe as Recipe
from hf_init._plan.recipe import RecipeLike as RecipeLike
from hf_init._plan.recipe import checked_seed as checked_seed
from hf_init._plan.recipe_text import SchemeLike as SchemeLike
from hf_init._plan.recipe_text import parse_scheme as parse_scheme
from hf_init._plan.rule import Rule as Rule
from hf_init._plan.rule import RuleLike as RuleLike
from hf_init._plan.rule import parse_rules as parse_rules
from hf_init._plan.table import alike_rows as alike_rows
from hf_init._plan.tensor_plan import Fill as Fill
from hf_init._plan.tensor_plan import TensorPlan as TensorPlan
