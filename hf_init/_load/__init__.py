"""The memory executor: a plan becomes a loaded model, and the model is verified against the files."""

from __future__ import annotations

from hf_init._load.load import from_pretrained as from_pretrained
from hf_init._load.load import with_fitted_values as with_fitted_values
from hf_init._load.mixin import InitMixin as InitMixin
from hf_init._load.plain_module import Initialized as Initialized
from hf_init._load.plain_module import initialize as initialize
from hf_init._load.recompute import recomputer as recomputer
