"""Paths as users give them."""

from __future__ import annotations

import os
from pathlib import Path


def user_path(path: str | os.PathLike[str]) -> Path:
    """Return a path with ``~`` and ``~name`` replaced by that user's home; as it is where there is no such user."""
    return Path(os.path.expanduser(path))


def user_cache() -> Path:
    """Return the folder for what is this machine's own, and may be lost."""
    return Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")) / "hf_init"


def outward_path(path: str | os.PathLike[str]) -> Path:
    """Return where a folder is to be written: an absolute path, past a link to a folder that is there already."""
    absolute = os.path.abspath(user_path(path))
    return Path(os.path.realpath(absolute) if os.path.isdir(absolute) else absolute)
