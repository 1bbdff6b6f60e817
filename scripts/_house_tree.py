"""The parsed files of hf_init and its tests, and what they define and import; for house.py."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

PACKAGE = "hf_init"

Sources: TypeAlias = Mapping[str, str]
"""Path in the repository, such as ``hf_init/_plan/__init__.py``, to source text."""
Definition: TypeAlias = "ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef"
Function: TypeAlias = "ast.FunctionDef | ast.AsyncFunctionDef"
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


@dataclass(frozen=True)
class Item:
    """One thing that a figure looks at: the modules that it is in, what it is, and whether it counts as wrong."""

    modules: tuple[str, ...]
    text: str
    wrong: bool = True


@dataclass(frozen=True)
class Module:
    """A parsed file; a package goes by its own name."""

    name: str
    path: str
    text: str
    tree: ast.Module

    @classmethod
    def parse(cls, path: str, text: str) -> Module:
        parts = path.removesuffix(".py").split("/")
        return cls(".".join(parts[:-1] if parts[-1] == "__init__" else parts), path, text, ast.parse(text, path))

    @property
    def package(self) -> str:
        return self.name if self.path.endswith("__init__.py") else self.name.rpartition(".")[0]

    @property
    def lines(self) -> int:
        return self.text.count("\n")

    @cached_property
    def nodes(self) -> tuple[ast.AST, ...]:
        return tuple(ast.walk(self.tree))

    @cached_property
    def definitions(self) -> tuple[Definition, ...]:
        return tuple(node for node in self.tree.body if isinstance(node, (*FUNCTIONS, ast.ClassDef)))

    @cached_property
    def functions(self) -> tuple[Function, ...]:
        return tuple(node for node in self.nodes if isinstance(node, FUNCTIONS))

    @cached_property
    def constants(self) -> dict[str, ast.expr | None]:
        """Return what is assigned to each name at the top."""
        plain = {t: n.value for n in self.tree.body if isinstance(n, ast.Assign) for t in n.targets}
        typed = {n.target: n.value for n in self.tree.body if isinstance(n, ast.AnnAssign)}
        return {target.id: value for target, value in {**plain, **typed}.items() if isinstance(target, ast.Name)}

    def at(self, node: ast.stmt, text: str, wrong: bool = True) -> Item:
        return Item((self.name,), f"{self.path}:{node.lineno}: {text}", wrong)


class House:
    """All files of one revision."""

    def __init__(self, sources: Sources) -> None:
        parsed = [Module.parse(path, text) for path, text in sorted(sources.items())]
        self.modules = {module.name: module for module in parsed if module.path.startswith(f"{PACKAGE}/")}
        self.tests = [module for module in parsed if module.path.startswith("tests/")]

    @cached_property
    def imports(self) -> list[tuple[Module, ast.Import | ast.ImportFrom, set[str]]]:
        """Every import statement of the package, with the modules of the package that it names."""
        return [(m, node, names) for m in self.modules.values() for node, names in self.named_by(m)]

    def named_by(self, module: Module) -> Iterator[tuple[ast.Import | ast.ImportFrom, set[str]]]:
        for node in module.nodes:
            if isinstance(node, ast.Import):
                yield node, {alias.name for alias in node.names} & self.modules.keys()
            elif isinstance(node, ast.ImportFrom):
                origin = origin_of(node, module)
                names = {f"{origin}.{alias.name}" for alias in node.names}
                yield node, {name if name in self.modules else origin for name in names} & self.modules.keys()

    @cached_property
    def layers(self) -> dict[str, int]:
        """Part to its height, as the test of imports has it."""
        test = next((test for test in self.tests if test.name == "tests.test_imports"), Module.parse("tests", ""))
        layers = ast.literal_eval(test.constants.get("LAYERS") or ast.Tuple([]))
        return {part: -depth for depth, layer in enumerate(layers) for part in layer}

    def defined(self, module: Module, name: str) -> tuple[Module, Definition] | None:
        """Find what an exported name stands for, through the imports that bring it."""
        for node in module.definitions:
            if node.name == name:
                return module, node
        for node in (node for node in module.nodes if isinstance(node, ast.ImportFrom)):
            for alias in (alias for alias in node.names if (alias.asname or alias.name) == name):
                origin = self.modules.get(origin_of(node, module))
                return self.defined(origin, alias.name) if origin and origin is not module else None
        return None


def origin_of(node: ast.ImportFrom, module: Module) -> str:
    """Return the absolute name of what ``from ... import`` imports from."""
    parents = module.package.split(".")
    kept = parents[: len(parents) - node.level + 1] if node.level else []
    return ".".join([*kept, *([node.module] if node.module else [])])


def room_of(module: str) -> str:
    """Return the top-level entry of the package that a module is in: of ``hf_init`` itself, ``__init__``."""
    return [*module.split("."), "__init__"][1]
