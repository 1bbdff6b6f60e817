"""A layer more and a layer less in every stack of a model type: written, run, and the claim held to what it gives.

Refused is what hf_init says no to in a sentence; wrong is a traceback, a result that plain transformers does not load,
and a claim that does not hold.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from _sweep_pairs import Outcome, Pair, classes, saved_base, where
from _sweep_shrink import Unreachable
from transformers import AutoConfig

import hf_init
from hf_init._errors import PlanError
from hf_init._growth.depths import depths_of


def run_type(model_type: str, folder: Path) -> Outcome:
    """Every depth of a type, one more and one less; in a process of its own."""
    start, outcome = time.monotonic(), Outcome(model_type)
    names = classes()[model_type]
    try:
        outcome.parameters = saved_base(model_type, names, folder / "base").num_parameters()
        outcome.base = names[0]
        outcome.pairs = list(_pairs(folder))
    except Unreachable as error:
        outcome.unreachable = str(error)
    outcome.seconds = round(time.monotonic() - start, 1)
    return outcome


def _pairs(folder: Path) -> Iterator[Pair]:
    depths = dict(depths_of(AutoConfig.from_pretrained(folder / "base")))
    if not depths:
        raise Unreachable("its config has no number of layers")
    for path, count in depths.items():
        maps: dict[str, list[Any]] = {"more": [*range(count), "new"]}
        if count > 1:
            maps["less"] = [*range(count - 1)]
        for name, layers in maps.items():
            yield _run(f"{path}: {name}", folder, {path: layers})


def _run(name: str, folder: Path, layers: dict[str, Any]) -> Pair:
    out = folder / name.replace(": ", "-")
    try:
        hf_init.extend(folder / "base", out, layers=layers)
        claim = hf_init.Plan.load(out).claim
    except hf_init.HfInitError as error:
        return Pair(name, "refused", f"{type(error).__name__}: {error}"[:600])
    except Exception as error:
        return Pair(name, "wrong", f"{type(error).__name__}: {error}{where(error)}"[:900])
    try:
        found = hf_init.same_function(folder / "base", out)
        return Pair(name, "passed" if found.ok else "wrong", f"{claim}: {found.headline}")
    except PlanError as error:  # no inputs are known for it
        return Pair(name, "passed", f"{claim}: {error}"[:600])
    except Exception as error:
        return Pair(name, "wrong", f"{type(error).__name__}: {error}{where(error)}"[:900])
