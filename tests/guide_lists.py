"""The guide's list of commands and options, which freezes the surface: what it lists is there, and nothing else."""

from __future__ import annotations

import re
from pathlib import Path

import hf_init

PAGE = (Path(hf_init.__file__).parent / "cli" / "README.md").read_text(encoding="utf-8")
HEAD, *GROUPS = PAGE.partition("```text\n")[2].partition("\n```")[0].split("\n\n")
COMMANDS = {line.split()[1]: re.split(r"\s{2,}", line)[0].split(" ", 2)[2] for line in HEAD.splitlines()}
"""The name of each command, and what has no name in its usage."""


def listed(command: str) -> list[str]:
    """The options of a command with what each takes, such as ``--link copy|hard|symbolic``."""
    groups = [group.partition(":\n") for group in GROUPS]
    mine = [options for title, _, options in groups if command in re.findall(r"\w+", title.rpartition("(")[2])]
    return [word for options in mine for word in re.split(r"\s{2,}", options.strip())]


def names(command: str) -> set[str]:
    """The same as Python names."""
    return {re.sub(r"^--(\[no-\]|no-)?", "", word).split()[0].replace("-", "_") for word in listed(command)}
