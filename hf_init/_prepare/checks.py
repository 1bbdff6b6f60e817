"""What a plan is refused for: each check looks at one context and yields problems, which are raised together."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TypeVar

from hf_init._architecture import (
    NOWHERE,
    Address,
    Target,
    initialization_fault,
    nested_configs,
    own_tensors,
    plain_attributes,
    takes_as_they_are,
)
from hf_init._checkpoint import DTYPES, format_of, is_floating
from hf_init._errors import HfInitError, PlanError, RecipeError, option
from hf_init._globs import closest_glob
from hf_init._growth import experts_of
from hf_init._plan import Keep, Plan, Recipe, format_shape, matches_glob, owners, sources_of
from hf_init._text import join_names

MOST_ROWS = 100_000_000
TIED_WAY_OUT = (
    "Say it of the first name, which the files hold, or untie the two and they are tensors of their own: "
    + option("config", {"tie_word_embeddings": False})
)


@dataclass(frozen=True)
class Problem:
    """One reason to refuse.

    Attributes:
        text: a sentence without its full stop, if a way out follows.
        way_out: what the user can do; said once for all problems that share it.
    """

    text: str
    way_out: str = ""
    error: type[HfInitError] = PlanError


@dataclass(frozen=True)
class PlanInputs:
    """What is there before source and target are matched."""

    target: Target
    recipe: Recipe
    keep: Keep


Context = TypeVar("Context", bound=PlanInputs)


def run_checks(checks: Iterable[Callable[[Context], Iterator[Problem]]], context: Context) -> None:
    """Raise everything that the checks find in one error.

    Raises:
        PlanError, RecipeError: the latter where all problems are the recipe's.
    """
    problems = [problem for check in checks for problem in check(context)]
    if not problems:
        return
    by_way_out: dict[str, list[str]] = {}
    for problem in problems:
        by_way_out.setdefault(problem.way_out, []).append(problem.text)
    lines = ["\n".join(texts) + (f". {way_out}" if way_out else "") for way_out, texts in by_way_out.items()]
    errors = {problem.error for problem in problems}
    raise (errors.pop() if len(errors) == 1 else PlanError)("\n".join(lines))


def two_claims(inputs: PlanInputs) -> Iterator[Problem]:
    """Yield a problem if two tensors of the base have one place: neither would go before the other."""
    target, places = inputs.target, owners(inputs.target.layout)
    checkpoint = target.base.source
    claims: dict[Address, list[str]] = {}
    for tensor in target.source:
        if tensor.address in places and not tensor.second:
            folder = Path(checkpoint.entries[tensor.name].shard).parent
            claims.setdefault(tensor.address, []).append(
                f"{tensor.name} of {folder}" if checkpoint.parts else tensor.name
            )
    claimed_twice = [" and ".join(names) for names in claims.values() if len(names) > 1]
    if claimed_twice:
        by = "two checkpoints" if checkpoint.parts else "two tensors of the checkpoint"
        others = "prefixes" if checkpoint.parts else "renamings"
        yield Problem(
            f"{len(claimed_twice)} tensors of {target.cls.__name__} are claimed by {by}: {join_names(claimed_twice)}",
            f"Say which of them goes ({option('drop', ['GLOB'])}), or give {others} under which they don't meet",
        )


def packed_values(inputs: PlanInputs) -> Iterator[Problem]:
    """Yield a problem if whole numbers would become the values of floating tensors: they are packed weights."""
    target = inputs.target
    if target.base.packed is not None:  # whose config names the quantizer: what may become of it, `changed_packed` says
        return
    floating = {spec.address for spec in target.layout.tensors if is_floating(spec.dtype)}
    packed = [tensor for tensor in target.source if tensor.address in floating and not is_floating(tensor.dtype)]
    if packed:
        said = f"{len(packed)} tensors of {target.cls.__name__} are in whole numbers"
        yield packed_problem(target, [tensor.name for tensor in packed], said)


def packed_problem(target: Target, packed: Iterable[str], said: str) -> Problem:
    """Return the problem that tensors of the base are packed weights."""
    entries = target.base.source.entries
    return Problem(
        f"{target.base.name} is quantized ({format_of(entries) or 'of no known format'}): {said}: "
        f"{join_names([f'{name} ({entries[name].dtype})' for name in packed])}",
        "Extend the unquantized checkpoint and quantize the result",
    )


def misplaced_pieces(inputs: PlanInputs) -> Iterator[Problem]:
    """Yield a problem if pieces of one tensor are counted by the loader, and one before others isn't there."""
    target = inputs.target
    pieces = [tensor for tensor in target.source if len(tensor.address) > 1]
    own = own_tensors(target) if pieces else {}
    gone = (tensor for tensor in target.dropped if tensor.address[0].startswith(NOWHERE))  # with its block, as a whole
    there, names = {tensor.name for tensor in (*target.source, *gone)}, set(own.values())
    moved = [t for t in pieces if t.name in names and own.get(t.address, t.name) != t.name]
    groups = {tensor.address[:2] for tensor in moved}
    lacking = [name for address, name in own.items() if address[:2] in groups and name not in there]
    if lacking:
        yield Problem(
            f"the checkpoint lacks {join_names(lacking)}, and the loader of {target.cls.__name__}, which counts such "
            f"pieces, would put others in their places: {join_names([tensor.name for tensor in moved])}",
            "Give a checkpoint that is whole",
        )


