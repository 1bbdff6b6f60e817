"""Everything that the README and the guides show is run, in order, and its output is what they say.

A page is run from an empty folder in which the two checkpoints are, as in the one that ``scripts/demo`` leaves. In an
output, ``...`` stands for anything. After a change, ``python tests/test_guides.py PAGE`` writes what is printed into
a page.
"""

from __future__ import annotations

import doctest
import io
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import redirect_stdout
from pathlib import Path

import pytest

from hf_init.cli import main

ROOT = Path(__file__).parent.parent
GUIDES = [*sorted(ROOT.glob("hf_init/*/README.md")), ROOT / ".github/CI.md", ROOT / "scripts/evidence/README.md"]
PAGES = {str(page.relative_to(ROOT)): page for page in (ROOT / "README.md", *GUIDES)}
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SETUP = ("scripts/", "pip ", "source ")
"""How commands begin that set a machine up, and lead to the folder in which the others are run."""
SEVERAL = ("torchrun ", "accelerate ")
"""How commands begin that start several processes: test_sharded.py runs what they run, all in the same two."""


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("page", PAGES)
def test_a_page_prints_what_it_says(page, minilm, smollm2, tmp_path, monkeypatch):
    for checkpoint in (minilm, smollm2):
        (tmp_path / checkpoint.name).symlink_to(checkpoint)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")
    text = PAGES[page].read_text(encoding="utf-8")
    assert with_real_outputs(text) == text


def test_a_wrong_output_would_be_seen(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    text = "```console\n$ echo a | tr a b\na\n```\n\n```python\nprint(1)\n```\n\n```text\n2\n```\n"
    assert with_real_outputs(text) == text.replace("\na\n", "\nb\n").replace("\n2\n", "\n1\n")


@pytest.mark.parametrize("page", PAGES)
def test_a_page_is_short_and_its_links_lead_somewhere(page):
    text = PAGES[page].read_text(encoding="utf-8")
    assert len(text.split()) <= (1800 if page == "README.md" else 1500)
    assert page != "README.md" or len(text.splitlines()) <= 200
    links = re.findall(r"\]\((?!https?:)([^)#]+)", text)
    assert [link for link in links if not (PAGES[page].parent / link).exists()] == []


def test_the_readme_leads_to_every_guide():
    links = re.findall(r"\]\(([^)#]+)\)", PAGES["README.md"].read_text(encoding="utf-8"))
    assert PAGES.keys() - {"README.md"} <= {*links}


def with_real_outputs(text: str) -> str:
    """Return a page with what its commands and its Python print, run in the current folder."""
    return "".join(_pieces(text))


def _pieces(text: str) -> Iterator[str]:
    names: dict[str, object] = {"__name__": "__main__"}
    end, printed = 0, None
    for block in BLOCK.finditer(text):
        kind, body = block.groups()
        between, end = text[end : block.start()], block.end()
        if printed is not None and (kind != "text" or between.strip()):
            assert not printed, f"printed, and not shown: {printed}"
            printed = None
        if kind == "console":
            body = "".join(map(_command, body.removeprefix("$ ").split("\n$ ")))
        elif kind == "text" and printed is not None:
            body, printed = _shown(body, printed), None
        elif kind == "python":
            with redirect_stdout(io.StringIO()) as stream:
                exec(compile(body, "<page>", "exec"), names)
            printed = stream.getvalue()
        elif body.startswith("# "):
            file = Path(body[2:].partition("\n")[0])
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(body, encoding="utf-8")
        yield f"{between}```{kind}\n{body}```"
    assert not printed, f"printed, and not shown: {printed}"
    yield text[end:]


def _command(piece: str) -> str:
    """Return a command with what it prints; one of ours is run in this process, and a pipe behind it by a shell."""
    line, _, output = piece.partition("\n")
    if line.startswith(SETUP + SEVERAL):
        return f"$ {line}\n{output}"
    (command, _, pipe), exit_code = line.partition(" | "), re.search(r"# exit code (\d)$", line)
    if command.startswith("hf-init "):
        with redirect_stdout(io.StringIO()) as stream:
            code = main(shlex.split(command, comments=True)[1:])
        assert code == (int(exit_code[1]) if exit_code else 0), line
        printed = stream.getvalue()
    else:
        pipe, printed = line, ""
    if pipe:
        done = subprocess.run(pipe, shell=True, input=printed, text=True, stdout=subprocess.PIPE, check=True)
        printed = done.stdout
    return f"$ {line}\n{_shown(output.rstrip() + chr(10) if output.strip() else '', printed)}"


def _shown(expected: str, printed: str) -> str:
    """Return what a page should show: what it shows, if that stands for what is printed."""
    printed = re.sub(r"[^\S\n]+\n", "\n", printed)
    return expected if doctest.OutputChecker().check_output(expected, printed, doctest.ELLIPSIS) else printed


if __name__ == "__main__":  # in a folder with the two checkpoints
    os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_VERBOSITY="error", COLUMNS="120")
    for name in sys.argv[1:]:
        Path(name).write_text(with_real_outputs(Path(name).read_text(encoding="utf-8")), encoding="utf-8")
