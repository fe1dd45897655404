"""Measure the share of mutants of `ocwatchd/core` that the unit tests kill: `python -m scripts.mutate_core SCRATCH`.

This requires `pip install cosmic-ray coverage`, which are not dependencies of the project. SCRATCH is a directory for
copies.

How the rate is measured:

* cosmic-ray lists every mutant of every module. `--sample` of them are drawn at random with `--seed`, so that each
  module is weighted by the number of its mutants.
* Mutants that cannot change the program's behaviour are not drawn: operators inside annotations, which are never
  evaluated, and the flags and the order of dataclasses.
* Each drawn mutant is written into a copy. Then the tests that execute the mutated line, according to coverage, are
  run, and after them the test files that import the module. For a line that runs at import, every test file that
  executes any line of the module is run.
* A failure, or 300 s without an end, is a kill. A mutant that does not compile is left out.
* The interval is Wilson's, at 95 %. Other equivalent mutants, and those killed only by the integration tests, count as
  survived.
"""

from __future__ import annotations

import argparse
import ast
import json
import math
import os
import random
import re
import shutil
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue

ROOT = Path(__file__).resolve().parent.parent
CORE = "ocwatchd/core"
TEST_TIMEOUT = 300.0
"""Timeout, in seconds, for the tests of one mutant; those that execute one line need at most 20 s."""
WHOLE_TIMEOUT = 900.0
"""Timeout, in seconds, for all of tests/unit, which need 180 s on one core."""
SLOW = re.compile(r"test_no_text_takes_long|test_no_pattern_of_a_user_hangs|adds_up|times_the_work|replayed_histories")
"""Tests that run last, because each takes seconds."""
PYTEST = ["-q", "-x", "-p", "no:cacheprovider", "-n", "0", "--no-header", "--tb=no"]


@dataclass(frozen=True, slots=True)
class Mutant:
    """One change in one module: cosmic-ray's operator, and the index of its occurrence in the module."""

    module: str
    operator: str
    occurrence: int
    line: int
    column: int

    @property
    def name(self) -> str:
        place = f"{self.module.removeprefix(CORE + '/')}:{self.line}:{self.column}"
        return f"{place} {self.operator.split('/')[-1]} #{self.occurrence}"


def all_mutants() -> list[Mutant]:
    """Return every mutant of core that may change the program's behaviour, in a fixed order."""
    from cosmic_ray.ast import ast_nodes, get_ast_from_path
    from cosmic_ray.plugins import get_operator, operator_names

    found = []
    for path in sorted((ROOT / CORE).rglob("*.py")):
        ignored = _without_effect(path.read_text())
        tree = get_ast_from_path(path)
        for name in sorted(operator_names()):
            operator = get_operator(name)
            if operator.arguments() or name.endswith("NoOp"):
                continue
            places = (place for node in ast_nodes(tree) for place in operator().mutation_positions(node))
            for occurrence, ((line, column), _) in enumerate(places):
                if not any(begin <= (line, column) < end for begin, end in ignored):
                    found.append(Mutant(str(path.relative_to(ROOT)), name, occurrence, line, column))
    return found


def _without_effect(text: str) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """Return the spans of annotations and of dataclass decorators, from (line, column) to (line, column)."""
    spans = []
    for node in ast.walk(ast.parse(text)):
        inner = [getattr(node, "annotation", None), getattr(node, "returns", None)]
        if isinstance(node, ast.ClassDef):
            inner += [decorator for decorator in node.decorator_list if "dataclass" in ast.unparse(decorator)]
        for part in inner:
            if part is not None:
                start = part.col_offset - isinstance(node, ast.ClassDef)
                spans.append(((part.lineno, start), (part.end_lineno, part.end_col_offset)))
    return spans


