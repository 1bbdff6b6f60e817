"""Images and spectrograms of other sizes, patches, windows, channels; by the base's own interpolation if it has one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial

from transformers import PreTrainedConfig

from hf_init._architecture import Target, copy_config, nested_configs
from hf_init._change import Change, ChangePlan, TargetContext, TargetRequest
from hf_init._checkpoint import BaseCheckpoint
from hf_init._errors import PlanError, option
from hf_init._function import failure_on_meta
from hf_init._growth.axis import changed_tensors, other_values, other_ways, own_target, path_of, planned_fills, value_at
from hf_init._growth.grids import grid_rows, own_way, pair, patch_grid
from hf_init._growth.processor import BINS, write_processor
from hf_init._plan import EXACT, Nothing, RowMap, RowMapping, no_claim, sources_of, weakest_claim
from hf_init._roles import matches
from hf_init._tensors import SourceTensor, TensorSpec
from hf_init.schemes import MixChannels, PiResize, Scheme, Zeros

COLOURS = ("R", "G", "B")
CHANNELS = ("sum", "repeat")
SIZES = ("image_size", "patch_size", "num_channels", "window_size", "num_mel_bins")
NUMBERS = ("num_channels", "num_mel_bins")
"""Those of which there is one alone; of the others there may be one down and one across."""
INDEX = "relative_position_index"
"""What a class makes of the size of its windows; files of earlier versions hold it, and some still do."""


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
            sides = value if isinstance(value, (list, tuple)) and name not in NUMBERS else [value]
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
        values = {paths[name]: value for name, value in self.values.items()}
        return request.with_values({**values, **_trained_windows(own.config, paths)})

    def plan(self, context: TargetContext) -> ChangePlan:
        target, base = context.target, context.target.base_config
        if base is None:
            return ChangePlan()
        paths = _image_paths(base, self.values)
        own = {path: value_at(base, path) for path in (*paths.values(), *_trained_windows(base, paths))}
        keep: dict[str, RowMapping] = {}
        schemes: dict[str, tuple[Scheme, str]] = {}
        windows = paths.get("window_size")
        wider = windows is not None and value_at(target.config, windows) != own[windows]
        claims = [no_claim("attention sees windows of another size")] if wider else []
        read = [tensor.name for tensor in target.source if tensor.ignored and tensor.name.endswith(INDEX)]
        for tensor, source in (*changed_tensors(target), *self._reordered(target, paths)):
            if any(matches(tensor.role, f"embedding.{kind}") for kind in ("position", "relative")):
                keep[tensor.name], scheme = grid_rows(tensor, source, base, target.config)
                schemes[tensor.name] = scheme, "the old positions, interpolated"
                claims += [] if claims else [own_way(target, base, paths, scheme)]
            elif matches(tensor.role, "conv.weight") and len(tensor.shape) > 2 and tensor.shape[0] == source.shape[0]:
                keep[tensor.name], scheme, why, claim = self._patches(tensor, source)
                claims.append(claim)
                read.append(source.name)
                if scheme is not None:
                    schemes[tensor.name] = scheme, why
            elif tensor.name.endswith(INDEX):
                keep[tensor.name] = Nothing()
                read.append(source.name)
        _check_still_runs(target, own, "; every grid has to be as large as a window" if wider else "")
        if not any(claim != EXACT for claim in claims):
            claims += map(no_claim, other_ways(target, own, inputs_follow="num_channels" in self.values))
        return ChangePlan(
            keep=keep,
            fills=partial(planned_fills, schemes),
            notes=tuple(f"{path}: {was} -> {value_at(target.config, path)}" for path, was in own.items()),
            new=frozenset(keep),
            drop=frozenset(read),
            claim=lambda plan: other_values(plan, schemes) or weakest_claim(claims),
            config=frozenset(own),
            write=partial(write_processor, base, target.config),
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
        if len(tensor.shape) == 3:  # over time, a channel for each bin
            scheme = PiResize(source.shape[1:], tensor.shape[1:], source.name)
            return (
                Nothing(),
                scheme,
                "gives stretched features what the old ones gave",
                no_claim("features have other bins: the same for stretched ones"),
            )
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
    words = {name: BINS if name in BINS else (name,) for name in values}
    found = {n: next(filter(None, (path_of(part, config, words[n]) for part in parts)), None) for n in values}
    if missing := [name for name, path in found.items() if path is None]:
        raise PlanError(f"{option(missing[0])}: the config of a {config.model_type} has no such value")
    return {name: path for name, path in found.items() if path is not None}


def _check_still_runs(target: Target, own: Mapping[str, object], hint: str) -> None:
    """Refuse sizes with which a model doesn't run on what is of its own size, where the base's does."""
    failure = failure_on_meta(target.build())
    if failure and not failure_on_meta(target.rebuilt(copy_config(target.config, own))):
        sizes = ", ".join(f"{path}={value_at(target.config, path)!r}" for path in own)
        raise PlanError(f"a {target.cls.__name__} with {sizes} doesn't run: {failure}{hint}")


def _trained_windows(config: PreTrainedConfig, paths: Mapping[str, str]) -> dict[str, object]:
    """Return the windows, by path, that SwinV2 measures its distances by: those that it was trained with."""
    path = "pretrained_window_sizes"
    if "window_size" not in paths or not isinstance(known := getattr(config, path, None), (list, tuple)):
        return {}
    window, grid = pair(value_at(config, paths["window_size"]))[0], min(patch_grid(config))
    return {path: [each or min(window, grid // 2**stage) for stage, each in enumerate(known)]}
