"""What Python and the command line call."""

from hf_init._api._extension import Extension, How, prepare_extension
from hf_init._api._verbs import diff, drift, extend, heads, plan, report, verify

__all__ = ["Extension", "How", "diff", "drift", "extend", "heads", "plan", "prepare_extension", "report", "verify"]
