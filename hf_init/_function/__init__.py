"""What a model computes: seeded inputs for any architecture, and what can be said of blocks without a value."""

from __future__ import annotations

from hf_init._function.expressions import compare_expressions as compare_expressions
from hf_init._function.identity import Known as Known
from hf_init._function.identity import block_outputs as block_outputs
from hf_init._function.identity import failure_on_meta as failure_on_meta
from hf_init._function.inputs import BATCH as BATCH
from hf_init._function.inputs import TOKENS as TOKENS
from hf_init._function.inputs import paired_inputs as paired_inputs
from hf_init._function.same import FunctionReport as FunctionReport
from hf_init._function.same import compare_functions as compare_functions
from hf_init._function.same import run_both as run_both
from hf_init._function.scores import scores_are_mixed as scores_are_mixed
from hf_init._function.steps import other_step as other_step
from hf_init._function.steps import steps_of as steps_of
