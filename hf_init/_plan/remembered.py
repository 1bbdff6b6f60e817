"""Where bases are on this machine, in the user's own cache: no manifest says it, since manifests travel."""

from __future__ import annotations

import hashlib
from contextlib import suppress
from pathlib import Path

from hf_init._paths import user_cache


def remember_base(fingerprint: str, prefix: str, path: str) -> None:
    """Note the folder of a base, or of a part of one; a cache that can't be written to forgets."""
    file = _note(fingerprint, prefix)
    with suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(path, encoding="utf-8", errors="surrogateescape")


def recall_base(fingerprint: str, prefix: str) -> str:
    """Return the folder that was noted last; empty where there is none."""
    try:
        return _note(fingerprint, prefix).read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return ""


def _note(fingerprint: str, prefix: str) -> Path:
    name = hashlib.sha256(f"{fingerprint}\0{prefix}".encode()).hexdigest()[:32]
    return user_cache() / "bases" / name
