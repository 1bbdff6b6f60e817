"""Everything that the README shows is run, in order and in one folder, and its output is what the README says."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

README = Path(__file__).parent.parent / "README.md"
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
NOT_RUN = "scripts/"  # the two commands that set up a machine and run, among others, this test


def blocks() -> list[tuple[str, str]]:
    return BLOCK.findall(README.read_text(encoding="utf-8"))


def test_the_commands_show_what_they_print(folder):
    commands = [piece for kind, text in blocks() if kind == "console" for piece in text.split("$ ")[1:]]
    shown = [(line, output) for line, _, output in (piece.partition("\n") for piece in commands)]
    assert len(shown) >= 6
    for line, output in shown:
        if not line.startswith(NOT_RUN):
            assert run_shell(line, folder) == output, line


def test_the_python_pieces_print_what_follows_them(folder):
    if not (folder / "sentiment").exists():
        run_shell(
            next(line[2:] for line in README.read_text().splitlines() if line.startswith("$ hf-init extend")), folder
        )
    found = blocks()
    pieces = [k for k, (kind, _) in enumerate(found) if kind == "python"]
    program = "\nprint('=====')\n".join(found[k][1] for k in pieces)
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=folder, capture_output=True, text=True, check=True, env=env()
    )
    printed = [text.strip() for text in done.stdout.split("=====")]
    assert printed == [found[k + 1][1].strip() for k in pieces]
    assert all(found[k + 1][0] == "text" for k in pieces)


def test_a_wrong_output_would_be_seen(folder):
    assert run_shell("hf-init diff all-MiniLM-L6-v2 all-MiniLM-L6-v2", folder) != "something else\n"


@pytest.fixture(scope="module")
def folder(minilm: Path, smollm2: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("readme")
    (place / "all-MiniLM-L6-v2").symlink_to(minilm)
    (place / "SmolLM2-135M-Instruct").symlink_to(smollm2)
    recipe = next(text for kind, text in blocks() if kind == "yaml" and text.startswith("# recipe.yaml"))
    (place / "recipe.yaml").write_text(recipe, encoding="utf-8")
    return place


def run_shell(line: str, folder: Path) -> str:
    command = line.replace("hf-init ", f"{sys.executable} -m hf_init ")
    return subprocess.run(command, shell=True, cwd=folder, capture_output=True, text=True, check=True, env=env()).stdout


def env() -> dict[str, str]:
    return {**os.environ, "COLUMNS": "120"}
