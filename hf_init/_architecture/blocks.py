"""What surrounds a tensor: rules that see a whole block at once and say what its parts are.

A rule looks at one module and labels paths below it: a layer's, without ``.weight``, or a bare tensor's.
A new block is a row in ``_names``; a new kind of block is a function in ``RULES``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from torch import nn

from hf_init._architecture import names as _names
from hf_init._architecture.geometry import halves, interleaved, lineage, linear, thirds
from hf_init._architecture.tree import ModuleTree, TreePlace
from hf_init._tensors import Geometry, Shape


@dataclass(frozen=True)
class RoleLabel:
    """What a block says of one of its parts: its role, and its logical matrix where the block knows better."""

    role: str
    geometry: Geometry | None = None


RoleLabels: TypeAlias = Mapping[str, RoleLabel]
BlockPattern: TypeAlias = Iterator[tuple[str, RoleLabel]]


def labels_of(tree: ModuleTree) -> RoleLabels:
    """Return every label that the rules give; of two for one path the first, the one of the outer block, holds."""
    found: dict[str, RoleLabel] = {}
    for place in tree.places.values():
        for rule in RULES if place.children or not place.path else LEAVES:
            for path, label in rule(place):
                found.setdefault(path, label)
    return found


def vocabulary(place: TreePlace) -> BlockPattern:
    """Yield the labels of the embeddings that a model of the library names itself, and language-model heads by name."""
    for name in _names.OUTPUT_EMBEDDINGS.intersection(place.children):
        yield place.at(name), RoleLabel("output_embedding")
    if place.path:
        return
    tokens, head = _answer_of(place.module, "get_input_embeddings"), _answer_of(place.module, "get_output_embeddings")
    for path, module in place.tree.modules.items():
        if module is tokens and "Embedding" in lineage(module):
            yield path, RoleLabel("embedding.token")
        elif module is head:
            yield path, RoleLabel("output_embedding")


def _answer_of(model: nn.Module, method: str) -> object:
    """Return what the model answers, or None where it has no such method or no answer."""
    try:
        return getattr(model, method)()
    except (AttributeError, NotImplementedError, TypeError):
        return None


def multihead(place: TreePlace) -> BlockPattern:
    """Yield the labels of torch's own MultiheadAttention."""
    if "MultiheadAttention" not in lineage(place.module):
        return
    for name, role in _names.MULTIHEAD.items():
        shape = place.shape(name)
        whole = linear(place.module, shape) if len(shape) == 2 else None
        yield place.at(name), RoleLabel(role, thirds(whole, None) if whole and name == "in_proj_weight" else whole)


def attention(place: TreePlace) -> BlockPattern:
    """Yield the labels of query, key, value and output, separate or fused, of a module that has them all."""
    layers: dict[str, tuple[str, Geometry]] = {}
    for name in (name for name in place.children if name in _names.ATTENTION):
        for inner in (name, f"{name}.0", f"{name}.dense", f"{name}.linear"):  # a dense layer, or what holds one first
            if whole := place.matrix(inner):
                layers[place.at(inner)] = (_names.ATTENTION[name], whole)
                break
    roles = {role for role, _ in layers.values()}
    if "attention.query" in roles:  # a fused tensor beside a query of its own holds the other two
        layers = {path: (role.replace("qkv", "kv"), whole) for path, (role, whole) in layers.items()}
        roles = {role for role, _ in layers.values()}
    if not any(whole <= roles for whole in _names.WHOLE):
        return
    beside = place.parent if "attention.output" not in roles else None
    if beside is not None and "intermediate" not in beside.children:  # BERT's; in a whole layer, the feed-forward's
        found = ((beside.at(name), beside.matrix(name)) for name in _names.OUTPUT_BESIDE)
        layers |= next(({path: ("attention.output", whole)} for path, whole in found if whole), {})
    width = next((whole.fan_in for role, whole in layers.values() if role == "attention.output"), None)
    for path, (role, whole) in layers.items():
        geometry = _cut_projection(place, path, role, whole, width)
        if geometry is not None:
            yield path, RoleLabel(role, geometry)


def _cut_projection(place: TreePlace, path: str, role: str, whole: Geometry, width: int | None) -> Geometry | None:
    """Return the matrix of a projection, cut where several are fused; None where their sizes don't add up."""
    if role == "attention.kv":
        fused = halves(whole)
        by_head = path.rpartition(".")[2] in _names.KEY_VALUE_BY_HEAD
        return interleaved(fused, width) if fused and by_head else fused
    if role != "attention.qkv":
        return whole
    fused = thirds(whole, width)
    if fused is None or _names.INTERLEAVED.isdisjoint(lineage(place.module)):
        return fused
    one_key_head = fused.parts[-1] == getattr(place.module, "head_dim", None)
    return fused if one_key_head else interleaved(fused)