class Suite:
    """Maps each line to the tests that execute it, and each module to the test files that import it."""

    def __init__(self, copy: Path) -> None:
        data = copy / ".coverage"
        if not data.exists():
            (copy / ".coveragerc").write_text(
                f"[run]\nsource = ocwatchd.core\ndynamic_context = test_function\ndata_file = {data}\n"
            )
            run = [sys.executable, "-m", "coverage", "run", "-m", "pytest", *PYTEST, "tests/unit"]
            subprocess.run(run, cwd=copy, env={**os.environ, "PYTHONPATH": str(copy)}, check=True)
        from coverage import CoverageData

        self._data, self._copy = CoverageData(str(data)), copy.resolve()
        self._data.read()
        self._files = {path.stem: path.read_text() for path in sorted((copy / "tests/unit").glob("test_*.py"))}

    def stages(self, mutant: Mutant) -> list[tuple[list[str], float]]:
        """Return the groups of tests to run in turn until one fails, each with its limit in seconds."""
        lines = self._data.contexts_by_lineno(str(self._copy / mutant.module))
        ids = set()
        for context in lines.get(mutant.line, []):
            if match := re.fullmatch(r"tests\.unit\.(\w+)\.(test_\w+)", context):
                ids.add(f"tests/unit/{match[1]}.py::{match[2]}")
        stages = [(sorted(ids, key=lambda test: (bool(SLOW.search(test)), test)), TEST_TIMEOUT)] if ids else []
        dotted = mutant.module.removesuffix(".py").replace("/", ".")
        package, name = dotted.rsplit(".", 1)
        imports = re.compile(
            rf"(?m)^\s*from {re.escape(dotted)} import|^\s*from {re.escape(package)} import .*\b{name}\b"
        )
        files = [f"tests/unit/{stem}.py" for stem, text in self._files.items() if imports.search(text)]
        if files:
            stages.append((files, WHOLE_TIMEOUT))
        if not ids:  # the line runs at import: run every test file that executes any line of the module
            everyone = {context for contexts in lines.values() for context in contexts}
            stems = sorted({context.split(".")[2] for context in everyone if context.count(".") > 2})
            stages.append(([f"tests/unit/{stem}.py" for stem in stems], WHOLE_TIMEOUT))
        return stages


def tested(mutant: Mutant, runner: Runner, suite: Suite) -> tuple[str, str]:
    """Return `killed`, `timeout`, `survived` or `invalid` for the mutant, and its changed line."""
    from cosmic_ray.mutating import mutate_code
    from cosmic_ray.plugins import get_operator

    path = runner.copy / mutant.module
    before = (ROOT / mutant.module).read_text()
    after = mutate_code(before, get_operator(mutant.operator)(), mutant.occurrence)
    changed = [
        f"{a.strip()}  =>  {b.strip()}" for a, b in zip(before.splitlines(), after.splitlines(), strict=False) if a != b
    ]
    try:
        compile(after, str(path), "exec")
    except SyntaxError:
        return "invalid", changed[0] if changed else ""
    try:
        path.write_text(after)
        for stale in path.parent.glob(f"__pycache__/{path.stem}.*.pyc"):
            stale.unlink()  # its time and size may equal those of the mutant's source
        for tests, patience in suite.stages(mutant):
            if (verdict := runner.run(tests, patience)) != "survived":
                return verdict, changed[0] if changed else ""
        return "survived", changed[0] if changed else ""
    finally:
        path.write_text(before)


