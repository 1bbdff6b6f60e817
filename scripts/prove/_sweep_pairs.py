"""One model type of the sweep: its tiny base model saved, loaded into every head class, and checked from the bytes."""

from __future__ import annotations

import ast
import os
import re
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers
from _sweep_shrink import Unreachable, config_for, tiny_config
from safetensors.torch import load_file
from transformers import AutoConfig, PreTrainedModel
from transformers.models.auto import modeling_auto

import hf_init
from hf_init._architecture import load_plainly
from hf_init._tensors import Status

SEED = 7


@dataclass
class Pair:
    """A base checkpoint in one class.

    Attributes:
        result: ``passed``, ``refused`` (an error of hf_init's own, before anything is written) or ``wrong``.
        why: of a pair that passed, the options that a refusal advised first.
        plain: what plain ``from_pretrained`` does: ``right``, ``wrong``, or ``fails``; with what it gets wrong.
        again: what plain ``from_pretrained`` gets wrong of the result, whose files are right.
    """

    head: str
    result: str
    why: str = ""
    plain: str = ""
    plain_why: str = ""
    again: str = ""


@dataclass
class Outcome:
    """What the sweep found of a model type; ``unreachable`` says why it has no pairs."""

    type: str
    base: str = ""
    unreachable: str = ""
    seconds: float = 0.0
    parameters: int = 0
    pairs: list[Pair] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def classes() -> dict[str, list[str]]:
    """Every model type of the auto mappings: its base class (or what stands for it) and then its head classes."""
    found: dict[str, dict[str, None]] = defaultdict(dict)
    for mapping in _mappings():
        for model_type, names in mapping.items():
            found[model_type].update(dict.fromkeys([names] if isinstance(names, str) else names))
    return {model_type: list(names) for model_type, names in sorted(found.items())}


def _mappings() -> Iterator[Mapping[str, Any]]:
    yield modeling_auto.MODEL_MAPPING_NAMES
    for name in sorted(vars(modeling_auto)):
        if name.startswith("MODEL_FOR") and name.endswith("_MAPPING_NAMES"):
            yield getattr(modeling_auto, name)


def run_type(model_type: str, folder: Path) -> Outcome:
    """Runs every pair of a type. Its own process: fresh memory is NaN from here on."""
    start = time.monotonic()
    torch.use_deterministic_algorithms(True, warn_only=True)  # torch then fills what it hands out with NaN
    outcome = Outcome(model_type)
    names = classes()[model_type]
    try:
        base = saved_base(model_type, names, folder / "base")
    except Unreachable as error:
        outcome.unreachable = str(error)
    else:
        outcome.base, outcome.parameters = names[0], base.num_parameters()
        for name in names[1:] or names:
            outcome.pairs.append(run_pair(name, folder / "base", folder / name, base.state_dict()))
    outcome.seconds = round(time.monotonic() - start, 1)
    return outcome


def _class(name: str) -> type[PreTrainedModel]:
    found = getattr(transformers, name, None)
    if found is None:
        raise Unreachable(f"transformers has no {name} at its top level")
    if not (isinstance(found, type) and issubclass(found, PreTrainedModel)):
        raise Unreachable(f"{name} isn't a PreTrainedModel")
    return found


def saved_base(model_type: str, names: Sequence[str], folder: Path) -> PreTrainedModel:
    """The base on the CPU, every floating tensor drawn at random so that no two places look alike."""
    cls = _class(names[0])
    config = tiny_config(model_type, [cls, *(c for c in map(_found, names[1:]) if c is not None)])
    try:
        torch.manual_seed(0)
        model = cls(config_for(cls, config))
        for tensor in model.state_dict().values():
            if tensor.is_floating_point():
                tensor.normal_(0.0, 0.02)
        model.save_pretrained(folder)
    except Exception as error:  # as above
        said = f"{type(error).__name__}: {error}"
        raise Unreachable(f"plain transformers can't make and save it: {said}"[:400]) from error
    return model


def _found(name: str) -> type[PreTrainedModel] | None:
    try:
        return _class(name)
    except Unreachable:
        return None


