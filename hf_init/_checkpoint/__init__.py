"""Checkpoints as files: headers, hub ids, what kind of folder it is, what travels, byte ranges and a reader."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hf_init._checkpoint.any_tensors import open_tensors as open_tensors
from hf_init._checkpoint.checkpoint import Checkpoint as Checkpoint
from hf_init._checkpoint.header import DTYPES as DTYPES
from hf_init._checkpoint.header import NUMPY as NUMPY
from hf_init._checkpoint.header import Header as Header
from hf_init._checkpoint.header import TensorEntry as TensorEntry
from hf_init._checkpoint.header import dtype_bits as dtype_bits
from hf_init._checkpoint.header import read_header as read_header
from hf_init._checkpoint.kinds import check_no_adapter as check_no_adapter
from hf_init._checkpoint.kinds import describe_config as describe_config
from hf_init._checkpoint.kinds import pieces_folder as pieces_folder
from hf_init._checkpoint.locate import HUB_OPTIONS as HUB_OPTIONS
from hf_init._checkpoint.locate import Origin as Origin
from hf_init._checkpoint.locate import OriginJson as OriginJson
from hf_init._checkpoint.locate import folder_of as folder_of
from hf_init._checkpoint.locate import local_folder as local_folder
from hf_init._checkpoint.locate import open_checkpoint as open_checkpoint
from hf_init._checkpoint.locate import place_anywhere as place_anywhere
from hf_init._checkpoint.locate import place_here as place_here
from hf_init._checkpoint.numbers import SAMPLE as SAMPLE
from hf_init._checkpoint.numbers import decode_values as decode_values
from hf_init._checkpoint.numbers import is_decoded as is_decoded
from hf_init._checkpoint.numbers import is_floating as is_floating
from hf_init._checkpoint.numbers import sample_stride as sample_stride
from hf_init._checkpoint.numbers import value_pieces as value_pieces
from hf_init._checkpoint.numbers import value_rows as value_rows
from hf_init._checkpoint.read import OpenFiles as OpenFiles
from hf_init._checkpoint.runs import BLOCK as BLOCK
from hf_init._checkpoint.runs import RunFile as RunFile
from hf_init._checkpoint.runs import Runs as Runs
from hf_init._checkpoint.runs import byte_runs as byte_runs
from hf_init._checkpoint.runs import gather as gather
from hf_init._checkpoint.runs import join_runs as join_runs
from hf_init._checkpoint.runs import opened as opened
from hf_init._checkpoint.runs import outer as outer
from hf_init._checkpoint.runs import run_blocks as run_blocks
from hf_init._checkpoint.runs import scatter as scatter
from hf_init._checkpoint.strict import check_faults as check_faults
from hf_init._checkpoint.strict import is_count as is_count
from hf_init._checkpoint.strict import is_json_list as is_json_list
from hf_init._checkpoint.strict import is_json_object as is_json_object
from hf_init._checkpoint.strict import is_shape as is_shape
from hf_init._checkpoint.strict import object_or_empty as object_or_empty
from hf_init._checkpoint.strict import parse_object as parse_object
from hf_init._checkpoint.strict import read_object as read_object
from hf_init._checkpoint.strict import short_name as short_name
from hf_init._checkpoint.travel import FileLists as FileLists
from hf_init._checkpoint.travel import check_readable as check_readable
from hf_init._checkpoint.travel import declared_by_code as declared_by_code
from hf_init._checkpoint.travel import files_in as files_in
from hf_init._checkpoint.travel import module_folders as module_folders
from hf_init._checkpoint.travel import sort_files as sort_files
from hf_init._checkpoint.weights import INDEX as INDEX
from hf_init._checkpoint.weights import SINGLE as SINGLE
from hf_init._checkpoint.weights import weights_file as weights_file
from hf_init._lazy import lazy_names

if TYPE_CHECKING:
    from hf_init._checkpoint.base import BaseCheckpoint as BaseCheckpoint
    from hf_init._checkpoint.base import Bases as Bases
    from hf_init._checkpoint.hub import UNREACHABLE as UNREACHABLE
    from hf_init._checkpoint.hub import config_json as config_json
    from hf_init._checkpoint.packed import SKIP_LISTS as SKIP_LISTS
    from hf_init._checkpoint.packed import UNPACK_FIRST as UNPACK_FIRST
    from hf_init._checkpoint.packed import format_of as format_of
    from hf_init._checkpoint.packed import packed_weights as packed_weights
    from hf_init._checkpoint.packed import plain_config as plain_config
    from hf_init._checkpoint.packed import says_packed as says_packed
    from hf_init._checkpoint.plain_weights import from_state_dict as from_state_dict
    from hf_init._checkpoint.tensor_bytes import as_bytes as as_bytes
    from hf_init._checkpoint.tensor_bytes import equal_bytes as equal_bytes
    from hf_init._checkpoint.tensor_bytes import region_of as region_of
    from hf_init._checkpoint.tensor_bytes import tensor_digest as tensor_digest
    from hf_init._checkpoint.tensor_reader import Reader as Reader
    from hf_init._checkpoint.torch_files import TorchWeights as TorchWeights

__getattr__ = lazy_names(  # what needs torch or the hub's client, which a proof doesn't
    __name__,
    {
        "BaseCheckpoint": "hf_init._checkpoint.base",
        "Bases": "hf_init._checkpoint.base",
        "UNREACHABLE": "hf_init._checkpoint.hub",
        "config_json": "hf_init._checkpoint.hub",
        "SKIP_LISTS": "hf_init._checkpoint.packed",
        "UNPACK_FIRST": "hf_init._checkpoint.packed",
        "format_of": "hf_init._checkpoint.packed",
        "packed_weights": "hf_init._checkpoint.packed",
        "plain_config": "hf_init._checkpoint.packed",
        "says_packed": "hf_init._checkpoint.packed",
        "from_state_dict": "hf_init._checkpoint.plain_weights",
        "as_bytes": "hf_init._checkpoint.tensor_bytes",
        "equal_bytes": "hf_init._checkpoint.tensor_bytes",
        "region_of": "hf_init._checkpoint.tensor_bytes",
        "tensor_digest": "hf_init._checkpoint.tensor_bytes",
        "Reader": "hf_init._checkpoint.tensor_reader",
        "TorchWeights": "hf_init._checkpoint.torch_files",
    },
)
