"""The command line's contract: verbs and options, what goes where, exit codes, speed, terminals and pipes."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import shlex
import struct
import subprocess
import sys
import termios
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
from refusals import HEAD
from safetensors.numpy import save_file

import hf_init
from hf_init._checkpoint.checkpoint import Checkpoint
from hf_init._options import DriftOptions, PlanOptions, option_group, options_of
from hf_init._write.extension import prepare_extension
from hf_init.cli import main
from hf_init.cli._commands import find_command
from hf_init.cli._completion import completion_script
from hf_init.cli._parser import command_parser
from hf_init.cli._values import option_values

TARGET = (
    "[--architecture CLASS] [--tower PREFIX=DIR] [--config KEY=VALUE] [--model-kwargs KEY=VALUE] [--keep GLOB=HOW] "
    "[--recipe FILE] "
    "[--rules GLOB=SCHEME] [--seed N] [--allow-new GLOB] [--drop GLOB] [--key-mapping PATTERN=NEW] "
    "[--trust-remote-code] [--token TOKEN] [--cache-dir DIR] [--local-files-only] [--force-download] "
    "[--revision REV] [--subfolder DIR] [--labels A,B,C] [--num-labels N] [--entities A,B] "
    "[--rename-labels OLD=NEW] [--labels-keep {names,leading,none}] [--label-counts A=N,B=N] [--target-mean X] "
    "[--head METHOD] [--examples FILE] [--verbalizer LABEL=W,W] [--add-heads NAME=KIND] [--remove-heads NAME] "
    "[--rename-heads OLD=NEW] [--take-heads NAME=DIR] [--name-head NAME] [--export-head NAME] [--add-tokens T,T] "
    "[--special-tokens T,T] [--add-tokens-file FILE] [--rename-tokens OLD=NEW] [--single-word] "
    "[--no-single-word] [--lstrip] [--no-lstrip] [--rstrip] [--no-rstrip] [--normalized] [--no-normalized] "
    "[--pad-token T] [--eos-token T] [--bos-token T] [--unk-token T] [--mask-token T] [--chat-template FILE] "
    "[--existing {error,skip}] [--pad-to-multiple-of N] [--allow-shrink] [--reinit-rows N,N] [--tokenizer DIR] "
    "[--guarantee {distribution,greedy,learning}] [--row-scheme SCHEME] [--input-rows SCHEME] "
    "[--output-rows SCHEME] [--texts FILE] [--layers MAP] [--new-layers {auto,copy}] "
    "[--positions N] [--positions-by {tile,interpolate}] [--positions-keep N] [--image-size N] [--patch-size N] "
    "[--num-channels N] [--window-size N] [--num-mel-bins N] [--channels MAP] [--widen KEY=N] [--kv-heads N] "
    "[--experts N] [--untie]"
)
FILES = (
    "[--max-shard-size SIZE] [--link {copy,hard,symbolic}] [--digest] [--prove-function] [--push-to-hub REPO] "
    "[--resume] [--no-rename] [--probe FILE]"
)
CACHE = "[--token TOKEN] [--cache-dir DIR] [--local-files-only] [--force-download]"
HUB = f"{CACHE} [--revision REV] [--subfolder DIR]"
OUTPUT = "[--format {text,json,markdown,github}] [--json] [--quiet] [--color {auto,always,never}]"
CLASS = "[--architecture CLASS] [--trust-remote-code]"
USAGE = {
    "plan": f"{TARGET} [--compare-schemes FILE] [--steps N] {OUTPUT} [BASE]",
    "extend": f"{TARGET} {FILES} {OUTPUT} [BASE] OUT",
    "convert": f"{HUB} {OUTPUT} DIR OUT",
    "verify": f"[--base BASE] [--no-base] [--recompute] [--examples FILE] [--texts FILE] [--everything] "
    f"[--prefix PREFIX] [--part K/N] [--merge FILE] [--after-training] {HUB} "
    f"{CLASS} {OUTPUT} OUT",
    "drift": f"[--plan DIR] [--frozen WHAT] [--prefix PREFIX] {CACHE} [-o FILE.png] {OUTPUT} BASE TRAINED",
    "diff": f"[--only GLOB] [--by-layer] [--prefix PREFIX] {CACHE} {OUTPUT} A B",
    "check": f"[--texts T] [--labels N,N] [--train] [--verbose] {HUB} {CLASS} [-o FILE.png] {OUTPUT} DIR",
    "heads": f"{HUB} {OUTPUT} DIR",
    "report": f"[-o FILE] {HUB} {OUTPUT} DIR",
    "schemes": f"{OUTPUT} [NAME]",
    "completion": f"{OUTPUT} SHELL",
}


@pytest.fixture(scope="module")
def base(tiny) -> Path:
    return tiny("bert")


@pytest.fixture(scope="module")
def out(base, tmp_path_factory) -> Path:
    """A result: three labels."""
    folder = tmp_path_factory.mktemp("cli") / "out"
    hf_init.extend(base, folder, HEAD[1], labels=["neg", "neu", "pos"])
    return folder


@pytest.fixture
def spoiled(out, tmp_path) -> Path:
    """The result with one bit flipped in a kept tensor."""
    folder = tmp_path / "spoiled"
    folder.mkdir()
    for file in out.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    entry = Checkpoint.open(folder).entries["bert.pooler.dense.weight"]
    data = bytearray((folder / entry.shard).read_bytes())
    data[entry.start] ^= 1
    (folder / entry.shard).write_bytes(data)
    return folder


# The surface.


@pytest.mark.parametrize("command", USAGE)
def test_commands_and_options_are_these(command, capsys):
    with pytest.raises(SystemExit) as stopped:
        main([command, "--help"])
    said = capsys.readouterr()
    assert stopped.value.code == 0 and said.err == ""
    usage = said.out.partition("usage: ")[2].partition("\n\n")[0]
    assert " ".join(usage.split()) == f"hf-init {command} [-h] {USAGE[command]}"
    assert len(said.out.partition("\nexamples:\n")[2].splitlines()) == 2


@pytest.mark.parametrize("command", USAGE)
def test_the_examples_of_the_help_can_be_parsed(command):
    entry, _ = find_command([command])
    for example in entry.examples:
        program, name, *argv = shlex.split(example)
        assert (program, name) == ("hf-init", command)
        args = command_parser(entry).parse_command(argv)
        option_values(vars(args), options_of(*map(option_group, entry.groups)))


@pytest.mark.parametrize("argv", [[], ["-h"], ["--help"]])
def test_the_help_names_every_command(argv, capsys):
    assert main(argv) == 0
    said = capsys.readouterr()
    commands = [line.split()[0] for line in said.out.partition("commands:\n")[2].partition("\n\n")[0].splitlines()]
    assert commands == [*USAGE] and said.err == "" and said.out.count("\n  hf-init ") == 2


def test_the_version(capsys):
    assert main(["--version"]) == 0 and capsys.readouterr().out == f"hf-init {hf_init.__version__}\n"


def test_the_command_is_main():
    project = (Path(__file__).parent.parent / "pyproject.toml").read_text()
    assert 'hf-init = "hf_init.cli:main"' in project


# Documents.


def document(capsys: pytest.CaptureFixture[str], code: int, *argv: object) -> Any:
    """The one JSON document that a command prints, with nothing else anywhere."""
    capsys.readouterr()
    assert main([*map(str, argv), "--json"]) == code
    said = capsys.readouterr()
    assert said.err == ""
    whole = json.loads(said.out, parse_constant=_no_constant)
    assert whole["schema"].startswith("hf_init.") and whole["ok"] is (code == 0)
    return whole


def _no_constant(name: str) -> NoReturn:
    raise AssertionError(f"{name} is not JSON")


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


# Processes.


def fresh(*argv: object, **variables: str) -> subprocess.CompletedProcess[str]:
    """A command in a process of its own, in the environment of a user."""
    hidden = ("TRANSFORMERS_VERBOSITY", "HF_HUB_DISABLE_PROGRESS_BARS")
    environment = {key: value for key, value in os.environ.items() if key not in hidden}
    command = [sys.executable, *map(str, argv)]
    return subprocess.run(command, capture_output=True, text=True, env={**environment, **variables})


def test_python_m_hf_init_is_the_command():
    done = fresh("-m", "hf_init", "schemes", "eye")
    assert done.returncode == 0 and done.stdout.startswith("eye: ") and done.stderr == ""
    done = fresh("-m", "hf_init", "diff", "nowhere", "nowhere")
    assert done.returncode == 2 and done.stdout == "" and done.stderr.startswith("hf-init: no such folder: nowhere")


SEVERAL = "import json, sys\nfrom hf_init.cli import main\nprint([main(argv) for argv in json.loads(sys.argv[1])])"


def test_clean_runs_are_silent_in_a_pipe(minilm, tmp_path):
    out = str(tmp_path / "out")
    runs = [
        ["plan", str(minilm), *HEAD],
        ["extend", str(minilm), out, *HEAD],
        ["verify", out, "--recompute"],
        ["diff", out, out],
    ]
    done = fresh("-c", SEVERAL, json.dumps(runs))
    assert done.stderr == "" and done.stdout.splitlines()[-1] == "[0, 0, 0, 0]"


LOADED = "import sys\nfrom hf_init.cli import main\nmain(sys.argv[1:])\nprint(sorted(sys.modules))"


@pytest.mark.parametrize("verb", ["verify", "diff"])
def test_verify_and_diff_load_neither_torch_nor_transformers(base, out, verb):
    done = fresh("-c", LOADED, verb, out, *([base] if verb == "diff" else []))
    loaded = done.stdout.splitlines()[-1]
    assert "'hf_init._verify'" in loaded and "'numpy'" in loaded and done.stderr == ""
    assert "'torch'" not in loaded and "'transformers'" not in loaded


def test_the_check_sees_what_is_loaded():
    assert "'torch'" in fresh("-c", f"import torch\n{LOADED}", "schemes").stdout.splitlines()[-1]


HELPED = """import sys
before = set(sys.modules)
from hf_init.cli import main
code = main(["--help"])
print(code, *sorted({name.partition(".")[0] for name in set(sys.modules) - before} - sys.stdlib_module_names))"""


def test_the_help_brings_nothing_but_the_package():
    assert fresh("-c", HELPED).stdout.splitlines()[-1] == "0 hf_init"


@pytest.mark.parametrize(
    ("argv", "code"),
    [
        (["schemes"], 0), (["schemes", "--json"], 0), (["--help"], 0), (["plan", "--help"], 0), (["diff", "A", "A"], 0),
        (["diff", "A", "B"], 1), (["diff", "A", "B", "--json"], 1), (["diff", "A", "nowhere", "--json"], 2),
        (["verify", "SPOILED"], 1), (["verify", "SPOILED", "--format", "github"], 1), (["verify", "A"], 2),
    ],
)  # fmt: skip
def test_a_reader_that_is_gone_changes_no_exit_code(base, out, spoiled, argv, code):
    reader, writer = os.pipe()
    os.close(reader)
    argv = [{"A": str(base), "B": str(out), "SPOILED": str(spoiled)}.get(word, word) for word in argv]
    done = subprocess.run([sys.executable, "-m", "hf_init", *argv], stdout=writer, stderr=subprocess.PIPE)
    os.close(writer)
    assert done.returncode == code and (done.stderr == b"") is (argv[0] != "verify" or code != 2)


def test_a_message_that_is_lost_changes_no_exit_code(monkeypatch):
    with open("/dev/full", "w") as full:
        monkeypatch.setattr(sys, "stderr", full)
        assert main(["plan", "no such folder"]) == 2


@pytest.mark.slow
@pytest.mark.parametrize("stream", ["stdout", "stderr"])
@pytest.mark.parametrize("closed", [True, False])
def test_no_stream_is_needed_to_do_the_work(base, spoiled, tmp_path, stream, closed):
    """Each of the two may be closed from the start, or have a reader that is gone."""
    out = tmp_path / "out"
    runs = [(0, ["extend", base, out, *HEAD]), (1, ["verify", spoiled]), (2, ["verify", base]), (2, ["none"])]
    start = f"import os, sys\n{'os.close' if closed else 'break_pipe'}({1 + (stream == 'stderr')})\n"
    pipe = "def break_pipe(fd):\n    r, w = os.pipe()\n    os.close(r)\n    os.dup2(w, fd)\n"
    inner = [sys.executable, "-c", "import sys; from hf_init.cli import main; sys.exit(main(sys.argv[1:]))"]
    for code, argv in runs:
        script = f"import os, sys\n{pipe}{start}os.execv(sys.argv[1], sys.argv[1:])"
        done = subprocess.run([sys.executable, "-c", script, *inner, *map(str, argv)], capture_output=True, text=True)
        assert done.returncode == code and "Traceback" not in done.stderr + done.stdout
        assert "hf-init:" not in done.stdout
    assert hf_init.verify(out)


# Progress.


def on_a_terminal(*argv: object) -> tuple[int, str, str]:
    """Exit code, standard output (a pipe) and what a terminal of 80 columns got as standard error."""
    terminal, end = pty.openpty()
    fcntl.ioctl(end, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    command = [sys.executable, "-m", "hf_init", *map(str, argv)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=end, text=True) as process:
        said, _ = process.communicate(timeout=120)
    os.set_blocking(terminal, False)
    shown = os.read(terminal, 100_000).decode()
    os.close(end)
    os.close(terminal)
    return process.returncode, said, shown


def test_a_terminal_sees_a_bar_that_knows_its_end(minilm, tmp_path):
    code, said, shown = on_a_terminal("extend", minilm, tmp_path / "out", *HEAD, "--json")
    total = 2 * Checkpoint.open(tmp_path / "out").nbytes
    assert code == 0 and json.loads(said)["verify"]["ok"]
    assert "extend:   0%|" in shown and f"/{total / 1e6:.0f}M" in shown


def test_verify_and_diff_have_a_bar(base, out):
    assert "verify:   0%|" in on_a_terminal("verify", out)[2]
    assert "diff:   0%|" in on_a_terminal("diff", base, out)[2]


@pytest.mark.parametrize("job", ["extend", "verify", "diff"])
def test_progress_is_told_in_steps_that_sum_to_the_work(base, out, tmp_path, job):
    steps: list[int] = []
    size, source = Checkpoint.open(out).nbytes, Checkpoint.open(base).nbytes
    jobs: dict[str, tuple[Callable[[], object], int]] = {
        "extend": (
            lambda: hf_init.extend(base, tmp_path / "o", HEAD[1], num_labels=3, progress=steps.append),
            2 * size,
        ),
        "verify": (lambda: hf_init.verify(out, progress=steps.append), size),
        "diff": (lambda: hf_init.diff(base, base, progress=steps.append), source),
    }
    run, work = jobs[job]
    run()
    assert sum(steps) == work and min(steps) > 0
    assert len(steps) > 1 or job == "diff"  # what is so small is compared in one step


def test_report_writes_one_file_and_says_which(out, tmp_path, capsys):
    page = tmp_path / "page.html"
    assert document(capsys, 0, "report", out, "-o", page)["written"] == str(page)
    assert "classifier.weight" in page.read_text(encoding="utf-8")
    assert main(["report", str(out), "-o", str(page)]) == 2
    assert "exists" in capsys.readouterr().err


# Manners.


def test_completion_offers_commands_options_and_values():
    words = {
        ("hf-init", "d"): "drift diff", ("hf-init", "diff", "--on"): "--only", ("hf-init", "diff", "--b"): "--by-layer",
        ("hf-init", "plan", "--labels-keep", ""): "names leading none", ("hf-init", "verify", "--no-b"): "--no-base",
        ("hf-init", "schemes", "--format", "m"): "markdown", ("hf-init", "extend", "--no-ren"): "--no-rename",
    }  # fmt: skip
    tries = [
        f"COMP_WORDS=({shlex.join(typed)}); COMP_CWORD={len(typed) - 1}; _hf_init; echo ${{COMPREPLY[@]}}"
        for typed in words
    ]
    done = subprocess.run(
        ["bash", "-c", "\n".join([completion_script("bash"), *tries])], capture_output=True, text=True
    )
    assert done.stdout.splitlines() == [*words.values()] and done.stderr == ""
    assert completion_script("zsh").endswith(completion_script("bash"))
    for command, usage in USAGE.items():
        listed = re.findall(rf"from {command}' -l (\S+)", completion_script("fish"))
        assert {f"--{name}" for name in listed} >= {*re.findall(r"--[\w-]+", usage)}
    with pytest.raises(hf_init.HfInitError, match=r"'fsh' \(did you mean 'fish'\?\)"):
        completion_script("fsh")


def test_options_of_the_output_may_go_before_the_command(out, capsys):
    assert main(["--quiet", "--format", "json", "diff", str(out), str(out)]) == 0
    assert json.loads(capsys.readouterr().out)["schema"] == "hf_init.diff/1"
    assert main(["--colour", "diff", str(out), str(out)]) == 2
    assert "--colour (did you mean '--color'?)" in capsys.readouterr().err
    assert main(["--quiet"]) == 2 and "unknown command '--quiet'" in capsys.readouterr().err


@pytest.mark.parametrize("argv", [("completion", "bash"), ("completion", "fish")])
def test_completion_is_printed(argv, capsys):
    assert main([*argv]) == 0 and capsys.readouterr().out == f"{completion_script(argv[1])}\n"


def test_color_is_for_terminals_and_for_who_asks(out, spoiled, capsys, monkeypatch):
    def shown(*argv: object) -> str:
        main([*map(str, argv)])
        return capsys.readouterr().out

    def first(*argv: object) -> str:
        return shown(*argv).splitlines()[0]

    plain = first("verify", out)
    assert "\x1b" not in plain and "\x1b" not in first("verify", spoiled, "--color", "never")
    assert first("verify", out, "--color=always") == f"\x1b[32m{plain}\x1b[0m"
    assert first("verify", spoiled, "--color", "always").startswith("\x1b[31m1 difference")
    assert (
        "\x1b[33mwarning:\x1b[0m"
        in (main(["drift", str(out), str(out), "--color", "always"]), capsys.readouterr().out)[1]
    )
    assert json.loads(
        "".join((main(["verify", str(out), "--json", "--color", "always"]), capsys.readouterr().out)[1:])
    )["ok"]
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert first("verify", out).startswith("\x1b[32m")
    monkeypatch.setenv("NO_COLOR", "1")
    assert first("verify", out) == plain


@pytest.mark.parametrize(
    ("option", "texts", "value"),
    [
        ("allow_new", ["a.*,b.*", "c"], ["a.*", "b.*", "c"]),
        ("frozen", ["kept, !*.bias"], ["kept", "!*.bias"]),
        ("rename_labels", ["neg=bad,pos=so, so"], {"neg": "bad", "pos": "so, so"}),
        ("config", ["a=1,b.c=[1, 2]", 'd={"x": "y,z=1"}'], {"a": 1, "b.c": [1, 2], "d": {"x": "y,z=1"}}),
        ("keep", ["a.*=leading,b=[0, null],c=none"], {"a.*": "leading", "b": [0, None], "c": "none"}),
        ("verbalizer", ["pos=good,great,neg=bad"], {"pos": ["good", "great"], "neg": ["bad"]}),
        ("key_mapping", ["^a{1,2}=b,^c=d"], {"^a{1,2}": "b,^c=d"}),
    ],
)
def test_commas_are_between_values_everywhere(option, texts, value):
    assert option_values({option: texts}, options_of(DriftOptions, PlanOptions)) == {option: value}


def test_a_workflow_gets_annotations_and_a_pull_request_tables(out, spoiled, capsys):
    assert main(["verify", str(spoiled), "--format", "github"]) == 1
    error = capsys.readouterr().out.splitlines()[-1]
    assert (
        error.startswith("::error title=hf-init verify::1 difference from what ") and "%0A  bert.pooler.dense" in error
    )
    assert main(["drift", str(out), str(out), "--format", "github"]) == 0
    assert "\n::warning title=hf-init drift::new, and still as it was made" in capsys.readouterr().out
    assert main(["plan", "nowhere/at/all", "--format=github"]) == 2
    assert capsys.readouterr().out.startswith("::error title=hf-init::no such folder: nowhere/at/all")
    assert main(["diff", str(out), str(spoiled), "--format", "markdown"]) == 1
    assert "| tensor | difference |\n|---|---|\n| bert.pooler.dense.weight | bytes at row 0" in capsys.readouterr().out
    assert (
        main(["diff", str(out), str(out), "--format", "htm"]) == 2
        and "invalid choice: 'htm'" in capsys.readouterr().err
    )


# Options that would be passed over.

IDLE = [
    (("verify", "OUT", "--examples", "x.csv"), "--examples is for --recompute"),
    (
        ("verify", "OUT", "--no-base", "--recompute"),
        "from the base, which --no-base leaves out",
    ),
    (("plan", "OUT", "--seed", "1", "--seed", "2"), "--seed: given twice, as '1' and as '2'"),
    (("check", "OUT", "--labels", "a", "--labels", "b"), "--labels: given twice, as 'a' and as 'b'"),
]


@pytest.mark.parametrize(("argv", "message"), IDLE)
def test_an_option_that_would_mean_nothing_is_refused(out, capsys, argv, message):
    argv = [str(out) if word == "OUT" else word for word in argv]
    assert main(argv) == 2
    assert message in capsys.readouterr().err
    assert message in document(capsys, 2, *argv)["error"]


def test_drift_says_what_training_moved(out, spoiled, capsys):
    assert document(capsys, 0, "drift", out, spoiled)["ok"] is True
    assert document(capsys, 1, "drift", out, spoiled, "--frozen", "kept")["ok"] is False
    assert document(capsys, 0, "drift", out, spoiled, "--frozen", "kept", "--frozen", "!*pooler.dense.weight")["ok"]


FOREIGN = "\u6a21\u578b \x1b[31m\u202ered"
"""A label that a console may not be able to show, and that would turn what follows red, and around."""


@pytest.fixture(scope="module")
def foreign(base, tmp_path_factory) -> Path:
    """A checkpoint in a folder whose name isn't UTF-8, with a label that a terminal would obey."""
    folder = Path(os.fsdecode(os.fsencode(tmp_path_factory.mktemp("foreign")) + b"/b\xff"))
    hf_init.extend(base, folder, HEAD[1], labels=["gut", FOREIGN])
    return folder


