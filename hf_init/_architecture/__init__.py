"""The target's classes, config, layout, roles and initial values; transformers' non-public parts are used here only."""

from __future__ import annotations

from hf_init._architecture.classes import auto_classes as auto_classes
from hf_init._architecture.classes import has_same_head as has_same_head
from hf_init._architecture.classes import is_causal_class as is_causal_class
from hf_init._architecture.config import BAD_VALUE as BAD_VALUE
from hf_init._architecture.config import REFUSED as REFUSED
from hf_init._architecture.config import check_options as check_options
from hf_init._architecture.config import copy_config as copy_config
from hf_init._architecture.config import dtype_of as dtype_of
from hf_init._architecture.config import label_values as label_values
from hf_init._architecture.constructor_faults import plain_attributes as plain_attributes
from hf_init._architecture.describe import buffers as buffers
from hf_init._architecture.describe import describe_model as describe_model
from hf_init._architecture.describe import shared as shared
from hf_init._architecture.layout import module_layout as module_layout
from hf_init._architecture.library import Address as Address
from hf_init._architecture.library import check_zero3 as check_zero3
from hf_init._architecture.library import is_loaded as is_loaded
from hf_init._architecture.library import load_into as load_into
from hf_init._architecture.library import load_plainly as load_plainly
from hf_init._architecture.library import mark_loaded as mark_loaded
from hf_init._architecture.library import on_disk as on_disk
from hf_init._architecture.library import own_loader as own_loader
from hf_init._architecture.library import quiet_library as quiet_library
from hf_init._architecture.library import save_code as save_code
from hf_init._architecture.library import takes_as_they_are as takes_as_they_are
from hf_init._architecture.library import tied_names as tied_names
from hf_init._architecture.module_values import ModuleValues as ModuleValues
from hf_init._architecture.moved_blocks import NOWHERE as NOWHERE
from hf_init._architecture.moved_blocks import BlockMap as BlockMap
from hf_init._architecture.origins import ignored_by_own as ignored_by_own
from hf_init._architecture.origins import loader_addresses as loader_addresses
from hf_init._architecture.origins import own_tensors as own_tensors
from hf_init._architecture.own_values import InitialValues as InitialValues
from hf_init._architecture.target import UNBUILDABLE as UNBUILDABLE
from hf_init._architecture.target import Architecture as Architecture
from hf_init._architecture.target import NamedClass as NamedClass
from hf_init._architecture.target import Target as Target
from hf_init._architecture.target import nested_configs as nested_configs
from hf_init._architecture.tokenizers import declared_vocabulary as declared_vocabulary
from hf_init._architecture.tokenizers import with_added_tokens as with_added_tokens
from hf_init._architecture.towers import with_config as with_config
from hf_init._architecture.tree import find_tensor as find_tensor