def dropped_in_vain(inputs: PlanInputs) -> Iterator[Problem]:
    """Yield problems if ``drop`` names nothing, or what has a place."""
    target = inputs.target
    names = list(target.base.source.entries)
    idle = [glob for glob in target.drop if not any(target.names(glob, name) for name in names)]
    if idle:
        hints = ", ".join(f"{glob!r}{closest_glob(glob, names)}" for glob in idle)
        yield Problem(f"{option('drop')}: no tensor of the checkpoint is named by {hints}; it has {join_names(names)}")
    places = owners(target.layout)
    parameters = {parameter for parameter, *_ in places}
    filled = {places.get(tensor.address, tensor.address) for tensor in target.source}
    placed = [
        tensor.name
        for tensor in target.dropped
        if tensor.address[0] in parameters and places.get(tensor.address, tensor.address) not in filled
    ]
    if placed:
        yield Problem(
            f"{option('drop')}: {len(placed)} of the tensors that it names have a place in {target.cls.__name__}: "
            f"{join_names(placed)}",
            f"Name only what has none; what is to start anew, {option('keep', {'GLOB': 'none'})} says",
        )


def second_names(inputs: PlanInputs) -> Iterator[Problem]:
    """Yield problems if a rule or ``keep`` is for the second name of a tied tensor alone: there is nothing to fill."""
    layout = inputs.target.layout
    first = {tensor.name: tensor for tensor in layout.tensors}
    ties = [(tie, replace(first[tie.of], name=tie.name, parameter=tie.name)) for tie in layout.ties]
    said = [
        (f"rule {number} ({rule.conditions})", rule.matches, RecipeError)
        for number, rule in enumerate(inputs.recipe.rules, 1)
        if rule.name is not None and not rule.optional
    ]
    said += [(f"{option('keep')} {glob!r}", partial(matches_glob, glob=glob), PlanError) for glob in inputs.keep]
    yield from (
        Problem(f"{what}: {tie.name} is tied to {tie.of}, one tensor under two names", TIED_WAY_OUT, error)
        for what, fits, error in said
        if not any(map(fits, layout.tensors))
        for tie, tensor in ties
        if fits(tensor)
    )


def emptied_tensors(inputs: PlanInputs) -> Iterator[Problem]:
    """Yield a problem if the checkpoint holds empty tensors where the target has elements: another rank has them."""
    target = inputs.target
    sources = sources_of(target.source, target.layout)
    empty = [
        source.name
        for tensor in target.layout.tensors
        if (source := sources[tensor.name]) and 0 in source.shape and 0 not in tensor.shape
    ]
    if empty or not target.addressed:
        seen = f"{len(empty)} tensors are there by name and have no elements: {join_names(empty)}"
        yield Problem(
            f"{target.base.name}: {seen if empty else 'its weights hold no tensor at all'}. "
            "They were saved while each rank held a part of the model, as under DeepSpeed ZeRO-3 and FSDP",
            "Save the whole model (stage3_gather_16bit_weights_on_model_save, or a full state dict), or put the parts "
            "together with `python zero_to_fp32.py . OUT --safe_serialization` or `accelerate merge-weights`",
        )


def tensors_without_values(inputs: PlanInputs) -> Iterator[Problem]:
    """Yield a problem if a class of the user's keeps tensors where the library's loader doesn't look."""
    held = list(plain_attributes(inputs.target.model))
    if held:
        yield Problem(
            f"{inputs.target.cls.__name__} keeps tensors as plain attributes, neither parameters, buffers nor modules: "
            f"transformers loads the model and leaves them without values, on meta: {join_names(held)}",
            "Register each tensor: self.register_buffer('NAME', tensor), with persistent=False where no file is to "
            "hold it; and put layers of a list or a dict into nn.ModuleList or nn.ModuleDict",
        )


def immense_tensors(inputs: PlanInputs) -> Iterator[Problem]:
    """Yield a problem if a size is more than a slip of the keyboard explains: rows are planned one by one."""
    shapes = {tensor.name: tensor.shape for tensor in inputs.target.layout.tensors}
    if immense := [
        f"{name} ({format_shape(shape)})" for name, shape in shapes.items() if max(shape, default=0) > MOST_ROWS
    ]:
        yield Problem(
            f"more than {MOST_ROWS} of one size are asked for: {join_names(immense)}",
            "Give numbers that memory can hold",
        )


