"""Measure how easy the house is to enter: names, types, imports, helpers, docstrings and lengths, against limits.

Each figure is printed beside its limit; one that is beyond it is marked, and the exit status is 1. ``--list NAME``
prints what a figure counts, ``--room ROOM`` looks at one entry of ``hf_init/`` only, ``--before REV`` measures that
revision of git, too. Files are parsed, never imported; an import for type checkers alone counts as an import.

    python scripts/house.py [--before REV] [--list NAME] [--room ROOM]
"""

from __future__ import annotations

import argparse
import ast
import io
import re
import subprocess
import sys
import tarfile
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import inf
from pathlib import Path

from _house_tree import FUNCTIONS, PACKAGE, Definition, House, Item, Module, origin_of, room_of

ROOT = next(folder for folder in Path(__file__).resolve().parents if (folder / "pyproject.toml").is_file())
LONG_FILE, LONG_BODY = 350, 40  # lines
PLAIN_VERBS, NOUNS_TOO = (
    part.split() for part in Path(__file__).with_name("verbs.txt").read_text("utf-8").split("\n\n")[1::2]
)


def names_defined(house: House) -> Iterator[Item]:
    yield from _repeated(house, lambda module: [node.name for node in module.definitions])


def constants_defined(house: House) -> Iterator[Item]:
    yield from _repeated(house, lambda module: [name for name in module.constants if name != "__all__"])


def _repeated(house: House, names_of: Callable[[Module], list[str]]) -> Iterator[Item]:
    places: dict[str, list[str]] = defaultdict(list)
    for module in house.modules.values():
        for name in dict.fromkeys(names_of(module)):
            places[name].append(module.name)
    for name, modules in sorted(places.items()):
        yield Item(tuple(modules), f"{name}: {', '.join(modules)}", len(modules) > 1)


def words_any(house: House) -> Iterator[Item]:
    for module in house.modules.values():
        for number, line in enumerate(module.text.splitlines(), 1):
            for _ in re.finditer(r"\bAny\b", line):
                yield Item((module.name,), f"{module.path}:{number}: {line.strip()}")


def untyped_options(house: House) -> Iterator[Item]:
    seen = set()
    for module, node in _exported(house):
        methods = [n for n in node.body if isinstance(n, FUNCTIONS)] if isinstance(node, ast.ClassDef) else [node]
        for function in methods:
            private = function.name.startswith("_") and not function.name.startswith("__")
            if function not in seen and not private and (options := function.args.kwarg):
                seen.add(function)
                kind = ast.unparse(options.annotation) if options.annotation else "nothing"
                owner = f"{node.name}." if node is not function else ""
                untyped = kind.removeprefix("typing.") in ("nothing", "Any", "object")
                yield module.at(function, f"{owner}{function.name}(**{options.arg}: {kind})", untyped)


def _exported(house: House) -> Iterator[tuple[Module, Definition]]:
    """Yield what public modules export: what ``__all__`` names, else what they define without an underscore."""
    for module in house.modules.values():
        if any(part.startswith("_") for part in module.name.split(".")) or module.name.count(".") > 2:
            continue
        listed = module.constants.get("__all__")
        names = ast.literal_eval(listed) if listed else [n.name for n in module.definitions if n.name[0] != "_"]
        yield from (found for name in names if (found := house.defined(module, name)))


def private_functions(house: House) -> Iterator[Item]:
    """Look at each ``_name`` at the top of a module; what stands in its own body is no use of it."""
    used = {name: _uses(module.nodes) for name, module in house.modules.items()}
    for module, node, _ in house.imports:
        if isinstance(node, ast.ImportFrom) and (origin := origin_of(node, module)) in used:
            for alias in node.names:
                used[origin][alias.name] += used[module.name][alias.asname or alias.name]
    for module in house.modules.values():
        for node in module.definitions:
            if isinstance(node, FUNCTIONS) and re.match("_[^_]", node.name):
                uses = used[module.name][node.name] - _uses(ast.walk(node))[node.name]
                yield module.at(node, node.name, uses == 1)