def run_pair(name: str, base: Path, out: Path, names: Mapping[str, torch.Tensor]) -> Pair:
    """Extends, loads, checks, and says what plain transformers does.

    Args:
        names: the source model's whole state dict, tied tensors under each of their names.
    """
    try:
        cls = _class(name)
        options = _options(cls, base)
    except Unreachable as error:
        return Pair(name, "unreachable", str(error))
    pair = Pair(name, "passed")
    try:
        did = advised(cls, base, options)
        said = {**options, "seed": SEED, **did}
        hf_init.extend(base, out, cls, **said)
        memory = hf_init.from_pretrained(cls, base, **said)
        problems = list(check(cls, base, out, memory))
        problems += _moved(names, memory) if memory.init_plan.unused else ()
        pair.again = "; ".join(_unlike(memory.state_dict(), cls.from_pretrained(out).state_dict()))[:300]
        pair.result, pair.why = ("wrong", "; ".join(problems[:6])) if problems else ("passed", " ".join(did))
    except hf_init.HfInitError as error:
        pair.result, pair.why = "refused", f"{type(error).__name__}: {error}"[:600]
    except Exception as error:
        pair.result, pair.why = "wrong", f"{type(error).__name__}: {error}{where(error)}"[:900]
    pair.plain, pair.plain_why = plain(cls, base, names, options)
    return pair


def _options(cls: type[PreTrainedModel], base: Path) -> dict[str, Any]:
    """The config that the class takes, where it isn't the checkpoint's own: as the auto classes hand it over.

    Raises:
        Unreachable: the class can't be built with it.
    """
    given: Any = AutoConfig.from_pretrained(base)
    config = config_for(cls, given)
    try:
        with torch.device("meta"):
            cls(deepcopy(config))
    except Exception as error:  # whatever a model's own code says about a config that it can't use
        said = f"{type(error).__name__}: {error}"
        raise Unreachable(f"the class can't be built with the tiny config: {said}"[:300]) from error
    return {} if isinstance(given, cls.config_class) else {"config": config}  # type: ignore[arg-type]


def advised(cls: type[PreTrainedModel], base: Path, options: Mapping[str, Any]) -> dict[str, Any]:
    """The options after a user has done, a few times, what a refusal says: other names, what has no place and goes."""
    said: dict[str, Any] = {}
    for _ in range(3):
        try:
            hf_init.plan(base, cls, **options, **said)
        except hf_init.HfInitError as error:
            more = dict(_advice(str(error)))
            said |= {name: [*said.get(name, []), *value] if name == "drop" else value for name, value in more.items()}
            if more:
                continue
        break
    return said


def _advice(message: str) -> Iterator[tuple[str, Any]]:
    """The way out that each line of a refusal names first."""
    for line in message.splitlines():
        way = re.search(r"(key_mapping|drop)=(\{'.*?'\}|\['.*?'\])(?=;|$)", line)
        if way:
            yield way[1], ast.literal_eval(way[2])


def _moved(names: Mapping[str, torch.Tensor], model: PreTrainedModel) -> Iterator[str]:
    """What the model has under a name that the source model has too, with or without the prefix of the base model."""
    prefix, held = model.base_model_prefix + ".", model.state_dict()
    for name, tensor in held.items():
        if prefix + name in held:
            continue  # the base model's own has the better claim
        before = next((names[n] for n in (name, name.removeprefix(prefix), prefix + name) if n in names), None)
        if before is not None and before.shape == tensor.shape and not same_bytes(before, tensor):
            yield f"{name} isn't what the source model holds"


def where(error: BaseException) -> str:
    trace, places = error.__traceback__, []
    while trace is not None:
        places.append(f"{os.path.basename(trace.tb_frame.f_code.co_filename)}:{trace.tb_lineno}")
        trace = trace.tb_next
    return " at " + " < ".join(reversed(places[-5:]))


def check(cls: type[PreTrainedModel], base: Path, out: Path, memory: PreTrainedModel) -> Iterator[str]:
    """Everything that isn't as it must be, from the bytes."""
    plan = hf_init.Plan.load(out)
    source, files = _tensors(base), _tensors(out)
    yield from _kept(plan, source, files)
    yield from _new(plan, files)
    if memory.init_plan != plan:
        yield "memory and disk have different plans"
    loaded, info = _with_info(cls, out)
    said = {key: value for key, value in info.items() if value}
    if said:
        yield f"plain from_pretrained says {said}"
    if set(memory.state_dict()) != set(loaded.state_dict()):
        yield "memory has other names than plain from_pretrained"
    yield from _unlike(memory.state_dict(), loaded.state_dict(), files)
    yield from _buffers(cls, memory)
    if not hf_init.verify(out).ok:
        yield "verify fails"
    if not hf_init.verify(out, base, recompute=True).ok:
        yield "verify --recompute fails"