class Runner:
    """A process that has imported everything a test run needs, and forks for each run. This halves the time
    of a run.
    """

    PROGRAM = """
import json, os, signal, sys, time
import hypothesis, psutil, pytest, json5
for line in sys.stdin:
    copy, arguments, patience = json.loads(line)
    child = os.fork()
    if child == 0:
        os.setsid()
        os.chdir(copy)
        sys.path.insert(0, copy)
        sys.stdout = sys.stderr = open(os.devnull, "w")
        os.dup2(sys.stdout.fileno(), 1), os.dup2(sys.stdout.fileno(), 2)
        try:
            code = int(pytest.main(arguments))
        except BaseException:
            code = 1
        os._exit(code)
    begin, status = time.monotonic(), None
    while status is None and time.monotonic() - begin < patience:
        pid, found = os.waitpid(child, os.WNOHANG)
        status = found if pid else time.sleep(0.02)
    try:
        os.killpg(child, signal.SIGKILL)
    except ProcessLookupError:
        pass
    if status is None:
        os.waitpid(child, 0)
    passed = status is not None and os.waitstatus_to_exitcode(status) in (0, 5)
    print("timeout" if status is None else "survived" if passed else "killed", flush=True)
"""

    def __init__(self, copy: Path) -> None:
        self.copy = copy
        environ = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "CI": "1"}
        command = [sys.executable, "-c", self.PROGRAM]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environ)

    def run(self, tests: list[str], patience: float) -> str:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps([str(self.copy), [*PYTEST, *tests], patience]) + "\n")
        self._process.stdin.flush()
        return self._process.stdout.readline().strip() or "killed"


def interval(killed: int, total: int) -> tuple[float, float]:
    """Return Wilson's 95 % interval for the share `killed` of `total`."""
    z, share = 1.96, killed / total
    middle = (share + z * z / (2 * total)) / (1 + z * z / total)
    half = z / (1 + z * z / total) * math.sqrt(share * (1 - share) / total + z * z / (4 * total * total))
    return middle - half, middle + half


def main() -> None:
    """Draw, run and print the mutants; a run that was interrupted continues from SCRATCH/results.jsonl."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("scratch", type=Path)
    parser.add_argument("--sample", type=int, default=250)
    parser.add_argument("--seed", type=int, default=14)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--only", help="run only mutants whose name contains this, such as those that survived")
    args = parser.parse_args()
    mutants = all_mutants()
    drawn = random.Random(args.seed).sample(mutants, min(args.sample, len(mutants)))
    if args.only:
        drawn = [mutant for mutant in drawn if args.only in mutant.name]
    print(f"{len(mutants)} mutants, {len(drawn)} drawn", flush=True)
    runners: SimpleQueue[Runner] = SimpleQueue()
    for number in range(args.jobs):
        copy = args.scratch / f"copy{number}"
        if not copy.exists():
            for part in ("ocwatchd", "tests", "pyproject.toml", "docs", "bench", "scripts"):
                whole = ROOT / part
                ignore = shutil.ignore_patterns("__pycache__", "recorded")
                shutil.copytree(whole, copy / part, ignore=ignore) if whole.is_dir() else shutil.copy(whole, copy)
        runners.put(Runner(copy.resolve()))
    suite = Suite(args.scratch / "copy0")
    results = args.scratch / "results.jsonl"
    done = {}
    if results.exists():
        done = {result["name"]: result for result in map(json.loads, results.read_text().splitlines())}

    def one(mutant: Mutant) -> dict[str, object]:
        runner, begin = runners.get(), time.monotonic()
        try:
            verdict, changed = tested(mutant, runner, suite)
        finally:
            runners.put(runner)
        seconds = round(time.monotonic() - begin, 1)
        result = {"name": mutant.name, "verdict": verdict, "changed": changed, "s": seconds}
        with results.open("a") as out:
            out.write(json.dumps(result) + "\n")
        print(f"{verdict:8}  {mutant.name}  {changed}  {seconds} s", flush=True)
        return result

    with ThreadPoolExecutor(args.jobs) as pool:
        outcomes = [done[m.name] for m in drawn if m.name in done]
        outcomes += pool.map(one, [m for m in drawn if m.name not in done])
    counts = Counter(result["verdict"] for result in outcomes)
    killed = counts["killed"] + counts["timeout"]
    total = len(drawn) - counts["invalid"]
    low, high = interval(killed, total)
    print(f"{dict(counts)}: {killed}/{total} = {killed / total:.1%} killed, 95 % from {low:.1%} to {high:.1%}")


if __name__ == "__main__":
    main()
