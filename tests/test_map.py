"""What is written for those who carry on is true: the map of the rooms, the files to touch, the version."""

from __future__ import annotations

import ast
import re

import pytest
from test_imports import LAYERS, PACKAGE

import hf_init

ROOT = PACKAGE.parent
MAP = (PACKAGE / "README.md").read_text(encoding="utf-8")
ROWS = dict(re.findall(r"^\| `([\w/]+)` \| (.+?) \|$", MAP, re.MULTILINE))


def first_sentence(part: str) -> str:
    """Of what a module, or a room's door, says of itself."""
    file = PACKAGE / part / "__init__.py" if (PACKAGE / part).is_dir() else PACKAGE / f"{part}.py"
    text = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
    return re.split(r"(?<=\w[.])\s|\n", text)[0].rstrip(".:")


def test_the_map_has_every_room_from_the_top_down():
    assert [*ROWS] == [part for layer in LAYERS for part in sorted(layer)]


@pytest.mark.parametrize("part", ROWS)
def test_the_map_says_what_the_room_says_of_itself(part):
    assert ROWS[part] == first_sentence(part)


@pytest.mark.parametrize("path", sorted(set(re.findall(r"`((?:hf_init|tests|scripts)/[\w/.]+)`", MAP))))
def test_a_file_on_the_map_is_there(path):
    assert (ROOT / path).exists()


def test_the_changelog_begins_with_this_version():
    versions = re.findall(r"^## \[(\S+)\]", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert versions[0] == hf_init.__version__


def test_the_rules_name_what_is_there():
    text = (ROOT / ".github" / "CONTRIBUTING.md").read_text(encoding="utf-8")
    missing = [path for path in re.findall(r"(?:hf_init|tests|scripts)/[\w/.]*\w", text) if not (ROOT / path).exists()]
    assert missing == []


if __name__ == "__main__":  # the rows as they should be
    print(*(f"| `{part}` | {first_sentence(part)} |" for layer in LAYERS for part in sorted(layer)), sep="\n")
