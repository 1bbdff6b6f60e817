"""The table of options, from which the command line, the signatures, the docstrings and the guide are made."""

from __future__ import annotations

import ast
import inspect
import shlex
import textwrap
from pathlib import Path

import pytest

import hf_init
from hf_init import HfInitError, _options
from hf_init._checkpoint import HUB_OPTIONS
from hf_init._drift import measure_drift
from hf_init._errors import option
from hf_init._load import from_pretrained
from hf_init._options import option_group, options_of
from hf_init._write import prepare_extension
from hf_init.cli._commands import COMMANDS
from hf_init.cli._parser import command_parser
from hf_init.cli._values import command_line_spelling, long_name, option_values


def option_groups() -> list[type]:
    return [group for group in vars(_options).values() if isinstance(group, type) and hasattr(group, "__total__")]


def test_every_option_is_described_once():
    """In the docstring of each function that takes it, with the help of the command line."""
    groups = option_groups()
    assert all({*group.__annotations__} == {*options_of(group)} for group in groups) and len(groups) > 15
    for function, group in [
        (hf_init.extend, _options.ExtendOptions),
        (hf_init.verify, _options.VerifyOptions),
        (from_pretrained, _options.LoadOptions),
    ]:
        assert all(f"    {name}: {found.help}." in function.__doc__ for name, found in options_of(group).items())


def test_defaults_are_those_of_the_code():
    """Where an option has a default in the table, the function that uses it has the same."""
    files = inspect.signature(prepare_extension).parameters
    for name, found in options_of(_options.FileOptions).items():
        assert files[name].default == (found.default or (False if found.form == "flag" else None))
    assert inspect.signature(measure_drift).parameters["frozen"].default == "none"
    assert {*HUB_OPTIONS, "subfolder"} == {*options_of(_options.HubOptions)}


def command_lists() -> str:
    """The commands, and the options by group with the commands that take them, as ``cli/README.md`` has them."""
    width = max(len(command.usage) for command in COMMANDS)
    lines = [f"hf-init {command.usage:{width}}  {command.help}" for command in COMMANDS]
    for name in dict.fromkeys(name for command in COMMANDS for name in command.groups):
        takers = ", ".join(command.name for command in COMMANDS if name in command.groups)
        words = [written(option, found) for option, found in options_of(option_group(name)).items()]
        lines += ["", f"{str(option_group(name).__doc__).rstrip('.').lower()} ({takers}):"]
        lines += textwrap.wrap(
            "  ".join(words), 110, initial_indent="  ", subsequent_indent="  ", break_on_hyphens=False
        )
    return "\n".join(lines).replace("\N{NO-BREAK SPACE}", " ")


def written(name: str, found: _options.Option) -> str:
    if found.form == "flag":
        return f"--no-{name}" if found.default is True else long_name(name)
    if found.form == "either":
        return f"--[no-]{name.replace('_', '-')}"
    return f"{long_name(name)} {'|'.join(found.choices) or found.metavar or name.upper()}".replace(
        " ", "\N{NO-BREAK SPACE}"
    )


def test_the_guide_lists_every_command_and_option():
    readme = (Path(hf_init.__file__).parent / "cli" / "README.md").read_text(encoding="utf-8")
    assert f"```text\n{command_lists()}\n```" in readme


def test_the_marks_of_options_name_options_that_there_are():
    """Every ``option("name", ...)`` in a message is in the table, and reads as itself on the command line."""
    named = [
        node.args[0].value
        for file in Path(hf_init.__file__).parent.rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "option"
        if isinstance(node.args[0], ast.Constant)
    ]
    known = options_of(*option_groups())
    assert len(named) > 20 and set(named) <= set(known)
    spelled = HfInitError(option("allow_new", ["GLOB"])).spelled(command_line_spelling)
    assert spelled == "--allow-new GLOB" and command_line_spelling("digest", "True") == "--digest"


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_the_examples_of_the_help_can_be_parsed(command):
    for example in command.examples:
        program, name, *argv = shlex.split(example)
        assert (program, name) == ("hf-init", command.name)
        args = command_parser(command).parse_command(argv)
        option_values(vars(args), options_of(*map(option_group, command.groups)))


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
    assert option_values({option: texts}, options_of(_options.DriftOptions, _options.PlanOptions)) == {option: value}
