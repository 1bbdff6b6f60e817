"""What new tokens do to a model: measured on texts, before any training and after a little of it."""

from __future__ import annotations

from hf_init._probe.compare import compare_schemes as compare_schemes
from hf_init._probe.comparison import SchemeComparison as SchemeComparison
from hf_init._probe.probe import check_kind as check_kind
from hf_init._probe.probe import checked_texts as checked_texts
from hf_init._probe.probe import probe_vocabulary as probe_vocabulary
