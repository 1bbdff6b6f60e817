"""Imports point strictly down the layers. ``python tests/test_imports.py`` prints the graph; house.py sees circles."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "hf_init"

# From the top down. A part is a module of hf_init or a room: a package of that name, with everything in it.
LAYERS = (
    ("__init__", "__main__"),
    ("cli",),
    ("_api",),
    ("_write",),
    ("_load", "_probe"),
    ("_prepare", "_check"),
    ("_multihead", "_drift", "_report"),
    ("_growth", "_heads", "_vocabulary", "finetune"),
    ("_change", "_distill", "_function", "_verify", "recipes"),
    ("_fill",),
    ("_signature",),
    ("_options",),
    ("_plan",),
    ("_architecture", "schemes"),
    ("_checkpoint", "_figure", "_shards"),
    ("_base_report", "_globs"),
    (
        "_block_names",
        "_errors",
        "_html",
        "_lazy",
        "_paths",
        "_progress",
        "_register",
        "_roles",
        "_statistics",
        "_tensors",
        "_text",
        "_version",
    ),
)
HEIGHT = {part: -depth for depth, layer in enumerate(LAYERS) for part in layer}
ONLY_IN = {
    "transformers": {
        "_architecture", "_change", "_check", "_distill", "_function", "_growth", "_heads", "_load", "_multihead",
        "_prepare", "_probe", "_vocabulary", "_write", "finetune",
    },
    "matplotlib": {"_figure", "_report", "_check", "_drift"},
}  # fmt: skip

PUBLIC_SUBMODULES = {
    "transformers.distributed.configuration_utils",
    "transformers.modeling_outputs",
    "transformers.utils",
}
"""Submodules of transformers that its documentation names; what else is public comes from ``transformers`` itself."""
TORCHS = {"_buffers", "_cdata", "_modules", "_parameters", "_schema"}
BESIDE_ARCHITECTURE = {
    "hf_init._register": {"_extra_content"},  # it must not import what imports torch
    "hf_init._multihead.configuration_multi_head": {"transformers.configuration_utils"},
    "hf_init._multihead.kinds_multi_head": {"transformers.models.auto", "_model_mapping"},
    "hf_init._multihead.modeling_multi_head": {"transformers.utils.generic"},
}
"""Private parts of transformers outside ``_architecture``: the files that travel with a result can't import hf_init."""

Sources = Mapping[str, str]
"""Module name (``hf_init._load.load``; a package by its own name) to source text."""


def read_sources(folder: Path = PACKAGE) -> dict[str, str]:
    return {_module_name(file, folder): file.read_text(encoding="utf-8") for file in sorted(folder.rglob("*.py"))}


