"""The command line's contract: verbs and options, what goes where, exit codes, speed, terminals and pipes."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from cli_documents import base as base
from cli_documents import document
from cli_documents import out as out
from cli_documents import spoiled as spoiled
from guide_lists import COMMANDS, listed
from refusals import HEAD

import hf_init
from hf_init.cli import main

OUTPUT = ("--format {text,json,markdown,github}", "--json", "--quiet", "--color {auto,always,never}")
SPELLED = {"--out FILE": "-o FILE, --out FILE", "--picture FILE.png": "-o FILE.png, --picture FILE.png"}


def in_help(word: str) -> list[str]:
    """An option of the guide's list as a command's help spells it."""
    name, _, value = word.partition(" ")
    if name.startswith("--[no-]"):
        return [f"--{name[7:]}", f"--no-{name[7:]}"]
    value = "{" + value.replace("|", ",") + "}" if "|" in value else value
    return [SPELLED.get(word, f"{name} {value}".strip()), *(["--no-base"] if name == "--base" else [])]


# The surface.


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_and_options_are_these(command, capsys):
    with pytest.raises(SystemExit) as stopped:
        main([command, "--help"])
    said = capsys.readouterr()
    assert stopped.value.code == 0 and said.err == ""
    options = [spelled for word in listed(command) for spelled in in_help(word)]
    assert said.out.startswith(f"usage: hf-init {command} {COMMANDS[command]} [options]\n\n")
    shown = (line.strip().partition("  ")[0] for line in said.out.splitlines() if line.startswith("  -"))
    assert sorted(shown) == sorted(["-h, --help", *options, *OUTPUT])
    assert len(said.out.partition("\nexamples:\n")[2].splitlines()) == 2


@pytest.mark.parametrize("argv", [[], ["-h"], ["--help"]])
def test_the_help_names_every_command(argv, capsys):
    assert main(argv) == 0
    said = capsys.readouterr()
    commands = [line.split()[0] for line in said.out.partition("commands:\n")[2].partition("\n\n")[0].splitlines()]
    assert commands == [*COMMANDS] and said.err == "" and said.out.count("\n  hf-init ") == 2


def test_the_version(capsys):
    assert main(["--version"]) == 0 and capsys.readouterr().out == f"hf-init {hf_init.__version__}\n"


def test_the_command_is_main():
    project = (Path(__file__).parent.parent / "pyproject.toml").read_text()
    assert 'hf-init = "hf_init.cli:main"' in project


@pytest.fixture
def completion(capsys) -> Callable[[str], str]:
    def script(shell: str) -> str:
        assert main(["completion", shell]) == 0
        return capsys.readouterr().out.removesuffix("\n")

    return script


def test_completion_offers_commands_options_and_values(completion, capsys):
    words = {
        ("hf-init", "d"): "drift diff", ("hf-init", "diff", "--on"): "--only", ("hf-init", "diff", "--b"): "--by-layer",
        ("hf-init", "plan", "--labels-keep", ""): "names leading none", ("hf-init", "verify", "--no-b"): "--no-base",
        ("hf-init", "schemes", "--format", "m"): "markdown", ("hf-init", "extend", "--no-ren"): "--no-rename",
    }  # fmt: skip
    tries = [
        f"COMP_WORDS=({shlex.join(typed)}); COMP_CWORD={len(typed) - 1}; _hf_init; echo ${{COMPREPLY[@]}}"
        for typed in words
    ]
    done = subprocess.run(["bash", "-c", "\n".join([completion("bash"), *tries])], capture_output=True, text=True)
    assert done.stdout.splitlines() == [*words.values()] and done.stderr == ""
    assert completion("zsh").endswith(completion("bash"))
    fish = completion("fish")
    for command in COMMANDS:
        offered = {f"--{name}" for name in re.findall(rf"from {command}' -l (\S+)", fish)}
        assert offered >= {spelled.split()[0] for word in listed(command) for spelled in in_help(word)} - {"-o"}
    assert main(["completion", "fsh"]) == 2 and "'fsh' (did you mean 'fish'?)" in capsys.readouterr().err


def is_plan(plan: dict[str, Any]) -> bool:
    """Whether a document is a plan in the shape that is promised."""
    return (
        {"architecture", "seed", "tensors", "unused", "counts"} <= plan.keys()
        and plan["counts"].keys() == {"kept", "resized", "new", "tied", "carried", "unused"}
        and all(map(_is_tensor, plan["tensors"]))
        and all(isinstance(name, str) for name in plan["unused"])
    )


def _is_tensor(tensor: dict[str, Any]) -> bool:
    parts = {"kept": "source", "resized": "kept", "new": "new", "tied": "tied_to"}
    return (
        {"name", "shape", "dtype", parts[tensor["status"]]} <= tensor.keys()
        and all(_is_region(part["region"]) and "name" in part["scheme"] for part in tensor.get("new", ()))
        and all(_is_region(part["region"]) for part in tensor.get("kept", ()))
    )


def _is_region(region: dict[str, Any]) -> bool:
    return region.keys() in ({"start", "stop"}, {"dim", "index"})


def test_plan_prints_a_plan(base, capsys):
    argv = ("--num-labels", 3, "--config", "vocab_size=100", "--keep", "*word_embeddings.weight=leading")
    plan = document(capsys, 0, "plan", base, *HEAD, *argv)
    assert is_plan(plan) and plan["architecture"] == HEAD[1] and plan["seed"] == 0
    by_name = {tensor["name"]: tensor for tensor in plan["tensors"]}
    assert by_name["classifier.bias"]["new"][0]["region"] == {"start": [0], "stop": [3]}
    resized = by_name["bert.embeddings.word_embeddings.weight"]
    assert resized["kept"][0]["region"] == {"start": [0, 0], "stop": [96, 32]}
    assert resized["new"][0]["region"] == {"start": [96, 0], "stop": [100, 32]}
    assert plan["counts"] == {
        "kept": len(plan["tensors"]) - 3,
        "resized": 1,
        "new": 2,
        "tied": 0,
        "carried": 0,
        "unused": 0,
    }


def test_a_document_that_is_no_plan_is_told_apart(base, capsys):
    plan = document(capsys, 0, "plan", base, *HEAD)
    assert not is_plan({**plan, "counts": {}}) and not is_plan({key: plan[key] for key in plan if key != "seed"})
    assert not is_plan({**plan, "tensors": [{"name": "w", "status": "new", "shape": [], "dtype": "float32"}]})


def test_a_document_with_more_around_it_is_refused(base, capsys, monkeypatch):
    @contextmanager
    def talkative(terminal: object) -> Iterator[None]:
        print("more")
        yield

    monkeypatch.setattr("hf_init.cli._terminal.Terminal.hub_bars", talkative)
    with pytest.raises(json.JSONDecodeError):
        document(capsys, 0, "plan", base, *HEAD)


def test_extend_prints_its_plan_and_its_proof(base, tmp_path, capsys):
    said = document(capsys, 0, "extend", base, tmp_path / "out", *HEAD, "--labels", "a,b")
    assert said.keys() == {"schema", "ok", "out", "plan", "verify"} and said["out"] == str(tmp_path / "out")
    assert is_plan(said["plan"]) and said["verify"]["ok"] is True
    plan = hf_init.Plan.load(tmp_path / "out")
    assert said["plan"] == plan.to_json() and said["plan"]["schema"] == "hf_init.plan/1" and said["plan"]["ok"] is True
    assert plan and repr(plan) == f"<Plan: {str(plan).splitlines()[0]}>"
    assert hf_init.Plan.from_json(said["plan"]) == plan


def test_verify_prints_what_it_found(out, spoiled, capsys):
    good, bad = document(capsys, 0, "verify", out), document(capsys, 1, "verify", spoiled)
    for said in (good, bad):
        assert {"ok", "counts", "bytes_compared", "differences"} <= said.keys()
    assert good["ok"] is True and good["differences"] == []
    (difference,) = bad["differences"]
    assert bad["ok"] is False and difference["name"] == "bert.pooler.dense.weight" and difference["row"] == 0
    assert difference["reason"] and difference["seen"] != difference["expected"]


def test_diff_prints_every_tensor(out, spoiled, capsys):
    said = document(capsys, 1, "diff", out, spoiled)
    assert {"schema", "ok", "a", "b", "tensors", "counts", "layers"} == said.keys() and said["ok"] is False
    names = [tensor["name"] for tensor in said["tensors"] if tensor["status"] == "changed"]
    assert names == ["bert.pooler.dense.weight"]
    counts = {status: number for status, number in said["counts"].items() if number}
    assert counts == {"identical": len(said["tensors"]) - 1, "changed": 1}
    assert document(capsys, 0, "diff", out, out)["ok"] is True


def test_schemes_prints_the_catalogue(capsys):
    said = document(capsys, 0, "schemes")["schemes"]
    assert {"zeros", "normal", "orthogonal", "sparse", "model", "skip"} <= {entry["name"] for entry in said}
    assert all({"name", "formula", "settings", "when", "source"} <= entry.keys() for entry in said)
    entry = document(capsys, 0, "schemes", "normal")
    assert {key: entry[key] for key in entry if key not in ("schema", "ok")} in said


# Text for people: results on standard output, nothing else anywhere.


def test_text_goes_to_standard_output(base, out, spoiled, tmp_path, capsys):
    for code, argv, words in [
        (0, ("plan", base, *HEAD, "--num-labels", "3"), "classifier.weight"),
        (0, ("extend", base, tmp_path / "out", *HEAD), f"written: {tmp_path / 'out'}"),
        (0, ("verify", out), "proved"),
        (0, ("verify", out, "--recompute", "--base", base), "proved"),
        (1, ("verify", spoiled), "bert.pooler.dense.weight"),
        (1, ("diff", base, out), "added"),
        (0, ("schemes",), "orthogonal"),
        (0, ("schemes", "orthogonal"), "formula"),
    ]:
        assert main([*map(str, argv)]) == code
        said = capsys.readouterr()
        assert words in said.out and said.err == "" and "\x1b" not in said.out


def test_options_reach_the_plan(base, tmp_path, capsys):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("{seed: 4, rules: [{name: '*.bias', scheme: ones}], default: zeros}")
    argv = ("--recipe", recipe, "--rules", "classifier.weight=normal(std=0.5)")
    plan = document(capsys, 0, "plan", base, *HEAD, *argv)
    schemes = {tensor["name"]: tensor["new"][0]["scheme"]["name"] for tensor in plan["tensors"] if "new" in tensor}
    assert plan["seed"] == 4 and schemes == {"classifier.weight": "normal", "classifier.bias": "ones"}
    assert document(capsys, 0, "plan", base, *HEAD, *argv, "--seed", "5")["seed"] == 5