def feed_forward(place: TreePlace) -> BlockPattern:
    """Yield the labels of up and down, with or without a gate, whose sizes fit each other.

    What leads from one model into another adds to no residual stream: its layers are dense ones like others.
    """
    for gate, up, down in _names.MLP if place.children and place.name not in _names.BETWEEN_MODELS else ():
        first = place.matrix(up) if up.partition(".")[0] in place.children else None
        last = place.matrix(down) if first is not None else None
        if first is None or last is None or first.fan_in != last.fan_out:
            continue
        if first.fan_out not in (last.fan_in, 2 * last.fan_in) or (gate and place.matrix(gate) != first):
            continue
        block = "expert" if last.stack or "experts" in place.path.split(".") else "mlp"
        fused = first.fan_out != last.fan_in
        yield place.at(up), RoleLabel(f"{block}.gate_up", halves(first)) if fused else RoleLabel(f"{block}.up")
        yield place.at(down), RoleLabel(f"{block}.down")
        if gate:
            yield place.at(gate), RoleLabel(f"{block}.gate")
        return


def mixer(place: TreePlace) -> BlockPattern:
    """Yield the label of the projection that ends a mixer with a convolution: it writes into the residual stream."""
    for conv, output in _names.MIXERS:
        if {conv, output} <= set(place.children) and place.matrix(output):
            yield place.at(output), RoleLabel("mixer.output")


def experts(place: TreePlace) -> BlockPattern:
    """Yield the labels of the experts of a mixture in 3-D tensors, in either order."""
    shapes = {name: shape for name in _names.EXPERTS if place.tensors and len(shape := place.shape(name)) == 3}
    down = shapes.get("down_proj")
    if down is None or len(shapes) < 2:
        return
    order = _expert_order(place.module, next(iter(shapes.values())), down)
    for name, shape in shapes.items() if order else ():
        fan_out, fan_in = shape[1:] if order == "out_in" else shape[:0:-1]
        matrix: Geometry | None = Geometry(fan_in, fan_out, order=str(order), stack=1)
        if name == "gate_up_proj" and (matrix := halves(matrix)):
            in_blocks = getattr(place.module, "is_concatenated", _names.TAKING_TURNS.isdisjoint(lineage(place.module)))
            matrix = matrix if in_blocks else interleaved(matrix)
        yield place.at(name), RoleLabel(f"{_names.EXPERTS[name]}.weight", matrix)
        yield place.at(f"{name}_bias"), RoleLabel(f"{_names.EXPERTS[name]}.bias")


def _expert_order(module: nn.Module, up: Shape, down: Shape) -> str | None:
    """Return how experts are stored: by the shapes where gate and up are fused, else by the module itself."""
    out_in = up[2] == down[1] and up[1] in (down[2], 2 * down[2])
    in_out = up[1] == down[2] and up[2] in (down[1], 2 * down[1])
    if out_in and in_out:
        by_class = not _names.STORED_IN_OUT.isdisjoint(lineage(module))
        return "in_out" if getattr(module, "is_transposed", by_class) else "out_in"
    return "out_in" if out_in else "in_out" if in_out else None


def flat_experts(place: TreePlace) -> BlockPattern:
    """Yield the labels of DBRX's experts, one below the other; its down matrices are read transposed."""
    gate, up, down = _names.FLAT_EXPERTS
    shape, count = place.shape(gate), getattr(place.module, "moe_num_experts", 0)
    if len(shape) != 2 or not count or not shape == place.shape(up) == place.shape(down):
        return
    size = shape[0] // count
    whole = Geometry(fan_in=shape[1], fan_out=size, parts=(size,) * count)
    yield place.at(gate), RoleLabel("expert.gate.weight", whole)
    yield place.at(up), RoleLabel("expert.up.weight", whole)
    yield place.at(down), RoleLabel("expert.down.weight", Geometry(fan_in=size, fan_out=shape[1], order="in_out"))


def router(place: TreePlace) -> BlockPattern:
    """Yield the labels of everything in what chooses among the experts beside it, or is called a router."""
    chosen = _names.ROUTERS.intersection(place.children) if "experts" in place.children else ()
    starts = [place.go(name) for name in chosen]
    if lineage(place.module)[0].endswith("Router"):
        starts.append(place)
    yield from ((inner.path, RoleLabel("router")) for start in starts for inner in start.below())


def residual_norm(place: TreePlace) -> BlockPattern:
    """Yield the labels of the last norm of a residual branch."""
    for pair in _names.RESIDUAL_NORMS:
        if set(pair) <= set(place.children):
            yield from ((place.at(name), RoleLabel("residual")) for name in pair)
    if {"layer", "shortcut"} <= set(place.children):  # ResNet and RegNet of transformers
        count = len(place.go("layer").children)
        yield place.at(f"layer.{count - 1}.normalization"), RoleLabel("residual")
    elif "bn2" in place.children and hasattr(place.module, "downsample"):  # ResNet of torchvision and timm
        yield place.at("bn3" if "bn3" in place.children else "bn2"), RoleLabel("residual")


RULES: tuple[Callable[[TreePlace], BlockPattern], ...] = (
    vocabulary,
    multihead,
    router,
    attention,
    mixer,
    feed_forward,
    experts,
    flat_experts,
    residual_norm,
)
LEAVES = (router, experts, flat_experts)
"""The rules that have something to say of a module without children."""
