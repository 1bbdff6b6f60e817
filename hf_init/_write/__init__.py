"""The disk executor: a plan becomes files, only those that change are written, and their folder appears whole."""

from hf_init._write._files import LINKS, File, Link, bytes_written, plan_files
from hf_init._write._form import nbytes
from hf_init._write._stage import Stage, refuse_existing, staged, sweep
from hf_init._write._writing import room_needed, write

__all__ = [
    "LINKS",
    "File",
    "Link",
    "Stage",
    "bytes_written",
    "nbytes",
    "plan_files",
    "refuse_existing",
    "room_needed",
    "staged",
    "sweep",
    "write",
]