def unusable_values(inputs: PlanInputs) -> Iterator[Problem]:
    """Yield a problem if the class can be built with this config, and not be initialized: nor can it be loaded then."""
    if fault := initialization_fault(inputs.target.model):
        yield Problem(
            f"transformers can't load a {inputs.target.cls.__name__} of this config: its _init_weights fails: {fault}",
            "Give values that fit together",
        )


def undone_ties(inputs: PlanInputs) -> Iterator[Problem]:
    """Yield a problem if a constructor gives two modules one parameter without telling the loader, which parts them."""
    model, layout = inputs.target.model, inputs.target.layout
    places = {tensor.name: tensor.parameter for tensor in layout.tensors}
    unsaid = {tie.name: places[tie.of] for tie in layout.ties if tie.name not in model.all_tied_weights_keys}
    undone = {
        name: of
        for name, of in unsaid.items()  # a module under two names stays one
        if model.get_submodule(name.rpartition(".")[0]) is not model.get_submodule(of.rpartition(".")[0])
    }
    if undone:
        name = type(model).__name__
        yield Problem(
            f"{name}: {join_names([f'{alias} is {of}' for alias, of in undone.items()])}, by an assignment in the "
            "constructor, which loading undoes: plain transformers loads the one, and draws the other at random",
            f"Say it in the class: `_tied_weights_keys = {undone}`, which counts where tie_word_embeddings is true",
        )


def tied_against_the_files(inputs: PlanInputs) -> Iterator[Problem]:
    """Yield a problem if the user ties what the base doesn't, and what has two values: one would be lost."""
    target, own = inputs.target, inputs.target.base_config
    tied = [bool(getattr(config, "tie_word_embeddings", True)) for config in (own, target.config)]
    if target.untied and tied == [False, True] and not target.base.source.parts:
        pairs = join_names([f"{name} and {of}" for name, of in target.untied.items()])
        yield Problem(
            f"{pairs} are to be tied, and their values differ",
            f"Leave tie_word_embeddings as it is, or say which of them goes ({option('drop', ['GLOB'])})",
        )


def more_chosen_than_there_are(inputs: PlanInputs) -> Iterator[Problem]:
    """Yield a problem if a token is to be given to more experts than there are."""
    own = inputs.target.base_config
    before = {(type(part), *experts_of(part)) for part in nested_configs(own)} if own is not None else set()
    for part in nested_configs(inputs.target.config):
        count, chosen = experts_of(part)
        if 0 < count < chosen and (type(part), count, chosen) not in before:
            yield Problem(f"of {count} experts {chosen} can't be chosen for a token: the config of a {part.model_type}")


INPUT_CHECKS = (
    tied_against_the_files,
    more_chosen_than_there_are,
    emptied_tensors,
    immense_tensors,
    unusable_values,
    undone_ties,
    packed_values,
    misplaced_pieces,
    tensors_without_values,
    dropped_in_vain,
    two_claims,
    second_names,
)
"""What is looked at before source and target are matched, which would tell less of it."""


def check_unloadable(target: Target, plan: Plan) -> None:
    """Raise PlanError unless the library takes the planned files without a word: asked on meta, before any value.

    A load into memory needs no such question: the library says there what it found.
    """
    strange = [f"{t.name} ({t.dtype})" for t in plan.stored if t.dtype not in {name for name, _ in DTYPES.values()}]
    if strange:
        raise PlanError(
            f"{plan.architecture}: safetensors has no dtype for {join_names(strange)}; save_pretrained fails on it. "
            "Register it with persistent=False, or hold what it is made of (torch.view_as_real)"
        )
    # For what is packed stands the tensor that a quantizer makes room for; it is the quantizer's, and stays as it was.
    files = [*(t for t in plan.stored if t.name not in target.packed.part_of), *target.packed.held]
    if takes_as_they_are(target.model, {tensor.name: tensor.shape for tensor in files}):
        return
    _, info = target.load_on_meta({t.name: (t.shape, t.dtype) for t in files}, output_loading_info=True)
    left_out = {tensor.parameter for tensor in plan.tensors if tensor.left_out}
    problems = {
        "missing": sorted(set(info["missing_keys"]) - left_out),
        "unexpected": sorted(info["unexpected_keys"]),
        "mismatched": sorted(name for name, *_ in info["mismatched_keys"]),
    }
    texts = [f"{what}: {join_names(names)}" for what, names in problems.items() if names]
    if texts:
        raise PlanError(
            f"{plan.architecture}: transformers wouldn't load the planned result whole ({'; '.join(texts)}); this "
            "architecture can't be extended folder to folder with this version"
        )
