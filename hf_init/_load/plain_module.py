"""A plain module: what a state dict doesn't bring is filled by recipe and role, the rest is loaded and proved."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from hf_init._architecture import ModuleValues, buffers, module_layout, shared, tensor_place
from hf_init._architecture import find_tensor as tensor_of
from hf_init._checkpoint import Checkpoint, Origin, Reader, from_state_dict, open_tensors, region_of, tensor_digest
from hf_init._errors import PlanError, option
from hf_init._load.prove import LoadedTensor, LoadReport, compose, prove
from hf_init._plan import (
    BaseRecord,
    Keep,
    Manifest,
    Plan,
    RecipeLike,
    RuleLike,
    checked_seed,
    make_plan,
    match_tensors,
    matches_glob,
    parse_rules,
)
from hf_init._prepare import find_renaming, parse_renamings, shortest_globs
from hf_init._shards import check_undivided, packed_names
from hf_init._tensors import Layout, SourceTensor, Status
from hf_init._text import fits_glob, join_names
from hf_init._version import __version__
from hf_init.recipes import find_recipe
from hf_init.schemes import Declared, Model


@dataclass(frozen=True, repr=False)
class Initialized:
    """What was done to a module.

    Attributes:
        plan: every tensor's status, and the scheme of what is new.
        report: what was proved. manifest: both as a file holds them.
    """

    plan: Plan
    report: LoadReport
    manifest: Manifest

    @property
    def ok(self) -> bool:
        """Return True: what isn't as planned is an error."""
        return True

    def __bool__(self) -> bool:
        return self.ok

    def raise_if_failed(self) -> None:
        """Do nothing, as ``ok`` is true."""

    def save(self, folder: str | Path) -> None:
        """Write the plan beside the weights that you save (``hf_init.json``); ``Plan.load`` and ``verify`` read it."""
        Path(folder).mkdir(parents=True, exist_ok=True)
        self.manifest.save(folder)

    def to_json(self) -> dict[str, object]:
        return {"schema": "hf_init.initialize/1", "ok": self.ok, "plan": self.plan.to_json(), **self.report.to_json()}

    def __repr__(self) -> str:
        return f"<Initialized: {self.plan.architecture}, {self.plan.counts}>"

    def __str__(self) -> str:
        return f"{self.plan}\n\n{self.report}"


def initialize(
    module: nn.Module,
    base: str | Path | Mapping[str, torch.Tensor],
    *,
    prefix: str = "",
    recipe: RecipeLike = "auto",
    rules: Sequence[RuleLike] | None = None,
    seed: int | None = None,
    keep: Keep | None = None,
    allow_new: Sequence[str] | None = None,
    drop: Sequence[str] = (),
    key_mapping: Mapping[str, str] | None = None,
) -> Initialized:
    """Load weights into a plain ``nn.Module``: fill what they don't bring by the recipe, and prove the rest.

    Every tensor of the module's state dict is kept, resized, new or tied, as in a model of transformers. What is new is
    drawn in float32 from a generator keyed by seed and name; what is kept is compared with the weights, byte for byte.
    Nothing is written into the module before everything that can be refused is.

    Args:
        module: on any device; on meta it gets its tensors on the CPU. In another dtype than the base's it holds the
            exact cast, and a file of it is no more the base's bytes.
        base: a folder with ``model.safetensors`` (of transformers, of ``PyTorchModelHubMixin``...), a hub id, a file
            (``.safetensors``; ``.ckpt`` of Lightning, ``.pt``, ``.pth``, ``.bin``, whose code isn't run), or a state
            dict.
        prefix: what the names of the base get before them, such as ``"encoder."``.
        recipe, rules, seed: as in ``from_pretrained``. ``model`` is what ``reset_parameters`` of the layer draws,
            else what the constructor left in the module.
        keep: what is kept of a tensor that changes shape.
        allow_new: only what a glob names may be new.
        drop: globs of what of the base goes; anything else without a place is an error.
        key_mapping: regular expressions that rename the base's tensors, after the prefix.

    Returns:
        The plan and the report; ``save`` writes the plan.

    Raises:
        HfInitError: bad input, or a byte that isn't what it should be; the message says what to do.

    Example::

        module = Tagger(encoder=BertModel(config), labels=5)
        print(hf_init.initialize(module, "bert-folder", prefix="encoder.", recipe="classic", seed=1))
    """
    chosen = find_recipe(recipe).with_rules_first(parse_rules(rules), None if seed is None else checked_seed(seed))
    check_undivided(module, "initialize it before that")
    if packed := packed_names(module):
        raise PlanError(f"{type(module).__name__} is quantized ({join_names(packed)}); initialize it before that")
    layout = module_layout(module)
    is_folder = not isinstance(base, Mapping) and not Path(base).expanduser().is_file()
    bare = from_state_dict(base) if isinstance(base, Mapping) else open_tensors(base)
    source = Checkpoint.merged({prefix: bare}) if prefix else bare
    renamed = {name: name for name in source.entries}
    for pattern, new in parse_renamings(key_mapping or {}).items():
        renamed = {name: re.sub(pattern, new, mapped) for name, mapped in renamed.items()}
    tensors = [SourceTensor(name, e.shape, e.dtype, (renamed[name],)) for name, e in source.entries.items()]
    plan = make_plan(match_tensors(tensors, layout, keep), chosen, layout)
    _check(plan, layout, module, source, renamed, drop, allow_new)
    values = ModuleValues(module)
    plan = replace(plan, notes=(*plan.notes, *_undetermined(plan, values)))
    with Reader(source) as reader:
        state = compose(plan, reader, values)
        _fill_module(module, plan, state.values)
        held = {tensor.name: LoadedTensor(tensor_of(module, tensor.parameter)) for tensor in plan.stored}
        report = prove(plan, reader, values, state, lambda tensor: held[tensor.name])
        kept = {  # of a folder it can be compared with that later
            tensor.name: [tensor_digest(region_of(reader.tensor(c.source), c.source_region)) for c in tensor.kept]
            for tensor in plan.stored
            if tensor.kept and not is_folder
        }
    name = "a state dict" if isinstance(base, Mapping) else Path(base).name
    record = BaseRecord.of(source) if is_folder else BaseRecord(Origin(name), source.fingerprint())
    made_by = f"hf_init {__version__}"
    manifest = Manifest(plan, record, state.digests, made_by, kept_digests=None if is_folder else kept)
    return Initialized(plan, report, manifest)


