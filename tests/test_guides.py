"""Everything that the README and the guides show is run, in order, and its output is what they say.

A page is run from an empty folder in which the two checkpoints are, as in the one that ``scripts/demo`` leaves. In an
output, ``...`` stands for anything. After a change, ``python tests/test_guides.py PAGE`` writes what is printed into
a page.
"""

from __future__ import annotations

import ast
import doctest
import io
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import pytest
import yaml

from hf_init.cli import main

ROOT = Path(__file__).parent.parent
GUIDES = [*sorted(ROOT.glob("hf_init/*/README.md")), ROOT / ".github/CI.md", ROOT / "scripts/evidence/README.md"]
PAGES = {str(page.relative_to(ROOT)): page for page in (ROOT / "README.md", *GUIDES)}
NOTEBOOKS = {str(page.relative_to(ROOT)): page for page in sorted(ROOT.glob("scripts/notebooks/*.ipynb"))}
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SETUP = ("scripts/", "pip ", "source ")
"""How commands begin that set a machine up, and lead to the folder in which the others are run."""
SEVERAL = ("torchrun ", "accelerate ")
"""How commands begin that start several processes: test_sharded.py runs what they run, all in the same two."""


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("page", [*PAGES, *NOTEBOOKS])
def test_a_page_prints_what_it_says(page, minilm, smollm2, tmp_path, monkeypatch):
    for checkpoint in (minilm, smollm2):
        (tmp_path / checkpoint.name).symlink_to(checkpoint)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")
    text = (ROOT / page).read_text(encoding="utf-8")
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


def test_the_action_and_the_hooks_take_what_the_guide_gives_them(monkeypatch, capsys):
    action, hooks = (
        yaml.safe_load((ROOT / name).read_text()) for name in (".github/action.yml", ".pre-commit-hooks.yaml")
    )
    shown = [yaml.safe_load(body) for kind, body in BLOCK.findall(PAGES[".github/CI.md"].read_text()) if kind == "yaml"]
    steps = [step for step in shown[0]["jobs"]["proof"]["steps"] if ".github@" in step["uses"]]
    assert len(steps) == 2 and all({*step["with"]} <= {*action["inputs"]} for step in steps)
    assert {hook["id"] for hook in shown[1]["repos"][0]["hooks"]} == {hook["id"] for hook in hooks}
    assert {hook["entry"] for hook in hooks} == {"hf-init verify", "hf-init drift"}
    monkeypatch.setenv("COMMAND", "schemes 'kaiming_normal'")
    with pytest.raises(SystemExit) as stopped:
        exec(action["runs"]["steps"][-1]["run"], {})
    assert stopped.value.code == 0 and capsys.readouterr().out.startswith("kaiming_normal")


def with_real_outputs(text: str) -> str:
    """Return a page, or a notebook, with what its commands and its Python print, run in the current folder."""
    if not text.startswith("{"):
        return "".join(_pieces(text))
    notebook = json.loads(text)
    names: dict[str, object] = {"__name__": "__main__"}
    for number, cell in enumerate((cell for cell in notebook["cells"] if cell["cell_type"] == "code"), 1):
        cell.update(execution_count=number, outputs=_cell_outputs(cell, number, names))
    return json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"


def _cell_outputs(cell: dict[str, Any], number: int, names: dict[str, object]) -> list[dict[str, Any]]:
    """Return what a cell prints, and its last value as Jupyter shows it.

    What needs a kernel stays as a kernel left it: the bar and table that Trainer shows in place of the lines that it
    prints elsewhere, and the pixels of a picture. A kernel for each notebook would import everything again.
    """
    body = ast.parse("".join(cell["source"]))
    end = body.body[-1]
    last = end if isinstance(end, ast.Expr) else None
    body.body = body.body[:-1] if last else body.body
    with redirect_stdout(io.StringIO()) as stream:
        exec(compile(body, "<cell>", "exec"), names)
        value = eval(compile(ast.Expression(last.value), "<cell>", "eval"), names) if last else None
    before = ["".join(each["text"]) for each in cell["outputs"] if each["output_type"] == "stream"]
    bars, printed = [each for each in cell["outputs"] if each["output_type"] == "display_data"], stream.getvalue()
    if bars:
        printed = re.sub(r"^\{'.*\n", "", printed, flags=re.MULTILINE)
    outputs: list[dict[str, Any]] = []
    if printed:
        text = _shown("".join(before), printed)
        outputs.append({"name": "stdout", "output_type": "stream", "text": text.splitlines(keepends=True)})
    outputs += bars
    drawing = getattr(value, "_repr_png_", None)
    if drawing is not None:
        pictures = [each for each in cell["outputs"] if "image/png" in each.get("data", {})]
        assert pictures and drawing().startswith(b"\x89PNG")
        outputs += pictures
    elif value is not None:
        drawn = {"text/html": value._repr_html_().splitlines(keepends=True)} if hasattr(value, "_repr_html_") else {}
        data = {**drawn, "text/plain": [repr(value)]}
        outputs.append({"data": data, "execution_count": number, "metadata": {}, "output_type": "execute_result"})
    return outputs


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
