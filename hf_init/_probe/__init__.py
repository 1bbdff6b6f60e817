"""What new tokens do to a model: measured on texts, before any training and after a little of it."""

from __future__ import annotations

from hf_init._probe._comparison import Comparison as Comparison
from hf_init._probe._comparison import Run as Run
from hf_init._probe._report import ProbeReport as ProbeReport
from hf_init._probe._report import Reading as Reading
from hf_init._probe._texts import TEXTS as TEXTS
from hf_init._probe._texts import passages as passages