def _module_name(file: Path, folder: Path) -> str:
    parts = file.relative_to(folder.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def part_of(module: str) -> str:
    """``hf_init._load.load`` is a piece of ``_load``; ``hf_init`` itself is ``__init__``."""
    return [*module.split("."), "__init__"][1]


def imports_of(module: str, sources: Sources, packages: frozenset[str]) -> set[str]:
    """Every module that this one imports when it runs, at its top or in a function; not for type checkers alone."""
    found: set[str] = set()
    base = module if module in packages else module.rpartition(".")[0]
    for node in _executed(ast.parse(sources[module])):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            origin = _origin(node, base)
            names = {f"{origin}.{alias.name}" for alias in node.names}
            found |= {name if name in sources else origin for name in names}
        elif isinstance(node, ast.Call) and (name := _imported_by_call(node)):
            found.add(name)
    return found


def _executed(tree: ast.AST) -> Iterator[ast.AST]:
    yield tree
    children = ast.iter_child_nodes(tree)
    if isinstance(tree, ast.If) and ast.unparse(tree.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
        children = iter(tree.orelse)
    for child in children:
        yield from _executed(child)


def _origin(node: ast.ImportFrom, base: str) -> str:
    """The absolute name of what ``from ... import`` imports from, written in a module of the package ``base``."""
    if node.level == 0:
        return node.module or ""
    parents = base.split(".")[: len(base.split(".")) - node.level + 1]
    return ".".join([*parents, *([node.module] if node.module else [])])


def _imported_by_call(node: ast.Call) -> str | None:
    """The name in ``import_module("name")`` and ``__import__("name")``, where it is written out."""
    called = ast.unparse(node.func).rpartition(".")[2]
    if called in ("import_module", "__import__") and node.args and isinstance(node.args[0], ast.Constant):
        return str(node.args[0].value)
    return None


def graph_of(sources: Sources) -> dict[str, set[str]]:
    packages = frozenset(name.rpartition(".")[0] for name in sources) | {"hf_init"}
    return {module: imports_of(module, sources, packages) for module in sources}


def violations(sources: Sources) -> list[str]:
    """One line for every import that doesn't point down, and for every module without a layer."""
    graph = graph_of(sources)
    unknown = [f"{module} is in no layer: give it one in LAYERS" for module in graph if part_of(module) not in HEIGHT]
    known = {module: names for module, names in graph.items() if part_of(module) in HEIGHT}
    wrong = [line for module, names in known.items() for name in sorted(names) if (line := _wrong(module, name))]
    return unknown + wrong


def _wrong(module: str, imported: str) -> str | None:
    here, root = part_of(module), imported.partition(".")[0]
    if root != "hf_init":
        owners = ONLY_IN.get(root, {here})
        return None if here in owners else f"{module} imports {imported}, which only {', '.join(sorted(owners))} may"
    there = part_of(imported)
    if here == there or there not in HEIGHT:
        return None
    if HEIGHT[there] >= HEIGHT[here]:
        return f"{module} imports {imported}, which is not below it"
    file = imported.split(".")[2:]
    if file and (there.startswith("_") or file[0].startswith("_")):
        return f"{module} imports {imported}, a file of another room; its door is hf_init.{there}"
    return None


def private_uses(sources: Sources) -> list[str]:
    """One line for every private part of transformers that another room than ``_architecture`` uses."""
    trees = {module: ast.parse(source) for module, source in sources.items()}
    private = {name for module, tree in trees.items() if part_of(module) == "_architecture" for name in _hidden(tree)}
    return [
        f"{module} uses {name}, a private part of transformers: only _architecture may"
        for module, tree in trees.items()
        if part_of(module) != "_architecture"
        for name in sorted({*_submodules(tree), *private.intersection(_hidden(tree))})
        if name not in BESIDE_ARCHITECTURE.get(module, ())
    ]


def _hidden(tree: ast.AST) -> Iterator[str]:
    """The attributes with an underscore that are asked of anything but the object itself, by name or by ``getattr``."""
    for node in ast.walk(tree):
        name = None
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) not in ("self", "cls", "super()"):
            name = node.attr
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("getattr", "hasattr") and len(node.args) > 1:
            name = ast.literal_eval(node.args[1]) if isinstance(node.args[1], ast.Constant) else None
        if name and name.startswith("_") and not name.startswith("__") and name not in TORCHS:
            yield name


def _submodules(tree: ast.AST) -> Iterator[str]:
    """What is imported of transformers and isn't public."""
    for node in ast.walk(tree):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import | ast.ImportFrom) else []
        modules = [node.module or ""] if isinstance(node, ast.ImportFrom) else names
        if modules and modules[0].partition(".")[0] == "transformers":
            yield from (m for m in modules if m != "transformers" and m not in PUBLIC_SUBMODULES)
            yield from (f"{modules[0]}.{name}" for name in names if name.startswith("_"))


def described(graph: Mapping[str, set[str]]) -> Iterator[str]:
    """One line a part, from the top down: what it imports of hf_init; then from outside the standard library."""
    for part in HEIGHT:
        modules = [module for module in graph if part_of(module) == part]
        names = {name for module in modules for name in graph[module]}
        inside = {part_of(name) for name in names if name.partition(".")[0] == "hf_init"} - {part}
        outside = {name.partition(".")[0] for name in names} - sys.stdlib_module_names - {"hf_init"}
        if modules:
            yield f"{part}: {_listed(inside)}; {_listed(outside)}"


