"""What a training run moved: every tensor and row of a trained checkpoint against its base, from the files alone."""

from __future__ import annotations

from hf_init._drift.drift import measure_drift as measure_drift
from hf_init._drift.report import DriftReport as DriftReport
