"""The new values of a result once more, from its manifest, its config and its seed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

import numpy as np
import torch

from hf_init._architecture import Architecture, InitialValues
from hf_init._checkpoint import Bases, Reader, as_bytes
from hf_init._distill import GivenTexts, distilled_values, read_texts, reading_base
from hf_init._errors import PlanError, option
from hf_init._fill import draw_slot, slots_of
from hf_init._heads import Examples, solve_last_layer, solved_layer
from hf_init._load.load import from_pretrained
from hf_init._plan import Fill, Manifest, Plan, TensorPlan
from hf_init._prepare import class_recipe, resolve_target
from hf_init._tensors import Rows
from hf_init._text import qualified_name
from hf_init._verify import open_base
from hf_init._vocabulary import load_tokenizer
from hf_init.schemes import Distilled, Fitted, Model

Data = TypeVar("Data", Examples, GivenTexts)


def recomputer(
    out: Path,
    base: Bases | None = None,
    examples: object = None,
    texts: object = None,
    architecture: Architecture = None,
    trust_remote_code: bool | None = None,
    hub: Mapping[str, Any] = MappingProxyType({}),
) -> Callable[[TensorPlan, Fill], np.ndarray]:
    """Return a function from a tensor and one of its new regions to the region's bytes.

    Args:
        out: a folder that ``extend`` wrote.
        base: what it came from; None: where the manifest says.
        examples: those that a head was solved from, if one was. texts: those that rows were distilled from.
        architecture: the result's class, where its config names one that isn't the library's.
        trust_remote_code: run the model code in the folder.
        hub: options for a base that is a hub id.

    Raises:
        PlanError: the examples or the texts aren't given, or aren't those.
    """
    manifest = Manifest.load(out)
    plan = manifest.plan
    plan.check_schemes(out)
    made_from, source = open_base(manifest, base, **hub)
    if made_from is not manifest:
        raise PlanError(
            f"{option('recompute')}: new values are made from {manifest.base.origin.name}, and {source.root} is what "
            "that was made from; give the former"
        )
    reader = Reader(source)
    context = _context(out, plan, examples, architecture, trust_remote_code)
    if context is not None:
        context = context.knowing({**context.known, **_trained_again(out, plan, source.root, texts, trust_remote_code)})

    def recompute(tensor: TensorPlan, fill: Fill) -> np.ndarray:
        slots = slots_of(tensor, reader, plan.seed, context)
        scheme, slot = next(pair for pair in slots if pair[1].region == fill.region)
        return as_bytes(draw_slot(scheme, slot)).numpy()

    return recompute


def _context(
    out: Path, plan: Plan, examples: object, architecture: Architecture, trust_remote_code: bool | None
) -> InitialValues | None:
    """Return the architecture on meta, where a scheme needs it, with what was solved from examples."""
    asking = [fill.scheme for tensor in plan.tensors for fill in tensor.new if fill.scheme.needs_model]
    if not asking:
        return None
    kwargs: Any = plan.record.get("model_kwargs", {})
    target, _ = resolve_target(out, architecture, trust_remote_code=trust_remote_code, model_kwargs=kwargs)
    function = class_recipe(target.model).function
    own = {scheme.then for scheme in asking if isinstance(scheme, Model)} - {"", function and qualified_name(function)}
    if own:
        raise PlanError(
            f"new values were made by {', '.join(sorted(map(str, own)))}, which no manifest can hold: give the class "
            "that has the function as its init_recipe, or verify without recompute, which compares their digests"
        )
    context = InitialValues(lambda: target.model, (), target.model_kwargs, function)
    fitted = next((scheme for scheme in asking if isinstance(scheme, Fitted)), None)
    if fitted is None:
        return context
    given = _same_data(Examples.of, examples, fitted, "the head was solved from examples", "examples")
    model = from_pretrained(target.cls, target.base.folder, config=target.config)
    return context.knowing(solve_last_layer(fitted.method, given, target.base.folder, solved_layer(plan), model))


def _trained_again(out: Path, plan: Plan, base: Path, texts: object, trust: bool | None) -> dict[str, torch.Tensor]:
    fills = [fill for tensor in plan.tensors for fill in tensor.new if isinstance(fill.scheme, Distilled)]
    if not fills:
        return {}
    scheme = fills[0].scheme
    assert isinstance(scheme, Distilled)
    given = GivenTexts(())
    if scheme.data:
        given = _same_data(GivenTexts.of, texts, scheme, "rows were distilled from texts", "texts")
    target, _ = resolve_target(base, trust_remote_code=trust)
    new = {id_ for fill in fills if isinstance(fill.region, Rows) for id_ in fill.region.index}
    read = read_texts(given.texts, load_tokenizer(base), load_tokenizer(out), new)
    return distilled_values(plan, reading_base(target), read, go_on=False)


def _same_data(
    read: Callable[[object], Data], given: object, scheme: Distilled | Fitted, made: str, argument: str
) -> Data:
    """Read the data that values were made from, of which the scheme has the fingerprint."""
    if given is None:
        raise PlanError(
            f"{made} ({scheme}): give them ({option(argument, 'FILE')}), or verify without recompute, which compares "
            "the values with their digests"
        )
    data = read(given)
    if data.fingerprint != scheme.data:
        raise PlanError(f"not the {argument}: {made} with the SHA-256 {scheme.data}, and these have {data.fingerprint}")
    return data
