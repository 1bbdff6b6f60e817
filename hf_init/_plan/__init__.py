"""A plan: one status for every tensor and one scheme for every region to fill; to and from JSON. Pure."""

from __future__ import annotations

from hf_init._plan._document import Plan as Plan
from hf_init._plan._entry import Fill as Fill
from hf_init._plan._entry import TensorPlan as TensorPlan
from hf_init._plan._planning import make as make