def _listed(names: set[str]) -> str:
    return ", ".join(sorted(names, key=lambda name: (-HEIGHT.get(name, 0), name))) or "-"


def test_imports_point_down():
    assert violations(read_sources()) == []


def test_the_graph_sees_the_package():
    graph = graph_of(read_sources())
    assert {"hf_init", "hf_init.__main__", "hf_init._tensors", "hf_init._errors"} <= set(graph)
    assert "hf_init.cli" in graph["hf_init.__main__"]
    assert "torch" in graph["hf_init._tensors.specs"], "an import inside a function counts"


ALLOWED = {
    "hf_init._plan": "from hf_init._checkpoint import Checkpoint\nimport hf_init._tensors",
    "hf_init._plan.match": "from __future__ import annotations\nfrom hf_init import _tensors\nfrom .._errors import E",
    "hf_init._verify": "if TYPE_CHECKING:\n    import transformers\n    from hf_init import cli",
    "hf_init._load": "from hf_init._load import mixin\nfrom . import load",
    "hf_init._load.mixin": "import transformers\nfrom .load import rename\nfrom .._fill import fill",
    "hf_init._load.load": "def f():\n    import transformers.models",
    "hf_init._tensors": "import torch",
    "hf_init._fill": "from hf_init.schemes.catalogue import entry",
}


def test_what_points_down_is_allowed():
    assert violations(ALLOWED) == []


@pytest.mark.parametrize(
    ("module", "source", "complaint"),
    [
        ("_tensors", "import hf_init.cli", "hf_init._tensors imports hf_init.cli, which is not below it"),
        ("_tensors", "def f():\n    from hf_init._plan import Plan", "imports hf_init._plan, which is not below"),
        ("_tensors", "if x:\n    pass\nelse:\n    from ._plan import Plan", "imports hf_init._plan, which is not"),
        ("_tensors", "if TYPE_CHECKING:\n    pass\nelse:\n    import hf_init._load", "imports hf_init._load, which is"),
        ("_load", "from hf_init._write import write", "imports hf_init._write, which is not below it"),
        ("_plan", "from hf_init._fill import fill", "hf_init._plan imports hf_init._fill, which is not below it"),
        ("_load.load", "from ..cli import main", "hf_init._load.load imports hf_init.cli, which is not below it"),
        ("_load.load", "from hf_init._plan.match import Match", "a file of another room; its door is hf_init._plan"),
        ("_plan", "from transformers import AutoModel", "imports transformers, which only _architecture"),
        ("_plan", "import importlib\nimportlib.import_module('transformers')", "imports transformers, which only"),
        ("_other", "", "hf_init._other is in no layer"),
    ],
)
def test_what_does_not_is_refused(module, source, complaint):
    sources = {**ALLOWED, "hf_init.cli": "", "hf_init._write": "", "hf_init": "", f"hf_init.{module}": source}
    assert complaint in "\n".join(violations(sources))


def test_private_parts_of_transformers_are_used_in_one_room():
    sources = read_sources()
    assert private_uses(sources) == []
    listed = {module: names for module, names in BESIDE_ARCHITECTURE.items() if module in sources}
    unused = private_uses({**sources, **{f"{module}_": sources[module] for module in listed}})
    assert len(unused) == sum(map(len, listed.values())), "an exception that nobody needs"


@pytest.mark.parametrize(
    ("source", "complaint"),
    [
        ("from transformers.core_model_loading import WeightRenaming", "transformers.core_model_loading"),
        ("import transformers.initialization", "transformers.initialization"),
        ("from transformers import _Private", "transformers._Private"),
        ("tensor._is_hf_initialized = True", "_is_hf_initialized"),
        ("getattr(tensor, '_is_hf_initialized', False)", "_is_hf_initialized"),
    ],
)
def test_a_private_part_elsewhere_is_refused(source, complaint):
    sources = {"hf_init._architecture.x": "tensor._is_hf_initialized", "hf_init._load.load": source}
    assert private_uses(sources) == [
        f"hf_init._load.load uses {complaint}, a private part of transformers: only _architecture may"
    ]


if __name__ == "__main__":
    print("\n".join(described(graph_of(read_sources()))))
