"""Processes, pipes and terminals: exit codes, bars, and that no stream is needed."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest
from cli_documents import base as base
from cli_documents import out as out
from cli_documents import spoiled as spoiled
from refusals import HEAD
from results import tensors

import hf_init
from hf_init.cli import main

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


def test_clean_runs_are_silent_in_a_pipe(base, warm, tmp_path):
    out = str(tmp_path / "out")
    runs = [
        ["plan", str(base), *HEAD],
        ["extend", str(base), out, *HEAD],
        ["verify", out, "--recompute"],
        ["diff", out, out],
    ]
    done = warm.run(SEVERAL, json.dumps(runs))
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


STREAMLESS = """
import json, os, sys
import hf_init
from hf_init.cli import main

hf_init.extend(*sys.argv[2:])  # brings what the children would else bring one by one
found = []
for number, stream, closed, argv in json.loads(sys.argv[1]):
    if not (child := os.fork()):
        if closed:
            os.close(number)
            setattr(sys, stream, None)  # as in a process that starts without it
        else:
            reader, writer = os.pipe()
            os.close(reader)
            os.dup2(writer, number)
        code = main(argv)
        for stream in filter(None, (sys.stdout, sys.stderr)):
            stream.flush()  # as Python does at its end
        os._exit(code)
    found.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
print(found, flush=True)
"""


@pytest.mark.slow
def test_no_stream_is_needed_to_do_the_work(base, spoiled, tmp_path):
    """Each of the two may be closed from the start, or have a reader that is gone."""
    runs, outs = [], []
    for number, stream in ((1, "stdout"), (2, "stderr")):
        for closed in (True, False):
            outs.append(out := tmp_path / f"{stream}-{closed}")
            for argv in (["extend", base, out, *HEAD], ["verify", spoiled], ["verify", base], ["none"]):
                runs.append([number, stream, closed, [*map(str, argv)]])
    done = fresh("-c", STREAMLESS, json.dumps(runs), base, tmp_path / "first", HEAD[1])
    assert "Traceback" not in done.stderr + done.stdout and "hf-init:" not in done.stdout
    assert json.loads(done.stdout.splitlines()[-1]) == [0, 1, 2, 2] * 4
    assert all(hf_init.verify(out) for out in outs)


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


@pytest.mark.slow
def test_a_terminal_sees_a_bar_that_knows_its_end(minilm, tmp_path):
    code, said, shown = on_a_terminal("extend", minilm, tmp_path / "out", *HEAD, "--json")
    total = 2 * nbytes(tmp_path / "out")
    assert code == 0 and json.loads(said)["verify"]["ok"]
    assert "extend:   0%|" in shown and f"/{total / 1e6:.0f}M" in shown


def test_verify_and_diff_have_a_bar(base, out):
    assert "verify:   0%|" in on_a_terminal("verify", out)[2]
    assert "diff:   0%|" in on_a_terminal("diff", base, out)[2]


def nbytes(folder: Path) -> int:
    """The bytes of a checkpoint's tensors."""
    return sum(each.bits.nbytes for each in tensors(folder).values())


def test_progress_is_told_in_steps_that_sum_to_the_work(base, out, tmp_path):
    grown = {"config": {"vocab_size": 100}, "keep": {"*word_embeddings.weight": "leading"}}
    for k, (options, more) in enumerate([({}, 0), ({"digest": True}, 0), ({"digest": True, **grown}, 96 * 32 * 4)]):
        steps: list[int] = []
        hf_init.extend(base, tmp_path / str(k), HEAD[1], num_labels=3, progress=steps.append, **options)
        size = nbytes(tmp_path / str(k))
        assert sum(steps) == (3 if "digest" in options else 2) * size + more and min(steps) > 0 and len(steps) > 1
    for folder, verb in (
        (out, hf_init.verify),
        (base, lambda base, progress: hf_init.diff(base, base, progress=progress)),
    ):
        steps = []
        verb(folder, progress=steps.append)
        assert sum(steps) == nbytes(folder) and min(steps) > 0
