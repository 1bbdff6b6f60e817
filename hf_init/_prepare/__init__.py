"""Options become a target, the target is matched with the source, and the match becomes a plan."""

from __future__ import annotations

from hf_init._prepare.checks import check_unloadable as check_unloadable
from hf_init._prepare.leftover import shortest_globs as shortest_globs
from hf_init._prepare.own_recipe import class_recipe as class_recipe
from hf_init._prepare.packed import check_in_memory as check_in_memory
from hf_init._prepare.packed import quantization_config as quantization_config
from hf_init._prepare.prepare import Prepared as Prepared
from hf_init._prepare.prepare import prepare_plan as prepare_plan
from hf_init._prepare.renamed import find_renaming as find_renaming
from hf_init._prepare.renamed import parse_renamings as parse_renamings
from hf_init._prepare.target import resolve_target as resolve_target
