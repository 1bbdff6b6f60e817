"""The manners of the command line: completion, color, names that are no text, homes and links."""

from __future__ import annotations

import io
import json
import os
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from cli_documents import base as base
from cli_documents import document
from cli_documents import out as out
from cli_documents import spoiled as spoiled
from refusals import HEAD
from safetensors.numpy import save_file

import hf_init
from hf_init.cli import main


def test_report_writes_one_file_and_says_which(out, tmp_path, capsys):
    page = tmp_path / "page.html"
    assert document(capsys, 0, "report", out, "-o", page)["written"] == str(page)
    assert "classifier.weight" in page.read_text(encoding="utf-8")
    assert main(["report", str(out), "-o", str(page)]) == 2
    assert "exists" in capsys.readouterr().err


# Manners.


def test_options_of_the_output_may_go_before_the_command(out, capsys):
    assert main(["--quiet", "--format", "json", "diff", str(out), str(out)]) == 0
    assert json.loads(capsys.readouterr().out)["schema"] == "hf_init.diff/1"
    assert main(["--colour", "diff", str(out), str(out)]) == 2
    assert "--colour (did you mean '--color'?)" in capsys.readouterr().err
    assert main(["--quiet"]) == 2 and "unknown command '--quiet'" in capsys.readouterr().err


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
    (("verify", "OUT", "--no-base", "--recompute"), "from the base, which --no-base leaves out"),
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


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-8"])
def test_any_console_encoding_will_do(foreign, tmp_path, monkeypatch, encoding):
    """Everything is written and said, whatever the console can show."""
    console = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    for stream in ("stdout", "stderr"):
        monkeypatch.setattr(sys, stream, console)
    for code, argv in commands_on(foreign, tmp_path / "out"):
        assert main(argv) == code, argv
    console.flush()
    said = console.buffer.getvalue().decode(encoding)
    assert ("\\u6a21" if encoding != "utf-8" else "\u6a21") in said and "Traceback" not in said


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


def test_the_document_of_a_plan_has_its_notes(out, capsys):
    plan = document(capsys, 0, "plan", out, "--labels", "pos,neg")
    assert any("labels removed" in note for note in plan["notes"])
