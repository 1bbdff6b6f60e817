"""The public names are frozen: a change of them is a change of this file."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
import textwrap
from pathlib import Path

import jedi
import pytest
from guide_lists import names

import hf_init

NAMES = [
    "HfInitError",
    "InitMixin",
    "MultiHead",
    "Plan",
    "Recipe",
    "Rule",
    "Upcycle",
    "check",
    "compare_schemes",
    "convert",
    "diff",
    "drift",
    "extend",
    "finetune",
    "from_pretrained",
    "heads",
    "initialize",
    "plan",
    "probe_vocabulary",
    "report",
    "same_function",
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
    assert hf_init.__all__ == NAMES == sorted(NAMES) == [name for name in dir(hf_init) if name[0] != "_"]
    assert len(NAMES) <= 23  # a person learns them in an evening


def test_completion_lists_the_public_names_and_every_option():
    """As jedi, which completes in IPython and Jupyter, does it."""
    namespace = [{"hf_init": hf_init}]
    names = [each.name for each in jedi.Interpreter("hf_init.", namespace).complete()]
    assert sorted(name for name in names if name[0] != "_") == NAMES
    completed = {each.name for each in jedi.Interpreter("hf_init.extend(", namespace).complete()}
    assert {f"{option}=" for option in inspect.signature(hf_init.extend).parameters} <= completed


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


# Options: they are those that the guide lists for the command of this name; what else Python has, and what it has not.

LOADING = (
    "cls base model_args output_loading_info dtype torch_dtype device_map max_memory distributed_config proxies "
    "attn_implementation experts_implementation generation_config disable_mmap use_kernels weights_only "
    "use_safetensors low_cpu_mem_usage"
)
SIGNATURES = {
    "plan": ("plan", "base", "compare_schemes steps tower"),
    "extend": ("extend", "base out progress", "probe tower"),
    "from_pretrained": ("plan", LOADING, "compare_schemes steps tower architecture"),
    "convert": ("convert", "base out progress", ""),
    "verify": ("verify", "out progress", "after_training"),
    "drift": ("drift", "base trained progress", "picture"),
    "diff": ("diff", "a b progress", ""),
    "heads": ("heads", "folder", ""),
    "report": ("report", "folder", ""),
    "check": ("", "model batch optimizer plan verbose", ""),
    "same_function": ("", "base out seed trust_remote_code", ""),
    "probe_vocabulary": ("", "base out texts", ""),
    "compare_schemes": ("", "base tokens texts steps schemes seeds batch_tokens longest held_out dtype done", ""),
}


@pytest.mark.parametrize("name", SIGNATURES)
def test_the_arguments_of_a_function_are_these(name):
    command, more, less = SIGNATURES[name]
    parameters = inspect.signature(getattr(hf_init, name)).parameters
    assert {*parameters} == {*more.split()} | names(command) - {*less.split()}
    assert {*less.split()} <= names(command)
    assert not any(p.kind is p.VAR_KEYWORD for p in parameters.values())


TYPED = """
    from transformers import AutoModelForSequenceClassification, BertForSequenceClassification
    from typing_extensions import assert_type
    from transformers import PreTrainedModel

    import hf_init
    from hf_init import InitMixin, Recipe, Rule


    class Classifier(InitMixin, BertForSequenceClassification):
        init_recipe = Recipe([Rule("zeros", name="classifier.*")], default="model")


    def right() -> None:
        hf_init.extend("base", "out", "BertModel", add_tokens=[" photon"], special_tokens=["<tool>"], digest=True)
        print(hf_init.plan("base", labels=["neg", "pos"], keep={"*": "leading"}, rules=["*.bias=zeros"]).counts)
        hf_init.verify("out", False, everything=True).raise_if_failed()
        hf_init.drift("out", "trained", frozen=["kept", "!*.x"]).raise_if_failed()
        model = hf_init.from_pretrained(BertForSequenceClassification, "base", config={"num_hidden_layers": 7}, seed=0)
        assert_type(model, BertForSequenceClassification)
        model, info = hf_init.from_pretrained(BertForSequenceClassification, "base", output_loading_info=True)
        assert_type(model, BertForSequenceClassification)
        assert_type(hf_init.from_pretrained(AutoModelForSequenceClassification, "base"), PreTrainedModel)
        assert_type(Classifier.from_pretrained("base", num_labels=3), Classifier)


    def wrong() -> None:
        hf_init.plan("base", labls=["neg", "pos"])
        hf_init.extend("base", "out", seed="one")
        hf_init.extend("base", "out", link="soft")
        hf_init.verify("out", everythin=True)
        hf_init.from_pretrained(BertForSequenceClassification, "base", num_hidden_layers=7)
        Classifier.from_pretrained("base", labels=3)
"""


INDEX = """
    from typing import Any
    from transformers.models.auto.auto_factory import _BaseAutoModelClass

    class PreTrainedModel: ...
    class BertForSequenceClassification(PreTrainedModel): ...
    class AutoModelForSequenceClassification(_BaseAutoModelClass): ...

    def __getattr__(name: str) -> Any: ...
"""


@pytest.mark.slow
def test_the_type_checker_knows_the_options(tmp_path):
    """Right calls pass; a misspelt option or a wrong type is an error on its line.

    The library's index is replaced by a short one: to read its own takes eight times as long as all the rest.
    """
    file, index = tmp_path / "typed.py", tmp_path / "typings" / "transformers" / "__init__.pyi"
    file.write_text(textwrap.dedent(TYPED), encoding="utf-8")
    index.parent.mkdir(parents=True)
    index.write_text(textwrap.dedent(INDEX), encoding="utf-8")
    root = Path(hf_init.__file__).parent.parent
    config = {"include": [str(file)], "extraPaths": [str(root)], "pythonVersion": "3.10", "stubPath": "typings"}
    (tmp_path / "pyrightconfig.json").write_text(json.dumps(config), encoding="utf-8")
    command = [sys.executable, "-m", "pyright", "--outputjson", "--pythonpath", sys.executable, "-p", str(tmp_path)]
    found = json.loads(subprocess.run(command, capture_output=True, text=True).stdout)["generalDiagnostics"]
    lines = file.read_text(encoding="utf-8").splitlines()
    start = lines.index("def wrong() -> None:") + 1
    errors = {entry["range"]["start"]["line"] for entry in found if entry["severity"] == "error"}
    assert errors == {*range(start, len(lines))}, found
