"""The proof, made from the files alone: a result against its manifest and its base, and any two checkpoints."""

from __future__ import annotations

from hf_init._verify.cast import cast_values as cast_values
from hf_init._verify.cast import castable as castable
from hf_init._verify.cast import with_nans_of as with_nans_of
from hf_init._verify.compare import bytes_digest as bytes_digest
from hf_init._verify.diff import diff_checkpoints as diff_checkpoints
from hf_init._verify.diff_report import DiffReport as DiffReport
from hf_init._verify.differences import TensorDiff as TensorDiff
from hf_init._verify.digests import new_digests as new_digests
from hf_init._verify.digests import result_digests as result_digests
from hf_init._verify.pairs import describe_renaming as describe_renaming
from hf_init._verify.pairs import pair_names as pair_names
from hf_init._verify.parts import PartReport as PartReport
from hf_init._verify.parts import merge_reports as merge_reports
from hf_init._verify.parts import part_numbers as part_numbers
from hf_init._verify.parts import result_identity as result_identity
from hf_init._verify.ranges import Clones as Clones
from hf_init._verify.ranges import FileState as FileState
from hf_init._verify.ranges import file_state as file_state
from hf_init._verify.regions import ArrayRegion as ArrayRegion
from hf_init._verify.regions import Piece as Piece
from hf_init._verify.regions import RegionPart as RegionPart
from hf_init._verify.regions import StoredTensor as StoredTensor
from hf_init._verify.regions import region_pieces as region_pieces
from hf_init._verify.regions import stored_tensor as stored_tensor
from hf_init._verify.report import VerifyReport as VerifyReport
from hf_init._verify.report import describe_difference as describe_difference
from hf_init._verify.report import draw_differences as draw_differences
from hf_init._verify.threads import VerifyMeter as VerifyMeter
from hf_init._verify.threads import WorkerBuffers as WorkerBuffers
from hf_init._verify.threads import run_jobs as run_jobs
from hf_init._verify.verify import Recompute as Recompute
from hf_init._verify.verify import open_base as open_base
from hf_init._verify.verify import verify_result as verify_result
