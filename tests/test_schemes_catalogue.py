"""The catalogue says everything about every scheme, and its examples run."""

from __future__ import annotations

import doctest
import importlib
import json
import pkgutil
import re
import subprocess
import sys

import pytest
import torch

from hf_init import schemes
from hf_init._errors import RecipeError
from hf_init.schemes import ALIASES, REGISTRY, settings_of
from hf_init.schemes import catalogue as pages


def test_the_catalogue_has_every_scheme_once():
    assert [entry.name for entry in pages.catalogue()] == list(REGISTRY)


@pytest.mark.parametrize("name", REGISTRY)
def test_an_entry_is_complete(name):
    entry = pages.catalogue_entry(name)
    assert entry.idea and entry.formula and entry.when and entry.group
    assert all(setting.meaning for setting in entry.settings)
    assert [setting.name for setting in entry.settings] == [*settings_of(REGISTRY[name])]
    assert json.loads(json.dumps(entry.to_json()))["name"] == name


@pytest.mark.parametrize("entry", pages.catalogue(), ids=lambda entry: entry.name)
def test_the_torch_function_of_an_entry_exists(entry):
    function = entry.torch_function.partition(",")[0].removeprefix("torch.nn.init.")
    assert not function or callable(getattr(torch.nn.init, function))


@pytest.mark.parametrize("name", [*REGISTRY, *ALIASES])
def test_a_page_fits_a_terminal_and_says_everything(name):
    page, entry = pages.describe_scheme(name), pages.catalogue_entry(name)
    assert max(map(len, page.splitlines())) <= 100
    flat = " ".join(page.split())
    for text in (entry.name, entry.idea, entry.formula, entry.when, entry.source, *map(str, entry.settings)):
        assert " ".join(text.split()) in flat


def test_the_table_fits_a_terminal():
    lines = pages.catalogue_table().splitlines()
    assert max(map(len, lines)) <= 100 and not any(line.endswith(" ") for line in lines)
    assert all(re.search(rf"^  {name}\b", pages.catalogue_table(), re.MULTILINE) for name in REGISTRY)


def test_an_unknown_page_is_refused():
    with pytest.raises(RecipeError, match="did you mean 'eye'"):
        pages.describe_scheme("eyes")


def test_the_catalogue_needs_no_torch():
    code = (
        "import sys; from hf_init.schemes import catalogue as c; c.catalogue_table(), c.catalogue_json(); "
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False"]


MODULES = [f"hf_init.schemes.{module.name}" for module in pkgutil.iter_modules(schemes.__path__)]


@pytest.mark.parametrize("module", ["hf_init.schemes", *MODULES])
def test_examples_in_docstrings_run(module):
    assert doctest.testmod(importlib.import_module(module)).failed == 0


@pytest.mark.parametrize("kind", REGISTRY.values(), ids=lambda kind: kind.name)
def test_every_scheme_has_an_example(kind):
    assert ">>>" in (kind.__doc__ or "")