def _uses(nodes: Iterator[ast.AST] | tuple[ast.AST, ...]) -> Counter[str]:
    return Counter(node.id for node in nodes if isinstance(node, ast.Name))


def docstrings(house: House) -> Iterator[Item]:
    for module in house.modules.values():
        for function in module.functions:
            if text := ast.get_docstring(function):
                yield module.at(function, f"{function.name}: {text.splitlines()[0]}", not begins_with_verb(text))


def begins_with_verb(text: str) -> bool:
    """Say whether the first word is an imperative: "Return the rows", not "Returns", "Rows of" or "Record of"."""
    first, second = [*re.findall(r"[\w'`-]+", text), "", ""][:2]
    word = first.lower()
    return first[:1].isupper() and (word in PLAIN_VERBS or (word in NOUNS_TOO and second != "of"))


def circles(house: House) -> Iterator[Item]:
    """Find the modules that import each other, directly or over others: each group is one circle."""
    reached: dict[str, set[str]] = {name: set() for name in house.modules}
    for module, _, names in house.imports:
        reached[module.name] |= names - {module.name}
    grown = True
    while grown:
        before = sum(map(len, reached.values()))
        reached = {name: names.union(*(reached[other] for other in names)) for name, names in reached.items()}
        grown = sum(map(len, reached.values())) > before
    for group in sorted({tuple(n for n in reached if n in reached[m] and m in reached[n]) for m in reached} - {()}):
        yield Item(group, " <-> ".join(group))


def upward(house: House) -> Iterator[Item]:
    for module, node, names in house.imports:
        here = room_of(module.name)
        for name in sorted(names):
            there = room_of(name)
            if here != there and house.layers.get(there, inf) >= house.layers.get(here, -inf):  # unknown: wrong
                yield module.at(node, f"{module.name} imports {name}, which is not below it")


def private_files(house: House) -> Iterator[Item]:
    for module, node, names in house.imports:
        for name in sorted(names):
            if room_of(name) != room_of(module.name) and name.count(".") > 1:
                yield module.at(node, f"{module.name} imports {name}")


def long_files(house: House) -> Iterator[Item]:
    for module in (*house.modules.values(), *house.tests):
        yield Item((module.name,), f"{module.path}: {module.lines} lines", module.lines > LONG_FILE)


def long_bodies(house: House) -> Iterator[Item]:
    """Count the lines from the first statement after the docstring to the last."""
    for module in (*house.modules.values(), *house.tests):
        for function in module.functions:
            body = function.body[1:] if ast.get_docstring(function) is not None else function.body
            lines = (function.end_lineno or 0) - body[0].lineno + 1 if body else 0
            yield module.at(function, f"{function.name}: {lines} lines", lines > LONG_BODY)


def tests_of_private(house: House) -> Iterator[Item]:
    """Look at the test files that import a module with an underscore, or one inside a room."""
    for test in house.tests:
        if test.name.startswith("tests.test_"):
            private = sorted({name for _, names in house.named_by(test) for name in names if _is_inside(name)})
            yield Item((test.name,), f"{test.path}: {', '.join(private)}", bool(private))


def _is_inside(module: str) -> bool:
    return "._" in module or module.count(".") > 1


@dataclass(frozen=True)
class Figure:
    """What is counted, how it is said, and the limit: at most, or for a share that is right at least."""

    title: str
    items: Callable[[House], Iterator[Item]]
    unit: str = "number"
    limit: float | None = 0

    def measure(self, house: House, room: str | None) -> float:
        items, modules = _within(self.items(house), room), house.modules.values()
        wrong = sum(item.wrong for item in items)
        if self.unit == "per 1,000 lines":
            return 1000 * wrong / max(sum(m.lines for m in modules if room in (None, room_of(m.name))), 1)
        if self.unit == "number":
            return wrong
        share = 100 * wrong / len(items) if items else 0
        return 100 - share if self.unit == "% right" else share

    def missed(self, value: float) -> bool:
        return self.limit is not None and (value < self.limit if self.unit == "% right" else value > self.limit)

    def spelled(self, value: float | None) -> str:
        return "-" if value is None else f"{value:,.0f}" if self.unit == "number" else f"{value:.1f}"