def _with_info(cls: type[PreTrainedModel], folder: Path) -> tuple[PreTrainedModel, dict[str, Any]]:
    """By the library's loader: a class with one of its own may not know the option."""
    return load_plainly(cls, folder, output_loading_info=True)


def _kept(plan: Any, source: Mapping[str, torch.Tensor], files: Mapping[str, torch.Tensor]) -> Iterator[str]:
    """Every source tensor is in the result at the planned name, tied to one that is, or said to be unused."""
    placed = {unused.name for unused in plan.unused}
    for tensor in plan.tensors:
        if tensor.status.is_whole:
            placed.add(tensor.source)
            if not same_bytes(source[tensor.source], files[tensor.name]):
                yield f"{tensor.name} isn't {tensor.source} of the source"
        if tensor.status is Status.TIED:
            placed.add(tensor.source)
        if tensor.status is Status.RESIZED:
            yield f"{tensor.name} is resized, unasked"
    for name in sorted(set(source) - placed):
        yield f"{name} of the source is neither in the result nor unused"
    if set(files) != {tensor.name for tensor in plan.stored}:
        yield "the files hold other tensors than planned"


def _new(plan: Any, files: Mapping[str, torch.Tensor]) -> Iterator[str]:
    for tensor in plan.tensors:
        values = files.get(tensor.name)
        if tensor.status is Status.NEW and values is not None and poisoned(values):
            yield f"{tensor.name} holds uninitialised memory"


def _unlike(
    mine: Mapping[str, Any], theirs: Mapping[str, Any], files: Mapping[str, torch.Tensor] | None = None
) -> Iterator[str]:
    """What differs; but for what the files hold as it is here: a class may damage what is loaded at every load."""
    for name in mine.keys() & theirs.keys():
        held = mine[name]
        if not isinstance(held, torch.Tensor) or same_bytes(held, theirs[name]):
            continue
        if files is None or name not in files or not same_bytes(held, files[name]):
            yield f"{name} differs in memory and in the result"


def _buffers(cls: type[PreTrainedModel], memory: PreTrainedModel) -> Iterator[str]:
    """What no file holds must be what a freshly built model holds."""
    fresh = cls(deepcopy(memory.config))
    stored = fresh.state_dict().keys()
    held = dict(memory.named_buffers())
    for name, buffer in fresh.named_buffers():
        if name not in stored and (name not in held or not same_bytes(held[name], buffer.to(held[name].dtype))):
            yield f"buffer {name} isn't what a freshly built model holds"


def plain(
    cls: type[PreTrainedModel], base: Path, names: Mapping[str, torch.Tensor], options: Mapping[str, Any]
) -> tuple[str, str]:
    """What plain ``from_pretrained`` makes of the base: what it leaves uninitialised or overwrites."""
    try:
        model: Any = cls.from_pretrained(base, **options)
    except Exception as error:  # whatever it says
        return "fails", f"{type(error).__name__}: {error}"[:200]
    state = dict(model.named_parameters(remove_duplicate=False)) | dict(model.named_buffers())
    bad = [f"{name} uninitialised" for name, tensor in state.items() if poisoned(tensor)]
    bad += _moved(names, model)
    return ("wrong", "; ".join(bad[:3])) if bad else ("right", "")


def _tensors(folder: Path) -> dict[str, torch.Tensor]:
    return {name: tensor for path in sorted(folder.glob("*.safetensors")) for name, tensor in load_file(path).items()}


def same_bytes(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Shape, dtype and every bit."""
    return a.shape == b.shape and a.dtype == b.dtype and torch.equal(_bits(a), _bits(b))


def _bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)


def poisoned(tensor: torch.Tensor) -> bool:
    """Whether fresh memory is in it: NaN, or the largest whole number."""
    if tensor.is_floating_point() or tensor.is_complex():
        return bool(tensor.isnan().any())
    return tensor.dtype is not torch.bool and bool((tensor == torch.iinfo(tensor.dtype).max).any())
