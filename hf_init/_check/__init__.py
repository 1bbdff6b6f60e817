"""A start-up check: what one batch tells about a model, before hours of training are spent on it."""

from __future__ import annotations

from hf_init._check.batch import check as check
from hf_init._check.folder import check_folder as check_folder
