"""Imports point strictly down the layers, as ``scripts/house.py`` sees them; transformers has rooms of its own."""

from __future__ import annotations

import ast
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


def foreign_imports(sources: Sources) -> list[str]:
    """One line for every import of a library that other rooms have: at the top, in a function, not for types alone."""
    return [
        f"{module} imports {name}, which only {', '.join(sorted(owners))} may"
        for module, source in sources.items()
        for node in _executed(ast.parse(source))
        for name in _imported(node)
        if part_of(module) not in (owners := ONLY_IN.get(name.partition(".")[0], {part_of(module)}))
    ]


def _imported(node: ast.AST) -> Iterator[str]:
    """The names in an import, and in ``import_module("name")`` and ``__import__("name")`` where it is written out."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom) and not node.level:
        yield node.module or ""
    elif isinstance(node, ast.Call) and _called(node) in ("import_module", "__import__"):
        yield from (str(each.value) for each in node.args[:1] if isinstance(each, ast.Constant))


def _called(node: ast.Call) -> str:
    """The last part of the name of what is called."""
    return node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")


def _executed(tree: ast.AST) -> Iterator[ast.AST]:
    yield tree
    children = ast.iter_child_nodes(tree)
    if isinstance(tree, ast.If) and ast.unparse(tree.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
        children = iter(tree.orelse)
    for child in children:
        yield from _executed(child)


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
        if isinstance(node, ast.Attribute) and node.attr.startswith("_"):
            name = node.attr if ast.unparse(node.value) not in ("self", "cls", "super()") else None
        elif isinstance(node, ast.Call) and _called(node) in ("getattr", "hasattr") and len(node.args) > 1:
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


@pytest.mark.slow  # scripts/check runs it
def test_imports_point_down(monkeypatch):
    monkeypatch.syspath_prepend(str(PACKAGE.parent / "scripts"))
    import house

    tree, sources = house.House(house.read_tree(PACKAGE.parent)), read_sources()
    figures = [house.FIGURES[name].items(tree) for name in ("circles", "upward", "private")]
    assert [item.text for items in figures for item in items if item.wrong] == []
    assert {*map(part_of, sources)} <= HEIGHT.keys(), "each has a layer"
    assert foreign_imports(sources) == []


@pytest.mark.parametrize(
    ("module", "source", "complaint"),
    [
        ("_plan", "from transformers import AutoModel", "imports transformers, which only _architecture"),
        ("_plan", "def f():\n    import transformers.models", "imports transformers.models, which only _architecture"),
        ("_plan", "import importlib\nimportlib.import_module('transformers')", "imports transformers, which only"),
        ("_plan", "if TYPE_CHECKING:\n    pass\nelse:\n    import transformers", "imports transformers, which only"),
        ("_plan", "if TYPE_CHECKING:\n    import transformers", ""),
        ("_load.load", "import transformers", ""),
    ],
)
def test_a_library_belongs_to_its_rooms(module, source, complaint):
    found = foreign_imports({f"hf_init.{module}": source})
    assert bool(found) is bool(complaint) and complaint in "".join(found)


@pytest.mark.slow  # scripts/check runs it
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