def commands_on(folder: Path, out: Path) -> list[tuple[int, list[str]]]:
    """Commands that name everything that is in a folder, with their exit codes."""
    head = [str(folder), "--labels", f"gut,{FOREIGN},neu"]
    made, page = str(out), f"{out}.html"
    drawn = [] if sys.platform == "win32" else [(0, ["report", made, "-o", page])]
    return [
        (0, ["plan", *head]), (0, ["extend", *head[:1], made, *head[1:], "--digest"]), (0, ["verify", made]),
        (1, ["diff", str(folder), made]), (0, ["drift", str(folder), made]), (0, ["heads", made]),
        (2, ["extend", *head[:1], made, *head[1:]]), (2, ["verify", f"{made}/none"]), *drawn,
    ]  # fmt: skip


@pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="every file name is text there")
@pytest.mark.parametrize("form", ["text", "markdown", "github", "json"])
def test_names_that_are_no_text_or_no_print_are_escaped(foreign, tmp_path, capsys, form):
    out = Path(os.fsdecode(os.fsencode(tmp_path) + b"/o\xfe"))
    for code, argv in commands_on(foreign, out):
        assert main([*argv, "--format", form]) == code, argv
        said = capsys.readouterr()
        shown = said.out + said.err
        shown.encode()  # nothing in it that a console can't have
        assert not {"\x1b", "\u202e"} & {*shown}, argv
        assert "\\udcf" in shown or argv[0] in ("plan", "heads")
    assert hf_init.Plan.load(out) and os.fsencode(hf_init.verify(out).base or "") == os.fsencode(foreign)


