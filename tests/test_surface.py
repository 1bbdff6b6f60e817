"""The public names are frozen: a change of them is a change of this file."""

from __future__ import annotations

import subprocess
import sys

import pytest

import hf_init

NAMES = [
    "HfInitError",
    "InitMixin",
    "MultiHead",
    "Plan",
    "Recipe",
    "Rule",
    "check",
    "diff",
    "drift",
    "extend",
    "finetune",
    "from_pretrained",
    "plan",
    "probe_vocabulary",
    "schemes",
    "verify",
]
HEAVY = ("torch", "transformers", "matplotlib", "numpy", "safetensors", "huggingface_hub")
LOADED = "import sys; print(*sorted(set(sys.modules) & set({heavy!r})))"


def loaded_after(statement: str) -> list[str]:
    """Which of HEAVY a fresh process has imported after the statement."""
    code = f"{statement}; {LOADED.format(heavy=HEAVY)}"
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()


def test_public_names_are_these():
    assert hf_init.__all__ == NAMES == sorted(NAMES)
    assert len(NAMES) <= 16


@pytest.mark.parametrize("name", NAMES)
def test_public_name_resolves_and_is_listed(name):
    assert getattr(hf_init, name) is getattr(hf_init, name)
    assert name in dir(hf_init)


def test_star_import_gives_every_public_name():
    names: dict[str, object] = {}
    exec("from hf_init import *", names)
    assert set(NAMES) <= set(names)


def test_a_name_that_is_not_there_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = hf_init.no_such_name


def test_version_is_a_release():
    assert all(part.isdigit() for part in hf_init.__version__.split("."))


def test_import_is_light():
    assert loaded_after("import hf_init") == []


def test_error_can_be_caught_without_loading_anything():
    assert loaded_after("import hf_init; hf_init.HfInitError") == []


def test_the_check_sees_what_is_loaded():
    assert "numpy" in loaded_after("import numpy")
