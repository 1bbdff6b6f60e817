"""The new values of a result once more, from its manifest, its config and its seed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from hf_init._errors import PlanError
from hf_init._make import Reader, as_bytes, drawn, slots
from hf_init._manifest import Manifest
from hf_init._plan import Plan, TensorPlan
from hf_init._spec import Context, region_from_json
from hf_init._verify import open_base
from hf_init.hf._context import Architecture
from hf_init.hf._prepare import on_meta
from hf_init.hf._source import config_json
from hf_init.hf._target import resolve


def recomputer(out: Path, base: Path | None = None) -> Callable[[Mapping[str, Any], Mapping[str, Any]], np.ndarray]:
    """A function from a tensor's and a region's entry in the plan to the region's bytes.

    Args:
        out: a folder that ``extend`` wrote.
        base: what it came from; None: where the manifest says.
    """
    plan = Plan.load(out)
    reader = Reader(open_base(Manifest.load(out), base))
    context = _context(out, plan)

    def recompute(entry: Mapping[str, Any], region: Mapping[str, Any]) -> np.ndarray:
        tensor = TensorPlan.from_json(entry)
        wanted = region_from_json(region["region"], tensor.shape)
        scheme, slot = next(pair for pair in slots(tensor, reader, plan.seed, context) if pair[1].region == wanted)
        return as_bytes(drawn(scheme, slot)).numpy()

    return recompute


def _context(out: Path, plan: Plan) -> Context | None:
    """The architecture on meta, where a scheme needs it."""
    if not any(fill.scheme.asks for tensor in plan.tensors for fill in tensor.new):
        return None
    if config_json(out).get("auto_map"):
        raise PlanError(
            f"{out}: its new values come from model code in the folder, which recompute would have to run; "
            "verify without recompute compares them with their digests"
        )
    return Architecture(on_meta(resolve(out)))