def test_a_tensors_name_does_not_reach_the_terminal_as_it_is(tmp_path, capsys):
    for folder, value in (("a", 0), ("b", 1)):
        (tmp_path / folder).mkdir()
        save_file({"w\x1b[2J\nall is well": np.full(3, value)}, tmp_path / folder / "model.safetensors")
    for form in ("text", "markdown", "github"):
        for argv in (["diff"], ["drift", "--frozen", "kept"]):
            assert main([argv[0], str(tmp_path / "a"), str(tmp_path / "b"), *argv[1:], "--format", form]) == 1
            said = capsys.readouterr()
            assert "\\x1b[2J" in said.out and "\x1b" not in said.out and "\nall is well" not in said.out


@pytest.mark.slow
@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-8"])
def test_any_console_encoding_will_do(foreign, tmp_path, encoding):
    """Everything is written and said, whatever the console can show."""
    runs = commands_on(foreign, tmp_path / "out")
    done = fresh("-c", SEVERAL, json.dumps([argv for _, argv in runs]), PYTHONIOENCODING=encoding, HF_HUB_OFFLINE="1")
    assert done.returncode == 0 and "Traceback" not in done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == [code for code, _ in runs]
    assert "\\u6a21" in done.stdout or encoding == "utf-8"


def test_a_home_and_a_link_stand_for_their_folders(base, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "base").symlink_to(base)
    (tmp_path / "real").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "real")
    (tmp_path / "recipe.yaml").write_text("{default: zeros}")
    head = ("--labels", "a,b", "--architecture", HEAD[1], "--recipe", "~/recipe.yaml")
    for code, argv in [
        (0, ("plan", "~/base", *head)), (0, ("extend", "~/base", "~/out", *head)), (0, ("verify", "~/out")),
        (0, ("verify", "~/out", "--base", "~/base", "--recompute")), (1, ("diff", "~/base", "~/out")),
        (1, ("diff", "~/base/model.safetensors", "~/out/model.safetensors")), (0, ("drift", "~/base", "~/out")),
        (0, ("drift", "~/out", "~/out", "--plan", "~/out", "-o", "~/moved.png")), (0, ("heads", "~/out")),
        (0, ("report", "~/out", "-o", "~/page.html")), (2, ("verify", "~nobody_of_that_name/out")),
        (2, ("extend", "~/base", "~/out", *head)),
    ]:  # fmt: skip
        assert main([*argv]) == code, (argv, capsys.readouterr().err)
    assert {"base", "real", "out", "recipe.yaml", "moved.png", "page.html"} <= {*os.listdir(tmp_path)}
    assert (tmp_path / "out").is_symlink() and (tmp_path / "real" / "hf_init.json").is_file()
    assert hf_init.verify("~/out") and hf_init.diff("~/out", tmp_path / "real")


