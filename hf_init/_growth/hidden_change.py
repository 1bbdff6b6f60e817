"""Hidden size: every unit comes several times, and what reads the units shares its weights among the copies."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

from hf_init._architecture import Target
from hf_init._change import Change, ChangePlan, TargetContext, TargetRequest
from hf_init._checkpoint import BaseCheckpoint
from hf_init._errors import PlanError, option
from hf_init._growth.axis import (
    changed_tensors,
    followers,
    other_values,
    other_ways,
    own_target,
    part_sizes,
    planned_fills,
    value_at,
    width_of,
    width_path,
)
from hf_init._growth.depths import parent_of
from hf_init._plan import ROUNDING, Nothing, RowMap, RowMapping, no_claim, weakest_claim
from hf_init._roles import matches
from hf_init._tensors import SourceTensor, TensorSpec
from hf_init._text import join_names
from hf_init.schemes import Repeat, Scheme

HIDDEN = ("hidden_size", "n_embd", "d_model", "dim")
HEADS = (
    "num_attention_heads", "num_key_value_heads", "n_head", "n_heads", "num_heads", "num_kv_heads",
    "encoder_attention_heads", "decoder_attention_heads", "word_embed_proj_dim",
)  # fmt: skip
"""What grows with the hidden size where the size of a head is their quotient, so that it stays; and OPT's table."""
MATRICES = ("attention", "mlp", "expert", "router", "linear", "conv", "mixer.output", "output_embedding")
ALIKE = "the copies of a unit learn alike until something, such as dropout, tells them apart"
VECTORS = ("norm", "norm_plus_one", "layer_scale", "token", "embedding.token", "embedding.position",
           "embedding.token_type")  # fmt: skip


