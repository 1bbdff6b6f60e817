"""What a training run did: every tensor and row of a trained checkpoint against its base, from the files alone.

Reads with numpy and mapped files, a few megabytes at a time, on all cores; needs neither torch nor transformers.
"""

from __future__ import annotations

from hf_init._drift._compare import drift, verify_after_training
from hf_init._drift._judge import TensorDrift
from hf_init._drift._report import DriftReport

__all__ = ["DriftReport", "TensorDrift", "drift", "verify_after_training"]
