"""Results with values made by hand, and the text of their page."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

import hf_init
from hf_init import schemes


def normal(shape=(64, 64), std=0.02, seed=0) -> np.ndarray:
    return (np.random.default_rng(seed).normal(size=shape) * std).astype(np.float32)


def put(values: np.ndarray, at, value) -> np.ndarray:
    changed = values.copy()
    changed[at] = value
    return changed


def saved(folder: Path, tensors: dict[str, np.ndarray]) -> Path:
    folder.mkdir(exist_ok=True)
    save_file(tensors, folder / "model.safetensors")
    return folder


def whole(shape) -> dict[str, list[int]]:
    return {"start": [0] * len(shape), "stop": list(shape)}


def planned(
    name: str, shape: tuple[int, ...], scheme=None, role: str = "linear.weight", why: str = ""
) -> dict[str, Any]:
    """The entry of a manifest for a tensor that is new, or kept where there is no scheme."""
    entry = {"name": name, "shape": list(shape), "dtype": "float32", "role": role}
    if scheme is None:
        kept = [{"region": whole(shape), "source": name, "source_region": whole(shape)}]
        return {**entry, "status": "kept", "source": name, "kept": kept}
    return {**entry, "status": "new", "new": [{"region": whole(shape), "scheme": scheme.to_json(), "why": why}]}


def result(folder: Path, tensors: dict[str, np.ndarray], entries: list[dict[str, Any]], nasty: str = "") -> Path:
    """A folder as `extend` writes it, with these values whatever its manifest says."""
    saved(folder, tensors)
    unused = {"unused": [f"old{nasty}"], "unused_why": {f"old{nasty}": f"no place{nasty}"}}
    plan = {"architecture": f"Model{nasty}", "seed": 0, "tensors": entries, **unused}
    digests = {entry["name"]: ["0" * 64] for entry in entries if entry.get("new") and entry["name"] in tensors}
    base = {"name": f"base{nasty}", "fingerprint": "f" * 64}
    manifest = {"version": 1, "made_by": "hf_init 0", "base": base, "digests": digests, "plan": plan}
    (folder / "hf_init.json").write_text(json.dumps(manifest), encoding="utf-8")
    return folder


def text_of(folder: Path, out: Path) -> str:
    return hf_init.report(folder, out).read_text(encoding="utf-8")


# --- warnings ---


SCHEME = schemes.Normal(std=0.02)