def _check(
    plan: Plan,
    layout: Layout,
    module: nn.Module,
    source: Checkpoint,
    renamed: Mapping[str, str],
    drop: Sequence[str],
    allow_new: Sequence[str] | None,
) -> None:
    """Raise PlanError for what has no place, may not be new, or would stay without a value."""
    named = {g: [n for n, new in renamed.items() if fits_glob(n, g) or fits_glob(new, g)] for g in drop}
    problems = [*_dropped_in_vain(plan, named)]
    unsaved = buffers(module)[1]  # the module computes them
    lost = [u.name for u in plan.unused if renamed[u.name] not in unsaved]
    left = [name for name in lost if not any(name in names for names in named.values())]
    specs = {spec.name: spec for spec in layout.tensors}
    if left:
        lacking = {t.name: t.shape for t in plan.tensors if t.status is Status.NEW}
        placed = [name for name in source.entries if name not in lost]
        rules = dict(find_renaming({name: source.entries[name].shape for name in left}, lacking, placed).rules)
        problems.append(
            f"{len(left)} tensors of the base have no place in {plan.architecture}: {join_names(left)}; it has "
            f"{join_names([*specs])}. Give them the module's names, {option('prefix', 'encoder.')} or "
            f"{option('key_mapping', rules or {'REGEX': 'REPLACEMENT'})}, or say that they go: "
            + option("drop", shortest_globs(left, [*placed, *(name for name in lost if name not in left)]))
        )
    new = [t.name for t in plan.tensors if t.new]
    if allow_new is not None:
        unlisted = [name for name in new if not any(matches_glob(specs[name], glob) for glob in allow_new)]
        if unlisted:
            problems.append(f"{option('allow_new')} doesn't name {join_names(unlisted)}, which would be new")
    unset = [name for name in (*unsaved, *(t.name for t in plan.tensors if t.left_out))]
    unset = [name for name in unset if tensor_of(module, name).device.type == "meta"]
    if unset:
        problems.append(
            f"{join_names(unset)}: in no file, and the module is on meta: only its constructor gives them a value; "
            "make the module on a real device"
        )
    if problems:
        raise PlanError("\n".join(problems))


def _dropped_in_vain(plan: Plan, named: Mapping[str, Sequence[str]]) -> Iterator[str]:
    """Yield problems if ``drop`` names nothing, or what has a place."""
    gone = {unused.name for unused in plan.unused}
    for glob, names in named.items():
        if not names:
            yield f"{option('drop')}: {glob!r} names no tensor of the base; remove it, or correct it"
        elif placed := [name for name in names if name not in gone]:
            yield (
                f"{option('drop')}: {glob!r} names {join_names(placed)}, with a place in {plan.architecture}; name "
                f"only what has none; what is to start anew, {option('keep', {'GLOB': 'none'})} says"
            )


def _undetermined(plan: Plan, values: ModuleValues) -> Sequence[str]:
    """Return a note on what the constructor gave, if anything is: a seed of this recipe doesn't decide it."""
    asking = (
        slot.name
        for tensor in plan.tensors
        for scheme, slot in tensor.slots(plan.seed)
        if isinstance(scheme, Declared) or (isinstance(scheme, Model) and not values.is_drawn(slot))
    )
    names = list(dict.fromkeys(asking))
    return [f"as the module's constructor left them, which no seed decides: {join_names(names)}"] if names else []


def _fill_module(module: nn.Module, plan: Plan, values: Mapping[str, Any]) -> None:
    """Write every stored tensor into the module, under all of its names; one on meta gets memory of its own."""
    alias = shared(module)
    with torch.no_grad():
        for tensor in plan.stored:
            held = tensor_of(module, tensor.parameter)
            whole: torch.Tensor = values[tensor.name][...]  # a tensor, or a lazy slice
            if held.device.type != "meta":
                held.copy_(whole)
                continue
            made: torch.Tensor = torch.empty(held.shape, dtype=held.dtype).copy_(whole)
            if isinstance(held, nn.Parameter):
                made = nn.Parameter(made, requires_grad=held.requires_grad)
            for name in (tensor.parameter, *(second for second, of in alias.items() if of == tensor.parameter)):
                store, leaf = tensor_place(module, name)
                store[leaf] = made
