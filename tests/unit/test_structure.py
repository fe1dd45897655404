"""Tests of the structure of the package: no circular imports, and one file that changes a session."""

from __future__ import annotations

import ast
import dataclasses
import re
import tomllib
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from ocwatchd.core.engine.session import TrackedSession, diagram

ROOT = Path(__file__).parents[2]


def imports() -> dict[str, set[str]]:
    """Return for every module of ocwatchd the modules that it imports anywhere, including inside functions."""
    files = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in (ROOT / "ocwatchd").rglob("*.py")}
    modules = {name.removesuffix(".__init__"): path for name, path in files.items()}
    found: dict[str, set[str]] = {name: set() for name in modules}
    for name, path in modules.items():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("ocwatchd"):
                for alias in node.names:
                    inner = f"{node.module}.{alias.name}"
                    found[name].add(inner if inner in modules else str(node.module))
    # A package that re-exports names of its modules on request imports them late, and they import it early.
    return {name: {other for other in others if other != name} for name, others in found.items()}


def test_no_module_imports_itself_through_others() -> None:
    try:
        list(TopologicalSorter(imports()).static_order())
    except CycleError as error:
        raise AssertionError(" -> ".join(error.args[1])) from None


# ---- the size of modules

MAX_SMALL, MAX_SINGLE = 5, 44
SMALL, LONG = 40, 500
"""Number of lines. A shorter module is mostly part of another concept; a longer one says why in its first lines."""


def lines(path: Path) -> list[str]:
    return path.read_text().splitlines()


def modules() -> dict[str, Path]:
    """Return the modules that contain something, by name."""
    paths = (path for path in (ROOT / "ocwatchd").rglob("*.py") if path.name not in ("__init__.py", "__main__.py"))
    return {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in paths}


def test_few_modules_are_small() -> None:
    small = sorted(name for name, path in modules().items() if len(lines(path)) <= SMALL)
    assert len(small) <= MAX_SMALL, f"of {SMALL} lines or fewer: {small}"


def test_few_modules_have_a_single_importer() -> None:
    found, ours = imports(), modules()
    by = {name: sorted(other for other, wanted in found.items() if name in wanted) for name in ours}
    unused = [name for name in ours if not by[name] and '__name__ == "__main__"' not in ours[name].read_text()]
    assert not unused, "nobody imports these, and they are no programs"
    single = sorted(f"{name} <- {by[name][0]}" for name in ours if len(by[name]) == 1)
    assert len(single) <= MAX_SINGLE, "\n".join(single)


CODE = frozenset((".py", ".js", ".mjs", ".lua", ".css"))
"""Suffixes of the files that contain code."""


def silent_about_their_length(tree: Path) -> list[str]:
    """Return the long files with code in a directory that do not say in their first lines why they are long."""
    long = [path for path in sorted(tree.rglob("*")) if path.suffix in CODE and len(lines(path)) > LONG]
    silent = [path for path in long if "long because" not in "\n".join(lines(path)[:15]).lower()]
    return [f"{len(lines(path))} {path.relative_to(tree)}" for path in silent]


@pytest.mark.parametrize("tree", ["ocwatchd", "tests", "scripts", "bench"])
def test_a_long_file_says_why_in_its_first_lines(tree: str) -> None:
    assert silent_about_their_length(ROOT / tree) == []


def test_a_long_file_without_a_reason_is_found_in_every_language(tmp_path: Path) -> None:
    for name in ("a.py", "b.js", "c.mjs"):
        (tmp_path / name).write_text("\n" * (LONG + 1))
    (tmp_path / "d.js").write_text("// This file is long because …" + "\n" * (LONG + 1))
    (tmp_path / "data.json").write_text("\n" * (LONG + 1))
    assert silent_about_their_length(tmp_path) == [f"{LONG + 1} a.py", f"{LONG + 1} b.js", f"{LONG + 1} c.mjs"]


# ---- the checks before a change lands


def test_the_test_files_that_the_checks_name_exist() -> None:
    """Pytest runs no test at all if one of the files that it is given does not exist."""
    named = re.findall(r"tests/[\w/]+\.py", (ROOT / ".ci/run").read_text())
    assert len(named) > 5
    assert [name for name in named if not (ROOT / name).exists()] == []


# ---- imports within functions

FAST_PATH = "The fast path imports nothing costly"
WITHIN_COMMANDS = "ocwatchd.cli.app"
"""A module that imports each command when it is called, so that `--help` costs only typer; its docstring says so."""


def late_imports(path: Path) -> list[ast.stmt]:
    functions = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.FunctionDef)]
    found = [node for each in functions for node in ast.walk(each) if isinstance(node, (ast.Import, ast.ImportFrom))]
    return list({node.lineno: node for node in found}.values())


def test_an_import_within_a_function_has_a_reason_or_is_on_the_fast_path() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    (light,) = (contract["source_modules"] for contract in contracts if contract["name"] == FAST_PATH)
    assert len(set(light)) == len(light)
    silent = []
    for name, path in modules().items():
        if name in light or name == WITHIN_COMMANDS:
            continue
        text = lines(path)
        silent += [
            f"{path.relative_to(ROOT)}:{node.lineno}: {text[node.lineno - 1].strip()}"
            for node in late_imports(path)
            if not any("#" in line for line in text[node.lineno - 2 : node.end_lineno])
        ]
    assert not silent, "\n".join(silent)


