"""Grids of positions: their sides by the config, rows stretched from one to another, and whether the class does so."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import prod

from transformers import PreTrainedConfig

from hf_init._architecture import Target, copy_config, nested_configs
from hf_init._errors import PlanError, option
from hf_init._function import paired_inputs, steps_of
from hf_init._growth.axis import value_at
from hf_init._plan import INTERPOLATION, RowMap, no_claim
from hf_init._roles import matches
from hf_init._tensors import SourceTensor, TensorSpec
from hf_init.schemes import Resample

MOST_ROWS = 16
"""How many rows stand beside a grid at most: of class tokens, registers, distances to such."""


def pair(value: object) -> tuple[int, int]:
    """Return the two sides that a number or two are; 0 where there is none."""
    first, last = (value[0], value[-1]) if isinstance(value, (list, tuple)) and value else (value, value)
    return first if isinstance(first, int) else 0, last if isinstance(last, int) else 0


def image_value(config: PreTrainedConfig, name: str) -> object:
    """Return the first value of this name in a config and those nested in it."""
    return next((vars(part)[name] for part in nested_configs(config) if vars(part).get(name) is not None), None)


def patch_grid(config: PreTrainedConfig) -> tuple[int, int]:
    """Return how many patches an image has, down and across; of a spectrogram over bins and time."""
    (height, width), (down, across) = pair(image_value(config, "image_size")), pair(image_value(config, "patch_size"))
    steps = [pair(image_value(config, f"{name}_stride"))[0] for name in ("frequency", "time")]
    if all(steps):
        bins, frames = (pair(image_value(config, name))[0] for name in ("num_mel_bins", "max_length"))
        return (bins - down) // steps[0] + 1, (frames - across) // steps[1] + 1
    return (height // down, width // across) if down and across else (0, 0)


def grid_rows(
    tensor: TensorSpec, source: SourceTensor, before: PreTrainedConfig, after: PreTrainedConfig
) -> tuple[RowMap, Resample]:
    """Return the rows beside the grid, which are kept, and the scheme of the grid's.

    Raises:
        PlanError: the sides of the grid, or what stands beside it, can't be told from the config.
    """
    dim, relative = len(tensor.shape) - 2, matches(tensor.role, "embedding.relative")
    rows, more = source.shape[dim], tensor.shape[dim]
    grids = [*zip(_grids(before, relative), _grids(after, relative), strict=True)]
    known = [(mode, old, new) for (mode, old), (_, new) in grids if min(*old, *new) > 0]
    if not known:
        why = "the config doesn't say how large a patch is"
        if any(min(old) > 0 for (_, old), _ in grids):
            why = "no patch fits into such an image"
        raise PlanError(f"{option('image_size')}: {why}, so the grid of {tensor.name} isn't known")
    fits = (each for each in known if 0 <= rows - prod(each[1]) == more - prod(each[2]) <= MOST_ROWS)
    if (found := next(fits, None)) is None:
        _, old, new = known[0]
        raise PlanError(
            f"{tensor.name}: {rows} rows for a grid of {old[0]}x{old[1]} and {more} for one of {new[0]}x{new[1]}: what "
            f"stands before the grid can't be told; say it: {option('keep')}"
        )
    mode, old, new = found
    beside = rows - prod(old)
    first = 0 if relative else beside
    last = range(rows - beside + first, rows)
    index = (*range(first), *[None] * prod(new), *last)
    return RowMap(index, dim, drop=True), Resample(mode, first, len(last), old, new, source.name)


def _grids(config: PreTrainedConfig, relative: bool) -> Iterator[tuple[str, tuple[int, int]]]:
    """Yield the grids that a table may have the rows of, each with how it is stretched.

    Relative positions go from one end to the other and back: of a window (Swin), or of the image (BEiT, whose class
    stretches them so itself).
    """
    if not relative:
        yield "bicubic", patch_grid(config)
        return
    for mode, (down, across) in (
        ("bicubic", pair(image_value(config, "window_size"))),
        ("bilinear", patch_grid(config)),
    ):
        yield mode, (max(0, 2 * down - 1), max(0, 2 * across - 1))


def own_way(target: Target, base: PreTrainedConfig, paths: Mapping[str, str], scheme: Resample) -> str:
    """Return the claim of a stretched grid: whether the class, shown a larger image, does what the scheme does.

    It is seen in a forward on meta with the base's own values.
    """
    before = target.rebuilt(copy_config(target.config, {path: value_at(base, path) for path in paths.values()}))
    runs = [steps_of(before, shown)[0] for shown, _ in paired_inputs(before, target.model)]
    grids = (tuple(scheme.before), tuple(scheme.after))
    upward = (step for steps in runs for step in steps if "upsample" in step.name)
    seen = [step for step in upward if step.shapes[0][-2:] == grids[0] and step.shapes[-1][-2:] == grids[1]]
    if not seen:
        return no_claim("the class isn't seen to interpolate its positions")
    name = f"upsample_{scheme.mode}2d"  # by size alone (no factor), with corners that aren't aligned (no True)
    others = [
        step
        for step in seen
        if step.name != name or any(each is True or isinstance(each, float) for each in step.settings)
    ]
    return no_claim(f"the class interpolates by {others[0].name}") if others else INTERPOLATION
