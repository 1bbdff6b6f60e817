"""Makes transformers' auto classes know ``MultiHead`` without importing either before it is asked for."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from importlib.abc import Loader, MetaPathFinder
else:  # their module takes a fifth of the time of `hf-init --help`, and a class with their methods will do
    Loader = MetaPathFinder = object

CONFIGS = "transformers.models.auto.configuration_auto"
OURS, KIND = "hf_init._multihead", "multi_head"


class _Late(dict[object, Any]):
    """The configs that were registered with the library; ours is registered when somebody reads it."""

    def _settled(self) -> _Late:
        if super().get(KIND) is None:
            import_module(OURS)  # registers itself, here
        return self

    def __getitem__(self, key: object) -> Any:
        return dict.__getitem__(self._settled() if key == KIND else self, key)

    def values(self) -> Any:
        return dict.values(self._settled())

    def items(self) -> Any:
        return dict.items(self._settled())


class _Then(Loader):
    """Loads the module as its own loader does, and adds to it when that is done."""

    def __init__(self, loader: Loader) -> None:
        self._loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self._loader.exec_module(module)
        _add(module)

    def __getattr__(self, name: str) -> object:
        return getattr(self._loader, name)  # its source, for whoever shows a traceback


class _Finder(MetaPathFinder):
    """Finds that one module, when it is first imported."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != CONFIGS:
            return None
        sys.meta_path.remove(self)
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = _Then(spec.loader)
        return spec


def arrange() -> None:
    """Add to the auto classes where they are imported already, else when they will be."""
    module = sys.modules.get(CONFIGS)
    if module is not None and hasattr(module, "CONFIG_MAPPING"):
        _add(module)
    elif not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


def _add(module: ModuleType) -> None:
    mapping = module.CONFIG_MAPPING
    if KIND not in mapping._extra_content:
        mapping._extra_content = _Late({**mapping._extra_content, KIND: None})