# ---- the state machine of a session


def assigned(path: Path) -> list[str]:
    """Return the fields of a session that a file assigns or deletes, except those of its own classes."""
    tree = ast.parse(path.read_text())
    own = {
        node.target.id
        for node in ast.walk(tree)
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
    }
    fields = {field.name for field in dataclasses.fields(TrackedSession)} - own
    return [
        f"{path.relative_to(ROOT)}:{node.lineno}: {ast.unparse(node)}"
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, (ast.Store, ast.Del)) and node.attr in fields
        if not (isinstance(node.value, ast.Name) and node.value.id == "self")
    ]


def test_only_its_own_file_assigns_a_field_of_a_session() -> None:
    files = [path for top in ("ocwatchd", "tests", "bench", "scripts") for path in (ROOT / top).rglob("*.py")]
    machine = ROOT / "ocwatchd/core/engine/session.py"
    assert [line for path in files if path != machine for line in assigned(path)] == []


def test_a_field_of_a_session_that_is_assigned_elsewhere_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.unit.test_structure.ROOT", tmp_path)
    module = tmp_path / "module.py"
    module.write_text("tracked.wake = 1\nsessions.of(x).moves += (1,)\na, tracked.turn = 1, 2\ndel tracked.phrase\n")
    assert len(assigned(module)) == 4
    module.write_text("class Own:\n    wake: float = 0\nown.wake = 1\nself.moves = ()\nx = tracked.moves\n")
    assert assigned(module) == []


def test_nobody_can_change_a_field_of_a_session_in_place() -> None:
    changeable = re.compile(r"\b(list|set|dict|bytearray|deque|MutableMapping)\b")
    assert [field.name for field in dataclasses.fields(TrackedSession) if changeable.search(str(field.type))] == []


def test_nothing_assigns_attributes_by_their_name() -> None:
    """A field that is assigned by its name would pass the checks above, and mypy's."""
    found = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in (ROOT / "ocwatchd").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("setattr", "delattr", "object.__setattr__")
        if ast.unparse(node.args[0]) != "self"
    ]
    assert found == []


def test_the_page_on_architecture_shows_the_table_of_states() -> None:
    assert f"```mermaid\n{diagram()}\n```\n" in (ROOT / "docs/architecture.md").read_text()


# ---- objects that are complete when they are made


def completed_from_outside(path: Path) -> list[str]:
    """Return the attributes that a file assigns on objects whose class it does not define."""
    tree = ast.parse(path.read_text())
    modules = {
        alias.asname or alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names
    }
    stored = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, (ast.Store, ast.Del))
    ]
    on_itself = {node.attr for node in stored if ast.unparse(node.value) in ("self", "cls")}
    declared = {
        node.target.id
        for node in ast.walk(tree)
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
    }
    return [
        f"{path.relative_to(ROOT)}:{node.lineno}: {ast.unparse(node)}"
        for node in stored
        if node.attr not in on_itself | declared and ast.unparse(node.value) not in modules
    ]


def test_no_object_is_completed_from_outside() -> None:
    """Modules of the parts that decide and act, whose objects get everything when they are created."""
    parts = ("core/engine", "core/fallback", "daemon", "launcher", "movers", "state")
    files = [path for part in parts for path in (ROOT / "ocwatchd" / part).rglob("*.py")]
    assert len(files) > 60
    assert [line for path in files for line in completed_from_outside(path)] == []


def test_an_object_that_is_completed_from_outside_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.unit.test_structure.ROOT", tmp_path)
    module = tmp_path / "module.py"
    module.write_text("self._executor.counted = 1\nmade.tell = print\na, b.c.d = 1, 2\n")
    assert len(completed_from_outside(module)) == 3
    module.write_text("import sys\nclass Own:\n    def f(self):\n        self.x = 1\nown.x = 2\nsys.stdout = None\n")
    assert completed_from_outside(module) == []


# ---- programs of our own


def unsafe_starts(path: Path) -> list[str]:
    """Return the command lines in a module that start this Python with the current directory on its module path."""
    return [
        f"{path.name}:{node.lineno}"
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.List | ast.Tuple)
        and [ast.unparse(part) for part in node.elts[:1]] == ["sys.executable"]
        and [ast.unparse(part) for part in node.elts[1:2]] != ["'-P'"]
    ]


def test_no_program_of_ours_is_taken_from_the_current_directory() -> None:
    """`python -m ocwatchd` in a repository that has a directory `ocwatchd` would run the repository's code."""
    assert [place for path in modules().values() for place in unsafe_starts(path)] == []


def test_a_program_that_could_be_taken_from_the_current_directory_is_found(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text('import sys\nrun([sys.executable, "-m", "x"])\nrun((sys.executable, "-P", "-m", "x"))\n')
    assert unsafe_starts(path) == ["mine.py:2"]
