"""Images: another size, patch or number of channels, by the base's own interpolation where it has one."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from transformers import PreTrainedConfig

from hf_init._architecture import Target, copy_config, nested_configs
from hf_init._change import Change, ChangePlan, TargetContext, TargetRequest
from hf_init._checkpoint import BaseCheckpoint
from hf_init._errors import PlanError, option
from hf_init._function import paired_inputs, steps_of
from hf_init._growth.axis import changed_tensors, other_values, other_ways, own_target, path_of, planned_fills, value_at
from hf_init._plan import (
    EXACT,
    INTERPOLATION,
    Nothing,
    RowMap,
    RowMapping,
    no_claim,
    sources_of,
    weakest_claim,
)
from hf_init._roles import matches
from hf_init._tensors import SourceTensor, TensorSpec
from hf_init.schemes import MixChannels, PiResize, Resample, Scheme, Zeros

COLOURS = ("R", "G", "B")
CHANNELS = ("sum", "repeat")
SIZES = ("image_size", "patch_size", "num_channels")


@dataclass(frozen=True)
class ImageChange(Change):
    """The images that the user wants.

    Attributes:
        values: of the config, by name.
        channels: how channels start: one of ``CHANNELS``, or a base's channel or None for each; empty: by default.
    """

    values: Mapping[str, object]
    channels: str | tuple[int | str | None, ...] = ()

    OPTIONS = (*SIZES, "channels")

    @classmethod
    def of(cls, base: BaseCheckpoint, options: Mapping[str, object]) -> ImageChange | None:
        values = {name: options[name] for name in SIZES if options.get(name) is not None}
        for name, value in values.items():
            sides = value if isinstance(value, (list, tuple)) and name != "num_channels" else [value]
            if (
                len(sides) > 2
                or not sides
                or any(isinstance(s, bool) or not isinstance(s, int) or s < 1 for s in sides)
            ):
                raise PlanError(f"{option(name)}: expected a whole number of at least 1, not {value!r}")
        channels = _parse_channels(options.get("channels"))
        if isinstance(channels, tuple) and channels:
            if values.setdefault("num_channels", len(channels)) != len(channels):
                raise PlanError(f"{option('channels')} names {len(channels)} for num_channels={values['num_channels']}")
        elif channels and "num_channels" not in values:
            raise PlanError(f"{option('channels')}: {channels!r} needs {option('num_channels', 'N')}")
        return cls(values, channels) if values else None

    def retarget(self, request: TargetRequest) -> TargetRequest:
        own = own_target(request, next(iter(self.values)))
        paths = _image_paths(own.config, self.values)
        by_name = isinstance(self.channels, tuple) and any(each in COLOURS for each in self.channels)
        if by_name and value_at(own.config, paths["num_channels"]) != len(COLOURS):
            raise PlanError(f"{option('channels')}: the base's channels have no names; give their numbers")
        return request.with_values({paths[name]: value for name, value in self.values.items()})

    def plan(self, context: TargetContext) -> ChangePlan:
        target, base = context.target, context.target.base_config
        if base is None:
            return ChangePlan()
        keep: dict[str, RowMapping] = {}
        schemes: dict[str, tuple[Scheme, str]] = {}
        claims: list[str] = []
        read: list[str] = []
        paths = _image_paths(base, self.values)
        for tensor, source in (*changed_tensors(target), *self._reordered(target, paths)):
            if matches(tensor.role, "embedding.position"):
                keep[tensor.name], scheme = _grid_rows(tensor, source, base, target.config)
                schemes[tensor.name] = scheme, "the old positions, interpolated"
                claims.append(_own_way(target, base, paths))
            elif matches(tensor.role, "conv.weight") and len(tensor.shape) == 4 and tensor.shape[0] == source.shape[0]:
                keep[tensor.name], scheme, why, claim = self._patches(tensor, source)
                claims.append(claim)
                read.append(source.name)
                if scheme is not None:
                    schemes[tensor.name] = scheme, why
        if not any(claim != EXACT for claim in claims):
            own = {path: value_at(base, path) for path in paths.values()}
            claims += map(no_claim, other_ways(target, own, inputs_follow="num_channels" in self.values))
        return ChangePlan(
            keep=keep,
            fills=partial(planned_fills, schemes),
            notes=tuple(
                f"{path}: {value_at(base, path)} -> {value_at(target.config, path)}" for path in paths.values()
            ),
            new=frozenset(keep),
            drop=frozenset(read),
            claim=lambda plan: other_values(plan, schemes) or weakest_claim(claims),
            config=frozenset(paths.values()),
            write=partial(_write_processor, base, target.config),
        )

    def _reordered(self, target: Target, paths: Mapping[str, str]) -> Iterator[tuple[TensorSpec, SourceTensor]]:
        """Yield the tensors with a slice for each channel, where the user names them and their number stays."""
        if not isinstance(self.channels, tuple) or not self.channels:
            return
        larger = target.rebuilt(
            copy_config(target.config, {paths["num_channels"]: len(self.channels) + 1})
        ).state_dict()
        sources = sources_of(target.source, target.layout)
        for tensor in target.layout.tensors:
            source, grown = sources[tensor.name], larger.get(tensor.parameter)
            if source is not None and grown is not None and source.shape == tensor.shape != tuple(grown.shape):
                yield tensor, source

    def _patches(self, tensor: TensorSpec, source: SourceTensor) -> tuple[RowMapping, Scheme | None, str, str]:
        """Return what becomes of the projection of patches: what is kept, the scheme of the rest, why, the claim."""
        before, after = source.shape[1], tensor.shape[1]
        if source.shape[2:] != tensor.shape[2:]:
            if before != after:
                raise PlanError(f"{option('patch_size')} and {option('num_channels')}: one after the other, by itself")
            scheme = PiResize(source.shape[2:], tensor.shape[2:], source.name)
            return (
                Nothing(),
                scheme,
                "gives a stretched patch what the old one gave",
                no_claim("patches are of another size"),
            )
        how = self.channels or ("sum" if after < before else "")
        if isinstance(how, str) and how:
            if how == "sum" and after != 1:
                raise PlanError(
                    f"{option('channels')}: {before} channels can be summed into 1, not into {after}; name them"
                )
            mixed = no_claim(
                "channels are summed: the same for grey images" if how == "sum" else "channels are repeated"
            )
            return Nothing(), MixChannels(how, source.name), f"of the old channels: {how}", mixed
        named = [COLOURS.index(each) if each in COLOURS else each for each in how] or [*range(before)]
        index = tuple(each if isinstance(each, int) else None for each in (*named, *[None] * (after - len(named))))
        if outside := [each for each in index if each is not None and each >= before]:
            raise PlanError(f"{option('channels')}: the base has channels 0 to {before - 1}, and no {outside[0]}")
        leads = index[:before] == tuple(range(before)) and not any(each is not None for each in index[before:])
        claim = EXACT if leads else no_claim("the channels are others than the base's")
        return RowMap(index, 1, drop=bool(how)), Zeros(), "0: a new channel changes nothing at first", claim


def _parse_channels(given: object) -> str | tuple[int | str | None, ...]:
    """Return how channels start, from ``"R,G,B,new"``, a list, ``"sum"`` or ``"repeat"``."""
    if given is None or given in CHANNELS:
        return given or ()
    items = [each.strip() for each in given.split(",")] if isinstance(given, str) else given
    parsed: list[int | str | None] = []
    for each in items if isinstance(items, (list, tuple)) and items else [...]:
        number = int(each) if isinstance(each, str) and each.isdecimal() else each
        if isinstance(number, str) and number in (*COLOURS, "new"):
            parsed.append(None if number == "new" else number)
        elif isinstance(number, int) and not isinstance(number, bool) and number >= 0:
            parsed.append(number)
        else:
            raise PlanError(f"{option('channels')}: expected 'R,G,B,new', numbers, 'sum' or 'repeat', not {given!r}")
    return tuple(parsed)


def _image_paths(config: PreTrainedConfig, values: Mapping[str, object]) -> dict[str, str]:
    """Return the path of each value in a config."""
    parts = list(nested_configs(config))
    found = {n: next(filter(None, (path_of(part, config, (n,)) for part in parts)), None) for n in values}
    if missing := [name for name, path in found.items() if path is None]:
        raise PlanError(f"{option(missing[0])}: the config of a {config.model_type} has no such value")
    return {name: path for name, path in found.items() if path is not None}


def _pair(value: object) -> tuple[int, int]:
    """Return the two sides that a number or two are; 0 where there is none."""
    first, last = (value[0], value[-1]) if isinstance(value, (list, tuple)) else (value, value)
    return first if isinstance(first, int) else 0, last if isinstance(last, int) else 0


def _image_size(config: PreTrainedConfig, name: str) -> object:
    return next((vars(part)[name] for part in nested_configs(config) if vars(part).get(name) is not None), None)


def _patch_grid(config: PreTrainedConfig) -> tuple[int, int]:
    """Return how many patches an image has, down and across."""
    (height, width), (down, across) = _pair(_image_size(config, "image_size")), _pair(_image_size(config, "patch_size"))
    return (height // down, width // across) if down and across else (0, 0)


def _grid_rows(
    tensor: TensorSpec, source: SourceTensor, before: PreTrainedConfig, after: PreTrainedConfig
) -> tuple[RowMapping, Scheme]:
    """Return the rows before the grid, which are kept, and the scheme of the grid's."""
    old, new, dim = _patch_grid(before), _patch_grid(after), len(tensor.shape) - 2
    if 0 in (*old, *new):
        why = "the config doesn't say how large a patch is" if 0 in old else "no patch fits into such an image"
        raise PlanError(f"{option('image_size')}: {why}, so the grid of {tensor.name} isn't known")
    prefix = source.shape[dim] - old[0] * old[1]
    if not 0 <= prefix < 17 or tensor.shape[dim] - new[0] * new[1] != prefix:
        raise PlanError(
            f"{tensor.name}: {source.shape[dim]} rows for a grid of {old[0]}x{old[1]} and {tensor.shape[dim]} for one "
            f"of {new[0]}x{new[1]}: what stands before the grid can't be told; say it: {option('keep')}"
        )
    index = (*range(prefix), *[None] * (tensor.shape[dim] - prefix))
    return RowMap(index, dim, drop=True), Resample("bicubic", prefix, old, new, source.name)


