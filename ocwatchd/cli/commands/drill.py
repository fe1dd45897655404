"""`ocwatch drill`: does everything work with the OpenCode that is installed? Shown, in a private HOME, offline."""

from __future__ import annotations

import os
import signal
import sys
import time
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import FrameType

from ocwatchd.cli.escape import escape
from ocwatchd.cli.installed import installed_opencode
from ocwatchd.cli.render import say, say_json, screen_width, wrapped
from ocwatchd.drill.fetch import LATEST, fetch
from ocwatchd.drill.home import private_home
from ocwatchd.drill.steps import Drill, Step
from ocwatchd.errors import ExitCode, OpenCodeUnreachable, UsageError
from ocwatchd.paths import Paths


@dataclass(frozen=True, slots=True)
class Wish:
    """What was asked for. `version` only with `fetched`."""

    fetched: bool
    version: str | None
    keep: bool
    as_json: bool


@dataclass(frozen=True, slots=True)
class Result:
    """The document of the JSON contract, field by field."""

    opencode: str
    opencode_version: str | None
    passed: bool
    seconds: float
    steps: tuple[Step, ...]
    refused_outside: tuple[str, ...]
    kept: str | None


def drill(wish: Wish) -> int:
    """Run the drill. 0 only if every step passed.

    Raises:
        UsageError: a version without --fetch.
        OpenCodeUnreachable: no OpenCode is installed.
        FetchFailed: none could be fetched.
    """
    began = time.monotonic()
    program = _program(wish)
    signal.signal(signal.SIGTERM, _interrupt)  # whatever was started has to end with us
    with private_home(wish.keep) as home:
        running = Drill(program, home, os.environ)
        steps = _run(running, program, wish.as_json)
        result = Result(
            opencode=str(program),
            opencode_version=running.version,
            passed=all(step.passed for step in steps),
            seconds=round(time.monotonic() - began, 3),
            steps=tuple(steps),
            refused_outside=tuple(sorted(running.provider.outside)),
            kept=str(home.root) if wish.keep else None,
        )
    if wish.as_json:
        say_json(asdict(result))
    else:
        say(_verdict(result))
    return ExitCode.DONE if result.passed else ExitCode.FAILED


def _run(running: Drill, program: Path, quiet: bool) -> list[Step]:
    """Run the steps, and unless `quiet` show each as it ends."""
    steps: list[Step] = []
    if not quiet:
        say(f"Fire drill with {escape(str(program))}, in a private HOME, offline.\n")
    with closing(running.run()) as coming:
        for step in coming:
            steps.append(replace(step, seconds=round(step.seconds, 3)))
            if not quiet:
                say(_text(step))
                sys.stdout.flush()
    return steps


def _program(wish: Wish) -> Path:
    if wish.version and not wish.fetched:
        raise UsageError(f"a version is fetched: ocwatch drill --fetch {wish.version}")
    found = None if wish.version else installed_opencode()
    if found:
        return found
    if not wish.fetched:
        raise OpenCodeUnreachable(
            "`opencode` is not on PATH; add its directory to PATH, or let the drill fetch one: ocwatch drill --fetch"
        )
    if not wish.as_json:
        say(f"Fetching OpenCode {wish.version or LATEST} …")
    return fetch(wish.version or LATEST, Paths.from_env().cache_dir, os.environ)


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _text(step: Step) -> str:
    mark = "✓" if step.passed else "✗"
    head = f"{mark} {step.seconds:6.2f} s  {step.title}"
    if step.passed:
        return f"{head}\n{_below('', step.seen)}"
    return "\n".join(
        (
            head,
            _below("expected: ", step.expected or "-"),
            _below("seen: ", step.seen),
            _below("do: ", step.remedy or "-"),
        )
    )


def _below(label: str, text: str) -> str:
    return wrapped(label + escape(text), 12, screen_width())


def _verdict(result: Result) -> str:
    number, failed = len(result.steps), sum(not step.passed for step in result.steps)
    done = f"{failed} of {number} steps failed" if failed else f"All {number} steps passed"
    lines = [f"\n{done} in {result.seconds:.0f} s. Nothing of yours was touched."]
    if result.refused_outside:
        lines.append(f"Attempts to reach {escape(', '.join(result.refused_outside))} were refused.")
    if result.kept:
        lines.append(f"Kept: {result.kept}")
    return "\n".join(lines)