def test_new_values_can_t_be_made_again_without_the_base(out):
    with pytest.raises(hf_init.HfInitError, match="base=False leaves out"):
        hf_init.verify(out, False, recompute=True)


def test_what_can_t_be_probed_is_refused_before_anything_is_written(base, tmp_path, capsys):
    (tmp_path / "texts").write_text("A text.")
    argv = ["extend", str(base), str(tmp_path / "out"), *HEAD, "--num-labels", "2", "--probe", str(tmp_path / "texts")]
    assert main(argv) == 2
    assert "only a causal language model can be probed" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["texts"]


def test_the_command_runs_in_any_thread(base, tmp_path):
    codes: list[int] = []
    argv = ["extend", str(base), str(tmp_path / "out"), *HEAD, "--num-labels", "2"]
    thread = threading.Thread(target=lambda: codes.append(main(argv)))
    thread.start()
    thread.join()
    assert codes == [0] and hf_init.verify(tmp_path / "out").ok


def test_progress_counts_the_digests_too(base, tmp_path):
    steps: list[int] = []
    extension = prepare_extension(
        base, tmp_path / "out", HEAD[1], num_labels=3, digest=True, config={"vocab_size": 100},
        keep={"*word_embeddings.weight": "leading"},
    )  # fmt: skip
    extension.run(steps.append)
    assert sum(steps) == extension.nbytes


def test_the_document_of_a_plan_has_its_notes(out, capsys):
    plan = document(capsys, 0, "plan", out, "--labels", "pos,neg")
    assert any("labels removed" in note for note in plan["notes"])