def _own_way(target: Target, base: PreTrainedConfig, paths: Mapping[str, str]) -> str:
    """Return the claim of interpolated positions: whether the class, shown a larger image, does what the scheme does.

    It is seen in a forward on meta with the base's own values.
    """
    before = target.rebuilt(copy_config(target.config, {path: value_at(base, path) for path in paths.values()}))
    runs = [steps_of(before, shown)[0] for shown, _ in paired_inputs(before, target.model)]
    grid = _patch_grid(base)
    seen = [step for steps in runs for step in steps if "upsample" in step.name and step.shapes[0][-2:] == grid]
    if not seen:
        return no_claim("the class isn't seen to interpolate its positions")
    others = [step for step in seen if step.name != "upsample_bicubic2d" or any(map(_is_other, step.settings))]
    return no_claim(f"the class interpolates by {others[0].name}") if others else INTERPOLATION


def _is_other(setting: object) -> bool:
    """Return whether an interpolation with this setting isn't one by size alone, with corners that aren't aligned."""
    return setting is True or isinstance(setting, float)


def _write_processor(before: PreTrainedConfig, after: PreTrainedConfig, folder: Path) -> None:
    """Write the processor's size and its mean and spread of each channel, where they are the base's."""
    path = folder / "preprocessor_config.json"
    if not path.is_file():
        return
    settings = json.loads(path.read_text(encoding="utf-8"))
    (height, width), (new_height, new_width) = (
        _pair(_image_size(before, "image_size")),
        _pair(_image_size(after, "image_size")),
    )
    names = {"height": (height, new_height), "width": (width, new_width), "shortest_edge": (height, new_height)}
    for key in ("size", "crop_size"):
        value = settings.get(key)
        if isinstance(value, int) and value == height:
            settings[key] = new_height
        elif isinstance(value, dict):
            settings[key] = {n: names[n][1] if n in names and names[n][0] == v else v for n, v in value.items()}
    old, new = _image_size(before, "num_channels"), _image_size(after, "num_channels")
    for key in ("image_mean", "image_std"):
        value = settings.get(key)
        if isinstance(value, list) and isinstance(old, int) and isinstance(new, int) and len(value) == old != new:
            mean = sum(value) / len(value)
            settings[key] = [*value, *[mean] * new][:new] if new > old else [mean] * new
    path.write_text(json.dumps(settings, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