@dataclass(frozen=True)
class HiddenChange(Change):
    """The hidden size that the user wants: a multiple of the base's.

    Attributes:
        name: of the config value. wanted: a number, or a factor such as ``"x2"``.
    """

    name: str
    wanted: object

    OPTIONS = ("widen",)

    @classmethod
    def of(cls, base: BaseCheckpoint, options: Mapping[str, object]) -> HiddenChange | None:
        widths = options.get("widen")
        given = [str(name) for name in widths] if isinstance(widths, Mapping) else []
        name = next((name for name in given if name.rpartition(".")[2] in HIDDEN), None)
        if name is None or not isinstance(widths, Mapping):
            return None
        if len(given) > 1:
            others = join_names([each for each in given if each != name])
            raise PlanError(f"{option('widen')}: {name} and {others}: one after the other, each by itself")
        return cls(name, widths[name])

    def retarget(self, request: TargetRequest) -> TargetRequest:
        own = own_target(request, "widen")
        path = width_path(own, (self.name,), "widen")
        before, part = value_at(own.config, path), parent_of(own.config, path)
        width = width_of(self.name, self.wanted, before)
        if not isinstance(before, int) or width % before or width == before:
            raise PlanError(
                f"{option('widen')} {self.name}: {width} is no multiple of the base's {before}; each hidden unit comes "
                "equally often, so that the model computes what it did"
            )
        prefix = path.rpartition(".")[0]
        followed: dict[str, object] = {
            name: count * (width // before)
            for name, count in vars(part).items()
            if name in HEADS and isinstance(count, int)
        }
        if ("head_dim" in vars(part) or "head_dim" in part.attribute_map) and part.head_dim:
            followed = {"head_dim": part.head_dim}
        paths = {f"{prefix}.{name}" if prefix else name: value for name, value in followed.items()}
        return request.with_values({path: width, **paths})

    def plan(self, context: TargetContext) -> ChangePlan:
        target, base = context.target, context.target.base_config
        if base is None:
            return ChangePlan()
        self._check_apart(target)
        path = width_path(target, (self.name,), "widen")
        prefix, after = path.removesuffix(path.rpartition(".")[2]), target.config
        names = [f"{prefix}{name}" for name in (*HEADS, "head_dim") if name in vars(parent_of(after, path))]
        own = {each: value_at(base, each) for each in (path, *names) if value_at(base, each) != value_at(after, each)}
        before, size = own[path], value_at(after, path)
        times = size // before if isinstance(before, int) and isinstance(size, int) else 1
        found = self._found(target, own, times, bool(context.keep))
        why = f"each unit {times} times, read by shares"
        schemes: dict[str, tuple[Scheme, str]] = {name: (each, why) for name, (_, each) in found.items() if each}
        claim = weakest_claim([ROUNDING, *map(no_claim, other_ways(target, own, factor=times))])
        return ChangePlan(
            keep={name: rows for name, (rows, _) in found.items()},
            fills=partial(planned_fills, schemes),
            notes=(f"{path}: {before} -> {size}; {ALIKE}",),
            new=frozenset(found),
            drop=frozenset(source.name for tensor, source in changed_tensors(target) if tensor.name in schemes),
            claim=lambda plan: other_values(plan, schemes) or claim,
            config=frozenset(own),
        )

    def _found(
        self, target: Target, own: Mapping[str, object], times: int, said: bool
    ) -> dict[str, tuple[RowMapping, Repeat | None]]:
        """Return what becomes of each tensor that follows, by its name on disk.

        Args:
            said: whether the user says what is kept of some.

        Raises:
            PlanError: none follows, or in a way that isn't known.
        """
        follow = followers(target, own)
        if not follow:
            raise PlanError(
                f"{option('widen')} {self.name}: no tensor of a {target.cls.__name__} changes shape with it"
            )
        changed = [pair for pair in changed_tensors(target) if pair[0].parameter in follow]
        found = {tensor.name: _repeated(tensor, source, target, times) for tensor, source in changed}
        unknown = [name for name, each in found.items() if each is None]
        if unknown and not said:
            raise PlanError(
                f"{option('widen')} {self.name}: {join_names(unknown)} would change in a way that isn't known: what is "
                "known are projections, norms and tables of embeddings"
            )
        return {name: each for name, each in found.items() if each is not None}

    def _check_apart(self, target: Target) -> None:
        """Raise if one matrix is written as an embedding and read as the output's.

        Raises:
            PlanError: then its values can't be whole for the one and shares for the other.
        """
        output = target.model.get_output_embeddings()
        if output is not None and output.weight is target.model.get_input_embeddings().weight:
            raise PlanError(
                f"{option('widen')} {self.name}: the output matrix is that of the embeddings, which hidden units are "
                f"written by and read by; give {option('untie')} with it"
            )


def _repeated(
    tensor: TensorSpec, source: SourceTensor, target: Target, times: int
) -> tuple[RowMapping, Repeat | None] | None:
    """Return what becomes of a tensor: rows copied, or values shared where units are read; None if it isn't known."""
    dims = [dim for dim, (old, new) in enumerate(zip(source.shape, tensor.shape, strict=True)) if old != new]
    geometry = tensor.geometry if any(matches(tensor.role, f"{role}.weight") for role in MATRICES) else None
    known = geometry or tensor.role.endswith(".bias") or any(matches(tensor.role, role) for role in VECTORS)
    if not known or any(source.shape[dim] * times != tensor.shape[dim] for dim in dims):
        return None
    if geometry and geometry.groups > 1:
        return None
    read = geometry.stack + (1 if geometry.order == "out_in" else 0) if geometry else None
    sizes = part_sizes(tensor, target)
    written = [dim for dim in dims if dim != read]
    parts = tuple(size // times for size in sizes) if written and sum(sizes) == tensor.shape[written[0]] else ()
    if len(written) > 1 or any(size % times for size in sizes if written):
        return None
    if read not in dims:
        rows: list[int] = []
        for size in parts or (source.shape[written[0]],):
            rows += [*range(len(rows) // times, len(rows) // times + size)] * times
        return RowMap(tuple(rows), written[0]), None
    repeats = tuple(times if dim in dims else 1 for dim in range(len(tensor.shape)))
    return Nothing(), Repeat(repeats, parts, written[0] if parts else 0, 1 / times, source.name)
