"""New blocks in a pretrained stack: what closes each, seen on the class, and what the plan may then claim."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from transformers import PreTrainedModel

from hf_init._architecture import Target
from hf_init._block_names import stack_blocks, stack_of
from hf_init._function import Known, block_outputs
from hf_init._growth.closers import CLOSERS, NORMS, PROJECTIONS, close, constant_of
from hf_init._plan import Plan, sources_of
from hf_init._roles import matches
from hf_init._tensors import Status, TensorSpec
from hf_init._text import join_names
from hf_init.schemes import NearIdentity, Repeat, Scheme

CLOSED = "closed: the new block gives back what it gets"
NEAR = "a norm of the sum ends each branch, which nothing closes: nearly the identity"
OPEN = "zero: what writes into the residual stream; the rest of the block isn't known to be closed"


@dataclass(frozen=True)
class NewBlocks:
    """The new blocks of a target.

    Attributes:
        model: one of the target's own on meta, for runs.
    """

    target: Target
    model: PreTrainedModel

    @cached_property
    def tensors(self) -> Mapping[str, Sequence[TensorSpec]]:
        """Return the tensors of each new block, by its path in memory."""
        stacks = self.target.blocks.items()
        return {path: self._tensors(path) for stack, blocks in stacks for path in (f"{stack}{k}" for k in blocks.new)}

    @cached_property
    def _closed(self) -> Mapping[str, Mapping[str, Scheme]]:
        """Return the blocks that can be closed, by path, each with what closes it, by the tensor's name on disk."""
        closed: dict[str, Mapping[str, Scheme]] = {}
        for way in CLOSERS:
            trial = {path: close(tensors, way) for path, tensors in self.tensors.items() if path not in closed}
            outputs = self._outputs({path: schemes for path, schemes in trial.items() if schemes})
            closed |= {path: trial[path] for path, output in outputs.items() if output == "input"}
        return closed

    def schemes(self) -> dict[str, tuple[Scheme, str]]:
        """Return what closes the blocks: a scheme and its reason, by the tensor's name on disk."""
        closed = self._closed
        chosen = {name: (scheme, CLOSED) for schemes in closed.values() for name, scheme in schemes.items()}
        left = {path: tensors for path, tensors in self.tensors.items() if path not in closed}
        outputs = self._outputs({path: close(tensors, NORMS) for path, tensors in left.items()})
        for path, tensors in left.items():
            near = dict(self._near_identity(path)) if outputs.get(path) == 0 else {}
            schemes = {**near, **close(tensors, PROJECTIONS)}
            chosen |= {name: (scheme, NEAR if near else OPEN) for name, scheme in schemes.items()}
        return chosen

    def copies(self) -> Iterator[tuple[str, tuple[Scheme, str]]]:
        """Yield each tensor of the new blocks, made as that of the block that is likest, with a reason."""
        held = sources_of(self.target.source, self.target.layout)
        for path, tensors in self.tensors.items():
            stack, _, number = path.rpartition(".")
            blocks = self.target.blocks[f"{stack}."]
            template = blocks.templates[int(number)]
            place = None if template is None else next(iter(blocks.places(template)), None)
            like = {t.name: held[t.name] for t in self._tensors(f"{stack}.{place}")}
            for tensor in tensors if like else ():
                block = next(block for block in stack_blocks(tensor.name) if block.split(".")[-2] == number)
                name = f"{stack_of(block)}{place}.{tensor.name.removeprefix(block)}"
                if (source := like.get(name)) is not None and source.shape == tensor.shape:
                    yield tensor.name, (Repeat(table=source.name), f"a copy of block {template} of the base")

    def claims(self, plan: Plan) -> Iterator[str]:
        """Yield what keeps the new blocks of a finished plan from giving back what they get."""
        fills = {tensor.name: tensor.new for tensor in plan.tensors if tensor.status is Status.NEW}
        planned = {
            path: {tensor.name: fills[tensor.name][0].scheme for tensor in tensors if tensor.name in fills}
            for path, tensors in self.tensors.items()
        }
        for path, schemes in self._closed.items():
            if schemes.items() <= planned[path].items():  # seen already
                del planned[path]
        outputs = self._outputs(planned)
        changing = [path for path, output in outputs.items() if output != "input"]
        if changing:
            yield f"{join_names(changing)} {'change' if len(changing) > 1 else 'changes'} what passes through"
        if unseen := [path for path in planned if path not in outputs]:
            yield f"what {join_names(unseen)} gives back can't be seen without values"

    def _outputs(self, schemes: Mapping[str, Mapping[str, Scheme]]) -> dict[str, Known]:
        """Return what is known of the blocks' outputs under schemes, by block and by the tensor's name on disk.

        A parameter is made of several tensors, perhaps; it is a constant if all of them are.
        """
        parameters: dict[str, float] = {}
        for path, chosen in schemes.items():
            values: dict[str, set[float | None]] = {}
            for tensor in self.tensors[path]:
                value = constant_of(chosen[tensor.name]) if tensor.name in chosen else None
                values.setdefault(tensor.parameter, set()).add(value)
            parameters |= {name: only for name, (only, *more) in values.items() if only is not None and not more}
        return block_outputs(self.model, schemes, parameters) if schemes else {}

    def _tensors(self, path: str) -> list[TensorSpec]:
        """Return the tensors of a block, in the order of the class."""
        order = {name: place for place, name in enumerate(self.target.model.state_dict())}
        tensors = [tensor for tensor in self.target.layout.tensors if tensor.parameter.startswith(f"{path}.")]
        return sorted(tensors, key=lambda tensor: order.get(tensor.parameter, 0))

    def _near_identity(self, path: str) -> Iterator[tuple[str, Scheme]]:
        """Yield the norms of a block that nothing closes, made after the last norm of a block before it."""
        stack, _, number = path.rpartition(".")
        sources = self.target.blocks[f"{stack}."].sources
        kept = [block for block, source in enumerate(sources) if source is not None]
        before = max((block for block in kept if block < int(number)), default=kept[0])
        held = sources_of(self.target.source, self.target.layout)
        last = {
            part: source.name
            for tensor in self._tensors(f"{stack}.{before}")
            for part in ("weight", "bias")
            if matches(tensor.role, f"norm.{part}") and (source := held[tensor.name]) is not None
        }
        for tensor in self.tensors[path] if "weight" in last else ():
            for part, role in (("gain", "norm.weight"), ("shift", "norm.bias")):
                if matches(tensor.role, role):
                    yield tensor.name, NearIdentity(part, last["weight"], last.get("bias", ""))