def _within(items: Iterator[Item], room: str | None) -> list[Item]:
    return [item for item in items if room is None or room in map(room_of, item.modules)]


def _lines(folder: str) -> Callable[[House], Iterator[Item]]:
    def lines(house: House) -> Iterator[Item]:
        for module in house.tests if folder == "tests" else house.modules.values():
            yield from [Item((module.name,), f"{module.path}: {module.lines} lines")] * module.lines

    return lines


FIGURES = {
    "lines": Figure(f"lines of {PACKAGE}", _lines(PACKAGE), limit=None),
    "test-lines": Figure("lines of tests", _lines("tests"), limit=13_000),
    "names": Figure("functions and classes of one name in several modules", names_defined, limit=25),
    "constants": Figure("module constants of one name in several modules", constants_defined, limit=None),
    "any": Figure("Any per 1,000 lines", words_any, "per 1,000 lines", 10),
    "options": Figure("public functions with untyped **", untyped_options),
    "once": Figure("private functions used once, %", private_functions, "%", 40),
    "verbs": Figure("docstrings of functions that begin with a verb, %", docstrings, "% right", 95),
    "circles": Figure("import circles", circles),
    "upward": Figure("imports upward", upward),
    "private": Figure("imports of another room's file", private_files),
    "private-tests": Figure("test files that import private modules", tests_of_private, limit=12),
    "files": Figure(f"files over {LONG_FILE} lines", long_files),
    "bodies": Figure(f"functions over {LONG_BODY} lines", long_bodies),
}


def read_tree(root: Path) -> dict[str, str]:
    files = [file for folder in (PACKAGE, "tests") for file in sorted((root / folder).rglob("*.py"))]
    return {file.relative_to(root).as_posix(): file.read_text(encoding="utf-8") for file in files}


def read_revision(revision: str) -> dict[str, str]:
    command = ["git", "-C", str(ROOT), "archive", revision, PACKAGE, "tests"]
    with tarfile.open(fileobj=io.BytesIO(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)) as tar:
        files = [member for member in tar if member.isfile() and member.name.endswith(".py")]
        return {member.name: file.read().decode() for member in files if (file := tar.extractfile(member))}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", metavar="REV", help="measure this revision, too")
    parser.add_argument("--list", metavar="NAME", choices=FIGURES, help=f"what counts: {', '.join(FIGURES)}")
    parser.add_argument("--room", help=f"one entry of {PACKAGE}/, such as schemes or _plan")
    options = parser.parse_args(argv)
    house = House(read_tree(ROOT))
    if options.room not in {None, *map(room_of, house.modules)}:
        parser.error(f"there is no {PACKAGE}/{options.room}")
    if options.list:
        wrong = [item.text for item in _within(FIGURES[options.list].items(house), options.room) if item.wrong]
        print("\n".join(dict.fromkeys(wrong)))
        return 0
    before = House(read_revision(options.before)) if options.before else None
    print(f"{'':14} {'before':>9} {'now':>9} {'limit':>9}")
    missed = False
    for name, figure in FIGURES.items():
        value = figure.measure(house, options.room)
        columns = [figure.measure(before, options.room) if before else None, value, figure.limit]
        over = figure.missed(value)
        missed |= over
        print(
            f"{name:14}",
            *(f"{figure.spelled(column):>9}" for column in columns),
            f"{'*' if over else ' '} {figure.title}",
        )
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
