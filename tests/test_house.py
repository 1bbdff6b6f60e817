"""Each figure of ``scripts/house.py`` can go wrong: a made-up package has none, and one change makes one."""

from __future__ import annotations

from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parent.parent / "scripts"
CLEAN = {
    "hf_init/__init__.py": "from hf_init._api import extend\nfrom hf_init.schemes import Zeros\n"
    '__all__ = ["Zeros", "extend"]\n',
    "hf_init/_api.py": "from hf_init._plan import make\ndef extend(base: str, **options: Unpack[Options]) -> None:\n"
    '    """Return nothing."""\n    _go(base), _go(make)\ndef _go(what): ...\n',
    "hf_init/_plan/__init__.py": "from hf_init._plan._table import make\nfrom hf_init import schemes\n",
    "hf_init/_plan/_table.py": "def make() -> None: ...\n",
    "hf_init/schemes/__init__.py": "class Zeros:\n    def __call__(self): ...\n",
    "tests/test_imports.py": 'LAYERS = (("__init__",), ("_api",), ("_plan",), ("schemes",))\n',
    "tests/test_plan.py": "import hf_init\n",
}
LONG = "    x = 1\n" * 41
WRONG = {
    "names": ("hf_init/schemes/__init__.py", "def make(): ...\n", "make: hf_init._plan._table, hf_init.schemes"),
    "constants": ("hf_init/_api.py", "X = 1\n", "X: hf_init._api, hf_init._plan._table"),
    "any": ("hf_init/_api.py", "x: Any = 1\n", "hf_init/_api.py:6: x: Any = 1"),
    "options": ("hf_init/schemes/__init__.py", "    def f(self, **settings): ...\n", "Zeros.f(**settings: nothing)"),
    "once": ("hf_init/_api.py", "def _x(): _x()\n_x()\n", "hf_init/_api.py:6: _x"),
    "verbs": ("hf_init/_api.py", 'def f():\n    """The rows."""\n', "f: The rows."),
    "circles": (
        "hf_init/_plan/_table.py",
        "if TYPE_CHECKING:\n    import hf_init._plan\n",
        "._plan <-> hf_init._plan.",
    ),
    "upward": ("hf_init/schemes/__init__.py", "from .. import _plan\n", "hf_init.schemes imports hf_init._plan, which"),
    "private": ("hf_init/_api.py", "def f():\n    from ._plan._table import make\n", "_api imports hf_init._plan._t"),
    "private-tests": ("tests/test_plan.py", "from hf_init._plan import make\n", "tests/test_plan.py: hf_init._plan"),
    "files": ("hf_init/_api.py", "\n" * 346, "hf_init/_api.py: 351 lines"),
    "bodies": ("tests/test_plan.py", f'def f():\n    """Do it."""\n{LONG}', "tests/test_plan.py:2: f: 41 lines"),
}


@pytest.fixture
def house(monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPTS))
    import house

    return house


def wrong(house, name, sources):
    return [item.text for item in house.FIGURES[name].items(house.House(sources)) if item.wrong]


@pytest.mark.parametrize("name", WRONG)
def test_a_figure_is_none_and_can_go_wrong(house, name):
    path, text, offender = WRONG[name]
    clean = {**CLEAN, "hf_init/_plan/_table.py": CLEAN["hf_init/_plan/_table.py"] + "X = 1\n" * (name == "constants")}
    assert wrong(house, name, clean) == []
    (found,) = wrong(house, name, {**clean, path: clean[path] + text})
    assert offender in found
    figure = house.FIGURES[name]
    tree = house.House({**clean, path: clean[path] + text})
    assert figure.measure(tree, None) != figure.measure(house.House(clean), None)
    assert figure.limit != 0 or figure.missed(figure.measure(tree, None))


REACHED = {"once": 55.0, "test-lines": 26_500}
"""Figures that are beyond their limits: they get no worse."""


@pytest.mark.slow  # it reads the whole repository
def test_this_house_keeps_its_limits(house):
    tree = house.House(house.read_tree(house.ROOT))
    measured = {name: figure.measure(tree, None) for name, figure in house.FIGURES.items()}
    missed = {name: figure for name, figure in house.FIGURES.items() if figure.missed(measured[name])}
    wrong = {name: [item.text for item in figure.items(tree) if item.wrong] for name, figure in missed.items()}
    assert {name: texts for name, texts in wrong.items() if name not in REACHED} == {}
    assert [name for name, most in REACHED.items() if measured[name] > most] == []


def test_every_figure_is_tried(house):
    assert house.FIGURES.keys() - WRONG.keys() == {"lines", "test-lines"}


def test_shares_and_rates(house):
    tree = house.House({**CLEAN, "hf_init/_api.py": CLEAN["hf_init/_api.py"] + 'def f():\n    """Rows."""\n    Any\n'})
    assert house.FIGURES["verbs"].measure(tree, None) == 50 and house.FIGURES["verbs"].missed(94.9)
    assert house.FIGURES["any"].measure(tree, "_api") == 1000 / 8
    assert house.FIGURES["any"].measure(tree, "schemes") == 0
    assert house.FIGURES["test-lines"].measure(tree, None) == 2 and not house.FIGURES["test-lines"].missed(13_000)


@pytest.mark.parametrize(
    ("text", "verb"),
    [
        ("Return the rows.", True),
        ("Record what runs.", True),
        ("Record of what ran.", False),
        ("Returns the rows.", False),
        ("The rows.", False),
        ("`read` the rows", False),
        ("", False),
    ],
)
def test_a_verb_is_an_imperative(house, text, verb):
    assert house.begins_with_verb(text) is verb


def test_the_command_lists_and_compares(house, monkeypatch, capsys):
    monkeypatch.setattr(house, "read_tree", lambda root: {**CLEAN, "hf_init/_api.py": "Any\n"})
    monkeypatch.setattr(house, "read_revision", lambda revision: CLEAN)
    assert house.main(["--list", "any"]) == 0 and capsys.readouterr().out == "hf_init/_api.py:1: Any\n"
    assert house.main(["--before", "x"]) == 1
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("any")]
    assert line.split()[1:5] == ["0.0", "111.1", "10.0", "*"]
    assert house.main(["--room", "schemes"]) == 0
    with pytest.raises(SystemExit, match="2"):
        house.main(["--room", "nowhere"])
